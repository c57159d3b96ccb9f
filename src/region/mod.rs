//! The region's service: goal mirror, replicator, tracker, fleet roll-up.
