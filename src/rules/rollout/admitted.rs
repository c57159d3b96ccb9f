//! A rollout as it is when it was admitted: what it is made of, and nothing begun.

use std::collections::BTreeMap;

use crate::model::canary::Canary;
use crate::model::config::Bits;
use crate::model::digest::ConfigId;
use crate::model::id::{AppName, EnvName, RegionName, ReleaseNo};
use crate::model::plan::PlanFile;
use crate::model::rollout::{PlanName, RolloutKind, RolloutState, Stable, Stage, Unavailable};
use crate::model::selector::Selector;
use crate::model::time::UnixMillis;
use crate::rules::rollout::Rollout;
use crate::rules::rollout::permits::Permits;
use crate::rules::rollout::plan::Wish;

/// What a rollout is made of, at admission.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The release's number.
    pub release: ReleaseNo,
    /// Deploy or rollback.
    pub kind: RolloutKind,
    /// The plan.
    pub plan: PlanName,
    /// What a person wrote in its place.
    pub plan_file: Option<PlanFile>,
    /// The hosts that a person named to go first.
    pub canary: Option<Canary>,
    /// Only these regions; empty: all.
    pub regions: Vec<RegionName>,
    /// The hosts that run the app.
    pub hosts: Selector,
    /// Every bake, seconds; `None`: the plan's own.
    pub bake_s: Option<u32>,
    /// What ran before.
    pub stable: Stable,
    /// The configuration beside its artifact.
    pub config: Option<ConfigId>,
    /// What hosts may go on running until they are admitted.
    pub tolerate: Vec<Bits>,
    /// Whether a failure leaves hosts as they are.
    pub no_auto_revert: bool,
    /// Whether it passes freezes and holds.
    pub through_freeze: bool,
    /// Whether it may bring a commit that is older than what runs.
    pub allow_older: bool,
    /// Whether it may begin though other apps are not where it needs them.
    pub allow_unmet: bool,
    /// How many people beside who asked must approve it before it begins.
    pub approvals: u32,
    /// Hosts begin to switch spread over so long, seconds.
    pub spread_s: u32,
    /// Hosts take about so long to fetch, seconds; 0: no longer than they must.
    pub pace_s: u32,
    /// How many hosts of a region may be between releases at once; `None`: no bound.
    pub max_unavailable: Option<Unavailable>,
    /// When it expires unless it began.
    pub start_by: UnixMillis,
}

impl Rollout {
    /// A rollout that waits for its artifact.
    #[must_use]
    pub fn admitted(now: UnixMillis, admission: Admission) -> Self {
        Self {
            app: admission.app,
            env: admission.env,
            release: admission.release,
            kind: admission.kind,
            plan: admission.plan,
            plan_file: admission.plan_file,
            canary: admission.canary,
            regions: admission.regions,
            hosts: admission.hosts,
            bake_s: admission.bake_s,
            next: None,
            config: admission.config,
            stable: admission.stable,
            tolerate: admission.tolerate,
            state: RolloutState::Pending,
            reason: String::new(),
            steps: vec![],
            step: 0,
            stage: Stage::Idle,
            version: None,
            retry: 0,
            due_at: Some(admission.start_by),
            began_at: now,
            progress_at: now,
            progress: 0,
            judge_from: now,
            thin_since: None,
            doubts: 0,
            bakes_since: None,
            gates: vec![],
            compared_from: None,
            comparing: BTreeMap::new(),
            held: false,
            excused: BTreeMap::new(),
            spare: None,
            no_auto_revert: admission.no_auto_revert,
            through_freeze: admission.through_freeze,
            allow_older: admission.allow_older,
            allow_unmet: admission.allow_unmet,
            approvals: admission.approvals,
            approved: vec![],
            blocked: false,
            spread_s: admission.spread_s,
            pace_s: admission.pace_s,
            permits: Permits { most: admission.max_unavailable, ..Permits::default() },
            hurried: false,
            went_back: false,
            after_revert: RolloutState::Reverted,
            skipped: vec![],
            failures: BTreeMap::new(),
            judged: vec![],
        }
    }

    /// What the planner is asked for.
    #[must_use]
    pub fn wish(&self) -> Wish<'_> {
        let first = self.stable.base.is_none() && self.stable.region_base.is_empty();
        match self.kind {
            // A rollback goes flat out whatever plan its request named.
            RolloutKind::Rollback => {
                Wish { plan: PlanName::AllAtOnce, file: None, canary: None, first, bake_s: None }
            }
            RolloutKind::Deploy => {
                let file = self.plan_file.as_ref();
                let canary = self.canary.as_ref();
                Wish { plan: self.plan, file, canary, first, bake_s: self.bake_s }
            }
        }
    }
}
