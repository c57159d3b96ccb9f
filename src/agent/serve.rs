//! The peer listener: pieces by number, behind a ticket, within a few slots.
//!
//! `GET /v1/peer/{artifact}/pieces/{i}` sends wire bytes straight from the files that
//! hold them, also while the artifact is still being fetched; `GET …/have` waits until
//! there is more; `POST …/pieces/{i}/bad` has a piece looked at again. Speaks numbers
//! only, never paths, and only verified pieces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::agent::cap::Cap;
use crate::agent::pack::{Made, Pack};
use crate::agent::upload;
use crate::agent::{metrics, news};
use crate::model::digest::ArtifactId;
use crate::net::heads::{self, Conversation, Fields, Request};
use crate::rules::swarm::uploads::{Asker, Slots, UPLOAD_SLOTS};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::swarm::{
    HAVE_WAIT_MS_MAX, HaveQuery, LACKS_HEADER, NEWS_TYPE, RETRY_HEADER, WINDOW_HEADER,
};

/// Connections at once: 24 neighbours with a few each, for a few artifacts.
const CONNECTIONS_MAX: usize = 512;
/// Longest time without a request, and for a request's head to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A reader that takes no reply's head for this long is dropped.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Long polls are answered at most this often: a piece of 256 KiB takes 21 ms at
/// 100 Mbit/s, and late news costs time.
const HAVE_SPACING: Duration = Duration::from_millis(20);

/// Bounds of the wait that a refusal for want of a slot names.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Pieces that are being sent, and how many may be.
#[derive(Debug, Default)]
struct Taken {
    count: u32,
    slots: Slots,
}

/// Leave to send a piece, until it is dropped.
struct Slot(Arc<Mutex<Taken>>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count -= 1;
    }
}

/// The packs that peers may read; shared with the fetches that fill them.
#[derive(Clone)]
pub(super) struct Shelf {
    packs: Arc<Mutex<BTreeMap<ArtifactId, Arc<Pack>>>>,
    slots: Arc<Mutex<Taken>>,
    /// Milliseconds that a piece's upload took lately; 0: none yet.
    usual_ms: Arc<AtomicU64>,
    cap: Cap,
    /// Complaints looked into at once: one.
    looking: Arc<Semaphore>,
}

