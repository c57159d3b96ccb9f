//! The one next step of one app on one host: goal × facts → step.
//!
//! Level-triggered: only the newest goal counts, whatever came between. Never does
//! anything itself, and never stops what runs but by an activation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId, Digest};
use crate::model::fleet::{Failure, FailureClass, Phase};
use crate::model::goal::{Goal, GoalKind, GoalVersion, HostView, Target};
use crate::model::time::UnixMillis;
use crate::rules::activation::Fallback;

/// A release that a person fixed on this host; goals up to `over` count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What to run.
    pub target: Target,
    /// The newest goal that was known when it was set.
    pub over: GoalVersion,
}

/// A release that failed here under a goal; not tried again until its `retry` grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The goal's version.
    pub version: GoalVersion,
    /// The goal's retry count.
    pub retry: u32,
    /// What failed.
    pub artifact: ArtifactId,
    /// And with which configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
    /// Whether the release before runs again.
    pub reverted: bool,
    /// Why.
    pub failure: Failure,
}

/// Faults of the host or the network with one release's bits, in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tries {
    /// What was tried.
    pub bits: Bits,
    /// How many.
    pub count: u32,
    /// When to try again.
    pub next_at: UnixMillis,
    /// The last one.
    pub failure: Failure,
}

/// Tries before a fault of the host or the network is reported [orchestration 6.11].
pub const QUICK_TRIES: u32 = 3;
/// Wait after the first fault; four times longer after each of the next two.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Wait once it is reported: what heals by itself is picked up, and nothing is hammered.
const SLOW_WAIT: Duration = Duration::from_secs(60);

/// How the release that `current` points to does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// As it should.
    Fine,
    /// After its probe had passed it ended, and has not been up again for long enough; or the
    /// probe fails again and again.
    Shaky,
    /// It never proved itself: its activation was left for another goal; or its probe failed
    /// later, and a person has hosts try again.
    Unproven,
    /// It should run and does not, by no fault of its own: a reboot, a killed supervisor.
    Down,
    /// It failed here.
    Broken,
}

/// What is known of one app on one host.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who the host is; its `running` is filled in from below.
    pub view: HostView<'a>,
    /// The newest goal.
    pub goal: Option<&'a Goal>,
    /// When the host accepted it.
    pub accepted_at: UnixMillis,
    /// A local hold.
    pub hold: Option<&'a Hold>,
    /// What `current` points to.
    pub running: Option<Target>,
    /// How it does.
    pub up: Up,
    /// Releases that worked here, newest first.
    pub good: &'a [Target],
    /// Artifacts complete on disk.
    pub held: &'a [ArtifactId],
    /// Configurations on disk.
    pub configs: &'a [ConfigId],
    /// What failed here last.
    pub failed: Option<&'a Failed>,
    /// Faults in a row.
    pub tries: Option<&'a Tries>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes.
    Nothing,
    /// Nothing until then, if nothing changes.
    Wait(UnixMillis),
    /// Fetch an artifact, its configuration, or both; urgent when it is to be activated at
    /// once.
    Stage {
        /// What must be there.
        bits: Bits,
        /// Whether hosts wait for it.
        urgent: bool,
    },
    /// The same bits under another release's number: only note it.
    Adopt(Target),
    /// Activate a release that is complete on disk.
    Activate {
        /// Which.
        to: Target,
        /// What to do when it fails.
        fallback: Fallback,
    },
}

impl Failed {
    /// What failed.
    #[must_use]
    pub fn bits(&self) -> Bits {
        Bits { artifact: self.artifact, config: self.config }
    }
}

