//! One download: the rules of [`crate::rules::swarm`] run over sockets and disk.
//!
//! One loop owns the rules; every transfer and every call is a task that sends
//! back a note. Dropping the future ends all of them; what was verified stays.
//! Buffers are bounded by permits shared by all downloads of the agent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::agent::buffers::{Buffer, Buffers};
use crate::agent::cap::Cap;
use crate::agent::connect::Connections;
use crate::agent::direct::Direct;
use crate::agent::failure::{disk_reason, failure};
use crate::agent::link::Link;
use crate::agent::membership::{Membership, Saying};
use crate::agent::news::Change;
use crate::agent::parts::Part;
use crate::agent::pieces::{Assembly, Refused};
use crate::agent::reads::{read_as_custodian, read_store};
use crate::agent::source::{FetchFailure, Progress};
use crate::agent::transfer::{Broken, GIVE_UP, Heard, PeerRoute};
use crate::model::fleet::FailureClass;
use crate::model::id::HostId;
use crate::model::pieces::PieceSet;
use crate::net::auth::random_seed;
use crate::rules::swarm::{
    Action, Event, Haves, Leave, Micros, Pace, PeerNo, Source, Start, Swarm, Word, micros,
};
use crate::wire::v1::swarm::{BeatReply, Neighbours};

/// Bytes of pieces held in memory by all downloads of one agent: with two
/// decoders of the largest piece and the upload slots this stays under 64 MiB.
pub(super) const BUFFER_BYTES: usize = 40 << 20;
/// Pieces verified, decoded and written at once.
pub(super) const WRITERS: usize = 2;
/// The rules hear of the passing of time at least and at most this often.
const TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));
/// First and longest wait before an unreachable peer is asked again.
const PEER_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// Least time between two lines of a peer's news: half of what an agent leaves between them.
const NEWS_SPACING: Duration = Duration::from_millis(10);
/// Times the patience while bytes come: 8 pieces of 8 MiB at 60 KB/s take 20 minutes.
const SLOW_PATIENCE: u32 = 10;
/// A tracker can't make us call more often, unless it granted a lease.
const BEAT_MIN: Duration = Duration::from_millis(50);

/// What all downloads of an agent share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) connections: Arc<Connections>,
    pub(super) direct: Arc<Direct>,
    pub(super) buffers: Buffers,
    pub(super) cap: Cap,
    pub(super) writers: Arc<Semaphore>,
    /// A download without a new piece for this long has failed.
    pub(super) patience: Duration,
    /// Time without tracker and without a piece before it may read the store unasked.
    pub(super) alone: Duration,
}

/// What a task sends back to the loop.
enum Note {
    Happened(Event),
    /// What a peer has now, or more than before.
    News(PeerNo, Change),
    /// A peer has not got this piece.
    Lacks(PeerNo, u32),
    /// The tracker answered; the ticket comes with a join.
    Heard(Option<String>, BeatReply),
    /// A transfer or call failed; only the last one is told if all fails.
    Trouble(String),
    Fatal(FetchFailure),
}

struct Peer {
    host: HostId,
    address: String,
    watcher: AbortHandle,
}

/// What each peer has, by its number.
#[derive(Default)]
struct Bits(BTreeMap<PeerNo, PieceSet>);

impl Haves for Bits {
    fn words(&self, peer: PeerNo) -> &[u64] {
        self.0.get(&peer).map_or(&[], PieceSet::words)
    }
}

/// A lease being read and when it last made progress.
type Holding = Arc<Mutex<BTreeMap<u64, Instant>>>;

/// What every task of one download needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) assembly: Arc<Assembly>,
    pub(super) membership: Arc<Membership>,
    pub(super) link: Link,
    notes: mpsc::Sender<Note>,
    holding: Holding,
    returned: Arc<Mutex<Vec<u64>>>,
    pub(super) heard: Heard,
}

