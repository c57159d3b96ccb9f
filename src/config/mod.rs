//! Configuration: typed, layered, unknown keys refused.

pub mod daemon;
