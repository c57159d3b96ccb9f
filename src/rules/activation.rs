//! One activation on one host: from the old release to the new, or back.
//!
//! The journal holds an [`Activation`]; it is made durable *before* its stage's action
//! is begun. Every action can be done twice, so after a crash the journalled stage is
//! simply done again. Transitions, walked by a test:
//!
//! | stage | action | done | failed, `Back` | failed, `Remove` | failed, `Keep` |
//! |---|---|---|---|---|---|
//! | stop | stop what runs | switch | back_switch | back_switch | failed |
//! | switch | `current` → new | start | back_switch | back_switch | failed |
//! | start | start new | probe | back_stop | back_stop | failed |
//! | probe | probe new | **healthy** | back_stop | back_stop | failed |
//! | back_stop | stop new | back_switch | back_switch | back_switch | - |
//! | back_switch | `current` → old, or none | back_start, or failed | failed | failed | - |
//! | back_start | start old | back_probe | failed | - | - |
//! | back_probe | probe old | **reverted** | reverted | - | - |

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::fleet::{Failure, Phase};
use crate::model::goal::{GoalVersion, Target};

/// Longest time that a release which ended must be up again before it is believed. As long as
/// the supervisor counts crashes, and less than a gate waits for one that is in doubt.
pub const STEADY_MAX: Duration = Duration::from_secs(60);

/// How long a release that ended after its probe had passed must be up in one stretch before
/// it counts as healthy: what it is asked for anyway, and twice what it lasted before. One
/// that dies every two seconds is never healthy again, whatever it was asked for.
#[must_use]
pub fn steady_after(min_healthy: Duration, last_up: Duration) -> Duration {
    last_up.saturating_mul(2).max(min_healthy).min(STEADY_MAX)
}

/// What to do when the new release fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Go back to this release, which worked before and is complete on disk.
    Back(Target),
    /// There is none: stop, and leave `current` absent.
    Remove,
    /// Leave it where it is: it worked before, or a person asked for it.
    Keep,
}

/// How far an activation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Stops what runs.
    Stop,
    /// Points `current` at the new release.
    Switch,
    /// Starts the new release.
    Start,
    /// Waits for the new release's probe.
    Probe,
    /// Stops the new release.
    BackStop,
    /// Points `current` back, or removes it.
    BackSwitch,
    /// Starts the old release.
    BackStart,
    /// Probes the old release once.
    BackProbe,
}

/// An activation that is under way: the journal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The goal that asked for it.
    pub version: GoalVersion,
    /// That goal's retry count.
    pub retry: u32,
    /// The new release.
    pub to: Target,
    /// What to do when it fails.
    pub fallback: Fallback,
    /// Whether a single pass of the probe is enough: the release worked before.
    #[serde(default)]
    pub proven: bool,
    /// How far it is.
    pub stage: Stage,
    /// Why it goes back; there exactly in the `back_…` stages.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// How a stage's action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// Not so.
    Failed(Failure),
}

/// How an activation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The new release runs and its probe passed.
    Healthy,
    /// The old release runs again.
    Reverted(Failure),
    /// The new release failed; nothing runs, or it does still.
    Failed(Failure),
}

/// What comes after a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Journal this, then do its stage.
    Go(Activation),
    /// Record this, then remove the journal.
    End(Verdict),
}

impl Activation {
    /// What comes after the present stage's `outcome`.
    #[must_use]
    pub fn next(mut self, outcome: Outcome) -> Next {
        use Stage::{BackProbe, BackStart, BackStop, BackSwitch, Probe, Start, Stop, Switch};
        let failed = match outcome {
            Outcome::Done => None,
            Outcome::Failed(failure) => Some(failure),
        };
        match (self.stage, failed) {
            (Stop, None) => self.go(Switch),
            (Switch, None) => self.go(Start),
            (Start, None) => self.go(Probe),
            (Probe, None) => Next::End(Verdict::Healthy),
            (Stop | Switch, Some(failure)) => self.go_back(BackSwitch, failure),
            (Start | Probe, Some(failure)) => self.go_back(BackStop, failure),
            // A stop that fails must not keep the host on a release that failed.
            (BackStop, _) => self.go(BackSwitch),
            (BackSwitch, None) if matches!(self.fallback, Fallback::Back(_)) => self.go(BackStart),
            (BackStart, None) => self.go(BackProbe),
            (BackSwitch, None) => Next::End(Verdict::Failed(self.take_failure())),
            (BackSwitch | BackStart, Some(more)) => {
                Next::End(Verdict::Failed(joined(self.take_failure(), &more)))
            }
            (BackProbe, None) => Next::End(Verdict::Reverted(self.take_failure())),
            (BackProbe, Some(more)) => {
                Next::End(Verdict::Reverted(joined(self.take_failure(), &more)))
            }
        }
    }

    /// What the host is seen to do.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.stage == Stage::Probe { Phase::Probing } else { Phase::Activating }
    }

    /// The release that the present stage is about; `None`: about having none.
    #[must_use]
    pub fn subject(&self) -> Option<Target> {
        match (self.stage, self.fallback) {
            (Stage::BackSwitch | Stage::BackStart | Stage::BackProbe, Fallback::Back(old)) => {
                Some(old)
            }
            (Stage::BackSwitch, _) => None,
            _ => Some(self.to),
        }
    }

    fn go(mut self, stage: Stage) -> Next {
        self.stage = stage;
        Next::Go(self)
    }

    fn go_back(mut self, stage: Stage, failure: Failure) -> Next {
        if self.fallback == Fallback::Keep {
            return Next::End(Verdict::Failed(failure));
        }
        self.failure = Some(failure);
        self.go(stage)
    }

    fn take_failure(&mut self) -> Failure {
        self.failure.take().unwrap_or_else(|| Failure {
            class: crate::model::fleet::FailureClass::Release,
            reason: "the activation failed".into(),
            log: vec![],
        })
    }
}

