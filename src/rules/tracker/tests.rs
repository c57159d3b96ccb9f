//! What a swarm's tracker promises.

use super::*;
use proptest::prelude::{ProptestConfig, prop_assert, proptest};

const PIECE: u64 = 1000;

fn tracker(pieces: u64, seed: u64) -> Tracker {
    let offsets = (0..=pieces).map(|i| i * PIECE).collect();
    Tracker::new(Settings::default(), offsets, UnixMillis(0), seed)
}

fn join(tracker: &mut Tracker, now: UnixMillis, host: HostNo, have: PieceSet) -> Option<Lease> {
    let joining = Joining { host, place: Place::default(), have, returning: false, wants: true };
    tracker.join(now, joining).lease
}

fn ask(tracker: &mut Tracker, now: UnixMillis, host: HostNo, have: PieceSet) -> Option<Lease> {
    tracker.beat(now, host, Beat { have, wants: true, ..Beat::default() }).ok()?.lease
}

fn bytes(lease: &Lease) -> Range<u64> {
    u64::from(lease.first) * PIECE..u64::from(lease.first + lease.count) * PIECE
}

#[test]
fn a_lease_opens_its_own_pieces_to_its_own_host_until_it_lapses() {
    let (mut tracker, now) = (tracker(40, 1), UnixMillis(0));
    let lease = join(&mut tracker, now, 1, PieceSet::new()).unwrap();
    join(&mut tracker, now, 2, PieceSet::new());
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
    let lease = join(&mut tracker, UnixMillis(0), 1, PieceSet::new()).unwrap();
    let range = u64::from(lease.first) << 30..u64::from(lease.first + lease.count) << 30;
    let admitted =
        (0..20).filter(|_| tracker.read(UnixMillis(1), lease.id, None, &range).is_ok()).count();
    // All of twice the four pieces, paid with the lease or by the read.
    assert_eq!(admitted, 8);
    assert_eq!(tracker.egress(), 8 << 30);
    assert_eq!(
        tracker.read_as_custodian(UnixMillis(1), &(0..1 << 30)),
        Err(ReadRefused::OverBudget)
    );
}

#[test]
fn a_custodian_reads_one_piece_at_most() {
    let mut tracker = tracker(40, 1);
    let mut read = |range| tracker.read_as_custodian(UnixMillis(0), &range);
    assert_eq!(read(PIECE..2 * PIECE), Ok(()));
    assert_eq!(read(PIECE + 10..2 * PIECE), Ok(()));
    assert_eq!(read(PIECE..2 * PIECE + 1), Err(ReadRefused::Range));
    assert_eq!(read(0..41 * PIECE), Err(ReadRefused::Range));
    assert_eq!(read(40 * PIECE..40 * PIECE + 1), Err(ReadRefused::Range));
    assert_eq!(read(7..7), Err(ReadRefused::Range));
}

#[test]
fn two_reporters_put_a_neighbour_into_quarantine_and_its_pieces_are_leased_again() {
    let (mut tracker, now) = (tracker(4, 1), UnixMillis(0));
    join(&mut tracker, now, 9, PieceSet::full(4));
    (1..4).for_each(|host| assert!(join(&mut tracker, now, host, PieceSet::new()).is_none()));
    assert!(!tracker.bad_peer(now, 1, 9));
    assert!(!tracker.bad_peer(now, 1, 9));
    assert!(!tracker.bad_peer(now, 77, 9), "a stranger's word");
    assert!(tracker.bad_peer(now, 2, 9));
    assert!(tracker.quarantined(now, 9));
    assert!(tracker.neighbours(3).1.iter().all(|(host, _)| *host != 9));
    assert!(ask(&mut tracker, now, 1, PieceSet::new()).is_some());
    join(&mut tracker, now, 9, PieceSet::full(4));
    assert!(tracker.neighbours(9).1.is_empty(), "it may not come back at once");
}

#[test]
fn after_a_restart_nothing_is_leased_before_members_came_back() {
    let (mut tracker, now) = (tracker(4, 1), UnixMillis(0));
    let joining = |host, have, returning| Joining {
        host,
        place: Place::default(),
        have,
        returning,
        wants: true,
    };
    let word = tracker.join(now, joining(1, PieceSet::new(), true));
    assert!(word.lease.is_none() && word.ask_in == Some(Settings::default().settle));
    let later = now + Duration::from_secs(4);
    tracker.join(later, joining(2, PieceSet::full(3), true));
    let settled = now + Settings::default().settle;
    let lease = ask(&mut tracker, settled, 1, PieceSet::new()).unwrap();
    assert_eq!((lease.first, lease.count), (3, 1));
}

#[test]
fn a_large_swarms_leases_go_to_different_hosts() {
    let (mut tracker, now) = (tracker(1000, 1), UnixMillis(0));
    let first: Vec<bool> =
        (0..500).map(|host| join(&mut tracker, now, host, PieceSet::new()).is_some()).collect();
    assert_eq!(first.iter().filter(|lease| **lease).count(), 64);
    for host in 0..64 {
        // One that had its share waits while others read.
        assert!(ask(&mut tracker, now, host, PieceSet::new()).is_none());
    }
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
                    let lease = join(&mut tracker, now, host, PieceSet::new());
                    have.insert(host, PieceSet::new());
                    live.extend(lease.map(|lease| (host, lease, now + lease.ttl)));
                }
                1 => {
                    live.retain(|(owner, ..)| *owner != host);
                    tracker.leave(host);
                    have.remove(&host);
                }
                2 | 3 => {
                    let mine = have.get(&host).cloned().unwrap_or_default();
                    let Some(lease) = ask(&mut tracker, now, host, mine) else { continue };
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
                    let beat = Beat { have: mine.clone(), wants: true, ..Beat::default() };
                    let word = tracker.beat(now, host, beat);
                    prop_assert!(word.is_ok());
                    let lease = word.ok().and_then(|word| word.lease);
                    live.extend(lease.map(|lease| (host, lease, now + lease.ttl)));
                }
                _ => now = now + Duration::from_millis(wait / 4),
            }
            prop_assert!(tracker.egress() <= 2 * pieces * PIECE);
        }
    }
}
