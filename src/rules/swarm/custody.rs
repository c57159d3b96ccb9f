//! Who reads the store when the tracker is gone: few hosts per piece, chosen by
//! a hash that each host computes for itself, without any list of hosts.
//!
//! A host is custodian of a piece when hash(artifact, host, piece) / 2^64 is under
//! 3 x level / members: three hosts per piece at first, twice as many after each
//! further minute without progress [distribution 6.3]. See docs/decisions.

use std::time::Duration;

use super::words::{Micros, micros};
use crate::model::rng::Rng;

/// Custodians of a piece at level 1, on average.
const HOSTS: u64 = 3;

/// What one host knows of the tracker's absence.
#[derive(Debug)]
pub(super) struct Custody {
    identity: u64,
    members: u64,
    lost: bool,
    /// 0: nobody is custodian.
    level: u64,
    /// Doubles at this time, unless a piece comes before.
    next: Micros,
    patience: Micros,
}

impl Custody {
    /// Without the tracker and without a piece for `patience` and up to a quarter more,
    /// custodians begin; for as long again, there are twice as many.
    pub(super) fn new(identity: u64, patience: Duration, rng: &mut Rng) -> Self {
        let patience = micros(patience);
        let patience = patience + rng.below(patience / 4 + 1);
        Self { identity, members: 1, lost: false, level: 0, next: Micros::MAX, patience }
    }

    /// The tracker answered.
    pub(super) fn heard(&mut self, members: u32) {
        self.members = u64::from(members.max(1));
        (self.lost, self.level, self.next) = (false, 0, Micros::MAX);
    }

    /// It did not.
    pub(super) fn lost(&mut self, now: Micros) {
        if !std::mem::replace(&mut self.lost, true) {
            self.next = now + self.patience;
        }
    }

    /// A piece came.
    pub(super) fn moved(&mut self, now: Micros) {
        if self.lost {
            self.next = now + self.patience;
        }
    }

    /// Time passed; whether this host may be custodian of anything.
    pub(super) fn tick(&mut self, now: Micros) -> bool {
        if now >= self.next {
            self.level = (self.level * 2).clamp(1, self.members);
            self.next = now + self.patience;
        }
        self.level > 0
    }

    pub(super) fn wake_at(&self) -> Micros {
        self.next
    }

    /// Whether this host may read `piece`.
    pub(super) fn covers(&self, piece: u32) -> bool {
        let mix = u64::from(piece).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let hash = Rng::new(self.identity ^ mix).next_u64();
        u128::from(hash) * u128::from(self.members) < u128::from(HOSTS * self.level) << 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::swarm::ALONE;

    fn custodians(members: u32, minutes: u64) -> Vec<usize> {
        let mut rng = Rng::new(9);
        let hosts: Vec<Custody> = (0..members)
            .map(|_| {
                let mut custody = Custody::new(rng.next_u64(), ALONE, &mut rng);
                custody.heard(members);
                custody.lost(0);
                for s in 0..minutes * 75 {
                    custody.tick(s * 1_000_000);
                }
                custody
            })
            .collect();
        (0..200).map(|piece| hosts.iter().filter(|host| host.covers(piece)).count()).collect()
    }

    #[test]
    fn three_per_piece_then_six_whatever_the_swarms_size() {
        for members in [100, 5000] {
            assert!(custodians(members, 0).iter().all(|count| *count == 0));
            let mean = |counts: Vec<usize>| counts.iter().sum::<usize>() as f64 / 200.0;
            let (first, second) = (custodians(members, 1), custodians(members, 2));
            assert!(first.iter().all(|count| *count < 14));
            let (first, second) = (mean(first), mean(second));
            assert!((2.4..3.6).contains(&first), "{first}");
            assert!((4.8..7.2).contains(&second), "{second}");
        }
        assert!(custodians(2, 1).iter().all(|count| *count == 2), "a tiny swarm: everybody");
    }

    #[test]
    fn a_piece_or_the_tracker_resets_the_wait() {
        let mut custody = Custody::new(1, ALONE, &mut Rng::new(1));
        custody.lost(0);
        custody.moved(50_000_000);
        assert!(!custody.tick(100_000_000));
        assert!(custody.tick(126_000_000));
        custody.heard(10);
        assert!(!custody.tick(900_000_000));
    }
}
