//! The way back: a revert of a deploy, and the settling of a rollback.
//!
//! One step, no gate, no bake, flat out; bounded; never reverts again.

use std::collections::BTreeSet;

use crate::model::fleet::FailureClass;
use crate::model::goal::GoalVersion;
use crate::model::id::RegionName;
use crate::model::rollout::{RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::gate::why;
use crate::rules::rollout::{Action, Facts, REVERT_CAP, RegionFacts, Rollout, THIN_GRACE, words};

/// Hosts that must be back, of 100 reachable ones [orchestration 6.2].
const SETTLED_PERCENT: u32 = 99;

/// How far the way back is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Hosts that can be reached.
    pub reachable: u32,
    /// Of those, where they should be and healthy.
    pub settled: u32,
    /// Hosts that a person keeps where they are.
    pub pinned: u32,
    /// Whether every region that can be reached settled.
    pub done: bool,
    /// Why it will not settle, when every host has said so.
    pub stuck: Option<String>,
    /// Hosts that it let in, where it named them: nobody else has to come back.
    pub named: Option<u32>,
}

impl Way {
    /// "7 of 8 hosts are back; 1 held or pinned host stays where it is".
    #[must_use]
    pub fn count(&self) -> String {
        let all = self.named.map_or(self.reachable, |named| named.min(self.reachable));
        // Who is not where it should be is one of those that were let in.
        let back = all.saturating_sub(self.reachable.saturating_sub(self.settled));
        let hosts = if all == 1 { "host is" } else { "hosts are" };
        format!("{back} of {all} {hosts} back{}", words::kept(self.pinned))
    }
}

impl Rollout {
    /// Whether anything ran before where it was tried.
    #[must_use]
    pub fn can_revert(&self) -> bool {
        let had_base = |region: &RegionName| self.stable.of(region).is_some();
        self.kind == RolloutKind::Deploy
            && !self.went_back
            && (self.exposed().iter().any(had_base) || self.stable.base.is_some())
    }

    /// Regions where hosts may run it.
    #[must_use]
    pub fn exposed(&self) -> Vec<RegionName> {
        let Some(step) = self.step_now() else { return vec![] };
        let open = step.admit.iter().filter(|(_, buckets)| **buckets > 0);
        let drawn = open.filter_map(|(name, _)| name.parse().ok());
        let named = self.canary.iter().flat_map(|canary| canary.hosts.keys().cloned());
        let both: BTreeSet<RegionName> = drawn.chain(named).collect();
        both.into_iter().collect()
    }

    /// Goes back, as a new generation; ends as `then`.
    pub(crate) fn revert(
        &mut self,
        now: UnixMillis,
        fresh: GoalVersion,
        then: RolloutState,
        why: &str,
    ) -> Vec<Action> {
        self.state = RolloutState::Reverting;
        self.stage = Stage::Converging;
        self.went_back = true;
        self.after_revert = then;
        self.version = Some(fresh);
        self.reason = why.to_owned();
        (self.began_at, self.progress_at, self.progress) = (now, now, 0);
        self.due_at = Some(now + REVERT_CAP);
        vec![Action::Publish, self.tell("rollout.reverting", why.to_owned())]
    }

    /// Looks whether hosts are where they go flat out: a revert or a rollback.
    pub(crate) fn settle(&mut self, now: UnixMillis, facts: &Facts) -> Vec<Action> {
        let way = self.way(facts);
        if u64::from(way.settled) > self.progress {
            (self.progress, self.progress_at) = (u64::from(way.settled), now);
        }
        if way.done {
            return self.settled(facts, &way);
        }
        // Hosts that all failed will not get any further; give late reports a while.
        let count = way.count();
        let hopeless = way.stuck.filter(|_| now >= self.progress_at + THIN_GRACE);
        if !self.is_due(now) && hopeless.is_none() {
            return vec![];
        }
        let cause = hopeless.unwrap_or_else(|| "out of time".into());
        let because = if self.went_back { format!("{}; ", self.reason) } else { String::new() };
        self.finish(RolloutState::Failed, format!("{because}{count}; {cause}"))
    }

    fn settled(&mut self, facts: &Facts, way: &Way) -> Vec<Action> {
        if self.kind == RolloutKind::Rollback {
            return self.succeed(facts);
        }
        let back = words::went_back_to(self);
        let reason = format!("{}; {back}{}", self.reason, words::kept(way.pinned));
        self.finish(self.after_revert, reason)
    }

    /// How far the way back is, over the regions that it concerns.
    #[must_use]
    pub fn way(&self, facts: &Facts) -> Way {
        let exposed = self.exposed();
        let concerned = |name: &RegionName| {
            self.covers(name) && (self.kind == RolloutKind::Rollback || exposed.contains(name))
        };
        let canary = self.canary.as_ref().filter(|_| self.is_at_canary());
        let named = canary.map(|canary| canary.hosts.values().map(BTreeSet::len).sum::<usize>());
        let named = named.and_then(|named| u32::try_from(named).ok());
        let mut way = Way { done: true, named, ..Way::default() };
        let (mut dark, mut asked) = (0, 0);
        for (_, region) in facts.regions.iter().filter(|(name, _)| concerned(name)) {
            if region.hosts() == 0 {
                continue;
            }
            asked += 1;
            if !self.settle_region(region, &mut way) {
                dark += 1;
            }
        }
        // Nobody to ask is no proof, unless there is nobody at all.
        way.done &= asked == 0 || dark < asked;
        way
    }

    /// Adds one region to `way`; `false` when no host there can be reached.
    fn settle_region(&self, region: &RegionFacts, way: &mut Way) -> bool {
        let Some(version) = self.version else { return false };
        let reachable = region.reachable(version);
        if reachable == 0 {
            return false;
        }
        let tally = &region.tally;
        // Whom a person keeps where it is, no way back waits for.
        let pinned = if region.speaks_of(version) { tally.pinned.min(reachable) } else { 0 };
        let reachable = reachable - pinned;
        way.pinned += pinned;
        way.reachable += reachable;
        if !region.speaks_of(version) || tally.version.step < version.step {
            way.done = false;
            return true;
        }
        way.settled += tally.settled.min(reachable);
        if tally.settled < (reachable * SETTLED_PERCENT).div_ceil(100) {
            way.done = false;
            let faults = tally.faults();
            if tally.settled + faults >= reachable && faults > 0 {
                let class =
                    if tally.failed > 0 { FailureClass::Release } else { FailureClass::Host };
                way.stuck = Some(why(tally, class, faults));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_hosts_that_were_named_only_those_have_to_come_back() {
        let way = |reachable, settled, named| Way { reachable, settled, named, ..Way::default() };
        for (way, said) in [
            (way(8, 7, None), "7 of 8 hosts are back"),
            (way(1, 0, None), "0 of 1 host is back"),
            (way(4, 3, Some(1)), "0 of 1 host is back"),
            (way(4, 4, Some(1)), "1 of 1 host is back"),
            // Regions that have not taken the goal yet have settled nobody.
            (way(40, 0, Some(3)), "0 of 3 hosts are back"),
            (way(1, 1, Some(2)), "1 of 1 host is back"),
        ] {
            assert_eq!(way.count(), said);
        }
    }
}
