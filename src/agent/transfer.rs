//! Bytes over HTTP: one piece from a peer, a run of pieces from the regional store.
//!
//! Every read has a progress timer, so a dead peer costs seconds, not minutes
//! [distribution 3, "stale and dead peers"]. Verifies nothing: that is
//! [`crate::agent::pieces`]' work.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use tokio::time::timeout;

use crate::model::digest::ArtifactId;
use crate::model::pieces::PieceSet;
use crate::net::client::{Client, http_client};
use crate::wire::v1::swarm::{
    CUSTODIAN_HEADER, HAVE_HEADER, HAVE_SINCE_HEADER, HaveReply, LEASE_HEADER, RETRY_HEADER,
};

/// Time to connect to a peer [distribution 6.5].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Without a byte for this long a request counts as stalled.
pub(super) const STALL: Duration = Duration::from_secs(2);
/// Without a byte for this long a request is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// The region lets few read its store at once; others wait for their turn.
const STORE_TURN: Duration = Duration::from_secs(60);
/// Longest body of a peer's bits.
const HAVE_BYTES_MAX: usize = 4096;

/// A client for peers: short connect timeout, HTTP/1.1, a few idle connections each.
///
/// # Panics
/// Never in practice: the builder's options are constants.
pub(super) fn peer_client() -> reqwest::Client {
    // Installs the TLS provider.
    drop(http_client());
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(4)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .build()
        .expect("the client's options are constants")
}

/// Why a transfer brought no bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nobody answers at that address.
    #[error("not reachable: {0}")]
    Unreachable(reqwest::Error),
    /// All slots are taken.
    #[error("busy")]
    Busy(Duration),
    /// It does not have the piece.
    #[error("does not have the piece")]
    Missing,
    /// Cut off, too slow, or the wrong length.
    #[error("{0}")]
    Cut(String),
}

/// What a peer's reply says about its bits.
pub(super) type News = Option<(u64, PieceSet)>;

/// How to reach one peer for one artifact.
#[derive(Debug, Clone)]
pub(super) struct PeerRoute {
    pub(super) http: reqwest::Client,
    pub(super) address: String,
    pub(super) ticket: String,
    pub(super) artifact: ArtifactId,
    /// When any byte of a piece came last.
    pub(super) heard: Heard,
}

