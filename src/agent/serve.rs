//! The peer listener: pieces by number, behind a ticket, within four slots.
//!
//! `GET /v1/peer/{artifact}/pieces/{i}` streams wire bytes from the pack, also
//! while it is still being fetched; `GET /v1/peer/{artifact}/have` waits until
//! there is more. Speaks numbers only, never paths, and only verified pieces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::agent::pieces::Pack;
use crate::model::digest::ArtifactId;
use crate::net::server::{Json, Params, Path};
use crate::rules::swarm::uploads::UPLOAD_SLOTS;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::swarm::{
    HAVE_HEADER, HAVE_SINCE_HEADER, HAVE_WAIT_MS_MAX, HaveQuery, HaveReply, RETRY_HEADER,
};

/// Bytes read and sent at a time; with the slots this bounds memory to 3 MiB.
const CHUNK_BYTES: u64 = 256 << 10;
/// A reader that takes no chunk for this long loses its slot.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Long polls are answered at most this often: a piece of 256 KiB takes 21 ms at
/// 100 Mbit/s, and late news costs time.
const HAVE_SPACING: Duration = Duration::from_millis(20);

/// The packs that peers may read; shared with the fetches that fill them.
#[derive(Clone)]
pub(super) struct Shelf {
    packs: Arc<Mutex<BTreeMap<ArtifactId, Arc<Pack>>>>,
    slots: Arc<Semaphore>,
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self { packs: Arc::default(), slots: Arc::new(Semaphore::new(UPLOAD_SLOTS)) }
    }

    pub(super) fn insert(&self, pack: Arc<Pack>) {
        self.lock().insert(pack.artifact, pack);
    }

    /// Takes `pack` off, unless another took its place.
    pub(super) fn remove(&self, pack: &Arc<Pack>) {
        let mut packs = self.lock();
        if packs.get(&pack.artifact).is_some_and(|there| Arc::ptr_eq(there, pack)) {
            packs.remove(&pack.artifact);
        }
    }

    pub(super) fn get(&self, artifact: ArtifactId) -> Option<Arc<Pack>> {
        self.lock().get(&artifact).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ArtifactId, Arc<Pack>>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pack, for a caller that shows its ticket. An artifact that is not
    /// here and a wrong ticket look the same.
    fn admit(&self, artifact: ArtifactId, headers: &HeaderMap) -> Result<Arc<Pack>, Problem> {
        let refused = || Problem::new(Code::Unauthenticated, "no such ticket here");
        let pack = self.get(artifact).ok_or_else(refused)?;
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(refused)?;
        let ticket = pack.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let same = ticket.is_some_and(|t| bool::from(t.as_bytes().ct_eq(shown.as_bytes())));
        same.then_some(pack).ok_or_else(refused)
    }
}

/// The peer listener's routes.
pub(super) fn routes(shelf: Shelf) -> Router {
    Router::new()
        .route("/v1/peer/{artifact}/pieces/{piece}", get(piece))
        .route("/v1/peer/{artifact}/have", get(have))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(shelf)
}

async fn have(
    State(shelf): State<Shelf>,
    Path(artifact): Path<ArtifactId>,
    Params(query): Params<HaveQuery>,
    headers: HeaderMap,
) -> Result<Json<HaveReply>, Problem> {
    let pack = shelf.admit(artifact, &headers)?;
    let mut changes = pack.have.subscribe();
    if query.since != 0 {
        tokio::time::sleep(HAVE_SPACING).await;
    }
    let wait = Duration::from_millis(query.wait_ms.min(HAVE_WAIT_MS_MAX));
    let news = changes.wait_for(|have| have.generation != query.since);
    // Nothing new in time is an answer too.
    let _ = tokio::time::timeout(wait, news).await;
    let have = pack.have.borrow().clone();
    Ok(Json(HaveReply { generation: have.generation, have: have.served }))
}

async fn piece(
    State(shelf): State<Shelf>,
    Path((artifact, piece)): Path<(ArtifactId, u32)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let pack = shelf.admit(artifact, &headers)?;
    if !pack.have.borrow().served.contains(piece) {
        return Err(Problem::new(Code::NotFound, "this peer does not have that piece"));
    }
    let Ok(slot) = shelf.slots.clone().try_acquire_owned() else { return Ok(busy(&pack, piece)) };
    let length = pack.wire_len(piece);
    let (chunks, mut incoming) = mpsc::channel::<std::io::Result<Bytes>>(1);
    tokio::spawn(send(pack.clone(), piece, chunks, slot));
    let stream = futures_util::stream::poll_fn(move |context| incoming.poll_recv(context));
    let mut reply = Body::from_stream(stream).into_response();
    reply.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    note_have(&pack, &headers, &mut reply);
    Ok(reply)
}

/// Every slot is taken: a piece's time on a fast link is a fair first guess.
fn busy(pack: &Pack, piece: u32) -> Response {
    let wait_ms = (pack.wire_len(piece) >> 17).clamp(20, 500);
    let mut reply = StatusCode::TOO_MANY_REQUESTS.into_response();
    reply.headers_mut().insert(RETRY_HEADER, HeaderValue::from(wait_ms));
    reply
}

fn note_have(pack: &Pack, headers: &HeaderMap, reply: &mut Response) {
    let since = headers.get(HAVE_SINCE_HEADER).and_then(|v| v.to_str().ok()?.parse().ok());
    let have = pack.have.borrow();
    if since != Some(have.generation) {
        let text = format!("{}:{}", have.generation, String::from(have.served.clone()));
        if let Ok(value) = HeaderValue::from_str(&text) {
            reply.headers_mut().insert(HAVE_HEADER, value);
        }
    }
}

async fn send(
    pack: Arc<Pack>,
    piece: u32,
    chunks: mpsc::Sender<std::io::Result<Bytes>>,
    _slot: OwnedSemaphorePermit,
) {
    let length = pack.wire_len(piece);
    let mut at = 0;
    while at < length {
        let part = CHUNK_BYTES.min(length - at);
        let from = pack.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; part as usize];
            from.read_part(piece, at, &mut bytes).map(|()| Bytes::from(bytes))
        });
        let chunk = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let failed = chunk.is_err();
        let sent = tokio::time::timeout(SEND_TIMEOUT, chunks.send(chunk)).await;
        if failed || !matches!(sent, Ok(Ok(()))) {
            return;
        }
        at += part;
    }
}
