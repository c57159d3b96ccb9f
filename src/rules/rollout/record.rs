//! What people are shown of the gates: each step's verdict, with the numbers and the
//! bounds that it was made of. Only [`super::gate`] decides.

use std::collections::BTreeMap;

use crate::model::id::RegionName;
use crate::model::judged::{Compared, GateNumbers, GateWord, Judged, ProgramSaid};
use crate::model::rollout::{RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::compare::Fared;
use crate::rules::rollout::gate::{self, Opinion, knows_step};
use crate::rules::rollout::{Facts, Rollout};

/// Numbers by region.
type Numbers = BTreeMap<RegionName, GateNumbers>;

/// What a step is judged by.
pub(super) struct Seen {
    numbers: Numbers,
    compared: BTreeMap<RegionName, Compared>,
    programs: Vec<ProgramSaid>,
}

impl Rollout {
    /// How its steps were judged, and how the one under way stands now.
    #[must_use]
    pub fn gates(&self, now: UnixMillis, facts: &Facts) -> Vec<Judged> {
        let mut all = self.judged.clone();
        if self.state != RolloutState::Running || self.kind != RolloutKind::Deploy {
            return all;
        }
        all.retain(|judged| judged.step != self.step);
        let fared = self.compare(now, &facts.regions);
        let (verdict, why) = match gate::judge(self, now, facts, &fared).opinion {
            Opinion::Failed(why) => (GateWord::Fail, why),
            Opinion::Stuck(why) | Opinion::Thin(why) => (GateWord::Inconclusive, why),
            Opinion::Suspect => (GateWord::Waiting, "one host failed; another is asked".into()),
            Opinion::Waiting { failed: true } => {
                (GateWord::Waiting, "one host failed: the others are waited for".into())
            }
            Opinion::Undecided(why) if self.stage == Stage::Baking => {
                (GateWord::Waiting, format!("not known yet: {why}"))
            }
            Opinion::Converged if self.stage == Stage::Baking => {
                (GateWord::Waiting, "as it should be so far: it bakes".into())
            }
            Opinion::Waiting { failed: false } | Opinion::Converged | Opinion::Undecided(_) => {
                (GateWord::Waiting, "hosts are on their way".into())
            }
        };
        let Seen { numbers: regions, compared, programs } = self.seen(facts, &fared);
        all.push(Judged { step: self.step, verdict, why, at: now, regions, compared, programs });
        all
    }

    /// What the step under way is judged by now.
    pub(super) fn seen(&self, facts: &Facts, fared: &Fared) -> Seen {
        let told = |(name, _)| Some((RegionName::clone(name), fared.get(name)?.told().clone()));
        let compared = gate::taking_part(self, facts).filter_map(told).collect();
        Seen { numbers: self.numbers(facts), compared, programs: self.programs(facts) }
    }

    /// By what host health judges it.
    fn numbers(&self, facts: &Facts) -> Numbers {
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
    pub(super) fn record(&mut self, now: UnixMillis, (step, passed): (u32, bool), seen: Seen) {
        let (verdict, why) = match self.state {
            _ if passed && (self.step != step || self.state != RolloutState::Running) => {
                (GateWord::Pass, String::new())
            }
            RolloutState::Running => return,
            RolloutState::Paused => (GateWord::Inconclusive, self.reason.clone()),
            _ => (GateWord::Fail, self.reason.clone()),
        };
        self.judged.retain(|judged| judged.step != step);
        let Seen { numbers: regions, compared, programs } = seen;
        self.judged.push(Judged { step, verdict, why, at: now, regions, compared, programs });
    }
}
