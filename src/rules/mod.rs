//! Decisions without I/O: `step(now, event) -> actions`; time and randomness are arguments.

pub mod activation;
pub mod ancestry;
pub mod authorize;
pub mod collection;
pub mod comparison;
pub mod delivery;
pub mod diff;
pub mod fanout;
pub mod log;
pub mod patch;
pub mod queue;
pub mod reconcile;
pub mod rendezvous;
pub mod replication;
pub mod retention;
pub mod rollout;
pub mod scale;
pub mod steadiness;
pub mod swarm;
pub mod tally;
pub mod tracker;
