//! The tracker of one artifact's swarm in one region: members, neighbours,
//! leases, strikes. Soft state: the agents rebuild it after a restart.
//!
//! Pure: hosts are dense numbers, `now` and the seed are arguments, and the same
//! calls give the same answers. Racks, addresses and tickets are the region's.

pub mod graph;
pub mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

use graph::{Graph, Place};
use leases::{Lease, Leases, ReadRefused};

/// A host's number within a swarm; never used for another host.
pub type HostNo = u32;

/// Distinct reporters that put a host into quarantine [distribution 6.5].
const STRIKES: usize = 2;
/// How long a host in quarantine serves nobody [distribution 6.5].
const QUARANTINE: Duration = Duration::from_secs(600);

/// A beat may come after this many tenths of its time: agents spread them by a fifth.
const LATE_TENTHS: u32 = 12;
/// Beats of a download, at least; the rest of its calls are join, leases, done.
const BEATS: f64 = 6.0;
/// First beat after a join: by then the graph has grown.
const FIRST_BEAT: Duration = Duration::from_secs(2);
/// Leases that the members of a small swarm share; a large one has one each.
const LEASES_SHARED: usize = 32;

/// What may be tuned; tests make it quick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Pieces of one lease at most: with one, first copies spread evenly.
    pub lease_pieces: u32,
    /// Least time to live of a lease; 4 times the usual duration or two beats if
    /// that is more.
    pub lease_ttl: Duration,
    /// Leases granted and not read, per artifact.
    pub leases_in_flight: usize,
    /// Leases granted and not read of one host, at most.
    pub leases_per_host: usize,
    /// Reads of the store at once, per artifact; more wait their turn. Few, so that
    /// each first copy is whole early and passed on while the store sends others.
    pub reads_at_once: usize,
    /// Reads of the store at once at first; one more with each that ended. While nobody
    /// has anything to give, every link is idle but the store's: the sooner the first
    /// pieces are whole, the sooner others send.
    pub reads_at_first: usize,
    /// Egress budget, thousandths of the wire size.
    pub budget_permille: u64,
    /// A member whose beat is late by this much is gone: what it alone held is leased
    /// again.
    pub silent: Duration,
    /// Shortest and longest beat.
    pub beat: (Duration, Duration),
    /// Beat of a member that has every piece: it only serves.
    pub beat_complete: Duration,
    /// After a restart, members come back with what they have for this long
    /// before anything is leased.
    pub settle: Duration,
    /// A host that had no piece for this long may read what others hold: they
    /// may be out of its reach. The budget bounds it.
    pub starved: Duration,
    /// Shortest wait that a refusal names.
    pub retry_busy: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_pieces: 1,
            lease_ttl: Duration::from_secs(10),
            leases_in_flight: 64,
            leases_per_host: 4,
            reads_at_once: 6,
            reads_at_first: 2,
            budget_permille: 2000,
            silent: Duration::from_secs(10),
            beat: (Duration::from_secs(1), Duration::from_secs(15)),
            beat_complete: Duration::from_secs(60),
            settle: Duration::from_secs(5),
            starved: Duration::from_secs(10),
            retry_busy: Duration::from_millis(300),
        }
    }
}

/// The host is not a member (any more): it must join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a member of this swarm")]
pub struct NotMember;

/// Who joins with what.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Its number.
    pub host: HostNo,
    /// Where it stands.
    pub place: Place,
    /// What it can serve.
    pub have: PieceSet,
    /// Whether it knew another epoch: the tracker was restarted.
    pub returning: bool,
    /// Whether a lease is of use to it: it downloads.
    pub wants: bool,
}

/// What a member says when it calls.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// What it can serve.
    pub have: PieceSet,
    /// Pieces that it has beside those.
    pub unserved: PieceSet,
    /// The version of its neighbours that it knows.
    pub known: u64,
    /// Leases that make progress.
    pub holding: Vec<u64>,
    /// Leases that it gives back.
    pub returned: Vec<u64>,
    /// How long no piece came.
    pub starved: Duration,
    /// Whether a lease is of use to it: it downloads.
    pub wants: bool,
}

/// A host's neighbours and their distances, and the number of that version.
pub type Neighbours = (u64, Vec<(HostNo, u8)>);

/// What a member is told.
#[derive(Debug, Clone)]
pub struct Word {
    /// Its neighbours, when they changed.
    pub neighbours: Option<Neighbours>,
    /// A lease, if there is something for it to read.
    pub lease: Option<Lease>,
    /// When to ask for a lease, if it should before its next beat.
    pub ask_in: Option<Duration>,
    /// When to call in any case.
    pub beat_in: Duration,
    /// Members of the swarm.
    pub members: usize,
}

