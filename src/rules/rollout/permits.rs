//! Permits: how many hosts of a region are between two releases at once.
//!
//! A step says who is admitted in the end; with a bound it opens a few buckets at a time,
//! and more once the hosts that were let in are healthy. Nobody leases anything: what was
//! not opened cannot move, so a lost report or a dead coordinator makes it slower, never
//! wider. A way back knows no permits.
//!
//! A host that failed is the gates' business and takes no permit; nor does one that could
//! not be reached when it was let in, or a region of dead hosts could never be passed. One
//! that is lost on the way keeps its permit: it may come back in the midst of a switch.
//! When nobody but lost hosts was on the way for [`LOST_AFTER`], they are written off.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::fleet::Tally;
use crate::model::id::RegionName;
use crate::model::rollout::{RolloutKind, Unavailable};
use crate::model::time::UnixMillis;
use crate::rules::rollout::{Facts, Rollout};

/// Hosts that were lost on the way hold a region up no longer than this: as long as
/// Kubernetes lets a node be unreachable before it gives its pods up, and half of what a
/// step may go without progress.
pub const LOST_AFTER: Duration = Duration::from_secs(5 * 60);

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
    /// Hosts that could not be reached when they were let in, or were written off since,
    /// and still can't be.
    pub dark: u32,
    /// Hosts that were let in, had not failed and could not be reached at the last count.
    #[serde(default, skip_serializing_if = "crate::model::is_zero")]
    pub away: u32,
    /// Since when nobody is on the way but hosts that were lost there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_since: Option<UnixMillis>,
}

impl Opened {
    /// Hosts that were let in and are neither healthy nor failed nor dark, lost or not.
    fn on_the_way(&self, tally: &Tally) -> u32 {
        if self.below == 0 {
            return 0;
        }
        let done = tally.healthy + tally.failed + self.dark.min(away(tally));
        tally.admitted.saturating_sub(done)
    }

    /// The same under counts that know of all that was opened: who came back is not dark
    /// any more, and who is lost for too long is. Of a dark one and a lost one counts can't
    /// tell which came back: it was the dark one, for the other may still be in a switch.
    fn recounted(self, now: UnixMillis, tally: &Tally) -> Self {
        let back = self.away.saturating_sub(away(tally));
        let dark = self.dark.saturating_sub(back).min(away(tally));
        let own = Self { dark, away: away(tally), ..self };
        let moving = own.on_the_way(tally);
        if moving == 0 || moving > away(tally) - dark {
            return Self { stuck_since: None, ..own };
        }
        let since = own.stuck_since.unwrap_or(now);
        if now < since + LOST_AFTER {
            return Self { stuck_since: Some(since), ..own };
        }
        Self { dark: away(tally), stuck_since: None, ..own }
    }
}

/// Hosts that were let in, have not failed, and can't be reached.
fn away(tally: &Tally) -> u32 {
    tally.admitted_unreachable.saturating_sub(tally.failed_unreachable)
}

impl Permits {
    /// Nobody counts for a while: how long hosts are lost is counted anew afterwards.
    pub(super) fn rest(&mut self) {
        self.opened.values_mut().for_each(|opened| opened.stuck_since = None);
    }
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
    pub(super) fn grant(&mut self, now: UnixMillis, facts: &Facts) -> bool {
        let Some(most) = self.bound() else { return false };
        let (Some(version), Some(step)) = (self.version, self.step_now()) else { return false };
        let (mut any, mut counted) = (false, Vec::new());
        for (name, region) in facts.regions.iter().filter(|(name, _)| self.covers(name)) {
            let (before, target) = (self.opened(name), step.admits(name));
            let knows = region.speaks_of(version) && region.tally.version.step >= before.step;
            if region.hosts() == 0 || (before.below > 0 && !knows) {
                continue;
            }
            // Of a region that fell silent nobody knows for how long its hosts were lost.
            let mut opened = match region.silent {
                true => Opened { stuck_since: None, ..before },
                false => before.recounted(now, &region.tally),
            };
            let moving = opened.on_the_way(&region.tally);
            let room = most.of(region.reachable(version)).saturating_sub(moving);
            if let Some(buckets) = region.buckets.as_ref().filter(|_| opened.below < target) {
                let (below, dark) = open(buckets, (opened.below, target), room, moving);
                if below > opened.below {
                    let (step, dark) = (version.step + 1, opened.dark + dark);
                    let away = opened.away + dark - opened.dark;
                    opened = Opened { below, step, dark, away, stuck_since: None };
                    any = true;
                }
            }
            if opened != before {
                counted.push((name.clone(), opened));
            }
        }
        self.permits.opened.extend(counted);
        any
    }
}

/// The threshold that lets in at most `room` more hosts that can be reached, and how many
/// that can't come with them. Hosts of one bucket can't be parted: one that holds more
/// than there is room for is opened when nobody is `moving`, and not before.
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
    fn who_is_on_the_way_is_counted_once_and_who_is_back_is_not_dark() {
        let counted = |admitted, healthy, failed, failed_unreachable, admitted_unreachable| Tally {
            admitted,
            healthy,
            failed,
            failed_unreachable,
            admitted_unreachable,
            ..Tally::default()
        };
        let now = UnixMillis(1_000_000);
        for (dark, tally, wanted, what) in [
            (0, counted(3, 1, 0, 0, 0), (2, 0, false), "two move"),
            (0, counted(3, 1, 1, 1, 1), (1, 0, false), "one failed and died, one moves"),
            (1, counted(3, 1, 1, 1, 1), (1, 0, false), "the dark one is back and moves"),
            (1, counted(3, 1, 0, 0, 1), (1, 1, false), "one was dark, one moves"),
            (1, counted(3, 3, 0, 0, 0), (0, 0, false), "the dark one came back"),
            (0, counted(3, 1, 0, 0, 1), (2, 0, false), "one is lost, one moves"),
            (0, counted(3, 2, 0, 0, 1), (1, 0, true), "one is lost"),
            (1, counted(4, 2, 0, 0, 2), (1, 1, true), "one is lost and one was dark"),
            (0, counted(3, 1, 1, 1, 2), (1, 0, true), "one failed and died, one is lost"),
        ] {
            let before = Opened { below: 10_000, step: 1, dark, ..Opened::default() };
            let after = before.recounted(now, &tally);
            let stuck = after.stuck_since.is_some();
            assert_eq!((after.on_the_way(&tally), after.dark, stuck), wanted, "{what}");
            let later = after.recounted(now + LOST_AFTER, &tally);
            let left = if stuck { 0 } else { wanted.0 };
            assert_eq!(later.on_the_way(&tally), left, "{what}, for five minutes");
        }
    }

    #[test]
    fn of_a_dark_host_and_a_lost_one_the_dark_one_came_back() {
        let counted = |healthy, admitted_unreachable| Tally {
            admitted: 4,
            healthy,
            admitted_unreachable,
            ..Tally::default()
        };
        let now = UnixMillis(1_000_000);
        let opened = Opened { below: 10_000, step: 1, dark: 1, away: 1, stuck_since: None };
        let lost = opened.recounted(now, &counted(2, 2));
        assert_eq!((lost.dark, lost.on_the_way(&counted(2, 2))), (1, 1));
        let one_is_back = lost.recounted(now, &counted(3, 1));
        assert_eq!((one_is_back.dark, one_is_back.on_the_way(&counted(3, 1))), (0, 1));
        // If it was the other one, the region waits for no longer than for any that is lost.
        let later = one_is_back.recounted(now + LOST_AFTER, &counted(3, 1));
        assert_eq!((later.dark, later.on_the_way(&counted(3, 1))), (1, 0));
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
