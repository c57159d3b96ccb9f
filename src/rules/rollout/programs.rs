//! Gates that are programs of the operator [orchestration 6.6 c]: they are run while a
//! step bakes, and the bake does not end before each of them has passed.

use std::time::Duration;

use crate::model::gate::{Bake, Record};
use crate::model::id::GateName;
use crate::model::judged::{GateWord, ProgramSaid};
use crate::model::rollout::{RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::gate::{Opinion, graver};
use crate::rules::rollout::{Facts, Rollout};

/// Inconclusive runs in a row after which a person must look [orchestration 6.6].
pub const DOUBTS_MAX: u32 = 3;
/// How long a pass counts: three of the longest periods between two runs, which are
/// [`crate::config::gates::SECONDS_MAX`] each [orchestration 6.6]. A run takes as long again
/// at most, so one that goes on passing is never too old.
pub const PASS_GOOD_FOR: Duration = Duration::from_secs(90);

impl Rollout {
    /// The bake that programs judge now; `None`: none of them is to be run.
    #[must_use]
    pub fn judged_bake(&self) -> Option<Bake> {
        let judges = self.state == RolloutState::Running
            && self.kind == RolloutKind::Deploy
            && self.stage == Stage::Baking
            && !self.hurried
            && !self.gates.is_empty();
        let (Some(version), Some(since), true) = (self.version, self.bakes_since, judges) else {
            return None;
        };
        Some(Bake { generation: version.generation, step: self.step, since })
    }

    /// What programs say of the step under way, as people are shown it.
    pub(super) fn programs(&self, facts: &Facts) -> Vec<ProgramSaid> {
        let Some(bake) = self.judged_bake() else { return vec![] };
        let told = |name: &GateName| {
            let record = heard(facts, name, bake);
            let last = record.and_then(|record| record.last.clone());
            ProgramSaid {
                name: name.clone(),
                verdict: last.as_ref().map_or(GateWord::Waiting, |last| last.verdict),
                runs: record.map_or(0, |record| record.runs),
                said: last.as_ref().map_or_else(String::new, |last| last.said.clone()),
                output: last.as_ref().map_or_else(String::new, |last| last.output.clone()),
                at: last.map(|last| last.at),
            }
        };
        self.gates.iter().map(told).collect()
    }
}

fn heard<'a>(facts: &'a Facts, name: &GateName, bake: Bake) -> Option<&'a Record> {
    facts.gates.get(name).filter(|record| record.of == bake)
}

/// What the programs make of the step: the gravest; `None`: nothing against it.
pub(super) fn ask(rollout: &Rollout, now: UnixMillis, facts: &Facts) -> Option<Opinion> {
    let bake = rollout.judged_bake()?;
    let heard = |name| (name, heard(facts, name, bake));
    let opinions = rollout.gates.iter().map(heard);
    opinions.filter_map(|(name, record)| ask_one(rollout, now, name, record)).reduce(graver)
}

/// Whether a pass that was said `at` then is too old to count.
pub(super) fn is_stale(now: UnixMillis, at: UnixMillis) -> bool {
    now.since(at) >= PASS_GOOD_FOR
}

fn ask_one(
    rollout: &Rollout,
    now: UnixMillis,
    name: &GateName,
    record: Option<&Record>,
) -> Option<Opinion> {
    let on = format!(
        "go on without it: deployctl promote {} -a {} -e {}",
        rollout.release, rollout.app, rollout.env
    );
    let Some((record, last)) = record.and_then(|r| Some((r, r.last.as_ref()?))) else {
        return Some(Opinion::Undecided(format!(
            "the gate {name} has said nothing yet, so it hangs or no coordinator has it; {on}"
        )));
    };
    match last.verdict {
        GateWord::Pass if is_stale(now, last.at) => Some(Opinion::Undecided(format!(
            "the gate {name} passed, and nothing was heard of it for {} s, so it hangs or no \
             coordinator has it any more; {on}",
            PASS_GOOD_FOR.as_secs()
        ))),
        GateWord::Pass => None,
        GateWord::Fail => Some(Opinion::Failed(format!("the gate {name} failed: {}", last.said))),
        GateWord::Inconclusive | GateWord::Waiting if record.doubts >= DOUBTS_MAX => {
            Some(Opinion::Stuck(format!(
                "the gate {name} could not tell {} times in a row: {}; {on}",
                record.doubts, last.said
            )))
        }
        GateWord::Inconclusive | GateWord::Waiting => {
            Some(Opinion::Undecided(format!("the gate {name} can't tell: {}; {on}", last.said)))
        }
    }
}
