//! Version 1 of the HTTP API: one file per noun. Fields may be added, never
//! renamed or removed; unknown fields in replies are ignored by older readers.

pub mod app;
pub mod build;
pub mod collect;
pub mod commits;
pub mod config;
pub mod diff;
pub mod event;
pub mod fleet;
pub mod freeze;
pub mod goal_store;
pub mod hold;
pub mod link;
pub mod patch;
pub mod process;
pub mod reconcile;
pub mod region;
pub mod rollout;
pub mod swarm;
pub mod token;
pub mod version;
pub mod webhook;
pub mod worker;
