//! HTTP between processes: tokens, waits, the client, the server, their limits.

pub mod auth;
pub mod backoff;
pub mod body;
pub mod client;
pub mod coding;
pub mod heads;
pub mod metrics;
pub mod outward;
pub mod server;
pub mod tls;
pub mod trace;
