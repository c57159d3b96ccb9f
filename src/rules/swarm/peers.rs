//! What a downloader knows of its neighbours, and which of them to ask.
//!
//! Two are drawn, the one expected to finish first is asked: near the best
//! choice without a rush on one peer [distribution 6.5]. A flat table: a
//! neighbour list is short. Never decides which piece.

use std::time::Duration;

use super::{Haves, Micros, PeerNo, micros};
use crate::model::rng::Rng;

/// Most neighbours of one download; a longer list of the tracker's is cut.
pub const PEERS_MAX: usize = 31;
/// Requests in flight per peer: more would only share its link with themselves.
const IN_FLIGHT_MAX: u8 = 1;
/// What a transfer from the same rack, the same zone and farther costs.
const DISTANCE_COST: [f32; 3] = [1.0, 1.5, 4.0];
/// A peer is asked last when its pieces come at less than this part of the usual rate.
const SLOW_SHARE: f32 = 0.25;
/// And is not asked again at once, nor counted on, at less than this part of it.
const QUICK_SHARE: f32 = 0.5;
/// Rate of a peer that was never asked, bytes a microsecond: 1 Gbit/s.
const RATE_GUESS: f32 = 125.0;
/// Wait after a failed transfer; doubles with each further one, up to 32 times.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// Bounds of a busy peer's own wish.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(5));
/// A peer that lacks what it offered is left for this long: its news is on the way.
const MISSING_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Peer {
    no: PeerNo,
    not_before: Micros,
    /// Bytes a microsecond; 0: nothing came yet.
    rate: f32,
    distance: u8,
    in_flight: u8,
    failures: u8,
    gone: bool,
    banned: bool,
}

/// Some neighbours, as bits by position.
pub(super) type Bits = u32;

/// The neighbours of one download. What each choice asks of all of them is kept as
/// bits: a choice reads two words instead of a table.
#[derive(Debug, Default)]
pub struct Peers {
    /// Their numbers, beside `list`: what looks for a number reads one line of memory.
    numbers: Vec<PeerNo>,
    list: Vec<Peer>,
    /// They can be reached and were not banned.
    able: Bits,
    /// Nothing is asked of them.
    idle: Bits,
    /// They wished to be left for a while, which may be over.
    waiting: Bits,
    /// Of the same rack.
    near: Bits,
    /// Their pieces come at [`SLOW_SHARE`] of the usual rate at least, or none came yet.
    fast: Bits,
    /// The same with [`QUICK_SHARE`].
    quick: Bits,
}

impl Peers {
    /// Takes the whole new list; what is known of those that stay is kept. Those
    /// that left are returned. A ban outlives a short absence only at the tracker.
    pub fn replace(&mut self, neighbours: &[(PeerNo, u8)]) -> Vec<PeerNo> {
        let neighbours = &neighbours[..neighbours.len().min(PEERS_MAX)];
        let stays = |peer: &Peer| neighbours.iter().any(|(no, _)| *no == peer.no);
        let left = self.list.iter().filter(|peer| !stays(peer)).map(|peer| peer.no).collect();
        let known = |no| self.at(no).map(|at| self.list[at]);
        let list = neighbours.iter().map(|&(no, distance)| {
            let new = Peer {
                no,
                not_before: 0,
                rate: 0.0,
                distance,
                in_flight: 0,
                failures: 0,
                gone: false,
                banned: false,
            };
            Peer { distance, ..known(no).unwrap_or(new) }
        });
        self.list = list.collect();
        self.numbers = self.list.iter().map(|peer| peer.no).collect();
        self.near = self.bits(|peer| peer.distance == 0);
        self.idle = self.bits(|peer| peer.in_flight < IN_FLIGHT_MAX);
        self.waiting = self.bits(|peer| peer.not_before > 0);
        self.able = self.bits(|peer| !peer.gone && !peer.banned);
        self.rate_all();
        left
    }

