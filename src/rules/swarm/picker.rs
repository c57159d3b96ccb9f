//! Which piece to fetch next: the rarest of a dozen or two that are on offer.
//!
//! Looks at words of 64 pieces from a random place on, until enough pieces are
//! on offer there, and counts their holders in bit planes: no allocation, and a
//! few hundred instructions over 16 neighbours. As good as a full rarest-first, and
//! hosts with the same news do not all want the same piece [distribution 0.3].

use super::Haves;
use super::peers::{Bits, PEERS_MAX, Peers, positions};
use crate::model::pieces::PIECES_MAX;
use crate::model::rng::Rng;

/// Words of the largest set.
pub(super) const WORDS_MAX: usize = PIECES_MAX as usize / 64;
/// Bit planes of the holders' counts: up to 31 holders are told apart.
const PLANES: usize = 5;
/// Pieces on offer that are compared, at least, if there are so many.
const ENOUGH: u32 = 16;

/// The rarest of some of `wanted` that a peer in `free` can give; ties by lot.
pub(super) fn pick(
    wanted: &[u64],
    (peers, free): (&Peers, Bits),
    haves: &impl Haves,
    rng: &mut Rng,
) -> Option<u32> {
    let (mut sets, mut count): ([&[u64]; PEERS_MAX], usize) = ([&[]; PEERS_MAX], 0);
    let askable = free & peers.reachable();
    // Those that may be asked come first.
    for bits in [askable, peers.reachable() & !askable] {
        for at in positions(bits) {
            sets[count] = haves.words(peers.no(at));
            count += 1;
        }
    }
    let (asked, sets) = (&sets[..askable.count_ones() as usize], &sets[..count]);
    let start = rng.below(wanted.len() as u64) as usize;
    let (mut best, mut seen) = ((u32::MAX, 0, 0), 0);
    for w in (start..wanted.len()).chain(0..start) {
        if wanted[w] == 0 {
            continue;
        }
        let word = |set: &&[u64]| set.get(w).copied().unwrap_or(0);
        let offered = wanted[w] & asked.iter().fold(0, |all, set| all | word(set));
        if offered == 0 {
            continue;
        }
        let (holders, rarest) = rarest(offered, sets.iter().map(word));
        if holders < best.0 {
            best = (holders, w, rarest);
        }
        seen += offered.count_ones();
        if seen >= ENOUGH {
            break;
        }
    }
    let bit = draw(&[best.2], rng)?;
    Some(best.1 as u32 * 64 + bit)
}

/// Of the pieces in `offered`, those with the fewest holders, and how many that are.
fn rarest(offered: u64, sets: impl Iterator<Item = u64>) -> (u32, u64) {
    let mut planes = [0u64; PLANES];
    for have in sets {
        let mut carry = have & offered;
        for plane in &mut planes {
            let sum = *plane ^ carry;
            carry &= *plane;
            *plane = sum;
        }
    }
    let (mut kept, mut holders) = (offered, 0);
    for (at, plane) in planes.iter().enumerate().rev() {
        if kept & !plane == 0 {
            holders |= 1 << at;
        } else {
            kept &= !plane;
        }
    }
    (holders, kept)
}

/// One piece of the set by lot.
pub(super) fn draw(set: &[u64], rng: &mut Rng) -> Option<u32> {
    let count: u32 = set.iter().map(|word| word.count_ones()).sum();
    let mut nth = rng.below(u64::from(count)) as u32;
    for (at, word) in set.iter().enumerate() {
        let here = word.count_ones();
        if nth < here {
            let rest = (0..nth).fold(*word, |word, _| word & word.wrapping_sub(1));
            return Some(at as u32 * 64 + rest.trailing_zeros());
        }
        nth -= here;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pieces::PieceSet;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    struct Sets(Vec<PieceSet>);

    impl Haves for Sets {
        fn words(&self, peer: u32) -> &[u64] {
            self.0[peer as usize].words()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Against a naive count: a pick is wanted, some free peer has it, and with few
        /// pieces on offer it is the rarest of all.
        #[test]
        fn a_pick_is_wanted_on_offer_and_rare(
            seed: u64, pieces in 1u32..300, hosts in 1usize..20,
            fill in 1u64..100, free: u32,
        ) {
            let mut rng = Rng::new(seed);
            let mut some = |percent: u64| -> PieceSet {
                (0..pieces).filter(|_| rng.below(100) < percent).collect()
            };
            let wanted = some(60);
            let sets = Sets((0..hosts).map(|_| some(fill)).collect());
            let mut peers = Peers::default();
            let list: Vec<(u32, u8)> = (0..hosts as u32).map(|no| (no, 0)).collect();
            peers.replace(&list);
            let free = free & ((1 << hosts) - 1);
            let on_offer: Vec<u32> = wanted.iter().filter(|piece| {
                (0..hosts).any(|at| free >> at & 1 == 1 && sets.0[at].contains(*piece))
            }).collect();
            let holders = |piece| sets.0.iter().filter(|set| set.contains(piece)).count();
            let rarest = on_offer.iter().map(|piece| holders(*piece)).min();
            let mut words = vec![0; pieces.div_ceil(64) as usize];
            words[..wanted.words().len()].copy_from_slice(wanted.words());
            for _ in 0..5 {
                let picked = pick(&words, (&peers, free), &sets, &mut rng);
                prop_assert_eq!(picked.is_some(), !on_offer.is_empty());
                let Some(piece) = picked else { return Ok(()) };
                prop_assert!(on_offer.contains(&piece));
                if on_offer.len() < ENOUGH as usize {
                    prop_assert_eq!(Some(holders(piece)), rarest);
                }
            }
        }
    }

    #[test]
    fn every_member_is_drawn() {
        let set: PieceSet = [0, 63, 64, 200].into_iter().collect();
        let mut rng = Rng::new(4);
        let drawn: PieceSet = (0..200).filter_map(|_| draw(set.words(), &mut rng)).collect();
        assert_eq!(drawn, set);
        assert_eq!(draw(&[0, 0], &mut rng), None);
    }
}