impl Facts<'_> {
    /// Whether the hold counts: no newer goal came.
    #[must_use]
    fn held_back(&self) -> Option<&Hold> {
        self.hold.filter(|hold| self.goal.is_none_or(|goal| goal.version <= hold.over))
    }

    /// What the host should run; `None`: whatever it has.
    #[must_use]
    pub fn desired(&self) -> Option<Target> {
        if let Some(hold) = self.held_back() {
            return Some(hold.target);
        }
        let running = self.running.map(|running| running.bits());
        self.goal?.desired(&HostView { running, ..self.view })
    }

    /// The one next step at `now`.
    #[must_use]
    pub fn next_step(&self, now: UnixMillis) -> Step {
        let Some(want) = self.desired() else {
            return self.keep_up(now).unwrap_or_else(|| self.stage_ahead(now));
        };
        let runs_it = self.running.is_some_and(|running| running.bits() == want.bits());
        match (runs_it, self.up) {
            (true, Up::Fine | Up::Shaky) if self.running != Some(want) => {
                return Step::Adopt(want);
            }
            // Its supervisor starts it again, or gives up and says so.
            (true, Up::Fine | Up::Shaky) => return self.stage_ahead(now),
            (true, Up::Down) => {
                return self.keep_up(now).unwrap_or_else(|| self.stage_ahead(now));
            }
            _ => {}
        }
        if self.failure_of(want).is_some() {
            return self.keep_up(now).unwrap_or(Step::Nothing);
        }
        let step = self.towards(want, now);
        match step {
            Step::Activate { .. } => step,
            _ => self.keep_up(now).unwrap_or(step),
        }
    }

    /// What the host is seen to do while no step is under way.
    #[must_use]
    pub fn standing(&self) -> Phase {
        let desired = self.desired();
        let wanted = desired.or(self.running);
        if let Some(failed) = wanted.and_then(|want| self.failure_of(want)) {
            return if failed.reverted { Phase::Reverted } else { Phase::Failed };
        }
        if self.up == Up::Broken || self.tries.is_some_and(|tries| tries.count >= QUICK_TRIES) {
            return Phase::Failed;
        }
        let runs_it = self.running.map(|r| r.bits()) == wanted.map(|want| want.bits());
        match (runs_it, self.running, self.up) {
            (true, Some(_), Up::Fine) => Phase::Healthy,
            (true, Some(_), Up::Shaky) => Phase::Probing,
            (true, Some(_), _) => Phase::Activating,
            _ if desired.is_some_and(|want| self.has(want)) => Phase::Staged,
            (_, None, _) if self.goal.is_some_and(|goal| self.has(goal.next)) => Phase::Staged,
            _ => Phase::Idle,
        }
    }

    /// What to report as wrong under the present goal.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        let wanted = self.desired().or(self.running);
        let failed = wanted.and_then(|want| self.failure_of(want));
        let reported = |tries: &&Tries| tries.count >= QUICK_TRIES;
        failed
            .or_else(|| self.failed.filter(|_| self.up == Up::Broken))
            .map(|failed| &failed.failure)
            .or_else(|| self.tries.filter(reported).map(|tries| &tries.failure))
    }

    /// Whether all of `target` is on disk.
    fn has(&self, target: Target) -> bool {
        let configured = target.config.is_none_or(|config| self.configs.contains(&config));
        configured && self.held.contains(&target.artifact)
    }

    /// How `target` failed under the present goal, if it did and no retry was asked for.
    fn failure_of(&self, target: Target) -> Option<&Failed> {
        let failed = self.failed.filter(|failed| failed.bits() == target.bits())?;
        let Some(goal) = self.goal else { return Some(failed) };
        let same = (failed.version.epoch, failed.version.generation)
            == (goal.version.epoch, goal.version.generation);
        (same && failed.retry >= goal.retry).then_some(failed)
    }

    fn towards(&self, want: Target, now: UnixMillis) -> Step {
        if let Some(wait) = self.wait_for(want, now) {
            return wait;
        }
        if !self.has(want) {
            return Step::Stage { bits: want.bits(), urgent: true };
        }
        let starts_at = self.starts_at();
        if now < starts_at {
            return Step::Wait(starts_at);
        }
        Step::Activate { to: want, fallback: self.fallback(want) }
    }

    /// A host that runs nothing any more starts what it had: no network is needed.
    fn keep_up(&self, now: UnixMillis) -> Option<Step> {
        let running = self.running.filter(|_| self.up == Up::Down)?;
        if let Some(wait) = self.wait_for(running, now) {
            return Some(wait);
        }
        // It runs from where it is; only its configuration may be gone.
        if running.config.is_some_and(|config| !self.configs.contains(&config)) {
            return Some(Step::Stage { bits: running.bits(), urgent: true });
        }
        Some(Step::Activate { to: running, fallback: Fallback::Keep })
    }

    fn stage_ahead(&self, now: UnixMillis) -> Step {
        let next = self.goal.filter(|goal| goal.stage && goal.covers(self.view.labels));
        let next = next.filter(|_| self.held_back().is_none()).map(|goal| goal.next);
        let Some(next) = next.filter(|next| !self.has(*next)) else {
            return Step::Nothing;
        };
        let stage = Step::Stage { bits: next.bits(), urgent: false };
        self.wait_for(next, now).unwrap_or(stage)
    }

    fn wait_for(&self, target: Target, now: UnixMillis) -> Option<Step> {
        let tries = self.tries.filter(|tries| tries.bits == target.bits())?;
        (now < tries.next_at).then_some(Step::Wait(tries.next_at))
    }

    /// When this host may start activating: hosts are spread by hash over the goal's
    /// spread, from when each accepted the goal.
    fn starts_at(&self) -> UnixMillis {
        let Some(goal) = self.goal.filter(|_| self.held_back().is_none()) else {
            return UnixMillis(0);
        };
        self.accepted_at + Duration::from_millis(spread_delay_ms(goal, &self.view))
    }

    fn fallback(&self, want: Target) -> Fallback {
        let rollback = self.goal.is_some_and(|goal| goal.kind == GoalKind::Rollback);
        if rollback || self.held_back().is_some() {
            return Fallback::Keep;
        }
        let other = |known: &&Target| known.bits() != want.bits();
        let proven = |running: &Target| self.good.iter().any(|good| good.bits() == running.bits());
        let running = self.running.filter(proven);
        running
            .as_ref()
            .filter(other)
            .or_else(|| self.good.iter().find(other))
            .filter(|back| self.has(**back))
            .map_or(Fallback::Remove, |back| Fallback::Back(*back))
    }
}

