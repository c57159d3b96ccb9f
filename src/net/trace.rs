//! Whose work a call is part of: the header `traceparent`, and spans of served requests.
//!
//! Nothing here exports a span: `telemetry` does, where it is configured. Without it no
//! span is made, and only what a caller sent in goes out again.
//! See <https://www.w3.org/TR/trace-context/>.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::model::digest::to_hex;
use crate::net::auth::random_key;

/// Target of all spans that are exported, and of nothing else: logs leave it out.
pub const TARGET: &str = "deployctl::span";
/// The header, and in capitals the variable of the environment.
pub const HEADER: &str = "traceparent";

/// What outgoing calls are part of.
type Source = fn() -> Option<String>;

static SOURCE: OnceLock<Source> = OnceLock::new();

/// Has every call of [`crate::net::client::Client`] say what it is part of. Once in a process.
pub fn carry(source: Source) {
    // A second time is a test's.
    let _ = SOURCE.set(source);
}

/// What a call that is made now is part of, as the header says it.
#[must_use]
pub fn outgoing() -> Option<String> {
    SOURCE.get()?()
}

/// The header for calls that belong to the span at hand.
#[must_use]
pub fn of_this_span() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let known = span.span_context();
    known.is_valid().then(|| {
        let flags = known.trace_flags().to_u8() & TraceFlags::SAMPLED.to_u8();
        format!("00-{}-{}-{flags:02x}", known.trace_id(), known.span_id())
    })
}

/// One trace for all calls of a command: the one that `TRACEPARENT` names, as a pipeline
/// sets it, or a new one.
#[must_use]
pub fn of_this_command() -> Option<String> {
    static COMMAND: OnceLock<String> = OnceLock::new();
    let given = || std::env::var(HEADER.to_uppercase()).ok().filter(|it| parse(it).is_some());
    let new = || {
        let random = random_key();
        format!("00-{}-{}-01", to_hex(&random[..16]), to_hex(&random[16..24]))
    };
    Some(COMMAND.get_or_init(|| given().unwrap_or_else(new)).clone())
}

/// Reads the header; `None`: it is not well formed, or of no trace.
#[must_use]
pub fn parse(header: &str) -> Option<Context> {
    let mut parts = header.splitn(4, '-');
    let mut field = |digits: usize| {
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|text| text.len() == digits && text.bytes().all(lower))
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let known = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    (version != "ff" && known.is_valid()).then(|| Context::new().with_remote_span_context(known))
}

/// Which requests have spans of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {
    /// All.
    All,
    /// Those whose caller says what they are part of: of a listener that thousands poll.
    OfTraces,
}

/// The router with spans around its requests, if this process exports any: after
/// [`carry`] was called for what does.
pub fn traced<S: Clone + Send + Sync + 'static>(router: Router<S>, which: Traced) -> Router<S> {
    match SOURCE.get() {
        Some(_) => router.layer(from_fn_with_state(which, serve)),
        None => router,
    }
}

async fn serve(State(which): State<Traced>, request: Request, next: Next) -> Response {
    let parent = header(request.headers());
    if parent.is_none() && which == Traced::OfTraces {
        return next.run(request).await;
    }
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>();
    // Never the path itself: names of spans are few, and what was asked for is no one's.
    let route = matched.map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!(target: TARGET, "request",
        otel.name = format!("{method} {route}"), otel.kind = "server", otel.status_code = Empty,
        http.request.method = %method, http.route = route,
        http.response.status_code = Empty, request_id = Empty);
    if let Some(parent) = parent {
        let _ = span.set_parent(parent);
    }
    let reply = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", i64::from(reply.status().as_u16()));
    if reply.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    reply
}

/// A span of one step in the work at hand.
#[must_use]
pub fn step(name: &'static str) -> Span {
    tracing::info_span!(target: TARGET, "step", otel.name = name)
}

/// The trace that a request is part of: its span's, or else what its caller says.
#[must_use]
pub fn id(headers: &HeaderMap) -> Option<String> {
    let id = |context: &Context| {
        let span = context.span();
        let known = span.span_context();
        known.is_valid().then(|| known.trace_id().to_string())
    };
    id(&Span::current().context()).or_else(|| id(&header(headers)?))
}

fn header(headers: &HeaderMap) -> Option<Context> {
    parse(headers.get(HEADER)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_as_the_standard_says() {
        let context = parse(GOOD).unwrap();
        let span = context.span();
        let known = span.span_context();
        assert_eq!(known.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(known.span_id().to_string(), "b7ad6b7169203331");
        assert!(known.is_sampled() && known.is_remote());
        assert!(!parse(&GOOD.replace("-01", "-00")).unwrap().span().span_context().is_sampled());
    }

    #[test]
    fn a_header_that_is_not_well_formed_is_no_trace() {
        let zeros = GOOD.replace("b7ad6b7169203331", "0000000000000000");
        for bad in
            ["", "00", &GOOD[..54], &GOOD.to_uppercase(), &zeros, &GOOD.replace("00-", "ff-")]
        {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
