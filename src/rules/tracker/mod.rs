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

/// What may be tuned; tests make it quick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Pieces of one lease at most; one store read of 8-32 MiB [distribution 6.2].
    pub lease_pieces: u32,
    /// Least time to live of a lease; 4 times the usual duration if that is more.
    pub lease_ttl: Duration,
    /// Leases in flight in the region, per artifact.
    pub leases_in_flight: usize,
    /// Leases in flight of one host: one is read while the next is asked for.
    pub leases_per_host: usize,
    /// Egress budget, thousandths of the wire size.
    pub budget_permille: u64,
    /// A member not heard of for this long, and three beats, is gone.
    pub silent: Duration,
    /// Shortest and longest beat.
    pub beat: (Duration, Duration),
    /// After a restart, members come back with what they have for this long
    /// before anything is leased.
    pub settle: Duration,
    /// A host that had no piece for this long may read what others hold: they
    /// may be out of its reach. The budget bounds it.
    pub starved: Duration,
    /// Retry when too many leases are in flight.
    pub retry_busy: Duration,
    /// Retry when there is nothing to lease.
    pub retry_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_pieces: 4,
            lease_ttl: Duration::from_secs(10),
            leases_in_flight: 64,
            leases_per_host: 2,
            budget_permille: 2000,
            silent: Duration::from_secs(10),
            beat: (Duration::from_secs(1), Duration::from_secs(15)),
            settle: Duration::from_secs(5),
            starved: Duration::from_secs(10),
            retry_busy: Duration::from_millis(300),
            retry_idle: Duration::from_secs(3),
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
}

/// What a member says with every call.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// What it can serve.
    pub have: PieceSet,
    /// The version of its neighbours that it knows.
    pub known: u64,
    /// Leases that make progress.
    pub holding: Vec<u64>,
}

/// What a member says when it asks for a lease.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    /// Pieces that it has beside those it serves.
    pub unserved: PieceSet,
    /// Leases that it gives back.
    pub returned: Vec<u64>,
    /// How long no piece came.
    pub starved: Duration,
}

/// A host's neighbours and their distances, and the number of that version.
pub type Neighbours = (u64, Vec<(HostNo, u8)>);

#[derive(Debug)]
struct Member {
    have: PieceSet,
    seen: UnixMillis,
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

    /// Adds a member, or takes it up again; its neighbours.
    pub fn join(&mut self, now: UnixMillis, joining: Joining) -> Neighbours {
        let Joining { host, place, have, returning } = joining;
        if returning {
            self.settle_until = self.settle_until.max(self.born + self.settings.settle);
        }
        self.drop_member(host);
        self.members.insert(host, Member { have: PieceSet::new(), seen: now });
        if self.quarantined(now, host) {
            return (1, self.graph.sample(&mut self.rng));
        }
        self.graph.join(host, place, &mut self.rng);
        self.update(now, host, have);
        self.graph.neighbours(host)
    }

    /// Takes a beat; the neighbours, when they changed.
    ///
    /// # Errors
    /// [`NotMember`]: the host must join.
    pub fn beat(
        &mut self,
        now: UnixMillis,
        host: HostNo,
        beat: Beat,
    ) -> Result<Option<Neighbours>, NotMember> {
        self.members.get_mut(&host).ok_or(NotMember)?.seen = now;
        for id in &beat.holding {
            self.leases.hold(now, host, *id);
        }
        if self.quarantined(now, host) {
            return Ok(None);
        }
        if self.graph.version(host) == 0 {
            // Its quarantine is over: it comes back as a new member.
            return Err(NotMember);
        }
        self.update(now, host, beat.have);
        let changed = self.graph.version(host) != beat.known;
        Ok(changed.then(|| self.graph.neighbours(host)))
    }