/// One download under way.
pub(super) struct Download {
    context: Context,
    core: Swarm,
    bits: Bits,
    actions: Vec<Action>,
    tasks: JoinSet<()>,
    requests: HashMap<(PeerNo, u32), AbortHandle>,
    numbers: BTreeMap<HostId, PeerNo>,
    peers: BTreeMap<PeerNo, Peer>,
    ticket: String,
    progress: watch::Sender<Progress>,
    started: Instant,
    moved_at: Instant,
    trouble: String,
    finished: bool,
}

impl Download {
    /// A download of what `assembly` misses; and where the notes come in.
    pub(super) async fn run(
        shared: Arc<Shared>,
        assembly: Arc<Assembly>,
        membership: Arc<Membership>,
        link: Link,
        (progress, pace): (watch::Sender<Progress>, Option<Pace>),
    ) -> Result<(), FetchFailure> {
        let (notes, incoming) = mpsc::channel(256);
        let manifest = assembly.pack.manifest.clone();
        let start = Start {
            wire: manifest.pieces.iter().map(|piece| piece.wire_bytes).collect(),
            done: assembly.pack.have.borrow().done.clone(),
            window_max: BUFFER_BYTES as u64,
            pace,
            identity: membership.identity(),
            alone: shared.alone,
            seed: random_seed(),
        };
        let context = Context {
            shared,
            assembly,
            membership,
            link,
            notes,
            holding: Holding::default(),
            returned: Arc::default(),
            heard: Heard::new(),
        };
        let started = Instant::now();
        let download = Self {
            context,
            core: Swarm::new(0, start),
            bits: Bits::default(),
            actions: vec![],
            tasks: JoinSet::new(),
            requests: HashMap::new(),
            numbers: BTreeMap::new(),
            peers: BTreeMap::new(),
            ticket: String::new(),
            progress,
            started,
            moved_at: started,
            trouble: String::new(),
            finished: false,
        };
        download.follow(incoming).await
    }

    async fn follow(mut self, mut incoming: mpsc::Receiver<Note>) -> Result<(), FetchFailure> {
        self.happen(Event::Tick);
        while !self.finished {
            let now = self.now();
            let wait = Duration::from_micros(self.core.wake_at(now).saturating_sub(now));
            let note = tokio::select! {
                note = incoming.recv() => note,
                () = tokio::time::sleep(wait.clamp(TICK.0, TICK.1)) => {
                    Some(Note::Happened(Event::Tick))
                }
            };
            match note {
                Some(Note::Happened(event)) => self.happen(event),
                Some(Note::News(peer, change)) => {
                    match change {
                        Change::All(have) => drop(self.bits.0.insert(peer, have)),
                        Change::Gained(more) => {
                            self.bits.0.entry(peer).or_default().extend(&more);
                        }
                    }
                    self.happen(Event::Have(peer));
                }
                Some(Note::Lacks(peer, piece)) => {
                    self.bits.0.entry(peer).or_default().remove(piece);
                    self.happen(Event::Missing(peer, piece));
                }
                Some(Note::Heard(ticket, reply)) => self.hear(ticket, reply),
                Some(Note::Trouble(trouble)) => self.trouble = trouble,
                Some(Note::Fatal(failure)) => return Err(failure),
                None => break,
            }
            while self.tasks.try_join_next().is_some() {}
            self.check_patience()?;
        }
        Ok(())
    }

    fn check_patience(&self) -> Result<(), FetchFailure> {
        let (quiet, patience) = (self.moved_at.elapsed(), self.context.shared.patience);
        // Over a slow link a piece takes long; bytes that drip and never make one do end.
        let slow = self.context.heard.ago() < GIVE_UP && quiet < patience * SLOW_PATIENCE;
        if quiet < patience || slow {
            return Ok(());
        }
        let left = self.core.left();
        let why = if self.trouble.is_empty() { "nobody offers them" } else { &self.trouble };
        let s = quiet.as_secs();
        Err(failure(
            FailureClass::Transport,
            format!("{left} pieces missing, none for {s} s: {why}"),
        ))
    }

