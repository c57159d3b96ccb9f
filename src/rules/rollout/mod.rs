//! One rollout as a machine: `now` and facts in, actions out; no I/O, no clock.
//!
//! ```text
//! state      event                                     becomes
//! pending    begin (the build is replicated)           running, step 0, a new generation
//! pending    not ready or approved in time, or older than what runs  expired
//! pending    approved: counted; once all have, it begins  pending
//! pending    rejected                                  canceled
//! pending    the build failed                          failed
//! running    the step converged                        running, bakes (or the next step)
//! running    the bake ended, still converged           running, next step; after the last: succeeded
//! running    a release fault over its budget           reverting, a new generation; no base, or told to stay: failed
//! running    one early host of one fails               running, one more host is asked
//! running    host faults, unreachable, stalled, no data  paused
//! running    a step that the plan holds after is done  paused
//! running    a freeze or hold stands where the next step would begin  paused
//! running    (rollback) all settled                    succeeded; not in 15 min: failed
//! paused     resume, promote, retry                    running
//! reverting  all exposed regions settled               reverted (canceled when a person asked)
//! reverting  not settled in 15 min                     failed
//! any open   supersede                                 superseded
//! superseded its successor ended before it began       reverting, then superseded
//! any open   cancel                                    canceled (keep), else reverting
//! ```
//!
//! Every open state but `paused` has a due time: the clock alone ends it, and
//! `paused` blocks nobody. A later kind of gate or plan adds a file here.

pub mod admitted;
pub mod approval;
mod bake;
pub mod command;
mod compare;
pub mod document;
pub mod facts;
pub mod gate;
pub mod named;
pub mod permits;
pub mod plan;
pub mod programs;
pub mod record;
pub mod revert;
#[cfg(test)]
mod simulation;
pub mod words;
pub mod written;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::canary::Canary;
use crate::model::comparison::Comparison;
use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::fleet::FailureGroup;
use crate::model::goal::{GoalVersion, Target};
use crate::model::id::{AppName, EnvName, GateName, RegionName, ReleaseNo};
use crate::model::judged::{Against, Judged};
use crate::model::plan::PlanFile;
use crate::model::rollout::{Approval, PlanName, RolloutKind, RolloutState, Stable, Stage, Step};
use crate::model::selector::Selector;
use crate::model::time::UnixMillis;
pub use crate::rules::rollout::admitted::Admission;
use crate::rules::rollout::gate::Opinion;
use crate::rules::rollout::permits::Permits;
use crate::rules::rollout::plan::{Fleet, plan};
pub use facts::{Facts, RegionFacts};

/// A step pauses or fails without progress for so long [orchestration 6.2].
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// A step pauses or fails after so long, progress or not [orchestration 6.2].
pub const STEP_CAP: Duration = Duration::from_secs(60 * 60);
/// A revert or rollback that has not settled by then failed [orchestration 6.2].
pub const REVERT_CAP: Duration = Duration::from_secs(15 * 60);
/// How long missing or thin data may last before it pauses a rollout.
pub const THIN_GRACE: Duration = Duration::from_secs(60);
/// A deploy that must be approved expires unless it was by then [orchestration 6.2].
pub const APPROVAL_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Longest time over which hosts begin to switch, seconds.
pub const SPREAD_S_MAX: u32 = 3600;
/// By how much an inconclusive bake is prolonged, and how often [orchestration 6.6].
pub const DOUBT_PERIOD: Duration = Duration::from_secs(30);
/// Prolongations before an inconclusive bake pauses.
pub const DOUBTS_MAX: u32 = 3;
/// Old failures may still be reported for so long after hosts were asked to try again.
pub const RETRY_GRACE: Duration = Duration::from_secs(20);

