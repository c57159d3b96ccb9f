//! HTTP between processes: tokens, the client, the server, their limits.

pub mod auth;
pub mod client;
pub mod server;
pub mod tls;
