//! Which piece to fetch next: the rarest of a few drawn at random.
//!
//! Eight samples over sixteen neighbours do as well as a full rarest-first, and
//! the first pieces are drawn blindly so that beginners do not all want the same
//! [distribution 0.3, 2.2]. Never decides from whom.

use super::peers::Peers;
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

/// Candidates that are compared.
const SAMPLES: usize = 8;
/// Pieces that are drawn blindly (libtorrent's `initial_picker_threshold`).
const BLIND: u32 = 4;

/// A piece of `wanted` that some peer can give now; `done` counts pieces had.
pub fn pick(
    now: UnixMillis,
    wanted: &PieceSet,
    done: u32,
    peers: &Peers,
    rng: &mut Rng,
) -> Option<u32> {
    let offered: Vec<u32> = wanted.and(&peers.on_offer(now)).iter().collect();
    let samples = if done < BLIND { 1 } else { SAMPLES.min(offered.len()) };
    let draw = |_| offered.get(rng.below(offered.len() as u64) as usize).copied();
    (0..samples).filter_map(draw).min_by_key(|piece| peers.holders(*piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_pieces_come_first_and_only_wanted_ones() {
        let mut peers = Peers::default();
        peers.replace(&[(1, 0), (2, 0), (3, 0)]);
        peers.have(1, PieceSet::full(20));
        peers.have(2, PieceSet::full(19));
        peers.have(3, PieceSet::full(19));
        let (now, mut rng) = (UnixMillis(0), Rng::new(5));
        let wanted = PieceSet::full(20);
        let rare = (0..100).filter(|_| pick(now, &wanted, 9, &peers, &mut rng) == Some(19)).count();
        assert!(rare > 25, "{rare}");
        let wanted: PieceSet = [7].into_iter().collect();
        assert_eq!(pick(now, &wanted, 9, &peers, &mut rng), Some(7));
        assert_eq!(pick(now, &PieceSet::new(), 9, &peers, &mut rng), None);
    }
}
