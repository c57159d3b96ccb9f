//! One file per command: its arguments and what it does with them.

pub mod apps;
pub mod build;
pub mod builds;
pub mod completion;
pub mod demo;
pub mod events;
pub mod help;
pub mod hosts;
pub mod regions;
pub mod role;
pub mod status;
pub mod version;
pub mod workers;
