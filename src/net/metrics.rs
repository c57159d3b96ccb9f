//! What a process counts, as Prometheus reads it: `/metrics` on a listener of its own.
//!
//! Names follow Prometheus' conventions: base units in the name, `_total` for what
//! only grows. Labels have few values, known beforehand or bounded (a region, an app's
//! phase); never a host, a commit, an artifact or a token. The listener asks for no
//! token, so nothing secret is counted; it is opened only where an operator says.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, TEXT_FORMAT,
    TextEncoder,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::net::server;

/// Bounds of the buckets of requests, seconds: from loopback to the longest long poll.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 60.0];

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("deployctl")
}

fn register<C: prometheus::core::Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    let made = made.expect("the metric's name and labels are constants");
    prometheus::register(Box::new(made.clone())).expect("each metric is made once");
    made
}

/// A number that goes up and down.
#[must_use]
pub fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(opts(name, help), labels))
}

/// A number that only grows; its name ends with `_total`.
#[must_use]
pub fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(opts(name, help), labels))
}

/// How long something took; its name ends with `_seconds`.
#[must_use]
pub fn durations(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).namespace("deployctl").buckets(SECONDS.to_vec());
    register(HistogramVec::new(opts, labels))
}

/// Binds the listener of `/metrics`, before the process says that it is ready.
///
/// # Errors
/// When the address can't be bound; it is in the message.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let named = |error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("--metrics {address}: {error}"))
    };
    TcpListener::bind(address).await.map_err(named)
}

/// Serves `/metrics` of a process that plays `role` until `stop` turns true. `refresh` is
/// called before each answer, to set what is read rather than counted.
pub async fn serve<F>(
    listener: TcpListener,
    role: &'static str,
    refresh: impl Fn() -> F + Clone + Send + Sync + 'static,
    stop: watch::Receiver<bool>,
) where
    F: Future<Output = ()> + Send,
{
    let build =
        gauges("build_info", "The version of this process; always 1.", &["version", "role"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1);
    let process = Process::register();
    let answer = move || {
        let (refresh, process) = (refresh.clone(), process.clone());
        async move {
            refresh().await;
            process.refresh();
            text()
        }
    };
    let router =
        Router::new().route("/metrics", get(answer)).route("/healthz", get(|| async { "ok\n" }));
    server::serve(listener, router, stop).await;
}

fn text() -> Response {
    let encoded = TextEncoder::new().encode_to_string(&prometheus::gather());
    match encoded {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// What every process says of itself, named as Prometheus' own clients name it.
#[derive(Clone)]
struct Process {
    memory: IntGauge,
    files: IntGauge,
    started: IntGauge,
}

impl Process {
    fn register() -> Self {
        let gauge = |name, help| register(IntGauge::new(name, help));
        let process = Self {
            memory: gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
            files: gauge("process_open_fds", "Number of open file descriptors."),
            started: gauge("process_start_time_seconds", "Start time since the Unix epoch."),
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        process.started.set(now.map_or(0, |now| now.as_secs() as i64));
        process
    }

    /// Linux tells in `/proc`; elsewhere these stay 0.
    fn refresh(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
        self.memory.set(kib.unwrap_or(0) * 1024);
        // One of them is the folder that is being read.
        let open =
            std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1));
        self.files.set(open as i64);
    }
}
