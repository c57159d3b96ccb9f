//! The coordinator as a real process, spoken to over HTTP.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

#[path = "coordinator/aging.rs"]
mod aging;
#[path = "coordinator/api.rs"]
mod api;
#[path = "coordinator/collecting.rs"]
mod collecting;
#[path = "coordinator/configured.rs"]
mod configured;
#[path = "coordinator/fencing.rs"]
mod fencing;
#[path = "coordinator/owning.rs"]
mod owning;
#[path = "coordinator/patches.rs"]
mod patches;
#[path = "coordinator/process.rs"]
mod process;
#[path = "coordinator/queue.rs"]
mod queue;
#[path = "coordinator/ready.rs"]
mod ready;
#[path = "coordinator/reconciling.rs"]
mod reconciling;
#[path = "coordinator/replication.rs"]
mod replication;
#[path = "postgres/server.rs"]
mod server;
