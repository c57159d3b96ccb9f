//! A region: mirror of the goals, replicator of artifacts, roll-up of hosts, and
//! the listener that its agents talk to.

pub mod backoff;
pub mod coordinators;
pub mod db;
pub mod feed;
pub mod mirror;
pub mod pull;
pub mod replicate;
pub mod staging;
pub mod tracker;
