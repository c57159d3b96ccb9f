//! Configuration: typed, layered, unknown keys refused.

pub mod client;
pub mod collector;
pub mod daemon;
pub mod gates;
pub mod instead;
pub mod plan;
pub mod project;