/// How long a fetch of `bits` may take that begins so long after the goal was `accepted`;
/// `None`: no longer than it must, as for all that is not new.
#[must_use]
pub fn time_to_fetch(goal: &Goal, bits: Bits, accepted: Duration) -> Option<Duration> {
    let paced = goal.pace_ms > 0 && goal.next.bits() == bits;
    paced.then(|| Duration::from_millis(goal.pace_ms).saturating_sub(accepted))
}

/// This host's share of the goal's spread, milliseconds, below `spread_ms`.
#[must_use]
pub fn spread_delay_ms(goal: &Goal, view: &HostView<'_>) -> u64 {
    let text = format!("{}\0spread\0{}\0{}", goal.salt, goal.app, view.host);
    let digest = Digest::of(text.as_bytes());
    let head: [u8; 8] = digest.0[..8].try_into().expect("a digest has 32 bytes");
    u64::from_be_bytes(head).checked_rem(goal.spread_ms).unwrap_or(0)
}

/// Counts one more fault with `bits`: 1 s, 4 s, 16 s, then each 60 s.
#[must_use]
pub fn count_fault(tries: Option<Tries>, bits: Bits, failure: Failure, now: UnixMillis) -> Tries {
    let before = tries.filter(|tries| tries.bits == bits).map_or(0, |tries| tries.count);
    let wait = if before < QUICK_TRIES { FIRST_WAIT * 4u32.pow(before) } else { SLOW_WAIT };
    Tries { bits, count: before.saturating_add(1), next_at: now + wait, failure }
}

/// Whether a failure is remembered as the release's; others are tried again.
#[must_use]
pub fn is_final(failure: &Failure) -> bool {
    failure.class == FailureClass::Release
}

#[cfg(test)]
mod tests;
