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
/// A peer is slow when its pieces come at less than this part of the usual rate.
const SLOW_SHARE: f32 = 0.25;
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

/// The neighbours of one download.
#[derive(Debug, Default)]
pub struct Peers {
    list: Vec<Peer>,
}

impl Peers {
    /// Takes the whole new list; what is known of those that stay is kept. Those
    /// that left are returned. A ban outlives a short absence only at the tracker.
    pub fn replace(&mut self, neighbours: &[(PeerNo, u8)]) -> Vec<PeerNo> {
        let neighbours = &neighbours[..neighbours.len().min(PEERS_MAX)];
        let stays = |peer: &Peer| neighbours.iter().any(|(no, _)| *no == peer.no);
        let left = self.list.iter().filter(|peer| !stays(peer)).map(|peer| peer.no).collect();
        let known = |no| self.list.iter().find(|peer| peer.no == no).copied();
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
        left
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
        self.change(peer, |peer| peer.gone = false);
    }

    /// The peer has not got a piece that it said it had.
    pub fn missing(&mut self, now: Micros, peer: PeerNo) {
        self.change(peer, |peer| peer.not_before = now + micros(MISSING_WAIT));
    }

    /// A request was sent.
    pub(super) fn sent(&mut self, at: usize) {
        self.list[at].in_flight += 1;
    }

    /// A request ended, whatever its outcome.
    pub fn ended(&mut self, peer: PeerNo) {
        self.change(peer, |peer| peer.in_flight = peer.in_flight.saturating_sub(1));
    }

    /// A piece came whole and good.
    pub fn delivered(&mut self, peer: PeerNo, bytes: u32, took: Micros) {
        let rate = bytes as f32 / took.max(1) as f32;
        self.change(peer, |peer| {
            peer.rate = if peer.rate == 0.0 { rate } else { peer.rate * 0.7 + rate * 0.3 };
            peer.failures = 0;
        });
    }

    /// All its upload slots are taken; it wishes to be left for `retry`.
    pub fn busy(&mut self, now: Micros, peer: PeerNo, retry: Duration, rng: &mut Rng) {
        let wait = micros(retry.clamp(BUSY_WAIT.0, BUSY_WAIT.1));
        let until = now + wait + rng.below(wait / 2 + 1);
        self.change(peer, |peer| peer.not_before = until);
    }

    /// A transfer was cut off or too slow.
    pub fn failed(&mut self, now: Micros, peer: PeerNo) {
        self.change(peer, |peer| {
            peer.not_before = now + (micros(FAILED_WAIT) << peer.failures.min(5));
            peer.failures = peer.failures.saturating_add(1);
            peer.rate /= 2.0;
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

    /// When the next of those that wished to be left may be asked; `None`: nobody waits.
    #[must_use]
    pub fn next_free(&self, now: Micros) -> Option<Micros> {
        self.list.iter().map(|peer| peer.not_before).filter(|at| *at > now).min()
    }

    /// The positions of those that can be reached.
    pub(super) fn reachable(&self) -> impl Iterator<Item = usize> + '_ {
        let able = |(_, peer): &(usize, &Peer)| !peer.banned && !peer.gone;
        self.list.iter().enumerate().filter(able).map(|(at, _)| at)
    }

    pub(super) fn no(&self, at: usize) -> PeerNo {
        self.list[at].no
    }

    /// Those that may be asked now, as bits by position.
    pub(super) fn free(&self, now: Micros) -> u32 {
        let bit = |(at, peer): (usize, &Peer)| u32::from(peer.free(now)) << at;
        self.list.iter().enumerate().fold(0, |bits, at| bits | bit(at))
    }

    /// Those that may be asked now, as bits by position: near by and not slow, not slow,
    /// all. Four of five bytes can stay in the rack so, at no cost in time; a request to
    /// a slow peer takes a place in the window for as long as several others.
    pub(super) fn tiers(&self, now: Micros) -> [u32; 3] {
        let known = self.list.iter().filter(|peer| peer.rate > 0.0);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, n), peer| (sum + peer.rate, n + 1.0));
        let least = sum / f32::max(count, 1.0) * SLOW_SHARE;
        let mut tiers = [0; 3];
        for (at, peer) in self.list.iter().enumerate().filter(|(_, peer)| peer.free(now)) {
            let fast = peer.rate == 0.0 || peer.rate >= least;
            let in_tier = [fast && peer.distance == 0, fast, true];
            for (tier, is_in) in tiers.iter_mut().zip(in_tier) {
                *tier |= u32::from(is_in) << at;
            }
        }
        tiers
    }

    /// Whether a peer may be asked now and has any of `wanted`.
    pub(super) fn offers(
        &self,
        now: Micros,
        peer: PeerNo,
        wanted: &[u64],
        haves: &impl Haves,
    ) -> bool {
        let free = self.list.iter().any(|known| known.no == peer && known.free(now));
        free && wanted.iter().zip(haves.words(peer)).any(|(wanted, has)| wanted & has != 0)
    }

    /// Whom of `free` to ask for a piece, by position.
    pub(super) fn choose(
        &self,
        piece: u32,
        free: u32,
        haves: &impl Haves,
        rng: &mut Rng,
    ) -> Option<usize> {
        let (mut able, mut count) = ([0; PEERS_MAX], 0);
        for (at, peer) in self.list.iter().enumerate().filter(|(at, _)| free >> at & 1 == 1) {
            if has(haves.words(peer.no), piece) {
                able[count] = at;
                count += 1;
            }
        }
        if count == 0 {
            return None;
        }
        let mut draw = || able[rng.below(count as u64) as usize];
        let (first, second) = (draw(), draw());
        let better = self.list[second].cost() < self.list[first].cost();
        Some(if better { second } else { first })
    }

    fn change(&mut self, peer: PeerNo, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.list.iter_mut().find(|known| known.no == peer) {
            change(peer);
        }
    }
}

/// Whether a set of words has a piece.
#[must_use]
pub fn has(words: &[u64], piece: u32) -> bool {
    words.get((piece / 64) as usize).is_some_and(|word| word >> (piece % 64) & 1 == 1)
}

impl Peer {
    fn free(&self, now: Micros) -> bool {
        let able = !self.gone && !self.banned && self.not_before <= now;
        able && self.in_flight < IN_FLIGHT_MAX
    }

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