impl Shelf {
    /// An empty shelf that sends at `cap`.
    pub(super) fn new(cap: Cap) -> Self {
        let (packs, slots, usual_ms) = (Arc::default(), Arc::default(), Arc::default());
        Self { packs, slots, usual_ms, cap, looking: Arc::new(Semaphore::new(1)) }
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

    /// What is on it.
    pub(super) fn artifacts(&self) -> Vec<ArtifactId> {
        self.lock().keys().copied().collect()
    }

    /// An upload took so long.
    fn took(&self, time: Duration) {
        let (time, usual) = (time.as_millis() as u64, self.usual_ms.load(Ordering::Relaxed));
        let usual = if usual == 0 { time } else { (usual * 7 + time) / 8 };
        self.usual_ms.store(usual, Ordering::Relaxed);
    }

    /// When the next slot may be free: of those taken, one ends each so often.
    fn turn(&self) -> Duration {
        let turn = self.usual_ms.load(Ordering::Relaxed) / UPLOAD_SLOTS as u64;
        Duration::from_millis(turn).clamp(BUSY_WAIT.0, BUSY_WAIT.1)
    }

    /// A slot for a request of a downloader that says what it has in flight and what it
    /// lacks; `None`: all are taken.
    fn slot(&self, fields: &Fields) -> Option<Slot> {
        let said = |name| fields.get(name).and_then(|text| text.parse::<u32>().ok());
        let window = said(WINDOW_HEADER).unwrap_or(0).into();
        let asker = Asker { window, lacks: said(LACKS_HEADER) };
        let mut taken = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.count < taken.slots.asked(asker);
        taken.count += u32::from(free);
        free.then(|| Slot(self.slots.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ArtifactId, Arc<Pack>>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pack, for a caller that shows its ticket. An artifact that is not
    /// here and a wrong ticket look the same.
    fn admit(&self, artifact: ArtifactId, fields: &Fields) -> Result<Arc<Pack>, Problem> {
        let refused = || Problem::new(Code::Unauthenticated, "no such ticket here");
        let pack = self.get(artifact).ok_or_else(refused)?;
        let shown = fields.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let shown = shown.ok_or_else(refused)?;
        let ticket = pack.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let same = ticket.is_some_and(|t| bool::from(t.as_bytes().ct_eq(shown.as_bytes())));
        same.then_some(pack).ok_or_else(refused)
    }
}

/// Serves peers until `stop` turns true; what is under way then is cut off.
pub(super) async fn serve(listener: TcpListener, shelf: Shelf, mut stop: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        while open.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Out of files: wait for some connection to end rather than spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if open.len() < CONNECTIONS_MAX {
            let _ = stream.set_nodelay(true);
            open.spawn(speak(Conversation::new(stream), shelf.clone()));
        }
    }
}

/// Answers one connection's requests until it ends.
async fn speak(mut peer: Conversation, shelf: Shelf) {
    while let Ok(Ok(Some(request))) = timeout(REQUEST_TIMEOUT, peer.head(heads::request)).await {
        // A peer that goes away is no news.
        if answer(&mut peer, &shelf, &request).await.is_err() || request.last {
            return;
        }
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    Health,
    Have(ArtifactId, HaveQuery),
    Piece(ArtifactId, u32),
    Bad(ArtifactId, u32),
}

fn asked(method: &str, target: &str) -> Result<Ask, Problem> {
    let usage = || Problem::new(Code::Usage, "the path or its query is not well formed");
    let absent = || Problem::new(Code::NotFound, "there is no such path");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path == "/healthz" {
        return Ok(Ask::Health);
    }
    let words: Vec<&str> = path.strip_prefix("/v1/peer/").ok_or_else(absent)?.split('/').collect();
    let artifact = |text: &str| text.parse::<ArtifactId>().map_err(|_| usage());
    let piece = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten().ok_or_else(usage)
    };
    match (method, words.as_slice()) {
        ("GET", [id, "have"]) => Ok(Ask::Have(artifact(id)?, have_query(query).ok_or_else(usage)?)),
        ("GET", [id, "pieces", i]) => Ok(Ask::Piece(artifact(id)?, piece(i)?)),
        ("POST", [id, "pieces", i, "bad"]) => Ok(Ask::Bad(artifact(id)?, piece(i)?)),
        _ => Err(absent()),
    }
}

fn have_query(query: &str) -> Option<HaveQuery> {
    let mut read = HaveQuery { since: 0, wait_ms: 0 };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "since" => read.since = value.parse().ok()?,
            "wait_ms" => read.wait_ms = value.parse().ok()?,
            _ => {}
        }
    }
    Some(read)
}

async fn answer(peer: &mut Conversation, shelf: &Shelf, request: &Request) -> std::io::Result<()> {
    let done = match asked(&request.method, &request.target) {
        Ok(Ask::Health) => return say(peer, "200 OK", "text/plain", b"ok").await,
        Ok(Ask::Have(artifact, query)) => match shelf.admit(artifact, &request.fields) {
            Ok(pack) => return tell(peer, &pack, query).await,
            Err(problem) => Err(problem),
        },
        Ok(Ask::Piece(artifact, index)) => match shelf.admit(artifact, &request.fields) {
            Ok(pack) => return piece(peer, shelf, (&pack, index), &request.fields).await,
            Err(problem) => Err(problem),
        },
        Ok(Ask::Bad(artifact, index)) => {
            shelf.admit(artifact, &request.fields).map(|pack| look_again(shelf, pack, index))
        }
        Err(problem) => Err(problem),
    };
    match done {
        Ok(()) => say(peer, "204 No Content", "text/plain", b"").await,
        Err(problem) => refuse(peer, &problem).await,
    }
}

async fn say(
    peer: &mut Conversation,
    status: &str,
    kind: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    let whole = [head.as_bytes(), body].concat();
    timeout(REPLY_TIMEOUT, peer.stream().write_all(&whole)).await?
}

async fn refuse(peer: &mut Conversation, problem: &Problem) -> std::io::Result<()> {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let status = format!("{} Refused", problem.code.status());
    say(peer, &status, "application/problem+json", &body).await
}

/// Tells of our bits line by line, for as long as is wished; the reply has no length and ends
/// with its connection.
async fn tell(peer: &mut Conversation, pack: &Pack, query: HaveQuery) -> std::io::Result<()> {
    let until = Instant::now() + Duration::from_millis(query.wait_ms.min(HAVE_WAIT_MS_MAX));
    let mut changes = pack.have.subscribe();
    let mut have = changes.borrow_and_update().clone();
    let mut text = format!("HTTP/1.1 200 OK\r\nContent-Type: {NEWS_TYPE}\r\n\r\n");
    if have.generation != query.since {
        text += &news::line(have.generation, None, &have.served);
    }
    loop {
        timeout(REPLY_TIMEOUT, peer.stream().write_all(text.as_bytes())).await??;
        tokio::time::sleep(HAVE_SPACING).await;
        let changed = changes.wait_for(|now| now.generation != have.generation);
        let changed = timeout_at(until.into(), changed).await;
        // Also when there is always something new: whoever follows must show its ticket again.
        let now = changed.ok().and_then(Result::ok).filter(|_| Instant::now() < until);
        let Some(now) = now.map(|now| now.clone()) else {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        };
        text = news::line(now.generation, Some(&have.served), &now.served);
        have = now;
    }
}

async fn piece(
    peer: &mut Conversation,
    shelf: &Shelf,
    (pack, piece): (&Arc<Pack>, u32),
    fields: &Fields,
) -> std::io::Result<()> {
    let missing = || Problem::new(Code::NotFound, "this peer does not have that piece");
    if !pack.have.borrow().served.contains(piece) {
        return refuse(peer, &missing()).await;
    }
    let Some(_slot) = shelf.slot(fields) else { return busy(peer, shelf).await };
    match made(pack, piece).await {
        Made::Here => {}
        Made::Busy => return busy(peer, shelf).await,
        Made::Never => return refuse(peer, &missing()).await,
    }
    let (all, from) = (pack.wire_len(piece), rest_from(fields, pack.wire_len(piece)));
    let status = match from {
        0 => "200 OK".to_owned(),
        from => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}", all - 1),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\r\n",
        all - from
    );
    let stretches = pack.stretches(piece, from);
    let begun = Instant::now();
    let sent = upload::send((peer.stream(), &shelf.cap), pack, (&head, &stretches)).await;
    if let Err(upload::Failed::File(error)) = &sent {
        tracing::warn!(%error, artifact = %pack.artifact.short(), piece, "a piece can't be read");
        look_again(shelf, pack.clone(), piece);
    }
    shelf.took(begun.elapsed());
    if sent.is_ok() {
        metrics::sent(all - from);
    }
    sent.map_err(Into::into)
}

