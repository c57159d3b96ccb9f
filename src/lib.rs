//! deployctl.
pub mod model;
