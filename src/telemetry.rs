//! Logs: to stderr, human or JSON, never user text.

use tracing_subscriber::EnvFilter;

/// Starts logging at `DEPLOYCTL_LOG` (a tracing filter, default `info`), as JSON
/// lines when `DEPLOYCTL_LOG_FORMAT=json`. Call once, first in `main`.
pub fn start() {
    let filter = std::env::var("DEPLOYCTL_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a test started it already.
    let _ = if std::env::var("DEPLOYCTL_LOG_FORMAT").is_ok_and(|format| format == "json") {
        logs.json().try_init()
    } else {
        logs.with_ansi(false).with_target(false).try_init()
    };
}
