//! One file per command: its arguments and what it does with them.

pub mod app_settings;
pub mod apps;
pub mod build;
pub mod builds;
pub mod cancel;
pub mod completion;
pub mod demo;
pub mod deploy;
pub mod events;
pub mod help;
pub mod history;
pub mod hosts;
pub mod init;
pub mod logs;
pub mod pause;
pub mod promote;
pub mod regions;
pub mod retry;
pub mod role;
pub mod rollback;
pub mod status;
pub mod tokens;
pub mod version;
pub mod watch;
pub mod why;
pub mod workers;
