//! The agent: one per host; follows the goal, fetches, activates, reports.

pub mod link;
pub mod trust;
