//! What people are shown of the gates: each step's verdict, with the numbers and the
//! bounds that it was made of. Only [`super::gate`] decides.

use std::collections::BTreeMap;

use crate::model::id::RegionName;
use crate::model::rollout::{GateNumbers, GateWord, Judged, RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::gate::{self, Opinion, knows_step};
use crate::rules::rollout::{Facts, Rollout};

/// Numbers by region.
type Numbers = BTreeMap<RegionName, GateNumbers>;

impl Rollout {
    /// How its steps were judged, and how the one under way stands now.
    #[must_use]
    pub fn gates(&self, now: UnixMillis, facts: &Facts) -> Vec<Judged> {
        let mut all = self.judged.clone();
        if self.state != RolloutState::Running || self.kind != RolloutKind::Deploy {
            return all;
        }
        all.retain(|judged| judged.step != self.step);
        let (verdict, why) = match gate::judge(self, now, facts).opinion {
            Opinion::Failed(why) => (GateWord::Fail, why),
            Opinion::Stuck(why) | Opinion::Thin(why) => (GateWord::Inconclusive, why),
            Opinion::Suspect => (GateWord::Waiting, "one host failed; another is asked".into()),
            Opinion::Waiting { failed: true } => {
                (GateWord::Waiting, "one host failed: the others are waited for".into())
            }
            Opinion::Converged if self.stage == Stage::Baking => {
                (GateWord::Waiting, "as it should be so far: it bakes".into())
            }
            Opinion::Waiting { failed: false } | Opinion::Converged => {
                (GateWord::Waiting, "hosts are on their way".into())
            }
        };
        all.push(Judged { step: self.step, verdict, why, at: now, regions: self.numbers(facts) });
        all
    }

    /// What the step under way is judged by.
    pub(super) fn numbers(&self, facts: &Facts) -> Numbers {
        let Some(version) = self.version else { return Numbers::new() };
        let of = |name: &RegionName, region: &super::RegionFacts| {
            let tally = &region.tally;
            if !region.speaks_of(version) || !knows_step(self, name, tally) {
                return GateNumbers::default();
            }
            let reachable = tally.admitted.saturating_sub(tally.admitted_unreachable);
            let failed = gate::unexcused(self, name, tally);
            GateNumbers {
                known: true,
                admitted: tally.admitted,
                healthy: tally.healthy,
                healthy_min: gate::healthy_min(reachable).saturating_sub(tally.failed - failed),
                failed,
                failed_max: gate::budget(reachable),
                host_faults: tally.host_faults,
                host_faults_max: gate::host_faults_max(reachable),
                unreachable: tally.admitted_unreachable,
                unreachable_max: gate::unreachable_max(tally.admitted),
            }
        };
        gate::taking_part(self, facts)
            .map(|(name, region)| (name.clone(), of(name, region)))
            .collect()
    }

    /// Keeps how `step` was judged, once that ended it or stopped it.
    pub(super) fn record(
        &mut self,
        now: UnixMillis,
        (step, passed): (u32, bool),
        numbers: Numbers,
    ) {
        let (verdict, why) = match self.state {
            _ if passed && (self.step != step || self.state != RolloutState::Running) => {
                (GateWord::Pass, String::new())
            }
            RolloutState::Running => return,
            RolloutState::Paused => (GateWord::Inconclusive, self.reason.clone()),
            _ => (GateWord::Fail, self.reason.clone()),
        };
        self.judged.retain(|judged| judged.step != step);
        self.judged.push(Judged { step, verdict, why, at: now, regions: numbers });
    }
}