    fn bits(&self, is_in: impl Fn(&Peer) -> bool) -> Bits {
        let bit = |(at, peer)| Bits::from(is_in(peer)) << at;
        self.list.iter().enumerate().map(bit).sum()
    }

    /// Tells the slow from the others again: a rate has changed.
    fn rate_all(&mut self) {
        let known = self.list.iter().filter(|peer| peer.rate > 0.0);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, n), peer| (sum + peer.rate, n + 1.0));
        let usual = sum / f32::max(count, 1.0);
        let over = |share| self.bits(|peer| peer.rate == 0.0 || peer.rate >= usual * share);
        (self.fast, self.quick) = (over(SLOW_SHARE), over(QUICK_SHARE));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The peer answered or has news.
    pub fn heard(&mut self, peer: PeerNo) {
        self.reach(peer, |peer| peer.gone = false);
    }

    /// The peer has not got a piece that it said it had.
    pub fn missing(&mut self, now: Micros, peer: PeerNo) {
        self.leave(peer, now + micros(MISSING_WAIT));
    }

    /// A request was sent.
    pub(super) fn sent(&mut self, at: usize) {
        self.list[at].in_flight += 1;
        self.count(at);
    }

    /// A request ended, whatever its outcome.
    pub fn ended(&mut self, peer: PeerNo) {
        let Some(at) = self.at(peer) else { return };
        self.list[at].in_flight = self.list[at].in_flight.saturating_sub(1);
        self.count(at);
    }

    fn count(&mut self, at: usize) {
        let idle = self.list[at].in_flight < IN_FLIGHT_MAX;
        self.idle = self.idle & !(1 << at) | Bits::from(idle) << at;
    }

    /// A piece came whole and good.
    pub fn delivered(&mut self, peer: PeerNo, bytes: u32, took: Micros) {
        let Some(at) = self.at(peer) else { return };
        let (rate, peer) = (bytes as f32 / took.max(1) as f32, &mut self.list[at]);
        peer.rate = if peer.rate == 0.0 { rate } else { peer.rate * 0.7 + rate * 0.3 };
        peer.failures = 0;
        self.rate_all();
    }

    /// All its upload slots are taken; it wishes to be left for `retry`.
    pub fn busy(&mut self, now: Micros, peer: PeerNo, retry: Duration, rng: &mut Rng) {
        let wait = micros(retry.clamp(BUSY_WAIT.0, BUSY_WAIT.1));
        self.leave(peer, now + wait + rng.below(wait / 2 + 1));
    }

    /// A transfer was cut off or too slow.
    pub fn failed(&mut self, now: Micros, peer: PeerNo) {
        let Some(at) = self.at(peer) else { return };
        let failed = &mut self.list[at];
        let wait = micros(FAILED_WAIT) << failed.failures.min(5);
        failed.failures = failed.failures.saturating_add(1);
        failed.rate /= 2.0;
        self.leave(peer, now + wait);
        self.rate_all();
    }

    fn leave(&mut self, peer: PeerNo, until: Micros) {
        let Some(at) = self.at(peer) else { return };
        self.list[at].not_before = until;
        self.waiting |= 1 << at;
    }

    /// It can't be reached until it answers again.
    pub fn gone(&mut self, peer: PeerNo) {
        self.reach(peer, |peer| peer.gone = true);
    }

    /// It sent wrong bytes: never asked again while it is a neighbour.
    pub fn ban(&mut self, peer: PeerNo) {
        self.reach(peer, |peer| peer.banned = true);
    }

    fn reach(&mut self, peer: PeerNo, change: impl FnOnce(&mut Peer)) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.list[at];
        change(peer);
        let able = !peer.gone && !peer.banned;
        self.able = self.able & !(1 << at) | Bits::from(able) << at;
    }

    /// When the next of those that wished to be left may be asked; `None`: nobody waits.
    #[must_use]
    pub fn next_free(&self, now: Micros) -> Option<Micros> {
        let waits = positions(self.waiting).map(|at| self.list[at].not_before);
        waits.filter(|at| *at > now).min()
    }

    /// Those that can be reached.
    pub(super) fn reachable(&self) -> Bits {
        self.able
    }

    pub(super) fn no(&self, at: usize) -> PeerNo {
        self.numbers[at]
    }

    /// Where a peer is in the list.
    pub(super) fn at(&self, peer: PeerNo) -> Option<usize> {
        self.numbers.iter().position(|no| *no == peer)
    }

    /// Those that may be asked now.
    pub(super) fn free(&mut self, now: Micros) -> Bits {
        for at in positions(self.waiting) {
            let over = self.list[at].not_before <= now;
            self.waiting &= !(Bits::from(over) << at);
        }
        self.able & self.idle & !self.waiting
    }

    /// Those that may be asked now: near by and not slow, not slow, all. Four of five
    /// bytes can stay in the rack so, at no cost in time; a request to a slow peer takes
    /// longer than several others.
    pub(super) fn tiers(&mut self, now: Micros) -> [Bits; 3] {
        let free = self.free(now);
        [free & self.fast & self.near, free & self.fast, free]
    }

    /// Whether a peer's pieces come at about the usual rate, or none came yet.
    pub(super) fn quick(&self, at: usize) -> bool {
        self.quick >> at & 1 == 1
    }

    /// Whether others are nearer than a peer, in its own rack.
    pub(super) fn far(&self, at: usize) -> bool {
        self.near != 0 && self.near >> at & 1 == 0
    }

    /// Whether a peer may be asked now and has any of `wanted`.
    pub(super) fn offers(
        &mut self,
        now: Micros,
        peer: PeerNo,
        wanted: &[u64],
        haves: &impl Haves,
    ) -> bool {
        let free = self.at(peer).is_some_and(|at| self.free(now) >> at & 1 == 1);
        free && wanted.iter().zip(haves.words(peer)).any(|(wanted, has)| wanted & has != 0)
    }

    /// Whom of `free` to ask for a piece, by position.
    pub(super) fn choose(
        &self,
        piece: u32,
        free: Bits,
        haves: &impl Haves,
        rng: &mut Rng,
    ) -> Option<usize> {
        let (mut able, mut count) = ([0; PEERS_MAX], 0);
        for at in positions(free) {
            able[count] = at;
            count += usize::from(has(haves.words(self.numbers[at]), piece));
        }
        if count == 0 {
            return None;
        }
        let mut draw = || able[rng.below(count as u64) as usize];
        let (first, second) = (draw(), draw());
        let better = self.list[second].cost() < self.list[first].cost();
        Some(if better { second } else { first })
    }
}