/// A rollout, whole: all that its rules remember. Kept as JSON in its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The release that it tries.
    pub release: ReleaseNo,
    /// Deploy or rollback.
    pub kind: RolloutKind,
    /// The plan.
    pub plan: PlanName,
    /// What a person wrote in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_file: Option<PlanFile>,
    /// The hosts that a person named to go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Only these regions; empty: all.
    pub regions: Vec<RegionName>,
    /// The hosts that run the app.
    pub hosts: Selector,
    /// Every bake, seconds; `None`: the plan's own.
    pub bake_s: Option<u32>,
    /// What it brings; `None` while pending.
    pub next: Option<Target>,
    /// What ran before; where a revert goes.
    pub stable: Stable,
    /// The configuration beside its artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
    /// What hosts may go on running until they are admitted.
    pub tolerate: Vec<Bits>,

    /// Where it stands.
    pub state: RolloutState,
    /// One sentence: why it ended or paused.
    pub reason: String,
    /// The plan's steps; empty while pending.
    pub steps: Vec<Step>,
    /// Index of the step under way.
    pub step: u32,
    /// What the step does.
    pub stage: Stage,
    /// Version of the goal document that it wrote last.
    pub version: Option<GoalVersion>,
    /// How often hosts were asked to try again.
    pub retry: u32,
    /// When the clock alone changes it; `None` when paused or over.
    pub due_at: Option<UnixMillis>,
    /// When the step (or the revert) began.
    pub began_at: UnixMillis,
    /// When it last got further.
    pub progress_at: UnixMillis,
    /// How far it got; only compared with itself.
    pub progress: u64,
    /// Failures count from then on.
    pub judge_from: UnixMillis,
    /// Since when data is too thin to judge.
    pub thin_since: Option<UnixMillis>,
    /// How often the bake was prolonged for want of data.
    pub doubts: u32,
    /// When the bake under way began; `None`: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bakes_since: Option<UnixMillis>,
    /// Programs that each bake must pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateName>,
    /// How hosts had fared before the step, by region (`None`: it told nothing yet); `None`:
    /// not noted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_from: Option<BTreeMap<RegionName, Option<Comparison>>>,
    /// With whom hosts are compared in the bake under way, by region; none where they are not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub comparing: BTreeMap<RegionName, Against>,
    /// Whether it is paused because the step is done and holds here: a person goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Failed hosts that a person accepted, by region.
    pub excused: BTreeMap<RegionName, u32>,
    /// Where one more host can be asked when the only early host fails.
    pub spare: Option<(RegionName, u32)>,
    /// Whether a failure leaves hosts as they are, in place of going back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_auto_revert: bool,
    /// Whether it passes freezes and holds: somebody broke the glass.
    #[serde(default)]
    pub through_freeze: bool,
    /// Whether it may bring a commit that is older than what runs.
    #[serde(default)]
    pub allow_older: bool,
    /// Whether it may begin though other apps are not where it needs them.
    #[serde(default)]
    pub allow_unmet: bool,
    /// How many people beside who asked must approve it before it begins.
    #[serde(default)]
    pub approvals: u32,
    /// Who has.
    #[serde(default)]
    pub approved: Vec<Approval>,
    /// Whether it expired because a rule stood in its way.
    #[serde(default)]
    pub blocked: bool,
    /// Hosts begin to switch spread over so long, seconds.
    #[serde(default)]
    pub spread_s: u32,
    /// Hosts take about so long to fetch, seconds; 0: no longer than they must.
    #[serde(default, skip_serializing_if = "crate::model::is_zero")]
    pub pace_s: u32,
    /// How many hosts of a region may be between releases at once.
    #[serde(default)]
    pub permits: Permits,
    /// Whether a person asked to skip every bake.
    pub hurried: bool,
    /// Whether its documents lead back to what ran before.
    pub went_back: bool,
    /// How it ends once a revert settled.
    pub after_revert: RolloutState,
    /// Regions that were left out because no host could be reached.
    pub skipped: Vec<RegionName>,
    /// What failed under its own generation, by region: counts made after a revert
    /// do not hold it any more, and a person still asks why.
    #[serde(default)]
    pub failures: BTreeMap<RegionName, Vec<FailureGroup>>,
    /// How steps were judged, one entry for each step that was, in order.
    #[serde(default)]
    pub judged: Vec<Judged>,
}

/// What the caller does, in order, in one transaction with the rollout's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the goal document ([`Rollout::document`]).
    Publish,
    /// The env runs this from now on.
    Settle(Stable),
    /// The release is bad: never go back to it.
    MarkBad,
    /// Tell everybody.
    Tell {
        /// The event's kind, such as `rollout.step`.
        kind: &'static str,
        /// One sentence.
        message: String,
    },
}

impl Rollout {
    /// Whether `region` is part of it.
    #[must_use]
    pub fn covers(&self, region: &RegionName) -> bool {
        self.regions.is_empty() || self.regions.contains(region)
    }

    /// Starts it: `fresh` is the new generation's version, `fleet` was drawn with it.
    #[must_use]
    pub fn begin(
        &mut self,
        now: UnixMillis,
        artifact: ArtifactId,
        fresh: GoalVersion,
        fleet: &Fleet,
    ) -> Vec<Action> {
        if self.state != RolloutState::Pending || self.lacks_approvals() > 0 {
            return vec![];
        }
        let made = match plan(self.wish(), fleet) {
            Ok(made) => made,
            Err(why) => return self.turn_away(&why),
        };
        (self.steps, self.spare) = (made.steps, made.spare);
        let next = Target { release: self.release, artifact, config: self.config };
        self.next = Some(next);
        self.version = Some(fresh);
        self.enter(now);
        // Under a new generation nothing was counted yet.
        self.compared_from = Some(BTreeMap::new());
        let mut actions = vec![Action::Publish];
        if self.kind == RolloutKind::Rollback {
            // What a rollback restores is the base of whatever comes next, at once.
            actions.push(Action::Settle(self.stable.with(next, &self.regions)));
        }
        actions.push(self.tell("rollout.started", format!("{} started", self.release)));
        actions
    }

