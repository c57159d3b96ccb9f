//! Configuration: typed, layered, unknown keys refused.