fn joined(mut first: Failure, second: &Failure) -> Failure {
    first.reason = format!("{}; going back: {}", first.reason, second.reason);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::model::fleet::FailureClass;
    use crate::model::id::ReleaseNo;
    use proptest::prelude::*;

    #[test]
    fn what_ended_must_outlive_itself_within_reason() {
        let after = |min, last| steady_after(Duration::from_secs(min), Duration::from_secs(last));
        assert_eq!(after(1, 2), Duration::from_secs(4));
        assert_eq!(after(30, 2), Duration::from_secs(30));
        assert_eq!(after(1, 86_400), STEADY_MAX);
        assert_eq!(after(90, 2), STEADY_MAX);
    }

    fn target(n: u64) -> Target {
        Target { release: ReleaseNo(n), artifact: Digest::of(&n.to_be_bytes()), config: None }
    }

    fn failure(reason: &str) -> Failure {
        Failure { class: FailureClass::Release, reason: reason.into(), log: vec![] }
    }

    fn begun(fallback: Fallback) -> Activation {
        Activation {
            version: GoalVersion::default(),
            retry: 0,
            to: target(2),
            fallback,
            proven: false,
            stage: Stage::Stop,
            failure: None,
        }
    }

    fn name(next: &Next) -> String {
        match next {
            Next::Go(activation) => format!("{:?}", activation.stage),
            Next::End(Verdict::Healthy) => "healthy".into(),
            Next::End(Verdict::Reverted(_)) => "reverted".into(),
            Next::End(Verdict::Failed(_)) => "failed".into(),
        }
    }

    #[test]
    fn every_row_of_the_table_holds() {
        let fallbacks = [Fallback::Back(target(1)), Fallback::Remove, Fallback::Keep];
        let rows = [
            (Stage::Stop, "Switch", ["BackSwitch", "BackSwitch", "failed"]),
            (Stage::Switch, "Start", ["BackSwitch", "BackSwitch", "failed"]),
            (Stage::Start, "Probe", ["BackStop", "BackStop", "failed"]),
            (Stage::Probe, "healthy", ["BackStop", "BackStop", "failed"]),
            (Stage::BackStop, "BackSwitch", ["BackSwitch", "BackSwitch", ""]),
            (Stage::BackSwitch, "BackStart|failed", ["failed", "failed", ""]),
            (Stage::BackStart, "BackProbe", ["failed", "", ""]),
            (Stage::BackProbe, "reverted", ["reverted", "", ""]),
        ];
        for (stage, done, failed) in rows {
            for (fallback, expected) in fallbacks.into_iter().zip(failed) {
                if expected.is_empty() {
                    continue;
                }
                let activation =
                    Activation { stage, failure: Some(failure("x")), ..begun(fallback) };
                let after = name(&activation.clone().next(Outcome::Done));
                assert!(done.split('|').any(|name| name == after), "{stage:?} {after}");
                let after = name(&activation.next(Outcome::Failed(failure("y"))));
                assert_eq!(after, expected, "{stage:?} {fallback:?}");
            }
        }
    }

    /// A host in miniature: what `current` points to and what runs.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Host {
        current: Option<Target>,
        up: Option<Target>,
    }

    impl Host {
        fn act(&mut self, activation: &Activation) {
            match activation.stage {
                Stage::Stop | Stage::BackStop => self.up = None,
                Stage::Switch | Stage::BackSwitch => self.current = activation.subject(),
                Stage::Start | Stage::BackStart => self.up = self.current,
                Stage::Probe | Stage::BackProbe => {}
            }
        }
    }

    proptest! {
        /// At each stage the host may crash before, or after, its action is done;
        /// the journalled stage is then done again.
        #[test]
        fn a_crash_at_any_stage_ends_on_one_whole_release(
            has_old: bool,
            fails in proptest::option::of(0usize..4),
            crashes in proptest::collection::vec(0u8..3, 0..12),
        ) {
            let old = has_old.then(|| target(1));
            let fallback = old.map_or(Fallback::Remove, Fallback::Back);
            let mut host = Host { current: old, up: old };
            let mut journal = begun(fallback);
            let mut crashes = crashes.into_iter();
            let verdict = loop {
                match crashes.next() {
                    Some(1) => continue,
                    Some(2) => { host.act(&journal); continue }
                    _ => host.act(&journal),
                }
                prop_assert!([None, Some(target(1)), Some(target(2))].contains(&host.current));
                prop_assert!(!has_old || host.current.is_some());
                let forward = [Stage::Stop, Stage::Switch, Stage::Start, Stage::Probe];
                let at = forward.iter().position(|stage| *stage == journal.stage);
                let outcome = if at.is_some() && at == fails {
                    Outcome::Failed(failure("x"))
                } else {
                    Outcome::Done
                };
                match journal.next(outcome) {
                    Next::Go(next) => journal = next,
                    Next::End(verdict) => break verdict,
                }
            };
            let expected = if fails.is_none() { Some(target(2)) } else { old };
            prop_assert_eq!(host.current, expected);
            prop_assert_eq!(matches!(verdict, Verdict::Healthy), fails.is_none());
            // Failing before anything was started leaves nothing that BackStart did not start.
            prop_assert_eq!(host.up, expected);
        }
    }
}
