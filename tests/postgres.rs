#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
//! Coordinators on a PostgreSQL server: what goes wrong there, and several at once.

#[path = "postgres/copying.rs"]
mod copying;
#[path = "postgres/elsewhere.rs"]
mod elsewhere;
#[path = "postgres/own.rs"]
mod own;
#[path = "coordinator/ready.rs"]
mod ready;
#[path = "postgres/server.rs"]
mod server;
#[path = "postgres/several.rs"]
mod several;
#[path = "postgres/starting.rs"]
mod starting;
