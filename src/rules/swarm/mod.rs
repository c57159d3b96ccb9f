//! One download: what to fetch from whom, as events in and actions out.
//!
//! Pure and seeded: the agent runs it over sockets, a simulator over a model of
//! a network. Store leases come first, then the rarest of a few pieces from the
//! better of two peers; a slow request is doubled, a bad piece bans its sender.
//! A download never waits for ever: with nothing in flight it asks the tracker again.

pub mod peers;
pub mod picker;
#[cfg(test)]
mod together;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

use peers::Peers;

/// A neighbour's number within one download.
pub type PeerNo = u32;

/// Leases held at once: one is read while the next is asked for.
const LEASES_MAX: usize = 2;
/// Requests in flight, in pieces: at least, at most [distribution 6.5].
const WINDOW_PIECES: (u64, u64) = (2, 8);
/// Nothing in flight for this long: ask the tracker again.
const IDLE: Duration = Duration::from_millis(1000);
/// The rate is measured over spans of this length.
const RATE_SPAN: Duration = Duration::from_millis(500);
/// A request is doubled after this many times the usual slow one (p90), and at least [`SLOW_MIN`].
const SLOW_FACTOR: u32 = 3;
/// Requests younger than this are never doubled for their age.
const SLOW_MIN: Duration = Duration::from_millis(500);
/// Durations remembered for the p90.
const TIMES_KEPT: usize = 64;
/// Doubled requests may move this share of the artifact, thousandths, and two pieces.
const HEDGE_PERMILLE: u64 = 10;

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A neighbour.
    Peer(PeerNo),
    /// The regional store, under this lease.
    Store(u64),
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The tracker's whole list of neighbours with their distances.
    Neighbours(Vec<(PeerNo, u8)>),
    /// A neighbour answered: all that it has.
    Have(PeerNo, PieceSet),
    /// A piece is verified and written.
    PieceOk(u32, Source),
    /// A piece's bytes were wrong.
    PieceBad(u32, Source),
    /// A neighbour has no free slot and wishes to be left for a while.
    Busy(PeerNo, u32, Duration),
    /// A neighbour does not have the piece after all.
    Missing(PeerNo, u32),
    /// A request made no progress for 2 s and still runs.
    Stalled(u32),
    /// A request ended without its piece.
    Timeout(PeerNo, u32),
    /// A neighbour can't be reached.
    PeerGone(PeerNo),
    /// The tracker granted a lease: its id, first piece and count.
    LeaseGranted(u64, u32, u32),
    /// The tracker granted none, or did not answer; ask again after this.
    LeaseRefused(Duration),
    /// The read of a lease ended, whatever came of it.
    LeaseEnded(u64),
    /// Time passed; at least each 250 ms.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a neighbour for a piece.
    Request(PeerNo, u32),
    /// Drop a request: the piece came from elsewhere.
    Cancel(PeerNo, u32),
    /// Read these pieces from the store under a lease: id, first, count.
    ReadStore(u64, u32, u32),
    /// Ask the tracker for a lease.
    AskLease,
    /// Tell the tracker that this neighbour sent a bad piece.
    Ban(PeerNo, u32),
    /// Ask the tracker for neighbours: nothing moves.
    Beat,
    /// Every piece is there. Comes once.
    Done,
}

#[derive(Debug, Clone)]
struct Attempt {
    peer: PeerNo,
    since: UnixMillis,
}

/// One download.
#[derive(Debug)]
pub struct Swarm {
    rng: Rng,
    /// Wire bytes of each piece.
    wire: Vec<u32>,
    window_max: u64,
    urgent: bool,
    missing: PieceSet,
    peers: Peers,
    flights: BTreeMap<u32, Vec<Attempt>>,
    leases: BTreeMap<u64, PieceSet>,
    asked: bool,
    ask_at: UnixMillis,
    idle_since: Option<UnixMillis>,
    times: VecDeque<Duration>,
    span: (UnixMillis, u64),
    rate: u64,
    hedged: u64,
    finished: bool,
}

/// How to start a download.
#[derive(Debug, Clone)]
pub struct Start {
    /// Wire bytes of each piece.
    pub wire: Vec<u32>,
    /// Pieces that are there already.
    pub done: PieceSet,
    /// Most bytes in flight, whatever the rate.
    pub window_max: u64,
    /// Whether to go flat out from the start: a rollback.
    pub urgent: bool,
    /// The seed of every choice.
    pub seed: u64,
}

impl Swarm {
    /// A download at `now`.
    #[must_use]
    pub fn new(now: UnixMillis, start: Start) -> Self {
        let all = PieceSet::full(start.wire.len() as u32);
        Self {
            rng: Rng::new(start.seed),
            missing: all.minus(&start.done),
            wire: start.wire,
            window_max: start.window_max,
            urgent: start.urgent,
            peers: Peers::default(),
            flights: BTreeMap::new(),
            leases: BTreeMap::new(),
            asked: false,
            ask_at: now,
            idle_since: None,
            times: VecDeque::new(),
            span: (now, 0),
            rate: 0,
            hedged: 0,
            finished: false,
        }
    }