    /// Grants a lease to a member, or says how long to wait.
    ///
    /// # Errors
    /// How long to wait.
    pub fn lease(
        &mut self,
        now: UnixMillis,
        host: HostNo,
        asking: &Asking,
    ) -> Result<Lease, Duration> {
        let Some(member) = self.members.get(&host) else { return Err(self.settings.retry_busy) };
        for id in &asking.returned {
            self.leases.give_back(host, *id);
        }
        if now < self.settle_until {
            return Err(self.settle_until.since(now).max(self.settings.retry_busy));
        }
        let mut except = member.have.clone();
        except.extend(&asking.unserved);
        let starved = asking.starved >= self.settings.starved;
        self.leases.grant(now, (host, starved), &except, &mut self.rng)
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
        let limit = self.settings.silent.max(self.beat_every() * 3);
        let silent =
            |(host, member): (&HostNo, &Member)| (now.since(member.seen) >= limit).then_some(*host);
        for host in self.members.iter().filter_map(silent).collect::<Vec<_>>() {
            self.leave(host);
        }
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
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    const PIECE: u64 = 1000;

    fn tracker(pieces: u64, seed: u64) -> Tracker {
        let offsets = (0..=pieces).map(|i| i * PIECE).collect();
        Tracker::new(Settings::default(), offsets, UnixMillis(0), seed)
    }

    fn join(tracker: &mut Tracker, now: UnixMillis, host: HostNo, have: PieceSet) {
        let joining = Joining { host, place: Place::default(), have, returning: false };
        tracker.join(now, joining);
    }

    fn bytes(lease: &Lease) -> Range<u64> {
        u64::from(lease.first) * PIECE..u64::from(lease.first + lease.count) * PIECE
    }

    #[test]
    fn a_lease_opens_its_own_pieces_to_its_own_host_until_it_lapses() {
        let (mut tracker, now) = (tracker(40, 1), UnixMillis(0));
        join(&mut tracker, now, 1, PieceSet::new());
        join(&mut tracker, now, 2, PieceSet::new());
        let lease = tracker.lease(now, 1, &Asking::default()).unwrap();
        let range = bytes(&lease);
        let read = |tracker: &mut Tracker, now, host, range: Range<u64>| {
            tracker.read(now, lease.id, Some(host), &range)
        };
        assert_eq!(read(&mut tracker, now, 2, range.clone()), Err(ReadRefused::NoLease));
        let beyond = range.start..range.end + 1;
        assert_eq!(read(&mut tracker, now, 1, beyond), Err(ReadRefused::Range));
        assert_eq!(read(&mut tracker, now, 1, range.clone()), Ok(()));
        let later = now + lease.ttl;
        assert_eq!(read(&mut tracker, later, 1, range), Err(ReadRefused::NoLease));
        assert_eq!(tracker.read(now, 77, None, &(0..1)), Err(ReadRefused::NoLease));
    }

    #[test]
    fn reading_again_and_again_ends_at_the_budget() {
        // Large enough that the refill does not matter within the test.
        let offsets = (0..=4u64).map(|i| i << 30).collect();
        let mut tracker = Tracker::new(Settings::default(), offsets, UnixMillis(0), 1);
        join(&mut tracker, UnixMillis(0), 1, PieceSet::new());
        let lease = tracker.lease(UnixMillis(0), 1, &Asking::default()).unwrap();
        let range = u64::from(lease.first) << 30..u64::from(lease.first + lease.count) << 30;
        let admitted =
            (0..10).filter(|_| tracker.read(UnixMillis(1), lease.id, None, &range).is_ok()).count();
        assert_eq!(admitted, 2);
        assert_eq!(tracker.egress(), 8 << 30);
    }

    #[test]
    fn two_reporters_put_a_neighbour_into_quarantine_and_its_pieces_are_leased_again() {
        let (mut tracker, now) = (tracker(4, 1), UnixMillis(0));
        join(&mut tracker, now, 9, PieceSet::full(4));
        (1..4).for_each(|host| join(&mut tracker, now, host, PieceSet::new()));
        assert!(tracker.lease(now, 1, &Asking::default()).is_err());
        assert!(!tracker.bad_peer(now, 1, 9));
        assert!(!tracker.bad_peer(now, 1, 9));
        assert!(!tracker.bad_peer(now, 77, 9), "a stranger's word");
        assert!(tracker.bad_peer(now, 2, 9));
        assert!(tracker.quarantined(now, 9));
        assert!(tracker.neighbours(3).1.iter().all(|(host, _)| *host != 9));
        assert!(tracker.lease(now, 1, &Asking::default()).is_ok());
        join(&mut tracker, now, 9, PieceSet::full(4));
        assert!(tracker.neighbours(9).1.is_empty(), "it may not come back at once");
    }

    #[test]
    fn after_a_restart_nothing_is_leased_before_members_came_back() {
        let (mut tracker, now) = (tracker(4, 1), UnixMillis(0));
        let joining =
            |host, have, returning| Joining { host, place: Place::default(), have, returning };
        tracker.join(now, joining(1, PieceSet::new(), true));
        assert!(tracker.lease(now, 1, &Asking::default()).is_err());
        let later = now + Duration::from_secs(4);
        tracker.join(later, joining(2, PieceSet::full(3), true));
        let settled = now + Settings::default().settle;
        let lease = tracker.lease(settled, 1, &Asking::default()).unwrap();
        assert_eq!((lease.first, lease.count), (3, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a naive model: while a piece's lease or a live holder is there,
        /// nobody else is granted it.
        #[test]
        fn a_piece_is_leased_once_while_its_holder_lives(
            seed: u64, pieces in 1u64..60,
            steps in proptest::collection::vec((0u8..6, 0u32..8, 0u64..9000), 1..300),
        ) {
            let mut tracker = tracker(pieces, seed);
            let mut now = UnixMillis(0);
            let mut have: BTreeMap<HostNo, PieceSet> = BTreeMap::new();
            let mut live: Vec<(HostNo, Lease, UnixMillis)> = vec![];
            for (what, host, wait) in steps {
                live.retain(|(owner, lease, until)| {
                    let got = |piece| have.get(owner).is_some_and(|have| have.contains(piece));
                    *until > now && !(lease.first..lease.first + lease.count).all(got)
                });
                match what {
                    0 => {
                        live.retain(|(owner, ..)| *owner != host);
                        join(&mut tracker, now, host, PieceSet::new());
                        have.insert(host, PieceSet::new());
                    }
                    1 => {
                        live.retain(|(owner, ..)| *owner != host);
                        tracker.leave(host);
                        have.remove(&host);
                    }
                    2 | 3 => {
                        let Ok(lease) = tracker.lease(now, host, &Asking::default()) else { continue };
                        let range = lease.first..lease.first + lease.count;
                        for piece in range.clone() {
                            let held = have.values().any(|have| have.contains(piece));
                            let leased = live.iter().any(|(_, lease, _)| {
                                (lease.first..lease.first + lease.count).contains(&piece)
                            });
                            prop_assert!(!held && !leased, "piece {piece} of {range:?}");
                        }
                        live.push((host, lease, now + lease.ttl));
                    }
                    4 => {
                        let Some((owner, lease, _)) = live.iter().find(|l| l.0 == host) else { continue };
                        let mine = have.entry(*owner).or_default();
                        mine.extend(&(lease.first..lease.first + lease.count).collect());
                        let beat = Beat { have: mine.clone(), ..Beat::default() };
                        prop_assert!(tracker.beat(now, host, beat).is_ok());
                    }
                    _ => now = now + Duration::from_millis(wait / 4),
                }
                prop_assert!(tracker.egress() <= 2 * pieces * PIECE);
            }
        }
    }
}