/// Where the wanted rest of `length` bytes starts: the one form of range that agents ask
/// for; any other is answered whole, as HTTP allows.
fn rest_from(fields: &Fields, length: u64) -> u64 {
    let asked = fields.get("range").and_then(|value| value.strip_prefix("bytes="));
    let from = asked.and_then(|value| value.strip_suffix('-')?.parse().ok());
    from.filter(|from| *from < length).unwrap_or(0)
}

/// A piece that is here raw only is compressed now.
async fn made(pack: &Arc<Pack>, piece: u32) -> Made {
    if !pack.is_unmade(piece) {
        return Made::Here;
    }
    let pack = pack.clone();
    tokio::task::spawn_blocking(move || pack.make(piece)).await.unwrap_or(Made::Never)
}

/// Every slot is taken.
async fn busy(peer: &mut Conversation, shelf: &Shelf) -> std::io::Result<()> {
    let wait_ms = shelf.turn().as_millis();
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\n{RETRY_HEADER}: {wait_ms}\r\nContent-Length: 0\r\n\r\n"
    );
    timeout(REPLY_TIMEOUT, peer.stream().write_all(head.as_bytes())).await?
}

/// Looks into a complaint, unless another is being looked into: whoever complains is
/// not believed, but heard.
fn look_again(shelf: &Shelf, pack: Arc<Pack>, piece: u32) {
    let served = pack.have.borrow().served.contains(piece);
    let Ok(one) = shelf.looking.clone().try_acquire_owned() else { return };
    if served {
        tokio::task::spawn_blocking(move || {
            pack.look_again(piece);
            drop(one);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use proptest::prelude::*;

    #[test]
    fn only_numbers_are_asked_for() {
        let id = Digest::of(b"a");
        let ask = |method: &str, rest: &str| asked(method, &format!("/v1/peer/{id}/{rest}"));
        assert_eq!(ask("GET", "pieces/7").ok(), Some(Ask::Piece(id, 7)));
        assert_eq!(ask("POST", "pieces/7/bad").ok(), Some(Ask::Bad(id, 7)));
        let query = HaveQuery { since: 3, wait_ms: 9 };
        assert_eq!(ask("GET", "have?since=3&wait_ms=9&x=1").ok(), Some(Ask::Have(id, query)));
        for (method, rest, code) in [
            ("GET", "pieces/-1", Code::Usage),
            ("GET", "pieces/+1", Code::Usage),
            ("GET", "pieces/4294967296", Code::Usage),
            ("GET", "pieces/..%2f", Code::Usage),
            ("GET", "have?since=x", Code::Usage),
            ("POST", "pieces/7", Code::NotFound),
            ("GET", "pieces/7/bad", Code::NotFound),
            ("GET", "../../etc/passwd", Code::NotFound),
        ] {
            assert_eq!(ask(method, rest).unwrap_err().code, code, "{rest}");
        }
        assert_eq!(asked("GET", "/v1/peer/x/have").unwrap_err().code, Code::Usage);
        assert_eq!(asked("GET", "/").unwrap_err().code, Code::NotFound);
    }

    proptest! {
        #[test]
        fn no_target_breaks_the_router(method in "[A-Z]{1,5}", target in ".{0,200}") {
            let _ = asked(&method, &target);
            let _ = asked(&method, &format!("/v1/peer/{target}"));
        }
    }
}
