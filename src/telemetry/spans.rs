//! Spans to an OpenTelemetry collector: OTLP as protobuf over HTTP, by the client that is here.
//!
//! All of it is set by the standard's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`). A collector that is away costs spans, and nothing else:
//! they wait in a queue of a bounded length that a thread of its own empties.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing_opentelemetry::OpenTelemetryLayer;

use crate::net::body;
use crate::net::client::http_client;
use crate::net::trace;

/// Time for one export; the standard's default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for what waits when the process stops: it is told to be gone within ten seconds.
const GOODBYE: Duration = Duration::from_secs(2);
/// Largest answer of a collector that is read, bytes; a good one is almost empty.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What sends spans until it is closed.
pub struct Spans(Option<SdkTracerProvider>);

impl Spans {
    /// Sends what waits, for `GOODBYE` at most.
    pub fn close(self) {
        // What could not leave was warned of.
        let _ = self.0.map(|provider| provider.shutdown_with_timeout(GOODBYE));
    }
}

/// Whether the environment says where spans go.
fn asked(env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| env(name).is_some_and(|value| !value.trim().is_empty());
    let is = |name: &str, word: &str| env(name).is_some_and(|it| it.eq_ignore_ascii_case(word));
    (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        && !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn exporter() -> Result<SpanExporter, ExporterBuildError> {
    let outlet =
        Outlet { http: http_client(), runtime: Handle::current(), down: AtomicBool::new(false) };
    SpanExporter::builder()
        .with_http()
        .with_http_client(outlet)
        .with_protocol(Protocol::HttpBinary)
        .build()
}

/// What makes spans of service `name`; `None`: nobody asked for them.
pub(super) fn provider(
    name: &'static str,
) -> Option<Result<SdkTracerProvider, ExporterBuildError>> {
    asked(env).then(|| Ok(with_resource(exporter()?, name)))
}

fn with_resource(exporter: SpanExporter, name: &'static str) -> SdkTracerProvider {
    let said = |(variable, part): (&str, &str)| env(variable).is_some_and(|it| it.contains(part));
    let named = [("OTEL_SERVICE_NAME", ""), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=")];
    let resource = Resource::builder();
    let resource = match named.into_iter().any(said) {
        true => resource,
        false => resource.with_service_name(name),
    };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    provider.with_resource(resource.build()).build()
}

/// What hands spans of `tracing` over.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let version = env!("CARGO_PKG_VERSION");
    let scope = opentelemetry::InstrumentationScope::builder("deployctl").with_version(version);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer_with_scope(scope.build()))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
}

/// After the layer is in place.
pub(super) fn started(provider: SdkTracerProvider) -> Spans {
    trace::carry(trace::of_this_span);
    if env("OTEL_EXPORTER_OTLP_PROTOCOL").is_some_and(|it| it != "http/protobuf") {
        tracing::warn!("spans leave as http/protobuf: OTEL_EXPORTER_OTLP_PROTOCOL is not obeyed");
    }
    tracing::info!("spans leave by OTLP");
    Spans(Some(provider))
}

/// Where no spans leave.
pub(super) fn none() -> Spans {
    Spans(None)
}

/// The client of every role, on the runtime of the process: batches leave from a thread
/// that has none.
#[derive(Debug)]
struct Outlet {
    http: reqwest::Client,
    runtime: Handle,
    /// Whether the last export failed: it is told when that changes, and not each time.
    down: AtomicBool,
}

#[async_trait]
impl HttpClient for Outlet {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request: reqwest::Request = request.try_into()?;
        let sending = send(self.http.clone(), request);
        let sent = self.runtime.spawn(sending).await.map_err(HttpError::from).flatten();
        let why = match &sent {
            Ok(reply) if reply.status().is_success() => None,
            Ok(reply) => Some(format!("it answered {}", reply.status())),
            Err(error) => Some(error.to_string()),
        };
        match (self.down.swap(why.is_some(), Ordering::Relaxed), why) {
            (false, Some(why)) => {
                tracing::warn!(why, "the collector takes no spans; they are dropped until it does");
            }
            (true, None) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        sent
    }
}

async fn send(
    http: reqwest::Client,
    mut request: reqwest::Request,
) -> Result<Response<Bytes>, HttpError> {
    *request.timeout_mut() = Some(EXPORT_TIMEOUT);
    let mut reply = http.execute(request).await.map_err(reqwest::Error::without_url)?;
    let mut answer = Response::builder().status(reply.status());
    if let Some(headers) = answer.headers_mut() {
        *headers = std::mem::take(reply.headers_mut());
    }
    let body = body::whole(reply, ANSWER_BYTES_MAX).await?;
    Ok(answer.body(body.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_leave_only_where_the_environment_says_so() {
        let asks = |set: &[(&str, &str)]| {
            asked(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let to = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(!asks(&[]));
        assert!(asks(&[to]));
        assert!(asks(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces")]));
        assert!(!asks(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
        assert!(!asks(&[to, ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!asks(&[to, ("OTEL_TRACES_EXPORTER", "none")]));
    }
}
