//! The agent: one per host; follows the goal, fetches, activates, reports.

mod assemble;
mod download;
pub mod activate;
pub mod args;
pub mod converge;
pub mod fetch;
pub mod follow;
pub mod journal;
pub mod link;
pub mod local;
pub mod report;
pub mod run;
pub mod source;
pub mod state;
pub mod supervise;
pub mod trust;
mod linger;
mod membership;
mod pieces;
mod serve;
mod transfer;
