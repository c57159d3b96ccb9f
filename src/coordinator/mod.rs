//! The coordinator: HTTP API and background loops, stateless over SQL.
//!
//! One file per noun, each with the `routes()` that it serves; `router` merges
//! them. What is decided is decided in `rules`; what lasts is in `store::db`.

mod apps;
mod artifact;
mod auth;
mod builds;
mod claims;
mod events;
mod first_start;
mod inspection;
mod logs;
mod monitor;
mod openapi;
mod router;
pub mod run;
pub mod state;
mod synchronizer;
mod tokens;