    fn now(&self) -> Micros {
        micros(self.started.elapsed())
    }

    fn happen(&mut self, event: Event) {
        if let Event::PieceOk(piece, source) = &event {
            self.moved_at = Instant::now();
            self.count(*piece, *source);
        }
        match &event {
            Event::PieceOk(piece, Source::Peer(peer))
            | Event::PieceBad(piece, Source::Peer(peer))
            | Event::Busy(peer, piece, _)
            | Event::Missing(peer, piece)
            | Event::Timeout(peer, piece) => {
                self.requests.remove(&(*peer, *piece));
            }
            _ => {}
        }
        let (now, mut actions) = (self.now(), std::mem::take(&mut self.actions));
        self.core.handle(now, event, &self.bits, &mut actions);
        self.context.shared.connections.inflow.moves(self.core.rate());
        actions.drain(..).for_each(|action| self.act(action));
        self.actions = actions;
    }

    fn count(&self, piece: u32, source: Source) {
        if !self.core.misses(piece) {
            return;
        }
        let bytes = self.context.assembly.pack.wire_len(piece);
        self.progress.send_modify(|progress| {
            progress.done += 1;
            match source {
                Source::Peer(_) => progress.sources.peer += bytes,
                Source::Store(_) | Source::Custody => progress.sources.store += bytes,
            }
        });
    }

    fn act(&mut self, action: Action) {
        let context = self.context.clone();
        match action {
            Action::Request(no, piece) => {
                let Some(peer) = self.peers.get(&no) else {
                    return self.tell(Event::Timeout(no, piece));
                };
                let task = fetch_piece(context, self.route(peer), (no, piece));
                let handle = self.tasks.spawn(task);
                self.requests.insert((no, piece), handle);
            }
            Action::Cancel(peer, piece) => {
                if let Some(handle) = self.requests.remove(&(peer, piece)) {
                    handle.abort();
                }
            }
            Action::ReadStore(leave) => {
                self.tasks.spawn(read_store(context, leave));
            }
            Action::ReadAsCustodian(piece) => {
                tracing::info!(
                    piece,
                    "no tracker and no peer has the piece: read as its custodian"
                );
                self.tasks.spawn(read_as_custodian(context, piece));
            }
            Action::Call { .. } => {
                self.tasks.spawn(call_tracker(context, self.moved_at.elapsed()));
            }
            Action::Ban(peer, piece) => {
                let from = self.peers.get(&peer).map(|peer| peer.host.clone());
                tracing::warn!(peer = ?from, piece, "peer sent wrong bytes, banned");
                if from.is_some() {
                    self.tasks.spawn(async move { context.membership.bad(piece, from).await });
                }
            }
            Action::Done => self.finished = true,
        }
    }

    /// A note to ourselves; the channel may be full, so it goes by a task.
    fn tell(&mut self, event: Event) {
        let notes = self.context.notes.clone();
        self.tasks.spawn(async move {
            let _ = notes.send(Note::Happened(event)).await;
        });
    }

    fn hear(&mut self, ticket: Option<String>, reply: BeatReply) {
        if let Some(ticket) = ticket {
            self.context.assembly.pack.set_ticket(&ticket);
            if self.ticket != ticket {
                self.ticket = ticket;
                // Watchers carry the old one.
                self.peers.values().for_each(|peer| peer.watcher.abort());
                self.peers.clear();
            }
        }
        let ask_min = if reply.lease.is_some() { Duration::ZERO } else { BEAT_MIN };
        let word = Word {
            neighbours: reply.neighbours.map(|neighbours| self.meet(neighbours)),
            lease: reply.lease.map(|l| Leave { id: l.id, first: l.first, count: l.count }),
            ask_in: reply.ask_ms.map(|ms| Duration::from_millis(ms).max(ask_min)),
            beat_in: Duration::from_millis(reply.beat_ms).max(BEAT_MIN),
            members: reply.members,
        };
        if let Some(leave) = word.lease {
            self.context.moved(leave.id);
        }
        self.happen(Event::Tracker(word));
    }

