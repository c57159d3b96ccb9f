//! One download: what to fetch from whom, as events in and actions out.
//!
//! Pure and seeded: the agent runs it over sockets, `deployctl simulate` over a
//! model of a network. The rarest piece from the better of two peers; leases of
//! the store when the tracker grants them; a slow request is doubled, a bad piece
//! bans its sender. No event allocates; what the neighbours have is read where it
//! lies. A download never waits for ever: with nothing in flight it calls the
//! tracker, and without a tracker few hosts may read the store.

mod custody;
pub mod peers;
mod picker;
mod timing;
pub mod uploads;
pub mod words;

use std::time::Duration;

use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;

use custody::Custody;
use peers::{Peers, has, positions};
use timing::{Allowance, Timing};
pub use words::{
    ALONE, Action, ENDING_SHARE, Event, Haves, Leave, Micros, Pace, PeerNo, Source, Start, Word,
    micros,
};

/// Requests in flight, in pieces: a sender's slots. When both are equal, free slots and
/// free windows find each other at once, and no link idles while requests wait in line
/// elsewhere (docs/decisions). A host that is slow, or was starved for a while, has as
/// many: with two it would never be quick again (docs/decisions/0038).
const WINDOW_PIECES: u64 = uploads::UPLOAD_SLOTS as u64;
/// Requests beside those, to neighbours that are slow: each takes the time of several.
const SLOW_FLIGHTS: usize = 2;
/// Requests at once to farther racks because the last piece came from there.
const FAR_AGAIN: usize = 1;
/// One of so many pieces lets go of its sender's slot, for whoever else waits for it.
const LET_GO: u64 = 16;
/// Nothing in flight for this long: call the tracker. Doubles up to [`IDLE_MAX`].
const IDLE: Duration = Duration::from_secs(2);
/// See [`IDLE`].
const IDLE_MAX: Duration = Duration::from_secs(16);
/// Call again this long after a tracker that did not answer; up to [`IDLE_MAX`].
const LOST: Duration = Duration::from_secs(1);
/// A slow request that nobody else can take is looked at again after this.
const HEDGE_AGAIN: Duration = Duration::from_millis(100);
/// Doubled requests may move this share of the artifact, thousandths, and two pieces.
const HEDGE_PERMILLE: u64 = 10;

#[derive(Debug, Clone, Copy)]
struct Flight {
    piece: u32,
    peer: PeerNo,
    since: Micros,
    /// It or its twin is the second copy.
    doubled: bool,
    /// Since when its last bytes are on their way: the next request may go out.
    ending: Option<Micros>,
    /// It was asked of a slow neighbour, and does not count.
    slow: bool,
    /// It was asked of another rack while the own is known.
    far: bool,
}

/// One download.
#[derive(Debug)]
pub struct Swarm {
    rng: Rng,
    wire: std::sync::Arc<[u32]>,
    /// Bytes of the largest piece and of all.
    sizes: (u64, u64),
    window_max: u64,
    /// Not there yet.
    missing: Box<[u64]>,
    /// Not there yet, and nobody is fetching it.
    wanted: Box<[u64]>,
    left: (u32, u64),
    peers: Peers,
    flights: Vec<Flight>,
    leases: Vec<Leave>,
    calling: bool,
    beat_at: Micros,
    ask_at: Micros,
    idle_at: Micros,
    idle: Duration,
    lost: Duration,
    custody: Custody,
    reading: Option<u32>,
    /// Who sent the last piece: it has a free slot now.
    sender: Option<PeerNo>,
    timing: Timing,
    allowance: Allowance,
    pace_at: Micros,
    hedged: u64,
    hedge_at: Micros,
    hungry: bool,
    finished: bool,
}

