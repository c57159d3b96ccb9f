//! Documents as a coordinator sends them, made from the wire's own structs.

use deployctl::model::fleet::{FailureClass, FailureGroup, Tally};
use deployctl::model::goal::Target;
use deployctl::model::job::{BuildFailure, JobState};
use deployctl::model::rollout::{PlanName, Release, RolloutKind, RolloutState};
use deployctl::model::time::UnixMillis;
use deployctl::wire::v1::app::{App, AppSpec};
use deployctl::wire::v1::build::{
    ArtifactView, Build, BuildFailed, Replication, ReplicationStatus,
};
use deployctl::wire::v1::fleet::Status;
use deployctl::wire::v1::rollout::{EnvStatus, Rollout, Stage};

pub(crate) const ROLLOUTS: &str = "POST /v1/apps/web/envs/prod/rollouts";
pub(crate) const R2: &str = "GET /v1/apps/web/envs/prod/rollouts/r2";
pub(crate) const BUILDS: &str = "POST /v1/apps/web/builds";
pub(crate) const B1: &str = "GET /v1/builds/b1";

pub(crate) fn app(repo: &str) -> App {
    let spec = AppSpec {
        name: "web".parse().unwrap(),
        repo: repo.into(),
        trunk: "main".into(),
        recipe: deployctl::model::recipe::Recipe::default(),
        hosts: deployctl::model::selector::Selector::default(),
        envs: vec!["prod".parse().unwrap()],
        approvals: std::collections::BTreeMap::new(),
        waves: vec![],
    };
    App { spec, created_at: UnixMillis(1_795_300_000_000) }
}

pub(crate) fn release(state: RolloutState) -> Release {
    Release {
        app: "web".parse().unwrap(),
        env: "prod".parse().unwrap(),
        release: "r2".parse().unwrap(),
        kind: RolloutKind::Deploy,
        same_as: None,
        build: "b1".parse().unwrap(),
        commit: "a".repeat(40).parse().unwrap(),
        subject: "Second".into(),
        artifact: Some(deployctl::model::digest::Digest([7; 32])),
        config: None,
        plan: PlanName::Standard,
        plan_file: None,
        canary: None,
        regions: vec![],
        no_auto_revert: false,
        state,
        max_unavailable: None,
        approvals: 0,
        approved: vec![],
        blocked: false,
        reason: "because of the test".into(),
        version: None,
        bad: false,
        actor: "ann".into(),
        message: String::new(),
        created_at: UnixMillis(1_795_300_000_000),
        ended_at: None,
    }
}

pub(crate) fn rollout(state: RolloutState, stamp: u64) -> Rollout {
    let failed = u32::from(matches!(state, RolloutState::Reverted | RolloutState::Failed));
    let group = FailureGroup {
        class: FailureClass::Release,
        reason: "exited 101".into(),
        hosts: 1,
        first: "eu-1".parse().unwrap(),
        log: vec!["panic: RETRY_CAP is not set".into()],
    };
    let tally = Tally {
        hosts: 4,
        admitted: 4,
        healthy: 4 - failed,
        settled: 4,
        on_next: 4 - failed,
        failed,
        failures: vec![group; failed as usize],
        ..Tally::default()
    };
    Rollout {
        release: release(state),
        stamp,
        plan_waves: vec![],
        steps: vec![],
        step: 0,
        stage: Stage::Converging,
        held: false,
        baked: false,
        went_back: false,
        due_at: None,
        waiting_on: String::new(),
        base: Some(Target {
            release: "r1".parse().unwrap(),
            artifact: deployctl::model::digest::Digest([6; 32]),
            config: None,
        }),
        mixed_base: false,
        regions: [("eu".parse().unwrap(), tally)].into(),
        gates: vec![],
        unmet: vec![],
        joined: false,
        dry_run: false,
    }
}

pub(crate) fn status(current: Option<RolloutState>, open: Option<RolloutState>) -> Status {
    let open = open.map(|state| rollout(state, 1));
    let regions = open.as_ref().map(|rollout| rollout.regions.clone()).unwrap_or_default();
    Status {
        apps: vec![EnvStatus {
            app: "web".parse().unwrap(),
            env: "prod".parse().unwrap(),
            current: current.map(release),
            rollout: open,
            version: None,
            regions,
            frozen: None,
            held: None,
            pins: vec![],
        }],
    }
}

pub(crate) fn build(state: JobState) -> Build {
    let done = state == JobState::Succeeded;
    Build {
        build: "b1".parse().unwrap(),
        app: "web".parse().unwrap(),
        commit: "a".repeat(40).parse().unwrap(),
        subject: "Second".into(),
        state,
        attempt: 1,
        max_attempts: 3,
        queue_position: (state == JobState::Queued).then_some(2),
        worker: Some("w1".into()),
        actor: "ann".into(),
        queued_at: UnixMillis(1_795_300_000_000),
        started_at: None,
        ended_at: None,
        failure: (state == JobState::Failed).then(|| BuildFailed {
            class: BuildFailure::BuildFailed,
            reason: "the command exited 2".into(),
        }),
        artifact: done.then_some(ArtifactView {
            artifact: deployctl::model::digest::Digest([7; 32]),
            size: 2048,
            wire_size: 1024,
            pieces: 1,
            entries: 1,
        }),
        replication: Replication { status: ReplicationStatus::Complete, regions: vec![] },
        deployable: done,
        collected: false,
    }
}
