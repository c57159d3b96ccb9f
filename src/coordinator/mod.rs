//! The coordinator: HTTP API and background loops, stateless over SQL.
//!
//! One file per noun, each with the `routes()` that it serves; `router` merges
//! them. What is decided is decided in `rules`; what lasts is in `store::db`.

mod admission;
mod ancestry;
mod apps;
mod artifact;
mod attempts;
mod auth;
pub mod backup;
mod bars;
mod builds;
mod claims;
mod commits;
mod configs;
mod curves;
mod diff;
mod drains;
mod events;
mod facts;
mod feed;
mod first_start;
mod fleet;
mod freezes;
mod goal_stores;
mod holds;
mod hosts;
mod inspection;
mod logs;
mod metrics;
mod monitor;
mod notify;
mod once;
mod openapi;
mod outbox;
mod patches;
mod peers;
pub mod program;
mod publisher;
mod reached;
mod readiness;
mod refs;
mod releases;
mod requirements;
mod rollouts;
mod router;
pub mod run;
mod scale;
pub mod state;
mod status;
mod steer;
mod synchronizer;
mod tick;
mod tokens;
mod view;
mod web;
mod webhooks;