impl Swarm {
    /// A download at `now`; its first action is to call the tracker.
    #[must_use]
    pub fn new(now: Micros, start: Start) -> Self {
        let Start { wire, done, window_max, pace, identity, alone, seed } = start;
        let mut rng = Rng::new(seed);
        let pieces = PieceSet::full(wire.len() as u32).minus(&done);
        let mut missing = vec![0; wire.len().div_ceil(64)].into_boxed_slice();
        missing[..pieces.words().len()].copy_from_slice(pieces.words());
        let bytes = pieces.iter().map(|piece| u64::from(wire[piece as usize])).sum();
        let largest = wire.iter().copied().max().map_or(0, u64::from);
        let total = wire.iter().map(|bytes| u64::from(*bytes)).sum();
        let custody = Custody::new(identity, alone, &mut rng);
        Self {
            rng,
            sizes: (largest, total),
            wire,
            window_max,
            wanted: missing.clone(),
            missing,
            left: (pieces.count(), bytes),
            peers: Peers::default(),
            flights: Vec::with_capacity(10),
            leases: vec![],
            calling: false,
            beat_at: now,
            ask_at: Micros::MAX,
            idle_at: Micros::MAX,
            idle: IDLE,
            lost: LOST,
            custody,
            reading: None,
            sender: None,
            timing: Timing::new(now),
            allowance: Allowance::new(now, pace),
            pace_at: now,
            hedged: 0,
            hedge_at: now,
            hungry: true,
            finished: false,
        }
    }

    /// Takes one event; appends what to do now, in order.
    pub fn handle(
        &mut self,
        now: Micros,
        event: Event,
        haves: &impl Haves,
        actions: &mut Vec<Action>,
    ) {
        let news = if let Event::Have(peer) = event { Some(peer) } else { None };
        self.apply(now, event, haves, actions);
        if self.left.0 == 0 {
            if !std::mem::replace(&mut self.finished, true) {
                actions.push(Action::Done);
            }
            return;
        }
        // One peer's news change what that peer offers, and nothing else.
        let idle = self.hungry
            && news.is_some_and(|peer| !self.peers.offers(now, peer, &self.wanted, haves));
        if !idle {
            self.request(now, haves, actions);
        }
        self.call(now, actions);
        self.take_custody(now, haves, actions);
    }

