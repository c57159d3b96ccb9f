//! The worker: claims a job, builds it in a sandbox, packs and publishes what it made.
//!
//! One file per step of an attempt, in this order: `claim`, `lease` (beside all
//! others), `checkout`, `recipe`, `build` (with `log`), `walk`, `pack`
//! (with `squeeze`), `publish`; `attempt` strings them together and `run` starts it all.
//! What comes after a build, and beside the next: `patch` (with `blobs`). Beside all
//! builds: `look`, which answers what is in a repository.

pub mod api;
pub mod attempt;
pub mod blobs;
pub mod build;
pub mod checkout;
pub mod claim;
pub mod failure;
pub mod lease;
pub mod log;
mod look;
mod metrics;
pub mod pack;
pub mod patch;
pub mod program;
pub mod publish;
pub mod recipe;
pub mod run;
pub mod squeeze;
pub mod walk;