    /// Follows these peers and no others.
    fn meet(&mut self, neighbours: Neighbours) -> Vec<(PeerNo, u8)> {
        let mut list = vec![];
        let mut there = BTreeMap::new();
        for neighbour in neighbours.peers {
            let next = self.numbers.len() as PeerNo;
            let no = *self.numbers.entry(neighbour.host.clone()).or_insert(next);
            list.push((no, neighbour.distance));
            let known = match self.peers.remove(&no) {
                Some(peer) if peer.address == neighbour.address => Some(peer),
                Some(moved) => {
                    moved.watcher.abort();
                    None
                }
                None => None,
            };
            let peer =
                known.unwrap_or_else(|| self.watch_peer(no, neighbour.host, neighbour.address));
            there.insert(no, peer);
        }
        for gone in std::mem::replace(&mut self.peers, there).into_values() {
            gone.watcher.abort();
        }
        self.bits.0.retain(|peer, _| self.peers.contains_key(peer));
        list
    }

    fn watch_peer(&mut self, no: PeerNo, host: HostId, address: String) -> Peer {
        let mut peer = Peer { host, address, watcher: self.tasks.spawn(async {}) };
        let watch = watch_have(self.context.notes.clone(), no, self.route(&peer));
        peer.watcher = self.tasks.spawn(watch);
        peer
    }

    fn route(&self, peer: &Peer) -> PeerRoute {
        PeerRoute {
            connections: self.context.shared.connections.clone(),
            cap: self.context.shared.cap.clone(),
            address: peer.address.clone(),
            ticket: self.ticket.clone(),
            artifact: self.context.assembly.pack.artifact,
            heard: self.context.heard.clone(),
            window: self.core.window(),
            lacks: self.core.left(),
        }
    }
}

impl Context {
    pub(super) async fn happened(&self, event: Event) {
        // The loop is gone only when the download is.
        let _ = self.notes.send(Note::Happened(event)).await;
    }

    pub(super) async fn trouble(&self, what: &str, error: impl std::fmt::Display) {
        tracing::debug!(%error, "{what}");
        let _ = self.notes.send(Note::Trouble(format!("{what}: {error}"))).await;
    }

    fn have(&self) -> (PieceSet, PieceSet) {
        let have = self.assembly.pack.have.borrow();
        (have.served.clone(), have.done.minus(&have.served))
    }

    /// Leases that made progress lately.
    fn holding(&self) -> Vec<u64> {
        let held = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter(|(_, at)| at.elapsed() < GIVE_UP).map(|(id, _)| *id).collect()
    }

    pub(super) fn moved(&self, lease: u64) {
        let mut held = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(lease, Instant::now());
        self.heard.now();
    }

    pub(super) fn let_go(&self, lease: u64, unread: bool) {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        if unread {
            self.returned.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
        }
    }

    /// Room for a piece, with what is here of it.
    pub(super) async fn begin(&self, piece: u32) -> (Buffer, Part) {
        let length = self.assembly.pack.wire_len(piece);
        let mut wire = self.shared.buffers.take(length).await;
        let part = self.assembly.parts.begin(piece, &mut wire);
        (wire, part)
    }

    /// Verifies and writes a piece on the blocking pool; `None` when that was fatal.
    pub(super) async fn put(&self, piece: u32, wire: Buffer) -> Option<bool> {
        let _writer = self.shared.writers.acquire().await.ok()?;
        let assembly = self.assembly.clone();
        let put = tokio::task::spawn_blocking(move || assembly.put_wire(piece, &wire)).await;
        let fatal = match put {
            Ok(Ok(_)) => return Some(true),
            Ok(Err(Refused::Wire)) => return Some(false),
            Ok(Err(Refused::Disk(error))) => failure(FailureClass::Host, disk_reason(&error)),
            Ok(Err(refused)) => failure(FailureClass::Transport, refused.to_string()),
            Err(error) => failure(FailureClass::Host, error.to_string()),
        };
        let _ = self.notes.send(Note::Fatal(fatal)).await;
        None
    }
}

