//! Who is whose neighbour: a symmetric, near-regular, connected graph.
//!
//! A joiner is woven in by opening edges (a-b becomes a-new-b), which keeps
//! everybody's degree and the graph's connectedness; a leaver's neighbours are
//! paired. 11 of 16 neighbours in the rack cut cross-rack bytes to a tenth,
//! 16 of 16 would split the graph [distribution 0.4]. Knows nothing of pieces.

use std::collections::{BTreeMap, BTreeSet};

use super::HostNo;
use crate::model::rng::Rng;

/// Neighbours wanted per host [distribution 0.4].
pub const DEGREE: usize = 16;
/// Most neighbours of one host.
pub const DEGREE_MAX: usize = 24;
/// Of [`DEGREE`]: same rack, same zone, farther [distribution 6.3].
const QUOTAS: [usize; 3] = [11, 3, 2];
/// Pools up to this size are walked whole, larger ones are sampled.
const WALK_MAX: usize = 64;
/// Graphs over this size are mended only each [`WALK_TICKS`] calls.
const WALK_OFTEN: usize = 5000;
/// See [`WALK_OFTEN`].
const WALK_TICKS: u32 = 10;

/// Where a host stands; 0 stands for "not known".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Its rack.
    pub rack: u32,
    /// Its zone.
    pub zone: u32,
}

impl Place {
    /// 0: same rack, 1: same zone, 2: farther or not known.
    #[must_use]
    pub fn distance(self, other: Self) -> u8 {
        if self.rack != 0 && self.rack == other.rack {
            0
        } else if self.zone != 0 && self.zone == other.zone {
            1
        } else {
            2
        }
    }
}

/// Hosts that can be drawn at random and taken out, both in O(log n).
#[derive(Debug, Default)]
struct Pool {
    hosts: Vec<HostNo>,
    at: BTreeMap<HostNo, usize>,
}

impl Pool {
    fn insert(&mut self, host: HostNo) {
        self.at.insert(host, self.hosts.len());
        self.hosts.push(host);
    }

    fn remove(&mut self, host: HostNo) {
        let Some(at) = self.at.remove(&host) else { return };
        self.hosts.swap_remove(at);
        if let Some(&moved) = self.hosts.get(at) {
            self.at.insert(moved, at);
        }
    }

    /// The whole pool in random order when it is small, else a sample.
    fn draw(&self, wanted: usize, rng: &mut Rng) -> Vec<HostNo> {
        if self.hosts.len() <= WALK_MAX {
            let mut drawn = self.hosts.clone();
            rng.shuffle(&mut drawn);
            return drawn;
        }
        let pick = |_| self.hosts[rng.below(self.hosts.len() as u64) as usize];
        (0..wanted * 4 + DEGREE).map(pick).collect()
    }
}

#[derive(Debug)]
struct Node {
    place: Place,
    edges: BTreeSet<HostNo>,
    version: u64,
}

/// The graph of one swarm.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<HostNo, Node>,
    racks: BTreeMap<u32, Pool>,
    zones: BTreeMap<u32, Pool>,
    all: Pool,
    torn: bool,
    unmended: u32,
}

impl Graph {
    /// Adds a host and gives it neighbours; a host that is there stays as it is.
    pub fn join(&mut self, host: HostNo, place: Place, rng: &mut Rng) {
        if self.nodes.contains_key(&host) {
            return;
        }
        self.nodes.insert(host, Node { place, edges: BTreeSet::new(), version: 1 });
        self.racks.entry(place.rack).or_default().insert(host);
        self.zones.entry(place.zone).or_default().insert(host);
        self.all.insert(host);
        for (distance, quota) in QUOTAS.into_iter().enumerate() {
            self.weave(host, Some(distance as u8), quota, rng);
        }
        // What the rack or the zone could not give comes from anywhere.
        let missing = DEGREE.saturating_sub(self.degree(host));
        self.weave(host, None, missing, rng);
    }

    /// Takes a host out and pairs its neighbours.
    pub fn leave(&mut self, host: HostNo, rng: &mut Rng) {
        let Some(node) = self.nodes.remove(&host) else { return };
        let drop_from = |pools: &mut BTreeMap<u32, Pool>, key: u32| {
            let Some(pool) = pools.get_mut(&key) else { return };
            pool.remove(host);
            if pool.hosts.is_empty() {
                pools.remove(&key);
            }
        };
        drop_from(&mut self.racks, node.place.rack);
        drop_from(&mut self.zones, node.place.zone);
        self.all.remove(host);
        let mut orphans: Vec<HostNo> = node.edges.into_iter().collect();
        for orphan in &orphans {
            self.change(*orphan, |edges| edges.remove(&host));
        }
        rng.shuffle(&mut orphans);
        for pair in orphans.chunks_exact(2) {
            self.link(pair[0], pair[1]);
        }
        self.torn = true;
    }

