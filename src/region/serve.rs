//! The region's listener for its agents: goals, reports, trust, manifests, packs,
//! and the tracker's routes.
//!
//! Everything but `/healthz` needs an agent's token of this region, checked with
//! the verifiers that the feed brought (`siblings` has the routes for other regions). A token that is bound to a host speaks
//! for that host only.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::model::digest::ArtifactId;
use crate::net::auth::Identity;
use crate::net::coding;
use crate::net::server::{Json, Path};
use crate::net::trace::{Traced, traced};
use crate::region::configs::{self, Configs};
use crate::region::direct::Direct;
use crate::region::fleet::{Fleet, Heard, Word};
use crate::region::forward::{Forwarder, forward};
use crate::region::intake;
use crate::region::landing::Landings;
use crate::region::library::{Held, Library, LibraryError};
use crate::region::metrics;
use crate::region::mirror::Mirror;
use crate::region::patches;
use crate::region::processes::{self, Processes};
use crate::region::replicate::Replicator;
use crate::region::siblings;
use crate::region::tracker::{self, Tracker};
use crate::store::blobs::RANGE_BYTES_MAX;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{HostInfo, PollReply, PollRequest, Report, ReportReply};
use crate::wire::v1::region::Trust;
use crate::wire::v1::swarm::{CUSTODIAN_HEADER, LEASE_HEADER, SIGNATURE_HEADER};
use crate::wire::v1::token::Role;

/// Longest wait of a poll, milliseconds: under the usual 60 s of proxies between.
const WAIT_MS_MAX: u64 = 55_000;
/// Wait of a poll whose host is asked for a report: one that is on its way arrives by then.
const ASKED_WAIT: Duration = Duration::from_secs(1);
/// How long a host's read waits for pieces that the region is pulling; they are pulled
/// before others. Shorter than an agent's own patience with a silent store.
const LANDING_WAIT: Duration = Duration::from_secs(5);

/// Bytes of a pack given to the server at a time.
const SLICE_BYTES: usize = 64 << 10;

/// What the listener answers from.
pub struct Listener {
    /// Goals, tokens, trust.
    pub mirror: Arc<Mirror>,
    /// Hosts.
    pub fleet: Arc<Fleet>,
    /// Manifests and packs.
    pub library: Arc<Library>,
    /// Heals what is found damaged.
    pub replicator: Arc<Replicator>,
    /// Swarms, and the gate before every read of a pack.
    pub tracker: Arc<Tracker>,
    /// What is being pulled.
    pub landings: Arc<Landings>,
    /// The processes of this region.
    pub processes: Arc<Processes>,
    /// Reads that hosts make at the store.
    pub direct: Direct,
    /// What goals name beside artifacts.
    pub configs: Arc<Configs>,
}

pub(super) type Shared = State<Arc<Listener>>;

/// The listener's routes.
pub fn router(listener: Arc<Listener>, http: reqwest::Client) -> Router {
    let tracker = tracker::routes(listener.tracker.clone());
    let (processes, library) = (listener.processes.clone(), listener.library.clone());
    let forwarder = Arc::new(Forwarder { processes: processes.clone(), library, http });
    let words = processes::routes(processes, listener.fleet.clone(), listener.mirror.clone());
    let all = Router::new()
        .route("/v1/agent/poll", post(poll))
        .route("/v1/agent/report", post(report))
        .route("/v1/agent/trust", get(trust))
        .route("/v1/agent/artifacts/{id}/manifest", get(manifest))
        .route("/v1/agent/artifacts/{id}/pack", get(pack))
        .route("/v1/agent/artifacts/{id}/patches", get(patches::list))
        .route("/v1/agent/configs/{config}", get(configs::give))
        .with_state(listener.clone())
        .merge(tracker)
        .layer(axum::middleware::from_fn_with_state(forwarder.clone(), forward))
        .layer(axum::middleware::from_fn_with_state(listener.clone(), authenticate))
        .merge(siblings::routes(listener, forwarder))
        .merge(words)
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { Problem::new(Code::NotFound, "there is no such path") });
    traced(all, Traced::OfTraces)
}

