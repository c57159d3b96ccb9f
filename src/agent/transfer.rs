//! Bytes over HTTP: one piece from a peer, a run of pieces from the regional store.
//!
//! Every read has a progress timer, so a dead peer costs seconds, not minutes
//! [distribution 3, "stale and dead peers"]. Bodies go from the socket straight into
//! the piece's buffer; only a store behind TLS is read through the HTTP client.
//! Verifies nothing: that is [`crate::agent::pieces`]' work.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use tokio::time::timeout;

use crate::agent::cap::Cap;
use crate::agent::connect::Connections;
use crate::agent::news::{self, Change, LINE_BYTES_MAX};
use crate::agent::parts::Part;
use crate::model::digest::ArtifactId;
use crate::net::client::Client;
use crate::net::heads::{Conversation, Reply};
use crate::rules::swarm::ENDING_SHARE;
use crate::wire::v1::swarm::{
    CUSTODIAN_HEADER, DIRECT_HEADER, HAVE_WAIT_MS_MAX, LACKS_HEADER, LEASE_HEADER, NEWS_TYPE,
    RETRY_HEADER, WINDOW_HEADER,
};

/// Without a byte for this long a request counts as stalled.
pub(super) const STALL: Duration = Duration::from_secs(2);
/// Without a byte for this long a request is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// A peer that is followed ends its reply after this time.
const FOLLOW: Duration = Duration::from_millis(HAVE_WAIT_MS_MAX);
/// The region lets few read its store at once; others wait for their turn.
const STORE_TURN: Duration = Duration::from_secs(60);
/// Longest body of a peer's bits, or of a refusal that is read.
const SMALL_BYTES_MAX: u64 = 4096;

/// Why a transfer brought no bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nobody answers at that address.
    #[error("not reachable: {0}")]
    Unreachable(String),
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

/// How to reach one peer for one artifact.
#[derive(Debug, Clone)]
pub(super) struct PeerRoute {
    pub(super) connections: Arc<Connections>,
    pub(super) address: String,
    pub(super) ticket: String,
    pub(super) artifact: ArtifactId,
    pub(super) cap: Cap,
    /// When any byte of a piece came last.
    pub(super) heard: Heard,
    /// Requests that the download has in flight.
    pub(super) window: u64,
    /// Pieces that it lacks.
    pub(super) lacks: u32,
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
    /// The head of a request, with `more` fields, each ended by a line's end.
    fn head(&self, method: &str, rest: &str, more: &str) -> String {
        let Self { artifact, address, ticket, .. } = self;
        format!(
            "{method} /v1/peer/{artifact}/{rest} HTTP/1.1\r\nHost: {address}\r\n\
             Authorization: Bearer {ticket}\r\n{more}\r\n"
        )
    }

    async fn ask(&self, head: &str, limit: Duration) -> Result<(Conversation, Reply), Broken> {
        let asked = timeout(limit, self.connections.ask(&self.address, head)).await;
        asked.unwrap_or_else(|_| Err(Broken::Cut("no answer in time".into())))
    }

    /// Asks the peer to tell of its bits as they change, from generation `since` on. Older
    /// agents tell of them only to who says that it follows.
    pub(super) async fn follow(&self, since: u64) -> Result<Following, Broken> {
        let rest = format!("have?since={since}&wait_ms={HAVE_WAIT_MS_MAX}&follow=1");
        let head = self.head("GET", &rest, "Connection: close\r\n");
        let (from, reply) = self.ask(&head, GIVE_UP).await?;
        if reply.status != 200 || reply.fields.get("content-type") != Some(NEWS_TYPE) {
            return Err(Broken::Cut(format!("tells no news: answered {}", reply.status)));
        }
        Ok(Following(from))
    }

