//! The agent: one per host; follows the goal, fetches, activates, reports.

pub mod journal;
pub mod link;
pub mod source;
pub mod state;
pub mod supervise;
pub mod trust;