#[derive(Debug)]
struct Member {
    have: PieceSet,
    joined: UnixMillis,
    seen: UnixMillis,
    /// Heard of by then, or gone.
    due: UnixMillis,
    leases: u64,
}

/// One artifact's swarm.
#[derive(Debug)]
pub struct Tracker {
    settings: Settings,
    rng: Rng,
    born: UnixMillis,
    settle_until: UnixMillis,
    graph: Graph,
    leases: Leases,
    members: BTreeMap<HostNo, Member>,
    strikes: BTreeMap<HostNo, BTreeSet<HostNo>>,
    quarantine: BTreeMap<HostNo, UnixMillis>,
}

impl Tracker {
    /// An empty swarm; `offsets` says where each wire piece starts in the pack,
    /// with the pack's end last.
    #[must_use]
    pub fn new(settings: Settings, offsets: Vec<u64>, now: UnixMillis, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let leases = Leases::new(settings, offsets, now, &mut rng);
        Self {
            settings,
            rng,
            born: now,
            settle_until: now,
            graph: Graph::default(),
            leases,
            members: BTreeMap::new(),
            strikes: BTreeMap::new(),
            quarantine: BTreeMap::new(),
        }
    }

    /// Adds a member, or takes it up again.
    pub fn join(&mut self, now: UnixMillis, joining: Joining) -> Word {
        let Joining { host, place, have, returning, wants } = joining;
        let beat = Beat { wants, ..Beat::default() };
        if returning {
            self.settle_until = self.settle_until.max(self.born + self.settings.settle);
        }
        self.drop_member(host);
        let empty = PieceSet::new();
        let member = Member { have: empty, joined: now, seen: now, due: now, leases: 0 };
        self.members.insert(host, member);
        if self.quarantined(now, host) {
            let sample = self.graph.sample(&mut self.rng);
            return self.word(now, host, Some((1, sample)), &beat);
        }
        self.graph.join(host, place, &mut self.rng);
        self.update(now, host, have);
        let neighbours = self.graph.neighbours(host);
        self.word(now, host, Some(neighbours), &beat)
    }

    /// Takes a member's call.
    ///
    /// # Errors
    /// [`NotMember`]: the host must join.
    pub fn beat(&mut self, now: UnixMillis, host: HostNo, beat: Beat) -> Result<Word, NotMember> {
        self.members.get_mut(&host).ok_or(NotMember)?.seen = now;
        beat.holding.iter().for_each(|id| self.leases.hold(now, host, *id));
        beat.returned.iter().for_each(|id| self.leases.give_back(host, *id));
        if self.quarantined(now, host) {
            return Ok(self.word(now, host, None, &beat));
        }
        if self.graph.version(host) == 0 {
            // Its quarantine is over: it comes back as a new member.
            return Err(NotMember);
        }
        self.update(now, host, beat.have.clone());
        let changed = self.graph.version(host) != beat.known;
        let neighbours = changed.then(|| self.graph.neighbours(host));
        Ok(self.word(now, host, neighbours, &beat))
    }

    fn word(
        &mut self,
        now: UnixMillis,
        host: HostNo,
        neighbours: Option<Neighbours>,
        beat: &Beat,
    ) -> Word {
        let (lease, ask_in) = self.offer(now, host, beat);
        let beat_in = self.beat_in(now, host);
        let silent = self.settings.silent + beat_in * LATE_TENTHS / 10;
        if let Some(member) = self.members.get_mut(&host) {
            member.due = now + silent;
        }
        Word { neighbours, lease, ask_in, beat_in, members: self.members.len() }
    }

    /// A lease for a member, if there is one; else when to ask again.
    fn offer(
        &mut self,
        now: UnixMillis,
        host: HostNo,
        beat: &Beat,
    ) -> (Option<Lease>, Option<Duration>) {
        let count = self.members.len().max(1);
        let Some(member) = self.members.get(&host).filter(|_| beat.wants) else {
            return (None, None);
        };
        if now < self.settle_until {
            return (None, Some(self.settle_until.since(now).max(self.settings.retry_busy)));
        }
        let mut except = member.have.clone();
        if except.count() == self.pieces() {
            return (None, None);
        }
        except.extend(&beat.unserved);
        let most = (LEASES_SHARED / count).clamp(1, self.settings.leases_per_host);
        let sated = member.leases > self.leases.granted() / count as u64;
        let starved = beat.starved >= self.settings.starved;
        let asker = leases::Asker { host, starved, most, sated };
        match self.leases.grant(now, asker, &except, &mut self.rng) {
            Ok(lease) => {
                let more = self.leases.unread_by(host) < most;
                if let Some(member) = self.members.get_mut(&host) {
                    member.leases += 1;
                }
                (Some(lease), more.then_some(Duration::ZERO))
            }
            Err(wait) => (None, wait),
        }
    }