    /// Tells the peer that it sent wrong bytes, so that it looks. Best effort.
    pub(super) async fn complain(&self, piece: u32) {
        let head = self.head("POST", &format!("pieces/{piece}/bad"), "");
        if let Err(error) = self.ask(&head, GIVE_UP).await {
            tracing::debug!(%error, piece, "a peer was not told of its bad piece");
        }
    }

    /// Reads the wire bytes of a piece, as many as `into` holds, from where `part` ends
    /// if the peer can. `stalled` is called
    /// when nothing came for 2 s; the read goes on until 10 s. `ending` is called when the
    /// rest comes in about the time that this request took to be answered.
    pub(super) async fn piece(
        &self,
        piece: u32,
        (into, part): (&mut [u8], &mut Part),
        (stalled, ending): (impl Fn() + Sync, impl Fn() + Sync),
    ) -> Result<(), Broken> {
        let asked = Instant::now();
        let mut fields =
            format!("{WINDOW_HEADER}: {}\r\n{LACKS_HEADER}: {}\r\n", self.window, self.lacks);
        if part.resumed() > 0 {
            fields += &format!("Range: bytes={}-\r\n", part.resumed());
        }
        let head = self.head("GET", &format!("pieces/{piece}"), &fields);
        let (mut from, reply) = patient(self.ask(&head, GIVE_UP), &stalled).await?;
        match reply.status {
            206 if reply.length == (into.len() - part.resumed()) as u64 => {}
            200 if reply.length == into.len() as u64 => part.restart(),
            200 | 206 => return Err(Broken::Cut("sent another length than the piece's".into())),
            status => {
                small(&mut from, &reply).await?;
                let broken = refusal(status, &reply);
                self.connections.keep(&self.address, from, &reply);
                return Err(broken);
            }
        }
        let mut at = part.resumed();
        let mut pipeline = Pipeline::new(asked.elapsed(), at..into.len());
        while at < into.len() {
            let step = self.cap.step((into.len() - at) as u64) as usize;
            let came = patient(some(&mut from, &mut into[at..at + step]), &stalled).await?;
            self.heard.now();
            self.cap.pass(came as u64).await;
            at += came;
            part.came(&into[..at]);
            if pipeline.ends(Instant::now(), at) {
                ending();
            }
        }
        self.connections.keep(&self.address, from, &reply);
        Ok(())
    }
}

/// When to send the next request, so that its bytes come as this one's end: requests
/// wait in the same queues as bytes do, for up to a piece's time on a full link.
struct Pipeline {
    latency: Duration,
    /// When the first bytes were here, and where they ended: they come in a burst that
    /// tells nothing of the rate.
    begun: Option<(Instant, usize)>,
    body: Range<usize>,
    told: bool,
}

impl Pipeline {
    /// The bytes of `body` begin to come; the head before them took `latency`.
    fn new(latency: Duration, body: Range<usize>) -> Self {
        Self { latency, begun: None, body, told: false }
    }

    /// Whether, with `at` bytes there at `now`, it is time. True once at most.
    fn ends(&mut self, now: Instant, at: usize) -> bool {
        let Some((begun, first)) = self.begun else {
            self.begun = Some((now, at));
            return false;
        };
        let (came, left) = (at - first, self.body.end - at);
        // An eighth at least: less is a burst, too.
        if self.told || came < self.body.len() / 8 || left < self.body.end / ENDING_SHARE as usize {
            return false;
        }
        let rest = now.saturating_duration_since(begun).as_secs_f64() * left as f64 / came as f64;
        self.told = rest <= self.latency.as_secs_f64();
        self.told
    }
}

/// A peer that tells of its bits, a line for each change.
pub(super) struct Following(Conversation);

impl Following {
    /// The generation and what changed; `None`: it is time to ask again.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Change)>, Broken> {
        match timeout(FOLLOW + GIVE_UP, self.0.line(LINE_BYTES_MAX)).await {
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(line))) => match news::read(&line) {
                Some(news) => Ok(Some(news)),
                None => Err(Broken::Cut("told what is no news".into())),
            },
            Ok(Err(error)) => Err(Broken::Cut(error.to_string())),
            Err(_) => Err(Broken::Cut("no news in time".into())),
        }
    }
}