async fn fetch_piece(context: Context, route: PeerRoute, (peer, piece): (PeerNo, u32)) {
    let (mut wire, mut part) = context.begin(piece).await;
    // Hints only: when the loop is that busy, more requests would not help.
    let hint = |event| drop(context.notes.try_send(Note::Happened(event)));
    let hints = (|| hint(Event::Stalled(piece)), || hint(Event::Ending(peer, piece)));
    let came = route.piece(piece, (&mut wire, &mut part), hints).await;
    let whole = part.resumed() == 0;
    let event = match came {
        Ok(()) => match context.put(piece, wire).await {
            Some(true) => Event::PieceOk(piece, Source::Peer(peer)),
            // Its front is from before: who sent that is not known.
            Some(false) if !whole => Event::Timeout(peer, piece),
            Some(false) => {
                // Nobody waits for what a liar answers; it is banned after one.
                tokio::spawn(async move { route.complain(piece).await });
                Event::PieceBad(piece, Source::Peer(peer))
            }
            None => return,
        },
        Err(Broken::Busy(retry)) => Event::Busy(peer, piece, retry),
        Err(Broken::Missing) => {
            let _ = context.notes.send(Note::Lacks(peer, piece)).await;
            return part.end();
        }
        Err(broken) => {
            context.trouble("peer failed", &broken).await;
            if matches!(broken, Broken::Unreachable(_)) {
                context.happened(Event::PeerGone(peer)).await;
            }
            Event::Timeout(peer, piece)
        }
    };
    part.end();
    context.happened(event).await;
}

/// Follows what a peer has, until it is dropped.
async fn watch_have(notes: mpsc::Sender<Note>, peer: PeerNo, route: PeerRoute) {
    let (mut since, mut wait) = (0, PEER_RETRY.0);
    loop {
        let begun = Instant::now();
        let followed = follow(&notes, peer, &route, &mut since).await;
        let lasted = begun.elapsed() >= PEER_RETRY.0;
        if lasted {
            wait = PEER_RETRY.0;
        }
        if followed.is_ok() && lasted {
            continue;
        }
        if followed.is_err() {
            since = 0;
            if notes.send(Note::Happened(Event::PeerGone(peer))).await.is_err() {
                return;
            }
        }
        // Also for one that ends its news at once: it would be asked as often as it can answer.
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(PEER_RETRY.1);
    }
}

/// Follows a peer that is known to have had what it told at generation `since`, for as long
/// as it tells.
async fn follow(
    notes: &mpsc::Sender<Note>,
    peer: PeerNo,
    route: &PeerRoute,
    since: &mut u64,
) -> Result<(), Broken> {
    let mut following = route.follow(*since).await?;
    // It answers, also when it has nothing new to tell for as long as it lives.
    let _ = notes.send(Note::Happened(Event::Have(peer))).await;
    while let Some((generation, change)) = following.next().await? {
        *since = generation;
        let _ = notes.send(Note::News(peer, change)).await;
        // An agent gathers its news for longer; a flood of lines waits in its own sockets.
        tokio::time::sleep(NEWS_SPACING).await;
    }
    Ok(())
}

/// Tells the tracker what we have; `quiet`: no piece came for so long.
async fn call_tracker(context: Context, quiet: Duration) {
    let (have, unserved) = context.have();
    let returned =
        std::mem::take(&mut *context.returned.lock().unwrap_or_else(PoisonError::into_inner));
    let holding = context.holding();
    let starved_ms = quiet.as_millis() as u64;
    let saying = Saying { have, unserved, holding, returned, starved_ms, wants: true };
    match context.membership.call(saying).await {
        Ok(heard) => {
            let _ = context.notes.send(Note::Heard(heard.ticket, heard.reply)).await;
        }
        Err(error) => {
            context.trouble("tracker", &error).await;
            context.happened(Event::TrackerLost).await;
        }
    }
}