/// Puts the caller's [`Identity`] into the request, or refuses it.
async fn authenticate(State(listener): Shared, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    match identity(&listener.mirror, header) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn identity(mirror: &Mirror, header: &str) -> Result<Identity, Problem> {
    let known = mirror.identify(header).ok_or_else(|| {
        Problem::new(Code::Unavailable, "the region has not heard from its coordinator yet")
    })?;
    let identity = known
        .ok_or_else(|| Problem::new(Code::Unauthenticated, "a known agent token is needed"))?;
    if identity.role == Role::Agent && identity.region.as_ref() == Some(mirror.region()) {
        return Ok(identity);
    }
    let title = format!("only agents of region {} may call this", mirror.region());
    Err(Problem::new(Code::Forbidden, title))
}

fn allow(identity: &Identity, info: &HostInfo) -> Result<(), Problem> {
    match &identity.host {
        Some(bound) if *bound != info.host => {
            Err(Problem::new(Code::Forbidden, format!("this token speaks for host {bound} only")))
        }
        _ => Ok(()),
    }
}

fn full(error: impl ToString) -> Problem {
    Problem::new(Code::Unavailable, error.to_string())
}

async fn poll(
    State(listener): Shared,
    Extension(identity): Extension<Identity>,
    Extension(from): Extension<SocketAddr>,
    Json(request): Json<PollRequest>,
) -> Result<Json<PollReply>, Problem> {
    allow(&identity, &request.info)?;
    intake::check_info(&request.info)?;
    let PollRequest { info, since, wait_ms, said } = request;
    let address = SocketAddr::new(from.ip(), info.peer_port).to_string();
    // All that a host that waits holds of what it said.
    let (env, labels) = (info.env.clone(), info.labels.clone());
    let Heard { report_ms, report } =
        listener.fleet.hear(info, address, Word::Alive { said }).map_err(full)?;
    let mut changes = listener.mirror.changes();
    let newer = async {
        loop {
            changes.borrow_and_update();
            let revision = listener.mirror.env_digest(&env);
            // Not `>`: an agent may come from a mirror that was ahead. And a mirror that
            // knows nothing yet says nothing, rather than that there are no goals.
            if revision != since && revision != 0 {
                return revision;
            }
            if changes.changed().await.is_err() {
                return since;
            }
        }
    };
    // A host that was not heard right says it again at once.
    let wait = if report { ASKED_WAIT } else { Duration::from_millis(wait_ms.min(WAIT_MS_MAX)) };
    let revision = tokio::time::timeout(wait, newer).await.unwrap_or(since);
    let goals = (revision != since).then(|| listener.mirror.goals_for(&env, &labels));
    let region = listener.mirror.region().clone();
    let processes = listener.processes.live();
    Ok(Json(PollReply { revision, region, goals, report_ms, report, processes }))
}

async fn report(
    State(listener): Shared,
    Extension(identity): Extension<Identity>,
    Extension(from): Extension<SocketAddr>,
    Json(report): Json<Report>,
) -> Result<Json<ReportReply>, Problem> {
    allow(&identity, &report.info)?;
    let Report { info, apps, said } = intake::bound(report)?;
    let address = SocketAddr::new(from.ip(), info.peer_port).to_string();
    let heard = listener.fleet.hear(info, address, Word::Report { apps, said }).map_err(full)?;
    Ok(Json(ReportReply { report_ms: heard.report_ms }))
}

async fn trust(State(listener): Shared) -> Result<Json<Trust>, Problem> {
    let trust = listener.mirror.trust().ok_or_else(|| {
        Problem::new(Code::Unavailable, "the region has not heard whom to trust yet")
    })?;
    Ok(Json(Trust::clone(&trust)))
}

impl Listener {
    /// A refusal; a damaged store is healed meanwhile.
    pub(super) fn refuse(&self, artifact: ArtifactId, error: LibraryError) -> Problem {
        match error {
            LibraryError::Absent(_) => Problem::new(Code::NotFound, error.to_string()),
            LibraryError::Damaged => {
                self.replicator.heal(artifact);
                Problem::new(Code::Unavailable, error.to_string())
            }
            LibraryError::Store(error) => {
                tracing::error!(%artifact, %error, "regional store can't be read");
                Problem::new(Code::Unavailable, "the regional store can't be read").because(error)
            }
            LibraryError::Busy | LibraryError::Silent => {
                Problem::new(Code::Unavailable, error.to_string())
            }
        }
    }
}

async fn manifest(
    State(listener): Shared,
    Path(artifact): Path<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let held = listener.known(artifact).await;
    let held = held.map_err(|error| listener.refuse(artifact, error))?;
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    manifest_reply(held, accepted.is_some_and(coding::accepts))
        .ok_or_else(|| listener.refuse(artifact, LibraryError::Damaged))
}

/// A manifest with its signature, packed if it may be; `None` when that is no signature.
pub(super) fn manifest_reply(held: Held, packed: bool) -> Option<Response> {
    let signature = HeaderValue::from_str(&held.signature).ok()?;
    let packed = packed && !held.packed.is_empty();
    let mut reply = if packed { held.packed } else { held.bytes }.into_response();
    if packed {
        let coding = HeaderValue::from_static(coding::ZSTD);
        reply.headers_mut().insert(header::CONTENT_ENCODING, coding);
    }
    let kind = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply.headers_mut().insert(SIGNATURE_HEADER, signature);
    Some(reply)
}

async fn pack(
    State(listener): Shared,
    Path(artifact): Path<ArtifactId>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let refuse = |error| listener.refuse(artifact, error);
    let length = listener.known(artifact).await.map_err(refuse)?.manifest.wire_size();
    let Some(range) = asked_range(&headers, length) else {
        return Ok(unsatisfiable(length));
    };
    let lease = headers.get(LEASE_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let landing = listener.landings.find(&artifact);
    if let Some(landing) = &landing {
        let landed = tokio::time::timeout(LANDING_WAIT, landing.wait_for(&range)).await;
        landed.map_err(|_| Problem::new(Code::Unavailable, "these pieces are on their way"))?;
    }
    match lease {
        Some(lease) => {
            let host = identity.host.as_ref();
            listener.tracker.admit_read(lease, host, artifact, range.clone())?;
        }
        None if headers.contains_key(CUSTODIAN_HEADER) => {
            let (tracker, range) = (listener.tracker.clone(), range.clone());
            // The store's hook may read a file.
            tokio::task::spawn_blocking(move || tracker.admit_custodian(artifact, range))
                .await
                .map_err(|e| Problem::new(Code::Internal, "the tracker failed").because(e))??;
        }
        None => {
            let title = "a read of a pack needs a lease of the tracker";
            return Err(Problem::new(Code::Forbidden, title));
        }
    }
    // The lease is read once the host says that it has the piece; it takes no turn.
    if lease.is_some()
        && landing.is_none()
        && let Some(reply) = listener.direct.answer(&headers, artifact, &range).await
    {
        return Ok(reply);
    }
    let turn = listener.tracker.turn(artifact, lease).await?;
    metrics::SERVED.with_label_values::<&str>(&[]).inc_by(range.end - range.start);
    let body = match landing {
        Some(landing) => Body::from_stream(siblings::staged(landing, range.clone())),
        None => {
            let bytes = listener.library.pack(artifact, range.clone()).await;
            Body::from_stream(bytes.map_err(refuse)?)
        }
    };
    // The turn ends with the body, sent or dropped.
    let bytes = body.into_data_stream().flat_map(slices).map(move |part| {
        let _in_turn = &turn;
        part
    });
    Ok(partial(Body::from_stream(bytes), &range, length))
}

/// A part of a pack in slices: the server asks for the next one when most of the one
/// before is on the wire, so that a turn does not end while its bytes wait in memory.
fn slices<E>(part: Result<Bytes, E>) -> impl Stream<Item = Result<Bytes, E>> {
    let (mut rest, failed) = match part {
        Ok(bytes) => (bytes, None),
        Err(error) => (Bytes::new(), Some(Err(error))),
    };
    let slices = std::iter::from_fn(move || {
        let slice = rest.split_to(rest.len().min(SLICE_BYTES));
        (!slice.is_empty()).then_some(Ok(slice))
    });
    futures_util::stream::iter(slices.chain(failed))
}

/// 206 with `body`, which is `range` of `length` bytes.
pub(super) fn partial(body: Body, range: &Range<u64>, length: u64) -> Response {
    let mut reply = (StatusCode::PARTIAL_CONTENT, body).into_response();
    let content = format!("bytes {}-{}/{length}", range.start, range.end - 1);
    for (name, value) in [
        (header::CONTENT_RANGE, content),
        (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
    ] {
        let value = HeaderValue::from_str(&value).expect("digits and words are a header's value");
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// 416 with the length, as RFC 9110 asks.
pub(super) fn unsatisfiable(length: u64) -> Response {
    let title = format!("one range inside of {length} bytes is needed, at most {RANGE_BYTES_MAX}");
    let mut reply = Problem::new(Code::Usage, title).into_response();
    *reply.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}")) {
        reply.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    reply
}

/// The range that a request asks for, of a pack of `length` bytes; `None`: none that can be had.
pub(super) fn asked_range(headers: &HeaderMap, length: u64) -> Option<Range<u64>> {
    byte_range(headers.get(header::RANGE)?.to_str().ok()?, length)
}

/// Reads `bytes=a-b`, both given and inside; `None` for anything else.
fn byte_range(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let plain = (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?.min(length.checked_sub(1)?));
    let fits = first <= last && last - first < RANGE_BYTES_MAX;
    fits.then_some(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bounded_range_inside_is_read() {
        for (text, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=5-9", Some(5..10)),
            ("bytes=5-900", Some(5..100)),
            ("bytes=99-99", Some(99..100)),
            ("bytes=100-100", None),
            ("bytes=9-5", None),
            ("bytes=-5", None),
            ("bytes=5-", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("bytes=0-99999999999999999999", None),
        ] {
            assert_eq!(byte_range(text, 100), expected, "{text}");
        }
        assert_eq!(byte_range("bytes=0-0", 0), None);
        let whole = format!("bytes=0-{}", RANGE_BYTES_MAX - 1);
        assert_eq!(byte_range(&whole, 1 << 40), Some(0..RANGE_BYTES_MAX));
        assert_eq!(byte_range(&format!("bytes=0-{RANGE_BYTES_MAX}"), 1 << 40), None);
    }
}
