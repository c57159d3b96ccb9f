//! Rollouts and releases: `POST /v1/apps/{app}/envs/{env}/rollouts`,
//! `GET …/rollouts/{rN}?since=STAMP&wait_ms=M`, `POST …/rollouts/{rN}/{promote|cancel|retry}`,
//! `GET …/releases?limit=&before=`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::fleet::Tally;
use crate::model::freeze::Freeze;
use crate::model::goal::{GoalVersion, Target};
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, RegionName};
pub use crate::model::judged::{Compared, GateNumbers, GateWord, Judged, ProgramSaid};
use crate::model::picked::HostSelector;
use crate::model::plan::{PlanFile, Wave};
use crate::model::rollout::{OnConflict, PlanName, Release, RolloutKind, Unavailable};
pub use crate::model::rollout::{Stage, Step as StepView};
use crate::model::time::UnixMillis;
use crate::wire::v1::config::ConfigWish;

/// Asks for a rollout. An identical open one is joined instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// Deploy or rollback.
    pub kind: RolloutKind,
    /// What: `r411`, `b12`, `@`, `@~`, `@~2`, `@stable`, `@latest`, `staging:@`, or at least 7
    /// hexadecimal digits of a commit. Empty with a rollback: the last known-good release.
    #[serde(default)]
    pub target: String,
    /// The plan.
    #[serde(default)]
    pub plan: PlanName,
    /// A plan that a person wrote, in place of a named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_file: Option<PlanFile>,
    /// With a deploy: these hosts go first, and a person says when the plan goes on with the
    /// rest. Not with `plan_file`, `max_unavailable` or all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<HostSelector>,
    /// The configuration beside it; `None`: that of the release it names, if the env has run
    /// it, else that of the release whose place it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigWish>,
    /// Only these regions; empty: all.
    #[serde(default)]
    pub regions: Vec<RegionName>,
    /// Every region that is known now but these; not with `regions`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_regions: Vec<RegionName>,
    /// With a deploy: when the release fails, hosts stay as they are and it ends `failed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_auto_revert: bool,
    /// Every bake of the plan, seconds; `None`: the plan's own.
    #[serde(default)]
    pub bake_s: Option<u32>,
    /// Hosts begin to switch spread over so long, seconds, at most an hour; `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_s: Option<u32>,
    /// With a deploy: hosts take about so long to fetch, seconds, at most an hour; `None`: they
    /// fetch as fast as they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace_s: Option<u32>,
    /// How many hosts of a region may be between releases at once: `"10"` or `"10%"`;
    /// `None`: no bound beside the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Unavailable>,
    /// Wait this long for build and replication before expiring, seconds; `None`: refuse.
    #[serde(default)]
    pub when_ready_s: Option<u32>,
    /// Deploy a release that was marked bad.
    #[serde(default)]
    pub allow_bad: bool,
    /// Deploy a commit that is older than what the env runs, or of which nobody knows
    /// whether it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_older: bool,
    /// Deploy a commit though other apps are not where it needs them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unmet: bool,
    /// What happens when another rollout is open; `None`: a newer commit takes the place of
    /// an older one, anything else is refused. A rollback always takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<OnConflict>,
    /// Pass a freeze, a hold and approvals; needs the role admin and a message.
    #[serde(default)]
    pub break_glass: bool,
    /// With a rollback: end the pins and holds of hosts that would keep them out of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpin: bool,
    /// Refuse unless the env's goal generation is still this.
    #[serde(default)]
    pub expect_generation: Option<u64>,
    /// Why.
    #[serde(default)]
    pub message: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

impl RolloutRequest {
    /// Of `target` by the default plan, everywhere, with no exception from any rule.
    #[must_use]
    pub fn new(kind: RolloutKind, target: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.into(),
            plan: PlanName::default(),
            plan_file: None,
            hosts: None,
            config: None,
            regions: vec![],
            exclude_regions: vec![],
            no_auto_revert: false,
            bake_s: None,
            spread_s: None,
            pace_s: None,
            max_unavailable: None,
            when_ready_s: None,
            allow_bad: false,
            allow_older: false,
            allow_unmet: false,
            on_conflict: None,
            break_glass: false,
            unpin: false,
            expect_generation: None,
            message: String::new(),
            dry_run: false,
        }
    }
}

