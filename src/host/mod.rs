//! The operating system: everything that a role asks of the machine it runs on.

pub mod applog;
pub mod clock;
pub mod exec;
pub mod fs;
pub mod git;
pub mod probe;
pub mod repo;
pub mod sandbox;
pub mod service;
