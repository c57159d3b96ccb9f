//! From whom a region pulls an artifact: the tree of regions.
//!
//! The first [`ROOTS`] regions of an artifact's own order read the main store; every
//! other one reads from a region before it in that order, so the main store is read
//! [`ROOTS`] times, however many regions there are, and nobody waits in a circle.
//! The order is a rendezvous hash: every region comes to the same one alone, and
//! another artifact has other roots, so the load spreads. Knows nothing of who is
//! alive: a region asks its parents one after the other, and the main store last.

use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::rules::rendezvous::weight;

/// Regions that read an artifact from the main store: with up to so many, there is no tree.
pub const ROOTS: usize = 3;
/// Regions that read an artifact from one region in the first place.
pub const CHILDREN: usize = 3;

/// A region, and whether others can read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub region: RegionName,
    /// Whether it has an address for other regions.
    pub serves: bool,
}

/// Whom `own` asks for `artifact`, best first, before the main store; none: it is a
/// root, or `sites` do not name it.
#[must_use]
pub fn parents(artifact: &ArtifactId, own: &RegionName, sites: &[Site]) -> Vec<RegionName> {
    let mut order: Vec<&Site> = sites.iter().collect();
    // Whoever serves nobody is a leaf.
    order.sort_by_cached_key(|site| (!site.serves, weight(&artifact.0, site.region.as_str())));
    let servers = order.iter().filter(|site| site.serves).count();
    let Some(position) = order.iter().position(|site| site.region == *own) else { return vec![] };
    let mut asked = Vec::new();
    let mut at = position;
    while let Some(parent) = parent(at, servers) {
        asked.push(parent);
        at = parent;
    }
    // Then the other roots, each child beginning with another one.
    let roots = ROOTS.min(servers);
    if position >= ROOTS {
        asked.extend((0..roots).map(|turn| (position + turn) % roots));
    }
    let mut seen = vec![false; order.len()];
    asked.retain(|place| !std::mem::replace(&mut seen[*place], true));
    asked.into_iter().map(|place| order[place].region.clone()).collect()
}

/// Who is before `position` in the tree; `None`: the main store.
fn parent(position: usize, servers: usize) -> Option<usize> {
    (position >= ROOTS && servers > 0).then(|| (position / CHILDREN - 1) % servers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::digest::Digest;

    fn sites(serving: &[bool]) -> Vec<Site> {
        let named = |(n, serves): (usize, &bool)| Site {
            region: format!("r{n}").parse().unwrap(),
            serves: *serves,
        };
        serving.iter().enumerate().map(named).collect()
    }

    fn artifact(seed: u64) -> ArtifactId {
        Digest::of(&seed.to_le_bytes())
    }

    /// Steps from `region` to the main store by first parents.
    fn depth(region: &RegionName, tree: &BTreeMap<RegionName, Vec<RegionName>>) -> usize {
        match tree[region].first() {
            Some(parent) => 1 + depth(parent, tree),
            None => 0,
        }
    }

    proptest! {
        #[test]
        fn every_region_reaches_the_main_store_in_few_steps_and_it_is_read_by_three(
            seed: u64, serving in prop::collection::vec(any::<bool>(), 1..64), shift in 0usize..64,
        ) {
            let mut sites = sites(&serving);
            let tree: BTreeMap<RegionName, Vec<RegionName>> = sites
                .iter()
                .map(|site| (site.region.clone(), parents(&artifact(seed), &site.region, &sites)))
                .collect();
            let servers: Vec<_> = sites.iter().filter(|site| site.serves).collect();
            let roots = tree.values().filter(|parents| parents.is_empty()).count();
            let all = sites.len();
            prop_assert_eq!(roots, if servers.is_empty() { all } else { ROOTS.min(all) });
            let mut children = BTreeMap::<&RegionName, usize>::new();
            for (region, parents) in &tree {
                // Whoever is named as a way out is nearer to the main store: no circle,
                // also when everybody falls back.
                for parent in parents {
                    prop_assert!(parent != region);
                    prop_assert!(!tree[parent].contains(region));
                    prop_assert!(servers.iter().any(|site| site.region == *parent));
                }
                if let Some(first) = parents.first() {
                    *children.entry(first).or_default() += 1;
                }
            }
            if servers.len() == all {
                let bound = (all as f64).log(CHILDREN as f64).ceil() as usize;
                for region in tree.keys() {
                    prop_assert!(depth(region, &tree) <= bound);
                }
                prop_assert!(children.values().all(|count| *count <= CHILDREN));
            }
            // The order of the list does not matter.
            sites.rotate_left(shift % all);
            for (region, known) in &tree {
                prop_assert_eq!(&parents(&artifact(seed), region, &sites), known);
            }
        }
    }

    #[test]
    fn roots_spread_over_the_regions() {
        let sites = sites(&[true; 10]);
        let mut times = [0; 10];
        for seed in 0..1000 {
            for (n, site) in sites.iter().enumerate() {
                times[n] += usize::from(parents(&artifact(seed), &site.region, &sites).is_empty());
            }
        }
        assert_eq!(times.iter().sum::<usize>(), 3000);
        assert!(times.iter().all(|times| (200..400).contains(times)), "{times:?}");
    }

    #[test]
    fn who_is_not_in_the_list_reads_the_main_store() {
        let stranger = "elsewhere".parse().unwrap();
        assert!(parents(&artifact(1), &stranger, &sites(&[true; 8])).is_empty());
    }
}