    /// Admits a read of the store under a lease; counts it against the budget.
    ///
    /// # Errors
    /// See [`ReadRefused`].
    pub fn read(
        &mut self,
        now: UnixMillis,
        lease: u64,
        host: Option<HostNo>,
        range: &Range<u64>,
    ) -> Result<(), ReadRefused> {
        self.leases.read(now, lease, host, range)
    }

    /// A read under a lease ended, whatever came of it: the store is free for others.
    pub fn read_ended(&mut self, lease: u64) {
        self.leases.read_ended(lease);
    }

    /// Admits a read of one piece of the store by a host that says it is the
    /// piece's custodian, within the same budget.
    ///
    /// # Errors
    /// See [`ReadRefused`].
    pub fn read_as_custodian(
        &mut self,
        now: UnixMillis,
        range: &Range<u64>,
    ) -> Result<(), ReadRefused> {
        self.leases.read_as_custodian(now, range)
    }

    /// `reporter` had a bad piece from its neighbour `from`; whether that host
    /// is in quarantine now. Reports on others than neighbours count for nothing.
    pub fn bad_peer(&mut self, now: UnixMillis, reporter: HostNo, from: HostNo) -> bool {
        if !self.graph.linked(reporter, from) {
            return self.quarantined(now, from);
        }
        let strikes = self.strikes.entry(from).or_default();
        strikes.insert(reporter);
        if strikes.len() < STRIKES {
            return false;
        }
        self.strikes.remove(&from);
        self.quarantine.insert(from, now + QUARANTINE);
        self.update(now, from, PieceSet::new());
        self.graph.leave(from, &mut self.rng);
        true
    }

    /// The store served a piece wrong.
    pub fn bad_store(&mut self, now: UnixMillis, piece: u32) {
        self.leases.pause(now, piece);
    }

    /// A member leaves.
    pub fn leave(&mut self, host: HostNo) {
        self.drop_member(host);
        self.graph.leave(host, &mut self.rng);
    }

    /// Drops silent members and lapsed leases, mends the graph. At least each few seconds.
    pub fn tick(&mut self, now: UnixMillis) {
        let silent = |(host, member): (&HostNo, &Member)| (now > member.due).then_some(*host);
        for host in self.members.iter().filter_map(silent).collect::<Vec<_>>() {
            self.leave(host);
        }
        self.leases.set_beat(self.beat_every());
        self.leases.lapse(now);
        self.quarantine.retain(|_, until| *until > now);
        self.graph.mend(&mut self.rng);
    }

    /// A member's neighbours as they are now.
    #[must_use]
    pub fn neighbours(&self, host: HostNo) -> Neighbours {
        self.graph.neighbours(host)
    }

    /// How often members beat: seldom in a large swarm, so that a region hears
    /// about a thousand calls a second at most.
    #[must_use]
    pub fn beat_every(&self) -> Duration {
        let (least, most) = self.settings.beat;
        (least + Duration::from_millis(self.members.len() as u64)).min(most).max(least)
    }

    /// When a member should call again: some times in its download, and soon after
    /// its join.
    fn beat_in(&self, now: UnixMillis, host: HostNo) -> Duration {
        let Some(member) = self.members.get(&host) else { return self.beat_every() };
        let (pieces, have) = (self.pieces(), member.have.count());
        if have >= pieces {
            return self.settings.beat_complete.max(self.beat_every());
        }
        let age = now.since(member.joined);
        if age.is_zero() {
            return FIRST_BEAT.min(self.beat_every());
        }
        let whole = age.mul_f64(f64::from(pieces) / f64::from(have.max(1)));
        self.beat_every().max(whole.div_f64(BEATS).min(self.settings.beat.1))
    }

    /// How many members there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// How many pieces the artifact has.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.leases.pieces()
    }

    /// Bytes admitted to be read from the store so far.
    #[must_use]
    pub fn egress(&self) -> u64 {
        self.leases.egress()
    }

    /// Whether a host serves nobody for now.
    #[must_use]
    pub fn quarantined(&self, now: UnixMillis, host: HostNo) -> bool {
        self.quarantine.get(&host).is_some_and(|until| *until > now)
    }

    fn update(&mut self, now: UnixMillis, host: HostNo, have: PieceSet) {
        let Some(member) = self.members.get_mut(&host) else { return };
        let (gained, lost) = (have.minus(&member.have), member.have.minus(&have));
        self.leases.lost(&lost);
        if !gained.is_empty() {
            self.leases.held(now, host, &gained, &have);
        }
        member.have = have;
    }

    fn drop_member(&mut self, host: HostNo) {
        if let Some(member) = self.members.remove(&host) {
            self.leases.lost(&member.have);
            self.leases.give_back_all(host);
        }
    }
}

#[cfg(test)]
mod tests;
