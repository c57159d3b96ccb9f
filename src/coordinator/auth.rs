//! Who asks, and whether they may: the middleware before every handler.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::coordinator::metrics;
use crate::coordinator::state::Shared;
use crate::model::digest::to_hex;
use crate::net::auth::{Identity, random_key};
use crate::net::trace;
use crate::rules::authorize::{Class, may, roles};
use crate::wire::problem::{Code, Problem};

/// Largest problem that gets a request id; all of ours are far smaller.
const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// Longest line of the log about a path, bytes.
const PATH_BYTES_MAX: usize = 200;

/// Knows the caller by its token and lets nobody else through; the handler
/// finds an [`Identity`] in the request's extensions.
pub(super) async fn authenticate(
    State(shared): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let identity = match header {
        Some(header) => shared.identify_anew(header).await,
        None => None,
    };
    let Some(identity) = identity else {
        let title = match header {
            None => "no token was given",
            Some(_) => "the token is not known here",
        };
        return Problem::new(Code::Unauthenticated, title)
            .because("every call needs the header Authorization: Bearer dct_…")
            .hint("on the coordinator's machine the admin token is in <data>/tokens/admin.token")
            .into_response();
    };
    request.extensions_mut().insert(identity);
    next.run(request).await
}

/// Lets the caller through when its role may call routes of this class.
pub(super) async fn authorize(
    State(class): State<Class>,
    request: Request,
    next: Next,
) -> Response {
    let identity = request.extensions().get::<Identity>();
    if identity.is_some_and(|identity| may(identity.role, class)) {
        return next.run(request).await;
    }
    let role = identity.map_or("none", |identity| identity.role.word());
    let needed: Vec<&str> = roles(class).map(|role| role.word()).collect();
    Problem::new(Code::Forbidden, format!("a token of role {role} may not do this"))
        .because(format!("it needs the role {}", needed.join(" or ")))
        .into_response()
}

/// Gives the request an id: in its log line, in the header `x-request-id`, and
/// in the problem that it may end with.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let id = request_id();
    let (method, started) = (request.method().clone(), Instant::now());
    let path: String = request.uri().path().chars().take(PATH_BYTES_MAX).collect();
    let matched = request.extensions().get::<MatchedPath>();
    // Never the path itself: whoever asks could make labels without end.
    let route = matched.map_or("none", MatchedPath::as_str).to_owned();
    // What the caller is at, when it says so: the same in logs of every process.
    let trace = trace::id(request.headers());
    tracing::Span::current().record("request_id", &id);
    let reply = next.run(request).await;
    let class = format!("{}xx", reply.status().as_u16() / 100);
    metrics::REQUESTS.with_label_values(&[route.as_str(), &class]).inc();
    let took = started.elapsed().as_secs_f64();
    metrics::REQUEST_SECONDS.with_label_values(&[&route]).observe(took);
    let (status, ms) = (reply.status().as_u16(), started.elapsed().as_millis());
    if reply.status().is_server_error() {
        tracing::warn!(request_id = id, trace, %method, ?path, status, ms, "request failed");
    } else {
        tracing::debug!(request_id = id, trace, %method, ?path, status, ms, "request");
    }
    let mut reply = with_id(reply, &id).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert("x-request-id", value);
    }
    reply
}

async fn with_id(reply: Response, id: &str) -> Response {
    let kind = reply.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/problem+json") {
        return reply;
    }
    let (mut parts, body) = reply.into_parts();
    let bytes = axum::body::to_bytes(body, PROBLEM_BYTES_MAX).await.unwrap_or_default();
    let Ok(mut problem) = serde_json::from_slice::<Problem>(&bytes) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    id.clone_into(&mut problem.request_id);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(serde_json::to_vec(&problem).unwrap_or_default()))
}

/// Unique in this process, and very likely among all: 32 random bits and a counter.
fn request_id() -> String {
    static START: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| to_hex(&random_key()[..4]));
    format!("{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
