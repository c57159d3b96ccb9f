//! Logs: to stderr, human or JSON, never user text. Spans: to a collector, where one is named.

mod spans;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::net::trace::TARGET;
pub use spans::Spans;

/// Starts logging at `DEPLOYCTL_LOG` (a tracing filter, default `info`), as JSON
/// lines when `DEPLOYCTL_LOG_FORMAT=json`. Call once, first in `main`.
pub fn start() {
    let logs = tracing_subscriber::fmt().with_env_filter(filter()).with_writer(std::io::stderr);
    // An error means that a test started it already.
    let _ = if json() {
        logs.json().try_init()
    } else {
        logs.with_ansi(false).with_target(false).try_init()
    };
}

/// The same for a program that also sends its spans where `OTEL_EXPORTER_OTLP_ENDPOINT` says,
/// as the service `name`. Inside the runtime; what is returned is closed last in `main`.
pub fn start_with_spans(name: &'static str) -> Spans {
    use tracing_subscriber::{Layer, filter::Targets, fmt, registry};
    let provider = match spans::provider(name) {
        Some(Ok(provider)) => provider,
        unusable => {
            start();
            if let Some(Err(error)) = unusable {
                tracing::error!(%error, "no spans of {name} leave: OTEL_EXPORTER_OTLP_… can't be used");
            }
            return spans::none();
        }
    };
    let logs = fmt::layer().with_writer(std::io::stderr);
    let logs = if json() {
        logs.json().with_filter(filter()).boxed()
    } else {
        logs.with_ansi(false).with_target(false).with_filter(filter()).boxed()
    };
    let only = Targets::new().with_target(TARGET, tracing::Level::INFO);
    let _ = registry().with(logs).with(spans::layer(&provider).with_filter(only)).try_init();
    spans::started(provider)
}

fn json() -> bool {
    std::env::var("DEPLOYCTL_LOG_FORMAT").is_ok_and(|format| format == "json")
}

/// Of log lines; spans for a collector are not in them.
fn filter() -> EnvFilter {
    let filter = std::env::var("DEPLOYCTL_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    match format!("{TARGET}=off").parse() {
        Ok(off) => filter.add_directive(off),
        Err(_) => filter,
    }
}
