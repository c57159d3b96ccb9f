//! A region: mirror of the goals, replicator of artifacts, roll-up of hosts, and
//! the listener that its agents talk to.

pub mod configs;
pub mod coordinators;
pub mod db;
pub mod direct;
pub mod emergency;
pub mod feed;
pub mod fleet;
pub mod forward;
pub mod goal_stores;
pub mod goals;
pub mod intake;
pub mod landing;
pub mod library;
mod metrics;
pub mod mirror;
pub mod parent;
mod patches;
pub mod processes;
pub mod program;
pub mod pull;
pub mod replicate;
pub mod report;
pub mod run;
pub mod serve;
mod siblings;
pub mod staging;
pub mod tracker;
