//! The routes for other regions: which pieces of an artifact are here, its manifest,
//! and ranges of its pack, also while it is still being pulled.
//!
//! A caller shows the ticket that the coordinator made for it and this region. What
//! it reads it verifies itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::Stream;

use crate::model::digest::ArtifactId;
use crate::model::pieces::PieceSet;
use crate::net::server::{Json, Path};
use crate::region::forward::{Forwarder, forward};
use crate::region::landing::Landing;
use crate::region::library::{Held, LibraryError};
use crate::region::serve::{Listener, Shared, asked_range, manifest_reply, partial, unsatisfiable};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::region::{PiecesReply, PiecesRequest};

/// Longest wait of a poll, milliseconds.
const WAIT_MS_MAX: u64 = 25_000;
/// Bytes of staged pieces read at once while streaming: what one slow reader holds.
const READ_BYTES: u64 = 1 << 20;

/// The routes, behind a sibling's ticket.
pub(super) fn routes(listener: Arc<Listener>, forwarder: Arc<Forwarder>) -> Router {
    Router::new()
        .route("/v1/region/pieces", post(pieces))
        .route("/v1/region/artifacts/{id}/manifest", get(manifest))
        .route("/v1/region/artifacts/{id}/pack", get(pack))
        .with_state(listener.clone())
        .layer(axum::middleware::from_fn_with_state(forwarder, forward))
        .layer(axum::middleware::from_fn_with_state(listener, authenticate))
}

async fn authenticate(State(listener): Shared, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if listener.mirror.sibling(header).is_none() {
        return Problem::new(Code::Unauthenticated, "a ticket of another region is needed")
            .into_response();
    }
    next.run(request).await
}

async fn pieces(
    State(listener): Shared,
    Json(request): Json<PiecesRequest>,
) -> Result<Json<PiecesReply>, Problem> {
    let PiecesRequest { artifact, since, wait_ms } = request;
    let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
    let other = async {
        let mut changes = listener.landings.changes();
        loop {
            changes.borrow_and_update();
            let Some(landing) = listener.landings.find(&artifact) else {
                if let Some(reply) = listener.whole(artifact).await {
                    return reply;
                }
                let _ = changes.changed().await;
                continue;
            };
            let mut landed = landing.landed();
            let more = async {
                let have = landed.wait_for(|landed| landed.count() != since).await;
                have.map_or_else(|_| PieceSet::new(), |have| have.clone())
            };
            tokio::select! {
                have = more => return PiecesReply { known: true, have },
                _ = changes.changed() => {}
            }
        }
    };
    if let Ok(reply) = tokio::time::timeout(wait, other).await {
        return Ok(Json(reply));
    }
    // Whoever does not wait is told what there is.
    if let Some(landing) = listener.landings.find(&artifact) {
        let have = landing.landed().borrow().clone();
        return Ok(Json(PiecesReply { known: true, have }));
    }
    let nothing = || PiecesReply { known: false, have: PieceSet::new() };
    Ok(Json(listener.whole(artifact).await.unwrap_or_else(nothing)))
}

impl Listener {
    /// The answer when the region holds all of it.
    async fn whole(&self, artifact: ArtifactId) -> Option<PiecesReply> {
        let held = self.library.manifest(artifact).await.ok()?;
        let have = PieceSet::full(held.manifest.pieces.len() as u32);
        Some(PiecesReply { known: true, have })
    }

    /// The manifest, also of what is being pulled.
    pub(super) async fn known(&self, artifact: ArtifactId) -> Result<Held, LibraryError> {
        match self.landings.find(&artifact) {
            Some(landing) => Ok(landing.held.clone()),
            None => self.library.manifest(artifact).await,
        }
    }
}

async fn manifest(
    State(listener): Shared,
    Path(artifact): Path<ArtifactId>,
) -> Result<Response, Problem> {
    let held = listener.known(artifact).await;
    manifest_reply(held.map_err(|error| listener.refuse(artifact, error))?, false)
        .ok_or_else(|| listener.refuse(artifact, LibraryError::Damaged))
}

async fn pack(
    State(listener): Shared,
    Path(artifact): Path<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let refuse = |error| listener.refuse(artifact, error);
    let length = listener.known(artifact).await.map_err(refuse)?.manifest.wire_size();
    let Some(range) = asked_range(&headers, length) else {
        return Ok(unsatisfiable(length));
    };
    let body = match listener.landings.find(&artifact) {
        Some(landing) => {
            let landed = landing.landed().borrow().clone();
            if !landing.pieces_of(&range).all(|piece| landed.contains(piece)) {
                return Err(Problem::new(Code::Unavailable, "not all of these pieces have landed"));
            }
            Body::from_stream(staged(landing, range.clone()))
        }
        None => {
            let bytes = listener.library.pack(artifact, range.clone()).await;
            Body::from_stream(bytes.map_err(refuse)?)
        }
    };
    Ok(partial(body, &range, length))
}

/// Streams a range of staged pieces.
pub(super) fn staged(
    landing: Arc<Landing>,
    range: Range<u64>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold((landing, range), |(landing, mut range)| async {
        if range.is_empty() {
            return None;
        }
        let part = range.start..range.end.min(range.start + READ_BYTES);
        let (from, now) = (landing.clone(), part.clone());
        let read = tokio::task::spawn_blocking(move || from.read(&now)).await;
        let read = read.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        range.start = if read.is_ok() { part.end } else { range.end };
        Some((read, (landing, range)))
    })
}
