//! The worker binary against real git repositories and a coordinator of a few lines.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

#[path = "worker/coordinator.rs"]
mod coordinator;
#[path = "worker/ends.rs"]
mod ends;
#[path = "worker/farm.rs"]
mod farm;
#[path = "worker/lease.rs"]
mod lease;
#[path = "worker/made.rs"]
mod made;
#[path = "flow/ports.rs"]
mod ports;
#[path = "coordinator/ready.rs"]
mod ready;
#[path = "worker/served.rs"]
mod served;