    /// Joins parts that came apart; cheap when nothing was taken out.
    pub fn mend(&mut self, rng: &mut Rng) {
        self.unmended += 1;
        // Walking a large graph takes a while: not in every tick of a crowd's arrival.
        if !self.torn || (self.nodes.len() > WALK_OFTEN && self.unmended < WALK_TICKS) {
            return;
        }
        (self.torn, self.unmended) = (false, 0);
        let parts = self.parts();
        for pair in parts.windows(2) {
            self.link(pair[0], pair[1]);
        }
        let low = DEGREE.min(self.nodes.len().saturating_sub(1)) / 2;
        let poor: Vec<HostNo> =
            self.nodes.iter().filter(|(_, n)| n.edges.len() < low).map(|(host, _)| *host).collect();
        for host in poor {
            let missing = DEGREE.saturating_sub(self.degree(host));
            self.weave(host, None, missing, rng);
        }
    }

    /// One host of each connected part.
    #[must_use]
    pub fn parts(&self) -> Vec<HostNo> {
        let mut seen = BTreeSet::new();
        let mut parts = vec![];
        for &start in self.nodes.keys() {
            if !seen.insert(start) {
                continue;
            }
            parts.push(start);
            let mut open = vec![start];
            while let Some(host) = open.pop() {
                let edges = self.nodes.get(&host).map(|node| &node.edges);
                open.extend(edges.into_iter().flatten().filter(|next| seen.insert(**next)));
            }
        }
        parts
    }

    /// A host's neighbours with their distance, and the number of that version.
    #[must_use]
    pub fn neighbours(&self, host: HostNo) -> (u64, Vec<(HostNo, u8)>) {
        let Some(node) = self.nodes.get(&host) else { return (0, vec![]) };
        let far =
            |other: &HostNo| self.nodes.get(other).map_or(2, |o| node.place.distance(o.place));
        (node.version, node.edges.iter().map(|other| (*other, far(other))).collect())
    }

    /// The version of a host's neighbours.
    #[must_use]
    pub fn version(&self, host: HostNo) -> u64 {
        self.nodes.get(&host).map_or(0, |node| node.version)
    }

    /// Whether two hosts are neighbours.
    #[must_use]
    pub fn linked(&self, a: HostNo, b: HostNo) -> bool {
        self.nodes.get(&a).is_some_and(|node| node.edges.contains(&b))
    }

    /// How many neighbours a host has.
    #[must_use]
    fn degree(&self, host: HostNo) -> usize {
        self.nodes.get(&host).map_or(0, |node| node.edges.len())
    }

    /// Some hosts at random, for one that may fetch but must not serve.
    #[must_use]
    pub fn sample(&self, rng: &mut Rng) -> Vec<(HostNo, u8)> {
        let mut drawn = self.all.draw(DEGREE, rng);
        drawn.dedup();
        drawn.truncate(DEGREE);
        drawn.into_iter().map(|host| (host, 2)).collect()
    }

    /// Gives `host` up to `wanted` neighbours at `distance` (`None`: any).
    fn weave(&mut self, host: HostNo, distance: Option<u8>, wanted: usize, rng: &mut Rng) {
        let place = self.nodes.get(&host).map_or(Place::default(), |node| node.place);
        let pool = match distance {
            Some(0) => self.racks.get(&place.rack).filter(|_| place.rack != 0),
            Some(1) => self.zones.get(&place.zone).filter(|_| place.zone != 0),
            _ => Some(&self.all),
        };
        let Some(pool) = pool.filter(|_| wanted > 0) else { return };
        let goal = self.degree(host) + wanted;
        let mut kept: Option<(HostNo, HostNo)> = None;
        for candidate in pool.draw(wanted, rng) {
            let left = goal.saturating_sub(self.degree(host));
            if left == 0 {
                return;
            }
            if !self.suits(host, candidate, distance) {
                continue;
            }
            match self.far_edge(candidate).filter(|_| distance == Some(0) && left >= 2) {
                Some(far) => kept = self.draw_near(host, kept, (candidate, far)),
                None => self.attach(host, candidate, distance, left),
            }
        }
    }

    /// An edge out of its rack that a full host can spare.
    fn far_edge(&self, host: HostNo) -> Option<HostNo> {
        let node = self.nodes.get(&host).filter(|node| node.edges.len() >= DEGREE)?;
        let far = |other: &&HostNo| {
            self.nodes.get(other).is_some_and(|o| node.place.distance(o.place) > 0)
        };
        let spare = node.edges.iter().filter(far).count() > QUOTAS[1] + QUOTAS[2];
        node.edges.iter().find(far).copied().filter(|_| spare)
    }