fn refusal(status: u16, reply: &Reply) -> Broken {
    match status {
        429 => {
            let wait = reply.fields.get(RETRY_HEADER).and_then(|text| text.parse().ok());
            Broken::Busy(Duration::from_millis(wait.unwrap_or(100)))
        }
        404 => Broken::Missing,
        status => Broken::Cut(format!("answered {status}")),
    }
}

/// The body of a small reply.
async fn small(from: &mut Conversation, reply: &Reply) -> Result<Vec<u8>, Broken> {
    if reply.length > SMALL_BYTES_MAX {
        return Err(Broken::Cut("answered too much".into()));
    }
    let mut body = vec![0; reply.length as usize];
    let mut at = 0;
    while at < body.len() {
        at += some(from, &mut body[at..]).await?;
    }
    Ok(body)
}

/// Some of a body's bytes, within time.
async fn some(from: &mut Conversation, into: &mut [u8]) -> Result<usize, Broken> {
    match timeout(GIVE_UP, from.body(into)).await {
        Ok(read) => read.map_err(|e| Broken::Cut(e.to_string())),
        Err(_) => Err(Broken::Cut("no bytes in time".into())),
    }
}

/// A read of some bytes of a pack from the regional store.
pub(super) enum StoreRead {
    /// From a plain socket; what is left of the body.
    Plain { from: Conversation, reply: Reply, address: String, left: u64 },
    /// Through the HTTP client, with TLS or at the store itself (`direct`); what the last
    /// part brought too much.
    Client { reply: Response, rest: Bytes, direct: bool },
}

/// What came of asking the region for bytes.
pub(super) enum Opened {
    /// They come.
    Here(StoreRead),
    /// They are to be read at this URL.
    There(String),
}

impl StoreRead {
    /// Starts reading `range` of the pack under a lease, or as custodian. The region
    /// may let it wait for its turn.
    pub(super) async fn open(
        (client, connections): (&Client, &Connections),
        artifact: ArtifactId,
        (lease, wish): (Option<u64>, Option<&str>),
        range: Range<u64>,
    ) -> Result<Opened, Broken> {
        let path = format!("/v1/agent/artifacts/{artifact}/pack");
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let leave = lease.map_or(CUSTODIAN_HEADER, |_| LEASE_HEADER);
        let number = lease.unwrap_or(1).to_string();
        let Some((address, head)) = client.plain_head("GET", &path) else {
            let mut request = client.request(Method::GET, &path).header(leave, number);
            if let Some(wish) = wish {
                request = request.header(DIRECT_HEADER, wish);
            }
            return Self::open_tls(client, request.header(header::RANGE, bytes)).await;
        };
        let wish = wish.map(|wish| format!("{DIRECT_HEADER}: {wish}\r\n")).unwrap_or_default();
        let head = format!("{head}{leave}: {number}\r\nRange: {bytes}\r\n{wish}\r\n");
        let asked = timeout(STORE_TURN, connections.ask(&address, &head)).await;
        let (mut from, reply) = asked.map_err(|_| Broken::Cut("no answer in time".into()))??;
        if reply.status == 206 && reply.length == range.end - range.start {
            return Ok(Opened::Here(Self::Plain { from, left: reply.length, reply, address }));
        }
        if reply.status == 307
            && let Some(url) = reply.fields.get("location")
        {
            let url = url.to_owned();
            connections.keep(&address, from, &reply);
            return Ok(Opened::There(url));
        }
        let body = small(&mut from, &reply).await.unwrap_or_default();
        Err(Broken::Cut(client.refusal(reply.status, &body).to_string()))
    }

