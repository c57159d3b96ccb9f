//! The demo: the main job before your eyes, with real processes on loopback.
//!
//! Every step is a command that the reader could type; it runs as its own process
//! and shows what it shows. What the demo adds is the fleet around it and the
//! table at the end. It leaves no process and no folder behind, unless asked to.

pub(crate) mod facts;
pub(crate) mod fleet;
pub(crate) mod play;
pub(crate) mod processes;
pub(crate) mod sample;
pub(crate) mod script;
