//! Which releases a host may forget.
//!
//! Kept: what runs, the known-good ones before it, everything that the goal or a
//! local hold names, and the last one that failed (to be looked at).

use std::collections::BTreeSet;

use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::goal::{Goal, Target};
use crate::model::time::UnixMillis;

/// Known-good releases kept, the active one included: it and two before it, so that
/// two rollbacks in a row move no bytes [reliability-security I-11].
pub const GOOD_MAX: usize = 3;

/// What a host still needs.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// What `current` points to.
    pub running: Option<Target>,
    /// Releases that worked, newest first.
    pub good: &'a [Target],
    /// The goal.
    pub goal: Option<&'a Goal>,
    /// The release of a local hold.
    pub hold: Option<Target>,
    /// The last one that failed.
    pub failed: Option<Bits>,
}

/// Shares of the disk quota, percent: above the first something goes, until it is back
/// at the second, so that eviction stops early [distribution 6.6].
pub const WATERMARKS_PERCENT: (u64, u64) = (80, 70);

/// Something on disk that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Which.
    pub artifact: ArtifactId,
    /// What it takes on disk, bytes.
    pub bytes: u64,
    /// When it came, or was last worked on.
    pub since: UnixMillis,
}

/// Which of `idle` go, oldest first, when `taken` bytes of `quota` are or are about to be.
#[must_use]
pub fn evictable(quota: u64, taken: u64, idle: &[Idle]) -> Vec<ArtifactId> {
    let over = |taken: u64, percent: u64| taken / 100 > quota / 10_000 * percent;
    let (high, low) = WATERMARKS_PERCENT;
    if !over(taken, high) {
        return vec![];
    }
    let mut oldest = idle.to_vec();
    oldest.sort_by_key(|idle| (idle.since, idle.artifact));
    let (mut left, mut gone) = (taken, vec![]);
    for idle in oldest {
        if !over(left, low) {
            break;
        }
        left = left.saturating_sub(idle.bytes);
        gone.push(idle.artifact);
    }
    gone
}

/// The artifacts among `held` that nothing needs.
#[must_use]
pub fn prunable(held: &[ArtifactId], needs: &Needs<'_>) -> Vec<ArtifactId> {
    let kept: BTreeSet<ArtifactId> = needs.kept().map(|bits| bits.artifact).collect();
    held.iter().filter(|artifact| !kept.contains(artifact)).copied().collect()
}

/// The configurations among `held` that nothing needs.
#[must_use]
pub fn prunable_configs(held: &[ConfigId], needs: &Needs<'_>) -> Vec<ConfigId> {
    let kept: BTreeSet<ConfigId> = needs.kept().filter_map(|bits| bits.config).collect();
    held.iter().filter(|config| !kept.contains(config)).copied().collect()
}

impl Needs<'_> {
    fn kept(&self) -> impl Iterator<Item = Bits> + '_ {
        let targets = self.good.iter().take(GOOD_MAX).chain(&self.running).chain(&self.hold);
        let named = self.goal.into_iter().flat_map(Goal::named);
        targets.map(Target::bits).chain(self.failed).chain(named)
    }
}

/// The known-good list after `target` proved itself: it comes first. After a rollback
/// what was left behind is no way to go back to any more, so that going back twice
/// goes further back and never toggles.
#[must_use]
pub fn good_after(good: &[Target], target: Target, rollback: bool) -> Vec<Target> {
    let left = good.iter().position(|known| known.bits() == target.bits());
    let skipped = if rollback { left.unwrap_or(0) } else { 0 };
    let rest = good[skipped..].iter().filter(|known| known.bits() != target.bits());
    std::iter::once(target).chain(rest.copied()).take(GOOD_MAX).collect()
}

/// Where a rollback on the host itself goes: the newest known-good release that is
/// not `running`.
#[must_use]
pub fn previous(good: &[Target], running: Option<Target>) -> Option<Target> {
    let at = running.map(|running| running.bits());
    let after = good.iter().position(|known| Some(known.bits()) == at).map_or(0, |i| i + 1);
    good[after..].first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::model::id::ReleaseNo;

    fn target(n: u64) -> Target {
        Target { release: ReleaseNo(n), artifact: Digest::of(&n.to_be_bytes()), config: None }
    }

    #[test]
    fn what_runs_worked_failed_or_is_held_stays() {
        let held: Vec<ArtifactId> = (1..9).map(|n| target(n).artifact).collect();
        let good = [target(8), target(7), target(6)];
        let needs = Needs {
            running: Some(target(8)),
            good: &good,
            goal: None,
            hold: Some(target(2)),
            failed: Some(target(5).bits()),
        };
        let gone: Vec<ArtifactId> = [1, 3, 4].map(|n| target(n).artifact).to_vec();
        assert_eq!(prunable(&held, &needs), gone);
    }

    #[test]
    fn configs_stay_as_long_as_what_they_belong_to() {
        let id = |n: u8| Digest::of(&[n]);
        let with = |n: u8| Target { config: Some(id(n)), ..target(1) };
        let goal = Goal {
            next: with(1),
            base: Some(with(2)),
            tolerate_configured: vec![with(3).bits()],
            ..Goal::sample()
        };
        let needs = Needs {
            running: Some(with(4)),
            good: &[with(5)],
            goal: Some(&goal),
            hold: Some(with(6)),
            failed: Some(with(7).bits()),
        };
        let held: Vec<ConfigId> = (1..10).map(id).collect();
        assert_eq!(prunable_configs(&held, &needs), [id(8), id(9)]);
    }

    #[test]
    fn the_same_code_with_another_config_is_another_release() {
        let (old, new) = (target(1), Target { config: Some(Digest::of(b"c")), ..target(1) });
        let good = good_after(&[old], new, false);
        assert_eq!(good, [new, old]);
        assert_eq!(previous(&good, Some(new)), Some(old));
    }

    #[test]
    fn the_oldest_go_until_the_low_watermark() {
        const GIB: u64 = 1 << 30;
        let idle = |n: u64, since: i64| Idle {
            artifact: target(n).artifact,
            bytes: 4 * GIB,
            since: UnixMillis(since),
        };
        let all = [idle(1, 30), idle(2, 10), idle(3, 20)];
        let gone = |taken: u64| evictable(100 * GIB, taken * GIB, &all);
        assert!(gone(79).is_empty());
        // 81 to 77 to 73 to 69.
        assert_eq!(gone(81), [2, 3, 1].map(|n| target(n).artifact));
        assert_eq!(evictable(100 * GIB, 81 * GIB, &all[..1]), [target(1).artifact]);
        assert_eq!(evictable(100, u64::MAX, &all).len(), 3);
    }

    #[test]
    fn going_back_twice_goes_further_back() {
        let good = good_after(&[target(2), target(1)], target(3), false);
        assert_eq!(good, [target(3), target(2), target(1)]);
        assert_eq!(previous(&good, Some(target(3))), Some(target(2)));
        let good = good_after(&good, target(2), true);
        assert_eq!(good, [target(2), target(1)]);
        assert_eq!(previous(&good, Some(target(2))), Some(target(1)));
        assert_eq!(previous(&good_after(&good, target(1), true), Some(target(1))), None);
        // What runs never proved itself: the newest one that did.
        assert_eq!(previous(&good, Some(target(9))), Some(target(2)));
    }
}