    async fn open_tls(client: &Client, request: RequestBuilder) -> Result<Opened, Broken> {
        let reply = match timeout(STORE_TURN, request.send()).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if error.is_connect() => {
                return Err(Broken::Unreachable(error.without_url().to_string()));
            }
            Ok(Err(error)) => return Err(Broken::Cut(error.without_url().to_string())),
            Err(_) => return Err(Broken::Cut("no answer in time".into())),
        };
        if reply.status() == StatusCode::PARTIAL_CONTENT {
            let direct = false;
            return Ok(Opened::Here(Self::Client { reply, rest: Bytes::new(), direct }));
        }
        let to = reply.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        if let Some(to) = to.filter(|_| reply.status() == StatusCode::TEMPORARY_REDIRECT) {
            return Ok(Opened::There(to.to_owned()));
        }
        let status = reply.status();
        let body = timeout(GIVE_UP, reply.bytes()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(Broken::Cut(client.refusal(status.as_u16(), &body).to_string()))
    }

    /// A read at the store itself.
    pub(super) fn there(reply: Response) -> Self {
        Self::Client { reply, rest: Bytes::new(), direct: true }
    }

    /// Whether it is one.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Client { direct: true, .. })
    }

    /// Fills `into` from `at` on with the next bytes at `cap`; `moved` is told of all that
    /// is there whenever some came.
    pub(super) async fn take(
        &mut self,
        (into, mut at): (&mut [u8], usize),
        cap: &Cap,
        mut moved: impl FnMut(&[u8]),
    ) -> Result<(), Broken> {
        while at < into.len() {
            let step = cap.step((into.len() - at) as u64) as usize;
            let came = self.some(&mut into[at..at + step]).await?;
            at += came;
            moved(&into[..at]);
            cap.pass(came as u64).await;
        }
        Ok(())
    }

    async fn some(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        match self {
            Self::Plain { from, left, .. } => {
                let most = (*left).min(into.len() as u64) as usize;
                if most == 0 {
                    return Err(Broken::Cut("ended early".into()));
                }
                let length = some(from, &mut into[..most]).await?;
                *left -= length as u64;
                Ok(length)
            }
            Self::Client { reply, rest, .. } => {
                if rest.is_empty() {
                    *rest = next(reply, GIVE_UP).await?;
                }
                let length = rest.len().min(into.len());
                rest.copy_to_slice(&mut into[..length]);
                Ok(length)
            }
        }
    }

    /// Ends the read; a connection whose body was read whole is kept.
    pub(super) fn end(self, connections: &Connections) {
        if let Self::Plain { from, reply, address, left: 0 } = self {
            connections.keep(&address, from, &reply);
        }
    }
}

async fn next(reply: &mut Response, limit: Duration) -> Result<Bytes, Broken> {
    let chunk = timeout(limit, reply.chunk()).await;
    let chunk = chunk.map_err(|_| Broken::Cut("no bytes in time".into()))?;
    let chunk = chunk.map_err(|e| Broken::Cut(e.without_url().to_string()))?;
    chunk.ok_or_else(|| Broken::Cut("ended early".into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_request_goes_out_when_the_rest_takes_as_long_as_an_answer() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let ending = |latency, first: usize| {
            let mut pipeline = Pipeline::new(Duration::from_millis(latency), 0..100_000);
            assert!(!pipeline.ends(begun, first), "a burst says nothing of the rate");
            // A thousand bytes each millisecond from then on.
            let ends = (1..100).find(|ms| pipeline.ends(at(*ms), first + *ms as usize * 1000));
            assert!(
                ends.is_none_or(|ms| !pipeline.ends(at(ms + 1), first + (ms as usize + 1) * 1000))
            );
            ends
        };
        assert_eq!(ending(25, 1000), Some(74));
        assert_eq!(ending(25, 60_000), Some(15));
        assert_eq!(ending(1, 1000), None, "not worth an event");
        assert_eq!(ending(500, 1000), Some(13), "an eighth must have come");
    }
}