    /// Ends it before it began: its build will never be there.
    #[must_use]
    pub fn give_up(&mut self, why: &str) -> Vec<Action> {
        if self.state != RolloutState::Pending {
            return vec![];
        }
        self.finish(RolloutState::Failed, why.to_owned())
    }

    /// Ends it before it began: now that it could, it may not.
    #[must_use]
    pub fn turn_away(&mut self, why: &str) -> Vec<Action> {
        if self.state != RolloutState::Pending {
            return vec![];
        }
        self.blocked = true;
        self.finish(RolloutState::Expired, why.to_owned())
    }

    /// Looks at the facts and the clock. Called on every report and each second;
    /// calling it twice with the same facts does nothing the second time.
    #[must_use]
    pub fn step(&mut self, now: UnixMillis, facts: &Facts) -> Vec<Action> {
        match (self.state, self.kind) {
            (RolloutState::Pending, _) if self.is_due(now) => self.expire(facts),
            (RolloutState::Running, RolloutKind::Deploy) => self.run(now, facts),
            (RolloutState::Running, RolloutKind::Rollback) | (RolloutState::Reverting, _) => {
                self.settle(now, facts)
            }
            _ => vec![],
        }
    }

    /// Keeps what failed, until it fails in another way.
    fn remember_failures(&mut self, facts: &Facts) {
        let Some(version) = self.version else { return };
        for (name, region) in &facts.regions {
            let failures = &region.tally.failures;
            if region.speaks_of(version) && !failures.is_empty() && self.covers(name) {
                self.failures.insert(name.clone(), failures.clone());
            }
        }
    }

    fn run(&mut self, now: UnixMillis, facts: &Facts) -> Vec<Action> {
        self.remember_failures(facts);
        self.mark_comparison(&facts.regions);
        let fared = self.compare(now, &facts.regions);
        self.promise_comparison(&fared);
        let verdict = gate::judge(self, now, facts, &fared);
        for region in &verdict.skipped {
            if !self.skipped.contains(region) {
                self.skipped.push(region.clone());
            }
        }
        if verdict.progress > self.progress {
            (self.progress, self.progress_at) = (verdict.progress, now);
            self.set_due();
        }
        if !matches!(verdict.opinion, Opinion::Thin(_)) {
            self.thin_since = None;
        }
        let judged = match verdict.opinion {
            // What is healthy so far is no step: more is to be let in.
            Opinion::Converged | Opinion::Undecided(_) if !self.is_wide_open(facts) => {
                Opinion::Waiting { failed: false }
            }
            other => other,
        };
        let (step, passed) = (self.step, judged == Opinion::Converged);
        let seen = self.seen(facts, &fared);
        let mut actions = self.decide(now, facts, judged);
        self.record(now, (step, passed), seen);
        if self.state == RolloutState::Running && self.grant(now, facts) {
            self.bump();
            if !actions.contains(&Action::Publish) {
                actions.push(Action::Publish);
            }
        }
        actions
    }

    fn decide(&mut self, now: UnixMillis, facts: &Facts, opinion: Opinion) -> Vec<Action> {
        match opinion {
            Opinion::Failed(why) => self.fail(now, facts, &why),
            Opinion::Stuck(why) => self.pause(why),
            Opinion::Thin(why) => self.doubt_data(now, why),
            Opinion::Suspect => self.ask_another(now),
            Opinion::Converged => self.converged(now, facts),
            Opinion::Undecided(why) => self.undecided(now, facts, why),
            Opinion::Waiting { failed } => self.wait(now, facts, failed),
        }
    }

    /// The only early host fails: another one is asked before the release is judged,
    /// so that one sick machine can't kill it.
    fn ask_another(&mut self, now: UnixMillis) -> Vec<Action> {
        let Some((region, threshold)) = self.spare.take() else { return vec![] };
        let at = self.step as usize;
        for step in self.steps.iter_mut().skip(at) {
            let entry = step.admit.entry(region.as_str().to_owned()).or_insert(0);
            *entry = threshold.max(*entry);
        }
        self.enter(now);
        self.bump();
        let message = format!("the first host in {region} failed; asks a second one");
        vec![Action::Publish, self.tell("rollout.second_opinion", message)]
    }