    /// Takes one event; what to do now, in order.
    pub fn handle(&mut self, now: UnixMillis, event: Event) -> Vec<Action> {
        let mut actions = vec![];
        self.apply(now, event, &mut actions);
        if self.missing.is_empty() {
            if !std::mem::replace(&mut self.finished, true) {
                actions.push(Action::Done);
            }
            return actions;
        }
        self.ask(now, &mut actions);
        self.request(now, &mut actions);
        self.wake(now, &mut actions);
        actions
    }

    /// Pieces that are not there yet.
    #[must_use]
    pub fn missing(&self) -> &PieceSet {
        &self.missing
    }

    fn apply(&mut self, now: UnixMillis, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Neighbours(list) => {
                for peer in self.peers.replace(&list) {
                    self.drop_requests(peer, actions);
                }
            }
            Event::Have(peer, have) => self.peers.have(peer, have),
            Event::PieceOk(piece, source) => self.take(now, piece, source, actions),
            Event::PieceBad(piece, Source::Peer(peer)) => {
                self.end(peer, piece);
                self.peers.ban(peer);
                actions.push(Action::Ban(peer, piece));
            }
            Event::PieceBad(piece, Source::Store(lease)) => self.drop_leased(lease, piece),
            Event::Busy(peer, piece, retry) => {
                self.end(peer, piece);
                self.peers.busy(now, peer, retry, &mut self.rng);
            }
            Event::Missing(peer, piece) => {
                self.end(peer, piece);
                self.peers.missing(peer, piece);
            }
            Event::Stalled(piece) => self.hedge(now, piece, actions),
            Event::Timeout(peer, piece) => {
                self.end(peer, piece);
                self.peers.failed(now, peer);
            }
            Event::PeerGone(peer) => self.peers.gone(peer),
            Event::LeaseGranted(lease, first, count) => {
                self.asked = false;
                self.lease(lease, first, count, actions);
            }
            Event::LeaseRefused(retry) => {
                self.asked = false;
                let jitter = self.rng.below(retry.as_millis() as u64 / 2 + 1);
                self.ask_at = now + retry + Duration::from_millis(jitter);
            }
            Event::LeaseEnded(lease) => {
                self.leases.remove(&lease);
            }
            Event::Tick => self.hedge_slow(now, actions),
        }
    }

    fn take(&mut self, now: UnixMillis, piece: u32, source: Source, actions: &mut Vec<Action>) {
        let bytes = self.wire.get(piece as usize).copied().unwrap_or(0);
        for copy in self.flights.remove(&piece).unwrap_or_default() {
            self.peers.ended(copy.peer);
            if source == Source::Peer(copy.peer) {
                let took = now.since(copy.since);
                self.peers.delivered(copy.peer, bytes, took);
                self.times.push_back(took);
                if self.times.len() > TIMES_KEPT {
                    self.times.pop_front();
                }
            } else {
                actions.push(Action::Cancel(copy.peer, piece));
            }
        }
        if let Source::Store(lease) = source {
            self.drop_leased(lease, piece);
        }
        self.missing.remove(piece);
        self.idle_since = None;
        self.measure(now, u64::from(bytes));
    }

    /// Leases first: only so do first copies spread at the store's full rate.
    fn ask(&mut self, now: UnixMillis, actions: &mut Vec<Action>) {
        let room = self.leases.len() < LEASES_MAX && !self.asked && self.ask_at <= now;
        if room && !self.wanted().is_empty() {
            self.asked = true;
            actions.push(Action::AskLease);
        }
    }

    fn lease(&mut self, lease: u64, first: u32, count: u32, actions: &mut Vec<Action>) {
        let end = first.saturating_add(count).min(self.wire.len() as u32);
        let pieces: PieceSet = (first..end).filter(|p| self.missing.contains(*p)).collect();
        if !pieces.is_empty() {
            self.leases.insert(lease, pieces);
        }
        // Also when nothing of it is missing: whoever reads gives the lease back.
        actions.push(Action::ReadStore(lease, first, count));
    }

    fn request(&mut self, now: UnixMillis, actions: &mut Vec<Action>) {
        while self.in_flight() < self.window() {
            let (wanted, done) = (self.wanted(), self.done());
            let piece = picker::pick(now, &wanted, done, &self.peers, &mut self.rng);
            let Some(piece) = piece else { return };
            let Some(peer) = self.peers.choose(now, piece, &[], &mut self.rng) else { return };
            self.send(now, peer, piece, actions);
        }
    }

    /// Nothing in flight for a while: the lease may be asked for again, and the
    /// neighbours may have changed.
    fn wake(&mut self, now: UnixMillis, actions: &mut Vec<Action>) {
        if !self.flights.is_empty() || !self.leases.is_empty() || self.asked {
            self.idle_since = None;
            return;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.since(since) < IDLE {
            return;
        }
        let jitter = Duration::from_millis(self.rng.below(IDLE.as_millis() as u64));
        self.idle_since = Some(now + jitter);
        self.ask_at = self.ask_at.min(now + jitter);
        actions.push(Action::Beat);
    }

    fn hedge_slow(&mut self, now: UnixMillis, actions: &mut Vec<Action>) {
        let Some(slow) = self.slow() else { return };
        let late = |(piece, copies): (&u32, &Vec<Attempt>)| {
            copies.iter().all(|copy| now.since(copy.since) > slow).then_some(*piece)
        };
        for piece in self.flights.iter().filter_map(late).collect::<Vec<_>>() {
            self.hedge(now, piece, actions);
        }
    }

    /// A second copy from another peer; never a third, and few in all.
    fn hedge(&mut self, now: UnixMillis, piece: u32, actions: &mut Vec<Action>) {
        let Some([only]) = self.flights.get(&piece).map(Vec::as_slice) else { return };
        let bytes = u64::from(self.wire.get(piece as usize).copied().unwrap_or(0));
        let total: u64 = self.wire.iter().map(|bytes| u64::from(*bytes)).sum();
        if self.hedged + bytes > total * HEDGE_PERMILLE / 1000 + 2 * self.piece_max() {
            return;
        }
        let except = [only.peer];
        if let Some(peer) = self.peers.choose(now, piece, &except, &mut self.rng) {
            self.hedged += bytes;
            self.send(now, peer, piece, actions);
        }
    }

    fn send(&mut self, now: UnixMillis, peer: PeerNo, piece: u32, actions: &mut Vec<Action>) {
        self.peers.sent(peer);
        self.flights.entry(piece).or_default().push(Attempt { peer, since: now });
        actions.push(Action::Request(peer, piece));
    }

    fn end(&mut self, peer: PeerNo, piece: u32) {
        let Some(copies) = self.flights.get_mut(&piece) else { return };
        let before = copies.len();
        copies.retain(|copy| copy.peer != peer);
        if copies.len() < before {
            self.peers.ended(peer);
        }
        if copies.is_empty() {
            self.flights.remove(&piece);
        }
    }

    fn drop_requests(&mut self, peer: PeerNo, actions: &mut Vec<Action>) {
        let asked = |(piece, copies): (&u32, &Vec<Attempt>)| {
            copies.iter().any(|copy| copy.peer == peer).then_some(*piece)
        };
        for piece in self.flights.iter().filter_map(asked).collect::<Vec<_>>() {
            self.end(peer, piece);
            actions.push(Action::Cancel(peer, piece));
        }
    }

    fn drop_leased(&mut self, lease: u64, piece: u32) {
        if let Some(pieces) = self.leases.get_mut(&lease) {
            pieces.remove(piece);
        }
    }

    /// Missing, and nobody is fetching it.
    fn wanted(&self) -> PieceSet {
        let mut busy: PieceSet = self.flights.keys().copied().collect();
        self.leases.values().for_each(|pieces| busy.extend(pieces));
        self.missing.minus(&busy)
    }

    fn done(&self) -> u32 {
        self.wire.len() as u32 - self.missing.count()
    }

    fn piece_max(&self) -> u64 {
        self.wire.iter().copied().max().map_or(0, u64::from)
    }

    /// Bytes in flight; of a lease one piece at a time is held in memory.
    fn in_flight(&self) -> u64 {
        let asked = |(piece, copies): (&u32, &Vec<Attempt>)| {
            u64::from(self.wire.get(*piece as usize).copied().unwrap_or(0)) * copies.len() as u64
        };
        let peers: u64 = self.flights.iter().map(asked).sum();
        peers + self.leases.len() as u64 * self.piece_max()
    }

    fn window(&self) -> u64 {
        let (least, most) = WINDOW_PIECES;
        let (least, most) = (least * self.piece_max(), most * self.piece_max());
        let wanted = if self.urgent || self.rate == 0 { most } else { self.rate };
        wanted.clamp(least, most).min(self.window_max.max(self.piece_max()))
    }

    fn measure(&mut self, now: UnixMillis, bytes: u64) {
        self.span.1 += bytes;
        let elapsed = now.since(self.span.0);
        if elapsed >= RATE_SPAN {
            let rate = self.span.1 * 1000 / elapsed.as_millis().max(1) as u64;
            self.rate = if self.rate == 0 { rate } else { (self.rate + rate) / 2 };
            self.span = (now, 0);
        }
    }

    /// How old a request must be to be doubled; `None` while too few ended.
    fn slow(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort_unstable();
        let p90 = times.get(times.len() * 9 / 10).filter(|_| times.len() >= 8)?;
        Some((*p90 * SLOW_FACTOR).max(SLOW_MIN))
    }
}
