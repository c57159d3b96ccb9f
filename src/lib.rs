//! deployctl: from a commit to running hosts, and back.
//!
//! ```text
//! commit → build job → artifact (manifest + pieces) → replicated → goal → agent → activated → reported
//!  git      queue        pack                          regions      rollout  swarm   switch     status
//! ```
//!
//! Floors, from the ground up; a module imports only from floors below (checked by
//! `tests/tidy.rs`):
//!
//! | floor | modules | hold |
//! |--:|---|---|
//! | 0 | [`model`] | the words as plain values |
//! | 1 | [`rules`], [`wire`], [`delta`] | decisions without I/O; bytes that cross a process; patches |
//! | 2 | [`store`], [`net`], [`host`], [`config`], [`simulator`] | what lasts; HTTP; the operating system; configuration; a network of one's own |
//! | 3 | [`coordinator`], [`region`], [`worker`], [`agent`] | the roles; none imports another |
//! | 4 | [`cli`] | what people see |

pub mod agent;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod delta;
pub mod host;
pub mod model;
pub mod net;
pub mod region;
pub mod rules;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod wire;
pub mod worker;