/// The positions that these bits stand for, ascending.
pub(super) fn positions(mut bits: Bits) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(at)
    })
}

/// Whether a set of words has a piece.
#[must_use]
pub fn has(words: &[u64], piece: u32) -> bool {
    words.get((piece / 64) as usize).is_some_and(|word| word >> (piece % 64) & 1 == 1)
}

impl Peer {
    /// Expected time to finish one more request; only the order counts.
    fn cost(&self) -> f32 {
        let rate = if self.rate > 0.0 { self.rate } else { RATE_GUESS };
        f32::from(self.in_flight + 1) / rate * DISTANCE_COST[usize::from(self.distance.min(2))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ones_first_and_slow_ones_last() {
        let mut peers = Peers::default();
        peers.replace(&[(7, 0), (8, 0), (9, 2), (10, 2), (11, 0)]);
        assert_eq!(peers.tiers(0), [0b10011, 0b11111, 0b11111]);
        for (peer, took) in [(7, 1000), (8, 9000), (9, 1000), (10, 8000)] {
            peers.delivered(peer, 1_000_000, took);
        }
        assert_eq!(peers.tiers(0), [0b10001, 0b10101, 0b11111]);
        peers.gone(7);
        peers.sent(4);
        assert_eq!(peers.tiers(0), [0, 0b00100, 0b01110]);
    }
}
