//! A step whose hosts converged: how long it is watched, and what ends that.

use std::time::Duration;

use crate::model::rollout::{RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::{Action, DOUBT_PERIOD, DOUBTS_MAX, Facts, Rollout, THIN_GRACE};

impl Rollout {
    /// Whether programs judge its bakes, so that there is one even of no length.
    fn is_asked(&self) -> bool {
        !self.gates.is_empty() && !self.hurried
    }

    pub(super) fn converged(&mut self, now: UnixMillis, facts: &Facts) -> Vec<Action> {
        match self.stage {
            Stage::Baking if !self.has_baked(now) && !self.hurried => vec![],
            Stage::Converging if self.bake_s_now() > 0 || self.is_asked() => {
                let bake = Duration::from_secs(u64::from(self.bake_s_now()));
                (self.stage, self.due_at, self.doubts) = (Stage::Baking, Some(now + bake), 0);
                self.bakes_since = Some(now);
                self.promise_comparison(&self.compare(now, &facts.regions));
                let name = self.step_name();
                vec![self.tell("rollout.baking", format!("{name} converged; bakes {bake:?}"))]
            }
            _ => self.next_step(now, facts),
        }
    }

    /// Whether the bake's own time is over: it goes on as soon as nothing is in doubt.
    #[must_use]
    pub fn has_baked(&self, now: UnixMillis) -> bool {
        let bakes = self.state == RolloutState::Running && self.stage == Stage::Baking;
        bakes && (self.doubts > 0 || self.is_due(now))
    }

    /// Converged, and a gate has not said that it is as it should be: it is waited for as
    /// long as a bake is prolonged at most, and no longer than until it says so.
    pub(super) fn undecided(&mut self, now: UnixMillis, facts: &Facts, why: String) -> Vec<Action> {
        if self.stage != Stage::Baking || self.hurried {
            return self.converged(now, facts);
        }
        if !self.is_due(now) || self.prolong(now) {
            return vec![];
        }
        self.pause(why)
    }

    /// Not converged, and nothing is wrong enough to act at once.
    pub(super) fn wait(&mut self, now: UnixMillis, facts: &Facts, failed: bool) -> Vec<Action> {
        if !self.is_due(now) || (self.stage == Stage::Baking && self.prolong(now)) {
            return vec![];
        }
        match (self.stage, failed) {
            (Stage::Baking, _) => {
                self.pause("hosts that were healthy are not any more, without a failure".into())
            }
            (_, true) => self.fail(now, facts, "no progress, and hosts have failed"),
            (_, false) => self.pause("stalled: no host got further for too long".into()),
        }
    }

    /// Prolongs a bake that is due; `false`: it was, as often as it may be. The last time
    /// is given once more when nobody looked at its end: gates could say nothing meanwhile.
    fn prolong(&mut self, now: UnixMillis) -> bool {
        let unseen = self.due_at.is_some_and(|due| now >= due + DOUBT_PERIOD);
        if self.doubts >= DOUBTS_MAX + u32::from(unseen) {
            return false;
        }
        self.doubts += 1;
        self.due_at = Some(now + DOUBT_PERIOD);
        true
    }

    pub(super) fn doubt_data(&mut self, now: UnixMillis, why: String) -> Vec<Action> {
        let since = *self.thin_since.get_or_insert(now);
        if now >= since + THIN_GRACE || (self.stage == Stage::Converging && self.is_due(now)) {
            return self.pause(why);
        }
        vec![]
    }
}
