//! Decisions without I/O: `step(now, event) -> actions`; time and randomness are arguments.

pub mod authorize;
pub mod queue;
pub mod replication;
pub mod rollout;
pub mod swarm;
pub mod tally;
pub mod tracker;