    /// How many pieces are not there yet.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left.0
    }

    /// Whether a piece is not there yet.
    #[must_use]
    pub fn misses(&self, piece: u32) -> bool {
        has(&self.missing, piece)
    }

    /// Whether a request for this piece to this peer is under way.
    #[must_use]
    pub fn expects(&self, peer: PeerNo, piece: u32) -> bool {
        self.flights.iter().any(|flight| flight.peer == peer && flight.piece == piece)
    }

    /// Whether it would ask for a piece at once if somebody offered one: only then
    /// must it be told of every neighbour's news.
    #[must_use]
    pub fn hungry(&self) -> bool {
        self.hungry
    }

    /// When it must hear of the time at the latest; [`Micros::MAX`]: never.
    #[must_use]
    pub fn wake_at(&self, now: Micros) -> Micros {
        if self.left.0 == 0 {
            return Micros::MAX;
        }
        let mut at = self.custody.wake_at();
        if !self.calling {
            at = at.min(self.beat_at).min(self.idle_at);
            at = if self.lacks() { at.min(self.ask_at.max(self.pace_at)) } else { at };
        }
        if self.hungry {
            at = at.min(self.peers.next_free(now).unwrap_or(Micros::MAX));
        }
        if self.pace_at > now {
            at = at.min(self.pace_at);
        }
        let single = self.flights.iter().filter(|flight| !flight.doubled);
        match (self.timing.slow(!self.lacks()), single.map(|flight| flight.since).min()) {
            (Some(slow), Some(since)) if self.may_double() => {
                at.min((since + slow).max(self.hedge_at))
            }
            _ => at,
        }
    }

    fn apply(&mut self, now: Micros, event: Event, haves: &impl Haves, actions: &mut Vec<Action>) {
        match event {
            Event::Tracker(word) => self.hear(now, word, actions),
            Event::TrackerLost => {
                self.calling = false;
                self.custody.lost(now);
                self.beat_at = now + self.jittered(self.lost);
                (self.ask_at, self.lost) = (Micros::MAX, (self.lost * 2).min(IDLE_MAX));
            }
            Event::Have(peer) => self.peers.heard(peer),
            Event::PieceOk(piece, source) => self.take(now, piece, source, actions),
            Event::PieceBad(piece, Source::Peer(peer)) => {
                self.end(peer, piece);
                self.peers.ban(peer);
                actions.push(Action::Ban(peer, piece));
            }
            Event::PieceBad(piece, Source::Store(_) | Source::Custody) => self.want(piece),
            Event::Busy(peer, piece, retry) => {
                self.end(peer, piece);
                self.peers.busy(now, peer, retry, &mut self.rng);
            }
            Event::Missing(peer, piece) => {
                self.end(peer, piece);
                self.peers.missing(now, peer);
            }
            Event::Ending(peer, piece) => {
                let same = |flight: &&mut Flight| flight.peer == peer && flight.piece == piece;
                if let Some(flight) = self.flights.iter_mut().find(same) {
                    flight.ending.get_or_insert(now);
                }
            }
            Event::Stalled(piece) => self.hedge(now, piece, haves, actions),
            Event::Timeout(peer, piece) => {
                self.end(peer, piece);
                self.peers.failed(now, peer);
            }
            Event::PeerGone(peer) => self.peers.gone(peer),
            Event::LeaseEnded(lease) => self.end_lease(now, lease),
            Event::CustodyEnded(piece) => {
                self.reading = None;
                self.want(piece);
            }
            Event::Tick => self.hedge_slow(now, haves, actions),
        }
    }

    fn hear(&mut self, now: Micros, word: Word, actions: &mut Vec<Action>) {
        let Word { neighbours, lease, ask_in, beat_in, members } = word;
        self.calling = false;
        self.lost = LOST;
        self.custody.heard(members);
        self.beat_at = now + self.jittered(beat_in);
        self.ask_at = ask_in.map_or(Micros::MAX, |span| now + self.jittered(span));
        for peer in neighbours.map(|list| self.peers.replace(&list)).unwrap_or_default() {
            self.drop_requests(peer, actions);
        }
        if let Some(leave) = lease {
            self.lease(leave, actions);
        }
    }

    fn take(&mut self, now: Micros, piece: u32, source: Source, actions: &mut Vec<Action>) {
        let bytes = self.wire.get(piece as usize).copied().unwrap_or(0);
        while let Some(at) = self.flights.iter().position(|flight| flight.piece == piece) {
            let flight = self.flights.swap_remove(at);
            self.peers.ended(flight.peer);
            if source == Source::Peer(flight.peer) {
                let took = now.saturating_sub(flight.since);
                self.peers.delivered(flight.peer, bytes, took);
                self.sender = (self.rng.below(LET_GO) > 0).then_some(flight.peer);
                self.timing.took(took);
                self.timing.lagged(took, flight.ending.map(|at| now.saturating_sub(at)));
            } else {
                actions.push(Action::Cancel(flight.peer, piece));
            }
        }
        if has(&self.missing, piece) {
            self.missing[piece as usize / 64] &= !(1 << (piece % 64));
            self.left = (self.left.0 - 1, self.left.1 - u64::from(bytes));
        }
        self.unwant(piece);
        self.custody.moved(now);
        self.idle = IDLE;
        self.timing.moved(now, u64::from(bytes));
    }

    fn lease(&mut self, leave: Leave, actions: &mut Vec<Action>) {
        let end = leave.first.saturating_add(leave.count).min(self.wire.len() as u32);
        if (leave.first..end).any(|piece| has(&self.missing, piece)) {
            self.leases.push(leave);
        }
        for piece in leave.first..end {
            self.unwant(piece);
            self.allowance.spend(u64::from(self.wire[piece as usize]));
        }
        // Also when nothing of it is missing: whoever reads gives the lease back.
        actions.push(Action::ReadStore(leave));
    }

    fn end_lease(&mut self, now: Micros, lease: u64) {
        if let Some(at) = self.leases.iter().position(|leave| leave.id == lease) {
            let leave = self.leases.swap_remove(at);
            for piece in leave.first..leave.first.saturating_add(leave.count) {
                self.want(piece);
            }
        }
        self.ask_at = self.ask_at.min(now);
    }

    fn request(&mut self, now: Micros, haves: &impl Haves, actions: &mut Vec<Action>) {
        self.hungry = false;
        while self.room() {
            self.pace_at = self.allowance.ready_at(now, self.left.1, self.sizes.0);
            if self.pace_at > now {
                return;
            }
            let Some((piece, at)) = self.pick(now, haves) else {
                self.hungry = true;
                return;
            };
            self.send(now, at, piece, false, actions);
        }
    }

    /// The next piece and whom to ask for it: who has just sent one, as its slot is free;
    /// a neighbour near by that is not slow, if one has anything; else one that is not
    /// slow; else any.
    fn pick(&mut self, now: Micros, haves: &impl Haves) -> Option<(u32, usize)> {
        let mut tiers = self.peers.tiers(now);
        if self.flights.iter().filter(|flight| flight.slow).count() >= SLOW_FLIGHTS {
            tiers[2] = tiers[1];
        }
        if let Some(at) = self.sender.take().and_then(|peer| self.peers.at(peer))
            && tiers[1] >> at & 1 == 1
            && self.worth_again(at)
            && let Some(piece) =
                picker::pick(&self.wanted, (&self.peers, 1 << at), haves, &mut self.rng)
        {
            return Some((piece, at));
        }
        let mut tried = 0;
        for free in tiers {
            if free == std::mem::replace(&mut tried, free) {
                continue;
            }
            let picked = picker::pick(&self.wanted, (&self.peers, free), haves, &mut self.rng);
            if let Some(piece) = picked {
                let at = self.peers.choose(piece, free, haves, &mut self.rng)?;
                return Some((piece, at));
            }
        }
        None
    }

    /// Whether to ask a neighbour again as soon as its piece is there: one of the rack and
    /// few others, as they would send most bytes else.
    fn worth_again(&self, at: usize) -> bool {
        let far = || self.flights.iter().filter(|flight| flight.far).count();
        self.peers.quick(at) && (!self.peers.far(at) || far() < FAR_AGAIN)
    }

    /// Beats when it is time, asks for leases when it may, and calls when nothing
    /// has moved for a while: the neighbours may have changed.
    fn call(&mut self, now: Micros, actions: &mut Vec<Action>) {
        let still = self.flights.is_empty() && self.leases.is_empty() && self.reading.is_none();
        if !still {
            self.idle_at = Micros::MAX;
        } else if self.idle_at == Micros::MAX {
            self.idle_at = now + self.jittered(self.idle);
        }
        let idle = self.idle_at <= now;
        let lease = self.ask_at.max(self.pace_at) <= now && self.lacks();
        if self.calling || !(idle || lease || self.beat_at <= now) {
            return;
        }
        if idle {
            self.idle = (self.idle * 2).min(IDLE_MAX);
            self.idle_at = now + self.jittered(self.idle);
        }
        (self.calling, self.ask_at, self.beat_at) = (true, Micros::MAX, Micros::MAX);
        actions.push(Action::Call { lease: lease || idle });
    }

    /// Without a tracker: reads a piece that no neighbour has, if it is one of
    /// few that may.
    fn take_custody(&mut self, now: Micros, haves: &impl Haves, actions: &mut Vec<Action>) {
        if !self.custody.tick(now) || self.reading.is_some() {
            return;
        }
        let mut alone = [0; picker::WORDS_MAX];
        for (at, word) in self.wanted.iter().enumerate() {
            let offered = positions(self.peers.reachable()).fold(0, |all, peer| {
                all | haves.words(self.peers.no(peer)).get(at).copied().unwrap_or(0)
            });
            let mut rest = word & !offered;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                alone[at] |= u64::from(self.custody.covers(at as u32 * 64 + bit)) << bit;
            }
        }
        if let Some(piece) = picker::draw(&alone, &mut self.rng) {
            self.unwant(piece);
            self.reading = Some(piece);
            actions.push(Action::ReadAsCustodian(piece));
        }
    }

    fn hedge_slow(&mut self, now: Micros, haves: &impl Haves, actions: &mut Vec<Action>) {
        let Some(slow) = self.timing.slow(!self.lacks()) else { return };
        self.hedge_at = now + micros(HEDGE_AGAIN);
        let late = |flight: &Flight| !flight.doubled && now >= flight.since + slow;
        for at in 0..self.flights.len() {
            if late(&self.flights[at]) {
                self.hedge(now, self.flights[at].piece, haves, actions);
            }
        }
    }

    /// A second copy from another peer; never a third, and few in all.
    fn hedge(&mut self, now: Micros, piece: u32, haves: &impl Haves, actions: &mut Vec<Action>) {
        let mut copies = self.flights.iter().filter(|flight| flight.piece == piece);
        let (Some(only), None) = (copies.next(), copies.next()) else { return };
        if !self.may_double() {
            return;
        }
        let mut free = self.peers.free(now);
        self.peers.at(only.peer).into_iter().for_each(|at| free &= !(1 << at));
        if let Some(at) = self.peers.choose(piece, free, haves, &mut self.rng) {
            self.hedged += u64::from(self.wire[piece as usize]);
            self.flights.iter_mut().filter(|f| f.piece == piece).for_each(|f| f.doubled = true);
            self.send(now, at, piece, true, actions);
        }
    }

    fn may_double(&self) -> bool {
        let (largest, total) = self.sizes;
        self.hedged + largest <= total * HEDGE_PERMILLE / 1000 + 2 * largest
    }

    fn send(
        &mut self,
        now: Micros,
        at: usize,
        piece: u32,
        doubled: bool,
        actions: &mut Vec<Action>,
    ) {
        let peer = self.peers.no(at);
        self.peers.sent(at);
        self.unwant(piece);
        self.allowance.spend(u64::from(self.wire[piece as usize]));
        let (slow, far) = (!self.peers.quick(at), self.peers.far(at));
        self.flights.push(Flight { piece, peer, since: now, doubled, ending: None, slow, far });
        actions.push(Action::Request(peer, piece));
    }

    fn end(&mut self, peer: PeerNo, piece: u32) {
        let same = |flight: &Flight| flight.piece == piece && flight.peer == peer;
        let Some(at) = self.flights.iter().position(same) else { return };
        self.flights.swap_remove(at);
        self.peers.ended(peer);
        self.want(piece);
    }

    fn drop_requests(&mut self, peer: PeerNo, actions: &mut Vec<Action>) {
        while let Some(at) = self.flights.iter().position(|flight| flight.peer == peer) {
            let piece = self.flights[at].piece;
            self.end(peer, piece);
            actions.push(Action::Cancel(peer, piece));
        }
    }

    /// A piece is wanted again, unless it is there or somebody fetches it.
    fn want(&mut self, piece: u32) {
        let flying = self.flights.iter().any(|flight| flight.piece == piece);
        if !flying && has(&self.missing, piece) && self.reading != Some(piece) {
            self.wanted[piece as usize / 64] |= 1 << (piece % 64);
        }
    }

    fn unwant(&mut self, piece: u32) {
        if let Some(word) = self.wanted.get_mut(piece as usize / 64) {
            *word &= !(1 << (piece % 64));
        }
    }

    /// Whether there is a piece that nobody fetches.
    fn lacks(&self) -> bool {
        self.wanted.iter().any(|word| *word != 0)
    }

    fn room(&self) -> bool {
        let counts = |flight: &&Flight| flight.ending.is_none() && !flight.slow;
        let counted = self.flights.iter().filter(counts).count() as u64;
        counted < self.window() && (self.flights.len() as u64) < self.buffers()
    }

    /// Pieces that memory has room for.
    fn buffers(&self) -> u64 {
        (self.window_max / self.sizes.0.max(1)).max(1)
    }

    /// Bytes a second that pieces come at; 0: not known.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.timing.rate
    }

    /// Requests that it has in flight, beside those that end, when there is enough to ask
    /// for. Senders give it as many slots (docs/decisions/0034).
    #[must_use]
    pub fn window(&self) -> u64 {
        let most = WINDOW_PIECES + self.timing.more();
        let rate = if self.timing.rate == 0 { u64::MAX } else { self.timing.rate };
        (rate / self.sizes.0.max(1)).clamp(WINDOW_PIECES, most).min(self.buffers())
    }

    /// A span and up to a fifth more or less, so that a fleet's calls stay apart.
    fn jittered(&mut self, span: Duration) -> Micros {
        let span = micros(span);
        span - span / 5 + self.rng.below(span / 5 * 2 + 1)
    }
}
