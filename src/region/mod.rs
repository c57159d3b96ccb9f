//! The region's service: goal mirror, replicator, tracker, fleet roll-up.

pub mod tracker;
