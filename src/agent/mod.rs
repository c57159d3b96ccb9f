//! The agent: one per host; follows the goal, fetches, activates, reports.

pub mod activate;
pub mod args;
mod assemble;
mod audit;
pub mod converge;
mod download;
pub mod fetch;
pub mod follow;
pub mod journal;
mod linger;
pub mod link;
pub mod local;
mod membership;
mod patch;
mod pieces;
pub mod program;
pub mod report;
pub mod run;
mod serve;
pub mod source;
pub mod state;
pub mod supervise;
mod transfer;
pub mod trust;