    /// Two full hosts of the rack give up a far edge each for `host`; the two far
    /// ends are linked instead. Early joiners come near their rack so. One alone
    /// is kept until a second is found.
    fn draw_near(
        &mut self,
        host: HostNo,
        kept: Option<(HostNo, HostNo)>,
        (near, far): (HostNo, HostNo),
    ) -> Option<(HostNo, HostNo)> {
        let Some((kept_near, kept_far)) = kept.filter(|kept| self.linked(kept.0, kept.1)) else {
            return Some((near, far));
        };
        if kept_near == near || kept_far == far || self.linked(kept_far, far) {
            return kept;
        }
        for (a, b) in [(near, far), (kept_near, kept_far)] {
            self.change(a, |edges| edges.remove(&b));
            self.change(b, |edges| edges.remove(&a));
            self.link(host, a);
        }
        self.link(kept_far, far);
        self.torn = true;
        None
    }

    fn suits(&self, host: HostNo, other: HostNo, distance: Option<u8>) -> bool {
        let (Some(a), Some(b)) = (self.nodes.get(&host), self.nodes.get(&other)) else {
            return false;
        };
        let right = distance.is_none_or(|distance| a.place.distance(b.place) == distance);
        host != other && !a.edges.contains(&other) && right
    }

    /// An edge to `candidate`: a new one while it has room, else an edge of its
    /// own is opened and `host` put in between.
    fn attach(&mut self, host: HostNo, candidate: HostNo, distance: Option<u8>, left: usize) {
        if self.degree(candidate) < DEGREE {
            return self.link(host, candidate);
        }
        let between = |node: &Node| {
            node.edges.iter().copied().find(|other| self.suits(host, *other, distance))
        };
        match self.nodes.get(&candidate).and_then(between).filter(|_| left >= 2) {
            Some(other) => {
                self.change(candidate, |edges| edges.remove(&other));
                self.change(other, |edges| edges.remove(&candidate));
                self.link(host, candidate);
                self.link(host, other);
            }
            None if self.degree(candidate) < DEGREE_MAX => self.link(host, candidate),
            None => {}
        }
    }

    fn link(&mut self, a: HostNo, b: HostNo) {
        if a != b {
            self.change(a, |edges| edges.insert(b));
            self.change(b, |edges| edges.insert(a));
        }
    }

    fn change(&mut self, host: HostNo, change: impl FnOnce(&mut BTreeSet<HostNo>) -> bool) {
        if let Some(node) = self.nodes.get_mut(&host) {
            node.version += u64::from(change(&mut node.edges));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: HostNo, racks: u32) -> Place {
        Place { rack: 1 + host % racks, zone: 1 + host % racks % 3 }
    }

    #[test]
    fn small_swarms_know_everybody() {
        let (mut graph, mut rng) = (Graph::default(), Rng::new(1));
        (0..17).for_each(|host| graph.join(host, Place::default(), &mut rng));
        assert!((0..17).all(|host| graph.degree(host) == 16));
    }

    #[test]
    fn large_swarms_are_near_regular_local_and_connected() {
        let (mut graph, mut rng) = (Graph::default(), Rng::new(2));
        (0..2000).for_each(|host| graph.join(host, place(host, 50), &mut rng));
        graph.mend(&mut rng);
        assert_eq!(graph.parts().len(), 1);
        let (mut near, mut far, mut edges) = (0, 0, 0);
        for host in 0..2000 {
            let (_, neighbours) = graph.neighbours(host);
            assert!((8..=DEGREE_MAX).contains(&neighbours.len()), "{}", neighbours.len());
            assert!(neighbours.iter().all(|(other, _)| graph.linked(*other, host)));
            edges += neighbours.len();
            near += neighbours.iter().filter(|(_, distance)| *distance == 0).count();
            far += usize::from(neighbours.iter().filter(|(_, d)| *d > 0).count() < 2);
        }
        assert!(near * 100 / edges >= 60, "{near} of {edges} in the rack");
        assert!(far <= 20, "{far} hosts have fewer than two neighbours outside the rack");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn it_stays_connected_symmetric_and_bounded(
            seed: u64, racks in 1u32..20, steps in proptest::collection::vec((0u32..200, proptest::bool::weighted(0.7)), 1..400)
        ) {
            let (mut graph, mut rng) = (Graph::default(), Rng::new(seed));
            let mut there = BTreeSet::new();
            for (host, comes) in steps {
                if comes {
                    graph.join(host, place(host, racks), &mut rng);
                    there.insert(host);
                } else {
                    graph.leave(host, &mut rng);
                    there.remove(&host);
                }
            }
            graph.mend(&mut rng);
            proptest::prop_assert!(graph.parts().len() <= 1);
            for host in there {
                proptest::prop_assert!(graph.degree(host) <= DEGREE_MAX + 2);
            }
        }
    }
}
