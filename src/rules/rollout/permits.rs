//! Permits: how many hosts of a region are between two releases at once.
//!
//! A step says who is admitted in the end; with a bound it opens a few buckets at a time,
//! and more once the hosts that were let in are healthy. Nobody leases anything: what was
//! not opened cannot move, so a lost report or a dead coordinator makes it slower, never
//! wider. A way back knows no permits.
//!
//! A host that failed is the gates' business and takes no permit; nor does one that could
//! not be reached when it was let in, or a region of dead hosts could never be passed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::id::RegionName;
use crate::model::rollout::{RolloutKind, Unavailable};
use crate::rules::rollout::{Facts, RegionFacts, Rollout};

/// The bound, and what was opened under it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permits {
    /// How many hosts of a region may be between releases at once; `None`: no bound.
    pub most: Option<Unavailable>,
    /// By region.
    pub opened: BTreeMap<RegionName, Opened>,
}

/// What a region was let do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Buckets below this are admitted.
    pub below: u32,
    /// The document's step that says so: counts of older ones do not know of it.
    pub step: u32,
    /// Hosts that could not be reached when they were let in.
    pub dark: u32,
}

impl Rollout {
    /// The bound that holds now; none on any way back.
    fn bound(&self) -> Option<Unavailable> {
        self.permits.most.filter(|_| self.kind == RolloutKind::Deploy && !self.went_back)
    }

    /// Buckets that the document admits by region, when permits bound it.
    pub(super) fn permitted(&self) -> Option<BTreeMap<String, u32>> {
        self.bound()?;
        let opened = self.permits.opened.iter();
        let mut admit: BTreeMap<String, u32> =
            opened.map(|(region, opened)| (region.as_str().to_owned(), opened.below)).collect();
        // A region that nobody has heard of yet has no hosts that could be counted.
        admit.insert("*".to_owned(), 0);
        Some(admit)
    }

    /// Whether all that the step admits was opened.
    #[must_use]
    pub fn is_wide_open(&self, facts: &Facts) -> bool {
        let Some(step) = self.step_now().filter(|_| self.bound().is_some()) else { return true };
        let mut covered = facts.regions.iter().filter(|(name, _)| self.covers(name));
        covered.all(|(name, region)| {
            region.hosts() == 0 || self.opened(name).below >= step.admits(name)
        })
    }

    fn opened(&self, region: &RegionName) -> Opened {
        self.permits.opened.get(region).copied().unwrap_or_default()
    }

    /// Opens what the bound leaves room for; whether there was any.
    pub(super) fn grant(&mut self, facts: &Facts) -> bool {
        let Some(most) = self.bound() else { return false };
        let (Some(version), Some(step)) = (self.version, self.step_now()) else { return false };
        let mut grants = Vec::new();
        for (name, region) in facts.regions.iter().filter(|(name, _)| self.covers(name)) {
            let (opened, target) = (self.opened(name), step.admits(name));
            let Some(buckets) = &region.buckets else { continue };
            let knows = region.speaks_of(version) && region.tally.version.step >= opened.step;
            if opened.below >= target || region.hosts() == 0 || (opened.below > 0 && !knows) {
                continue;
            }
            let (most, moving) = (most.of(region.reachable(version)), on_the_way(region, opened));
            let (range, alive) =
                ((opened.below, target), moving - lost(region, opened).min(moving));
            let (below, dark) = open(buckets, range, most.saturating_sub(moving), alive);
            if below > opened.below {
                let dark = opened.dark + dark;
                grants.push((name.clone(), Opened { below, step: version.step + 1, dark }));
            }
        }
        let any = !grants.is_empty();
        self.permits.opened.extend(grants);
        any
    }
}

/// Hosts that were let in and are neither healthy nor failed.
fn on_the_way(region: &RegionFacts, opened: Opened) -> u32 {
    if opened.below == 0 {
        return 0;
    }
    let tally = &region.tally;
    let done = tally.healthy + tally.failed + opened.dark.min(tally.admitted_unreachable);
    tally.admitted.saturating_sub(done)
}

/// Those of them that can't be reached any more: nobody waits for them with a bucket that
/// can't be parted, or one dead machine would stop a region.
fn lost(region: &RegionFacts, opened: Opened) -> u32 {
    region.tally.admitted_unreachable.saturating_sub(opened.dark)
}

/// The threshold that lets in at most `room` more hosts that can be reached, and how many
/// that can't come with them. Hosts of one bucket can't be parted: one bucket is opened
/// when nobody is `moving`, however many it holds, and not before.
fn open(buckets: &[(u32, bool)], (from, target): (u32, u32), room: u32, moving: u32) -> (u32, u32) {
    if room == 0 {
        return (from, 0);
    }
    let mut waiting = buckets.iter().filter(|(bucket, _)| (from..target).contains(bucket));
    let mut let_in = 0;
    let over = waiting.find(|(_, reachable)| {
        let_in += u32::from(*reachable);
        let_in > room
    });
    let alone = |_: &&(u32, bool)| moving == 0;
    let first = buckets.iter().find(|(b, reachable)| *reachable && *b >= from).filter(alone);
    let below = match (over, first) {
        (None, _) => target,
        (Some((over, _)), Some((first, _))) => (*over).max(first + 1).min(target),
        (Some((over, _)), None) => *over,
    };
    let dark = buckets.iter().filter(|(b, reachable)| (from..below).contains(b) && !reachable);
    (below, u32::try_from(dark.count()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_lets_in_no_more_than_there_is_room_for() {
        let buckets = [(3, true), (5, false), (7, true), (7, true), (9, true)];
        for (from, target, room, wanted) in [
            (0, 10, 0, (0, 0)),
            (0, 10, 1, (7, 1)),
            (0, 10, 2, (7, 1)),
            (0, 10, 3, (9, 1)),
            (0, 10, 4, (10, 1)),
            (0, 4, 1, (4, 0)),
            // Twins can't be parted.
            (7, 10, 1, (8, 0)),
            (8, 10, 1, (10, 0)),
            (10, 10, 5, (10, 0)),
        ] {
            let opened = open(&buckets, (from, target), room, 0);
            assert_eq!(opened, wanted, "{from} {target} {room}");
        }
        assert_eq!(open(&buckets, (5, 10), 1, 1), (7, 1), "twins wait for who is on the way");
        assert_eq!(open(&[(5, false)], (0, 10), 1, 0), (10, 1), "a dark region is passed");
        assert_eq!(open(&[], (0, 10), 1, 0), (10, 0));
    }

    #[test]
    fn bounds_are_hosts_or_percent_and_never_nothing() {
        for (text, of_40) in [("1", 1), ("10%", 4), ("1%", 1), ("100%", 40), ("1000000", 1_000_000)]
        {
            let most: Unavailable = text.parse().unwrap();
            assert_eq!((most.of(40), most.to_string().as_str()), (of_40, text));
        }
        for bad in ["", "0", "0%", "101%", "-1", "+1", "1.5", "%", "1000001", "ten"] {
            assert!(bad.parse::<Unavailable>().is_err(), "{bad}");
        }
    }
}
