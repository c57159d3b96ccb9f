//! The coordinator as a real process, spoken to over HTTP.

#[path = "coordinator/api.rs"]
mod api;
#[path = "coordinator/process.rs"]
mod process;
#[path = "coordinator/queue.rs"]
mod queue;
