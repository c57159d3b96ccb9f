//! The agent: one per host; follows the goal, fetches, activates, reports.

mod assemble;
mod download;
pub mod fetch;
pub mod journal;
mod linger;
pub mod link;
mod membership;
mod pieces;
mod serve;
pub mod source;
pub mod state;
pub mod supervise;
mod transfer;
pub mod trust;