/// A rollout with all that a watcher shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The release and its state.
    #[serde(flatten)]
    pub release: Release,
    /// Grows with every change of this document; wait for the next with `since`.
    pub stamp: u64,
    /// The waves of a plan that a person wrote, as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan_waves: Vec<Wave>,
    /// The plan's steps in order; empty while pending.
    pub steps: Vec<StepView>,
    /// Index of the step that is under way.
    pub step: u32,
    /// What the step does now.
    pub stage: Stage,
    /// Whether it is paused because the step is done and holds here: a person goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Whether the time of its bake is over; where it still bakes then, `waiting_on` says for
    /// what.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baked: bool,
    /// Whether it takes hosts back to what they ran before, or did: counts are of those that
    /// are back, then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub went_back: bool,
    /// When the stage ends by itself or its deadline fires.
    pub due_at: Option<UnixMillis>,
    /// One line: what it waits for.
    pub waiting_on: String,
    /// What ran before; where a revert goes.
    pub base: Option<Target>,
    /// Whether other bits than `base`'s ran in some of its regions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed_base: bool,
    /// Counts per region. (`regions` is the release's own field in the same object.)
    #[serde(rename = "tallies")]
    pub regions: BTreeMap<RegionName, Tally>,
    /// How its steps were judged and by what numbers, in order; the last is the one under
    /// way. A step without an entry was passed by a person, or is to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Judged>,
    /// What it needs of other apps and the env does not have, a line each, where it was told
    /// to go on nevertheless (`allow_unmet`). As it is when this is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<String>,
    /// Whether it was there already and this request joined it.
    #[serde(default)]
    pub joined: bool,
    /// Whether it was only asked what would happen: nothing was written, and of a rollout that
    /// would begin now the state is `pending`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `GET …/rollouts/{rN}/curve`: how far its hosts were, as it went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Curve {
    /// Oldest first; the first is its start. Empty: it has not begun.
    pub points: Vec<CurvePoint>,
}

/// How far a rollout's hosts were at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// When.
    pub at: UnixMillis,
    /// Hosts that the rollout covers, in regions that had counted them.
    pub hosts: u32,
    /// Of those: had every byte of the release.
    pub staged: u32,
    /// Of those: ran it, and the probe had passed.
    pub healthy: u32,
}

/// `POST …/promote`: the next step at once, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// Skip every remaining step and bake.
    #[serde(default)]
    pub full: bool,
    /// Refuse unless this step, from 0, is still under way.
    #[serde(default)]
    pub expect_step: Option<u32>,
}

/// `POST …/cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Go back to the release before (default), or leave hosts as they are.
    #[serde(default)]
    pub keep: bool,
    /// Why.
    #[serde(default)]
    pub message: String,
}

/// `POST …/pause`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why.
    #[serde(default)]
    pub message: String,
}

/// `POST …/approve` and `POST …/reject`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// What is to be said of it, at most 2,000 bytes.
    #[serde(default)]
    pub message: String,
}

/// `GET …/releases`: history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// At most `limit` (default 20, at most 500).
    pub releases: Vec<Release>,
}

/// What runs where, for one app and env.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvStatus {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The release that is the goal now; `None`: never deployed.
    pub current: Option<Release>,
    /// The rollout that is open.
    pub rollout: Option<Rollout>,
    /// The goal's version.
    pub version: Option<GoalVersion>,
    /// Counts per region.
    pub regions: BTreeMap<RegionName, Tally>,
    /// The freeze that stops deploys now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    /// The hold that stops deploys now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Hold>,
    /// What keeps hosts and regions where they are, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Hold>,
}

/// `POST /v1/fence`: every goal once more, under a new epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRequest {
    /// An epoch that the new one must pass, under 1,000,000; it passes all that the
    /// coordinator knows of in any case.
    #[serde(default)]
    pub above: u64,
    /// Why, 1 to 2,000 bytes.
    pub message: String,
}

/// What a fence did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// The epoch of all goals from now on.
    pub epoch: u64,
    /// How many goals were sent once more.
    pub goals: u32,
}