/// When any byte of a piece came last; one for all transfers of a download.
#[derive(Debug, Clone)]
pub(super) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since.
    pub(super) fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl PeerRoute {
    fn get(&self, rest: &str) -> RequestBuilder {
        let url = format!("http://{}/v1/peer/{}/{rest}", self.address, self.artifact);
        self.http.get(url).bearer_auth(&self.ticket)
    }

    /// Waits for the peer's bits to differ from generation `since`.
    pub(super) async fn have(&self, since: u64, wait: Duration) -> Result<HaveReply, Broken> {
        let request = self.get(&format!("have?since={since}&wait_ms={}", wait.as_millis()));
        let mut reply = started(request, wait + GIVE_UP).await?;
        if !reply.status().is_success() {
            return Err(Broken::Cut(format!("answered {}", reply.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = next(&mut reply, GIVE_UP).await? {
            body.extend_from_slice(&chunk);
            if body.len() > HAVE_BYTES_MAX {
                return Err(Broken::Cut("answered too much".into()));
            }
        }
        serde_json::from_slice(&body).map_err(|e| Broken::Cut(e.to_string()))
    }

    /// Reads the wire bytes of a piece of `length` bytes. `stalled` is called
    /// when nothing came for 2 s; the read goes on until 10 s.
    pub(super) async fn piece(
        &self,
        piece: u32,
        length: u64,
        since: u64,
        stalled: impl Fn() + Sync,
    ) -> Result<(Vec<u8>, News), Broken> {
        let request =
            self.get(&format!("pieces/{piece}")).header(HAVE_SINCE_HEADER, since.to_string());
        let mut reply = patient(started(request, GIVE_UP), &stalled).await?;
        match reply.status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(Broken::Busy(retry(&reply))),
            StatusCode::NOT_FOUND => return Err(Broken::Missing),
            status => return Err(Broken::Cut(format!("answered {status}"))),
        }
        let news = news(&reply);
        let mut bytes = Vec::with_capacity(length as usize);
        while let Some(chunk) = patient(next(&mut reply, GIVE_UP), &stalled).await? {
            if (bytes.len() + chunk.len()) as u64 > length {
                return Err(Broken::Cut("sent more than the piece".into()));
            }
            self.heard.now();
            bytes.extend_from_slice(&chunk);
        }
        if (bytes.len() as u64) < length {
            return Err(Broken::Cut("ended early".into()));
        }
        Ok((bytes, news))
    }
}

/// A read of some bytes of a pack from the regional store.
pub(super) struct StoreRead {
    reply: Response,
    rest: Vec<u8>,
}

impl StoreRead {
    /// Starts reading `range` of the pack under a lease, or as custodian. The region
    /// may let it wait for its turn.
    pub(super) async fn open(
        client: &Client,
        artifact: ArtifactId,
        lease: Option<u64>,
        range: Range<u64>,
    ) -> Result<Self, Broken> {
        let request = client
            .request(Method::GET, &format!("/v1/agent/artifacts/{artifact}/pack"))
            .header(
                lease.map_or(CUSTODIAN_HEADER, |_| LEASE_HEADER),
                lease.unwrap_or(1).to_string(),
            )
            .header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        let reply = started(request, STORE_TURN).await?;
        if reply.status() == StatusCode::PARTIAL_CONTENT {
            return Ok(Self { reply, rest: vec![] });
        }
        let status = reply.status();
        let body = timeout(GIVE_UP, reply.bytes()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let why = client.refusal(status.as_u16(), &body).to_string();
        Err(Broken::Cut(why))
    }

    /// The next `length` bytes; `moved` is called whenever some came.
    pub(super) async fn take(&mut self, length: u64, moved: impl Fn()) -> Result<Vec<u8>, Broken> {
        let length = length as usize;
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.reserve(length.saturating_sub(bytes.len()));
        while bytes.len() < length {
            let chunk = next(&mut self.reply, GIVE_UP).await?;
            let chunk = chunk.ok_or_else(|| Broken::Cut("ended early".into()))?;
            moved();
            bytes.extend_from_slice(&chunk);
        }
        self.rest = bytes.split_off(length);
        Ok(bytes)
    }
}

async fn started(request: RequestBuilder, limit: Duration) -> Result<Response, Broken> {
    match timeout(limit, request.send()).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) if error.is_connect() => Err(Broken::Unreachable(error.without_url())),
        Ok(Err(error)) => Err(Broken::Cut(error.without_url().to_string())),
        Err(_) => Err(Broken::Cut("no answer in time".into())),
    }
}

async fn next(reply: &mut Response, limit: Duration) -> Result<Option<bytes::Bytes>, Broken> {
    match timeout(limit, reply.chunk()).await {
        Ok(chunk) => chunk.map_err(|e| Broken::Cut(e.without_url().to_string())),
        Err(_) => Err(Broken::Cut("no bytes in time".into())),
    }
}

/// Waits for `work`, and says once when it takes long.
async fn patient<T>(work: impl Future<Output = T>, stalled: &(impl Fn() + Sync)) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = timeout(STALL, &mut work).await {
        return done;
    }
    stalled();
    work.await
}

fn retry(reply: &Response) -> Duration {
    let value = reply.headers().get(RETRY_HEADER).and_then(|v| v.to_str().ok()?.parse().ok());
    Duration::from_millis(value.unwrap_or(100))
}

fn news(reply: &Response) -> News {
    let text = reply.headers().get(HAVE_HEADER)?.to_str().ok()?;
    let (generation, bits) = text.split_once(':')?;
    Some((generation.parse().ok()?, PieceSet::try_from(bits.to_owned()).ok()?))
}