    pub(crate) fn next_step(&mut self, now: UnixMillis, facts: &Facts) -> Vec<Action> {
        if self.step as usize + 1 >= self.steps.len() {
            return self.succeed(facts);
        }
        let holds = self.step_now().is_some_and(|step| step.hold);
        self.held = holds && !self.hurried && self.state == RolloutState::Running;
        if self.held {
            return self.pause(match self.is_at_canary() {
                true => self.canary_held(),
                false => format!("{} is done; the plan holds here", self.step_name()),
            });
        }
        if let Some(bar) = facts.barred.as_ref().filter(|_| !self.through_freeze) {
            return self.pause(bar.clone());
        }
        self.step += 1;
        self.spare = None;
        self.bump();
        self.enter(now);
        let message = format!("{} began", self.step_name());
        vec![Action::Publish, self.tell("rollout.step", message)]
    }

    pub(crate) fn succeed(&mut self, facts: &Facts) -> Vec<Action> {
        let Some(next) = self.next else { return vec![] };
        let reason = words::outcome(self, facts);
        let mut actions = self.finish(RolloutState::Succeeded, reason);
        actions.insert(0, Action::Settle(self.stable.with(next, &self.regions)));
        actions
    }

    /// A release fault: back to what ran before, if anything did and nobody said to stay.
    fn fail(&mut self, now: UnixMillis, facts: &Facts, why: &str) -> Vec<Action> {
        if self.no_auto_revert || !self.can_revert() {
            let stay = match self.no_auto_revert {
                true => "hosts stay as they are: --no-auto-rollback",
                false => "there is no release to go back to",
            };
            let why = format!("{why}; {stay}");
            let mut actions = self.finish(RolloutState::Failed, why);
            actions.insert(0, Action::MarkBad);
            return actions;
        }
        let mut actions = self.revert(now, facts.fresh, RolloutState::Reverted, why);
        actions.insert(0, Action::MarkBad);
        actions
    }

    pub(crate) fn pause(&mut self, why: String) -> Vec<Action> {
        self.state = RolloutState::Paused;
        self.due_at = None;
        self.thin_since = None;
        self.permits.rest();
        self.reason = why.clone();
        vec![self.tell("rollout.paused", why)]
    }

    pub(crate) fn finish(&mut self, state: RolloutState, reason: String) -> Vec<Action> {
        self.state = state;
        self.stage = Stage::Idle;
        self.due_at = None;
        self.reason = reason.clone();
        let kind = match state {
            RolloutState::Succeeded => "rollout.succeeded",
            RolloutState::Reverted => "rollout.reverted",
            RolloutState::Superseded => "rollout.superseded",
            RolloutState::Canceled => "rollout.canceled",
            RolloutState::Expired => "rollout.expired",
            _ => "rollout.failed",
        };
        vec![self.tell(kind, reason)]
    }

    /// Runs the present step from its beginning.
    pub(crate) fn enter(&mut self, now: UnixMillis) {
        self.state = RolloutState::Running;
        self.stage = Stage::Converging;
        self.reason = String::new();
        (self.began_at, self.progress_at, self.progress) = (now, now, 0);
        (self.thin_since, self.doubts) = (None, 0);
        (self.bakes_since, self.compared_from) = (None, None);
        self.comparing.clear();
        self.held = false;
        self.set_due();
    }

    fn set_due(&mut self) {
        if self.stage != Stage::Converging {
            return;
        }
        // Who may begin late is not late, nor is who may take its time.
        let spread = Duration::from_secs(self.spread_s.into());
        let slow = spread + Duration::from_secs(self.pace_s.into());
        self.due_at = Some(match self.kind {
            // Host after host takes its time, and each is progress.
            RolloutKind::Deploy if self.permits.most.is_some() => {
                self.progress_at + PROGRESS_DEADLINE + slow
            }
            RolloutKind::Deploy => {
                (self.progress_at + PROGRESS_DEADLINE).min(self.began_at + STEP_CAP) + slow
            }
            RolloutKind::Rollback => self.began_at + REVERT_CAP + spread,
        });
    }

    /// The next document of the same generation.
    pub(crate) fn bump(&mut self) {
        if let Some(version) = &mut self.version {
            version.step += 1;
        }
    }

    /// Its documents are of `epoch` from now on. The generation stays: hosts are drawn by it.
    pub(crate) fn fence(&mut self, epoch: u64) {
        if let Some(version) = &mut self.version {
            version.epoch = version.epoch.max(epoch);
        }
    }

    pub(crate) fn is_due(&self, now: UnixMillis) -> bool {
        self.due_at.is_some_and(|due| now >= due)
    }

    /// The step under way.
    #[must_use]
    pub fn step_now(&self) -> Option<&Step> {
        self.steps.get(self.step as usize)
    }

    fn bake_s_now(&self) -> u32 {
        if self.hurried { 0 } else { self.step_now().map_or(0, |step| step.bake_s) }
    }

    fn step_name(&self) -> String {
        self.step_now().map_or_else(String::new, |step| step.name.clone())
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence where it is called")]
    pub(crate) fn tell(&self, kind: &'static str, message: String) -> Action {
        Action::Tell { kind, message }
    }
}
