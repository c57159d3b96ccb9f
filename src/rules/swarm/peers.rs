//! What a downloader knows of its neighbours, and which of them to ask.
//!
//! Two are drawn, the one expected to finish first is asked: near the best
//! choice without a rush on one peer [distribution 6.5]. Never decides which
//! piece.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PeerNo;
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

/// Requests in flight per peer: one is sent while the other waits.
const IN_FLIGHT_MAX: u32 = 2;
/// What a transfer from the same rack, the same zone and farther costs.
const DISTANCE_COST: [f64; 3] = [1.0, 1.5, 4.0];
/// Rate of a peer that was never asked, bytes a millisecond: half of 1 Gbit/s.
const RATE_GUESS: f64 = 60_000.0;
/// Wait after a failed transfer; doubles with each further one, up to 32 times.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// Bounds of a busy peer's own wish.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

#[derive(Debug, Clone)]
struct Peer {
    distance: u8,
    have: PieceSet,
    in_flight: u32,
    /// Bytes a millisecond; `None`: nothing came yet.
    rate: Option<f64>,
    not_before: UnixMillis,
    failures: u32,
    gone: bool,
    banned: bool,
}

/// The neighbours of one download.
#[derive(Debug, Default)]
pub struct Peers {
    by_no: BTreeMap<PeerNo, Peer>,
}

impl Peers {
    /// Takes the whole new list; what is known of those that stay is kept. Those
    /// that left are returned. A ban outlives a short absence only at the tracker.
    pub fn replace(&mut self, neighbours: &[(PeerNo, u8)]) -> Vec<PeerNo> {
        let wanted: BTreeMap<PeerNo, u8> = neighbours.iter().copied().collect();
        let left: Vec<PeerNo> =
            self.by_no.keys().filter(|peer| !wanted.contains_key(peer)).copied().collect();
        for peer in &left {
            self.by_no.remove(peer);
        }
        for (peer, distance) in wanted {
            let known = self.by_no.entry(peer).or_insert(Peer {
                distance,
                have: PieceSet::new(),
                in_flight: 0,
                rate: None,
                not_before: UnixMillis(0),
                failures: 0,
                gone: false,
                banned: false,
            });
            known.distance = distance;
        }
        left
    }

    /// The peer answered, and this is what it has.
    pub fn have(&mut self, peer: PeerNo, have: PieceSet) {
        self.change(peer, |peer| {
            peer.have = have;
            peer.gone = false;
        });
    }

    /// The peer has not got a piece that it said it had.
    pub fn missing(&mut self, peer: PeerNo, piece: u32) {
        self.change(peer, |peer| peer.have.remove(piece));
    }

    /// A request was sent.
    pub fn sent(&mut self, peer: PeerNo) {
        self.change(peer, |peer| peer.in_flight += 1);
    }

    /// A request ended, whatever its outcome.
    pub fn ended(&mut self, peer: PeerNo) {
        self.change(peer, |peer| peer.in_flight = peer.in_flight.saturating_sub(1));
    }

    /// A piece came whole and good.
    pub fn delivered(&mut self, peer: PeerNo, bytes: u32, took: Duration) {
        let rate = f64::from(bytes) / (took.as_millis().max(1) as f64);
        self.change(peer, |peer| {
            peer.rate = Some(peer.rate.map_or(rate, |known| known * 0.7 + rate * 0.3));
            peer.failures = 0;
        });
    }

    /// All its upload slots are taken; it wishes to be left for `retry`.
    pub fn busy(&mut self, now: UnixMillis, peer: PeerNo, retry: Duration, rng: &mut Rng) {
        let wait = retry.clamp(BUSY_WAIT.0, BUSY_WAIT.1);
        let jitter = Duration::from_millis(rng.below(wait.as_millis() as u64 / 2 + 1));
        self.change(peer, |peer| peer.not_before = now + wait + jitter);
    }

    /// A transfer was cut off or too slow.
    pub fn failed(&mut self, now: UnixMillis, peer: PeerNo) {
        self.change(peer, |peer| {
            peer.not_before = now + FAILED_WAIT * 2u32.pow(peer.failures.min(5));
            peer.failures += 1;
            peer.rate = peer.rate.map(|rate| rate / 2.0);
        });
    }

    /// It can't be reached until it answers again.
    pub fn gone(&mut self, peer: PeerNo) {
        self.change(peer, |peer| peer.gone = true);
    }

    /// It sent wrong bytes: never asked again while it is a neighbour.
    pub fn ban(&mut self, peer: PeerNo) {
        self.change(peer, |peer| peer.banned = true);
    }

    /// Every piece that some peer which may be asked now has.
    #[must_use]
    pub fn on_offer(&self, now: UnixMillis) -> PieceSet {
        let mut all = PieceSet::new();
        self.by_no.values().filter(|peer| peer.free(now)).for_each(|peer| all.extend(&peer.have));
        all
    }

    /// How many neighbours have a piece.
    #[must_use]
    pub fn holders(&self, piece: u32) -> usize {
        self.by_no.values().filter(|peer| !peer.banned && peer.have.contains(piece)).count()
    }

    /// Whom to ask for a piece now; never one of `except`.
    pub fn choose(
        &self,
        now: UnixMillis,
        piece: u32,
        except: &[PeerNo],
        rng: &mut Rng,
    ) -> Option<PeerNo> {
        let suits = |(no, peer): &(&PeerNo, &Peer)| {
            peer.free(now) && peer.have.contains(piece) && !except.contains(no)
        };
        let able: Vec<(&PeerNo, &Peer)> = self.by_no.iter().filter(suits).collect();
        let draw = |rng: &mut Rng| able.get(rng.below(able.len() as u64) as usize).copied();
        let (first, second) = (draw(rng)?, draw(rng)?);
        let best = if second.1.cost() < first.1.cost() { second } else { first };
        Some(*best.0)
    }

    fn change(&mut self, peer: PeerNo, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.by_no.get_mut(&peer) {
            change(peer);
        }
    }
}

impl Peer {
    fn free(&self, now: UnixMillis) -> bool {
        !self.banned && !self.gone && self.in_flight < IN_FLIGHT_MAX && self.not_before <= now
    }

    /// Expected time to finish one more request; only the order counts.
    fn cost(&self) -> f64 {
        let distance = DISTANCE_COST[usize::from(self.distance.min(2))];
        f64::from(self.in_flight + 1) / self.rate.unwrap_or(RATE_GUESS).max(1.0) * distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_and_nearer_of_two_is_asked_more_often() {
        let mut peers = Peers::default();
        peers.replace(&[(1, 0), (2, 2)]);
        peers.have(1, PieceSet::full(4));
        peers.have(2, PieceSet::full(4));
        let mut rng = Rng::new(3);
        let near =
            (0..200).filter(|_| peers.choose(UnixMillis(0), 0, &[], &mut rng) == Some(1)).count();
        assert!((130..170).contains(&near), "{near}");
    }

    #[test]
    fn busy_failed_gone_and_banned_peers_are_left_alone() {
        let (now, mut rng) = (UnixMillis(1000), Rng::new(1));
        let mut peers = Peers::default();
        peers.replace(&[(1, 0)]);
        peers.have(1, PieceSet::full(1));
        let asks = |peers: &Peers, at: UnixMillis| peers.choose(at, 0, &[], &mut Rng::new(1));
        assert_eq!(asks(&peers, now), Some(1));
        peers.busy(now, 1, Duration::from_secs(1), &mut rng);
        assert_eq!(asks(&peers, now), None);
        assert_eq!(asks(&peers, UnixMillis(2600)), Some(1));
        peers.failed(now, 1);
        assert_eq!(asks(&peers, UnixMillis(1900)), None);
        peers.gone(1);
        assert_eq!(asks(&peers, UnixMillis(9000)), None);
        peers.have(1, PieceSet::full(1));
        assert_eq!(asks(&peers, UnixMillis(9000)), Some(1));
        peers.ban(1);
        peers.have(1, PieceSet::full(1));
        assert_eq!(asks(&peers, UnixMillis(9000)), None);
        assert_eq!(peers.replace(&[]), vec![1]);
    }
}
