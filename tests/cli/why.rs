//! `deployctl why`: the chain of reasons for a host, a rollout, a build and a commit.

use deployctl::model::digest::Digest;
use deployctl::model::fleet::{AppStatus, Failure, FailureClass, Phase, Sources};
use deployctl::model::goal::{GoalVersion, Target, bucket};
use deployctl::model::job::JobState;
use deployctl::model::replication::ReplicationStatus;
use deployctl::model::rollout::{RolloutState, Step};
use deployctl::model::time::UnixMillis;
use deployctl::wire::v1::build::{Builds, RegionReplica};
use deployctl::wire::v1::fleet::{HostInfo, HostRow, Hosts, Regions, Status, Workers};
use deployctl::wire::v1::rollout::{Releases, Stage};

use crate::samples::{B1, R2, app, build, release, rollout, status};
use crate::support::{Coordinator, Done, Person};

const VERSION: GoalVersion = GoalVersion { epoch: 1, generation: 7, step: 2 };

fn target(n: u8) -> Target {
    Target {
        release: format!("r{n}").parse().unwrap(),
        artifact: Digest([n + 5; 32]),
        config: None,
    }
}

fn on_host(running: u8, desired: u8, phase: Phase) -> AppStatus {
    AppStatus {
        app: "web".parse().unwrap(),
        env: "prod".parse().unwrap(),
        version: VERSION,
        running: Some(target(running)),
        desired: Some(target(desired)),
        phase,
        held: vec![],
        pieces: (3, 8),
        sources: Sources::default(),
        failure: None,
        restarts: 0,
        events: None,
    }
}

fn host(status: AppStatus) -> HostRow {
    HostRow {
        info: HostInfo {
            host: "web-1".parse().unwrap(),
            env: "prod".parse().unwrap(),
            labels: Default::default(),
            rack: String::new(),
            zone: String::new(),
            peer_port: 1,
            agent_version: "0.1.0".into(),
        },
        region: "eu".parse().unwrap(),
        address: "10.0.0.1".into(),
        reachable: true,
        seen_at: UnixMillis(1_795_300_000_000),
        apps: vec![status],
    }
}

/// r2 is at its first step of two: nobody of `eu` is admitted yet, then everybody.
fn under_way() -> Status {
    let mut status = status(Some(RolloutState::Succeeded), Some(RolloutState::Running));
    let env = &mut status.apps[0];
    env.version = Some(VERSION);
    let current = env.current.as_mut().unwrap();
    (current.release, current.artifact) = ("r1".parse().unwrap(), Some(target(1).artifact));
    let open = env.rollout.as_mut().unwrap();
    open.release.version = Some(VERSION);
    open.waiting_on = "bake ends in 90 s".into();
    let step = |name: &str, buckets| Step {
        wave: 0,
        name: name.into(),
        admit: [("eu".to_owned(), buckets)].into(),
        bake_s: 60,
        hold: false,
    };
    open.steps = vec![step("canary eu", 0), step("eu 100%", 10_000)];
    status
}

fn asked(host: HostRow, status: &Status) -> Done {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/hosts", &Hosts { hosts: vec![host], total: 1 });
    coordinator.gives("GET /v1/status", status);
    coordinator.gives("GET /v1/apps/web", &app("file:///srv/web"));
    Person::of(&coordinator).ends(&["why", "web-1"], 0)
}

#[test]
fn a_host_that_is_not_admitted_yet_knows_its_bucket_and_its_step() {
    let done = asked(host(on_host(1, 1, Phase::Healthy)), &under_way());
    let own = bucket("7", &"web".parse().unwrap(), &"web-1".parse().unwrap());
    for words in [
        "web-1 (eu) runs web r1; prod leads to r2",
        &format!("its bucket is {own} of 10000, and eu admits those below 0"),
        "r2 is at step 1 of 2, and step 2 (eu 100%) admits it",
        "next: r2 waits for its bake, which ends in 90 s",
        "hint: deployctl promote r2 -a web -e prod",
    ] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
}

#[test]
fn a_host_of_a_region_that_says_nothing_is_not_called_fine() {
    let coordinator = Coordinator::start();
    let row = host(on_host(1, 1, Phase::Healthy));
    coordinator.gives("GET /v1/hosts", &Hosts { hosts: vec![row], total: 1 });
    coordinator.gives("GET /v1/status", &under_way());
    coordinator.gives("GET /v1/apps/web", &app("file:///srv/web"));
    let regions = serde_json::json!({"regions": [{"region": "eu", "blobs": "", "hosts": 1,
        "seen_at": "2026-01-01T00:00:00.000Z", "unreachable": 0, "artifacts": 1, "owed": 0,
        "goals_revision": 1}]});
    coordinator.gives("GET /v1/regions", &regions);
    let done = Person::of(&coordinator).ends(&["why", "web-1", "--exit-code"], 20);
    let first = done.stdout.lines().nth(1).unwrap_or_default();
    assert!(first.contains("because eu has not reported for"), "{}", done.stdout);
}

#[test]
fn a_host_whose_agent_does_not_know_configs_says_so() {
    let mut status = under_way();
    let open = &mut status.apps[0].rollout.as_mut().unwrap().release;
    open.config = Some(Digest([9; 32]));
    let done = asked(host(on_host(2, 2, Phase::Healthy)), &status).stdout;
    for words in
        ["it runs the code of r2 without its config", "hint: update deployctl-agent on web-1"]
    {
        assert!(done.contains(words), "{words}: {done}");
    }
}

#[test]
fn a_host_that_is_held_or_pinned_says_by_whom_and_until_when() {
    let hold = |at: Option<Target>| -> deployctl::wire::v1::hold::Hold {
        serde_json::from_value(serde_json::json!({"hold": "h3", "app": "web", "env": "prod",
            "host": "web-1", "region": "eu", "at": at, "reason": "a core dump", "actor": "ann",
            "from": "2026-11-21T00:00:00.000Z", "until": "2096-11-22T00:00:00.000Z",
            "ended_at": null, "ended_by": null}))
        .unwrap()
    };
    let mut status = under_way();
    status.apps[0].pins = vec![hold(None)];
    let done = asked(host(on_host(1, 1, Phase::Healthy)), &status);
    for words in [
        "because it is held: h3 by ann until 2096-11-22T00:00:00.000Z: a core dump",
        "next: it follows the rollouts again when h3 ends",
        "hint: deployctl hold end h3",
    ] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
    status.apps[0].pins = vec![hold(Some(target(2)))];
    let done = asked(host(on_host(1, 2, Phase::Fetching)), &status).stdout;
    for words in ["it is pinned to r2: h3 by ann", "it fetches r2: 3 of 8 pieces"] {
        assert!(done.contains(words), "{words}: {done}");
    }
}

#[test]
fn a_host_says_what_it_does_and_what_failed_there() {
    let fetching = asked(host(on_host(1, 2, Phase::Fetching)), &under_way());
    assert!(fetching.stdout.contains("it fetches r2: 3 of 8 pieces"), "{}", fetching.stdout);
    let mut failed = on_host(1, 2, Phase::Reverted);
    failed.failure = Some(Failure {
        class: FailureClass::Release,
        reason: "exited 101".into(),
        log: vec!["panic: \x1b[31mRETRY_CAP".into()],
    });
    let failed = asked(host(failed), &under_way()).stdout;
    for words in
        ["r2 failed there: exited 101", "| panic: [31mRETRY_CAP", "it went back to r1", "retry"]
    {
        assert!(failed.contains(words), "{words}: {failed}");
    }
}

#[test]
fn a_host_that_is_away_behind_or_held_says_so() {
    let mut away = host(on_host(1, 1, Phase::Healthy));
    away.reachable = false;
    let away = asked(away, &under_way()).stdout;
    assert!(away.contains("web-1 was last heard of"), "{away}");
    let mut old = on_host(1, 1, Phase::Healthy);
    old.version.generation = 6;
    let old = asked(host(old), &under_way()).stdout;
    assert!(old.contains("it acts under goal 1.6.2, and 1.7.2 is the newest"), "{old}");
    let mut quiet = status(Some(RolloutState::Succeeded), None);
    quiet.apps[0].version = Some(VERSION);
    let held = asked(host(on_host(1, 1, Phase::Healthy)), &quiet).stdout;
    assert!(held.contains("deployctl-agent rollback"), "{held}");
    let settled = asked(host(on_host(2, 2, Phase::Healthy)), &quiet).stdout;
    assert_eq!(settled, "web-1 (eu) runs web r2, as it should\n");
}

#[test]
fn a_rollout_says_what_it_waits_for_and_who_is_silent() {
    let coordinator = Coordinator::start();
    let mut paused = rollout(RolloutState::Paused, 3);
    paused.waiting_on = "a person: 3 hosts unreachable".into();
    coordinator.gives(R2, &paused);
    let regions = serde_json::json!({"regions": [{"region": "eu", "blobs": "", "hosts": 4,
        "seen_at": "2026-11-21T15:04:11.000Z", "unreachable": 0, "artifacts": 1, "owed": 0,
        "goals_revision": 1}]});
    coordinator.gives("GET /v1/regions", &regions);
    coordinator.gives("GET /v1/status", &status(None, Some(RolloutState::Paused)));
    let person = Person::of(&coordinator);
    let done = person.ends(&["why"], 0);
    for words in [
        "r2 of web in prod is paused",
        "because it waits for a person: 3 hosts unreachable",
        "because eu has not reported for",
        "hint: deployctl resume r2 -a web -e prod",
    ] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
    let json = person.ends(&["why", "r2", "--exit-code", "-o", "json"], 20).json();
    assert_eq!(json["settled"], false);
    assert_eq!(json["reasons"][0]["next"], "nothing until a person decides");
}

#[test]
fn a_release_that_was_reverted_says_once_why_and_where_that_can_be_read() {
    let coordinator = Coordinator::start();
    let mut reverted = rollout(RolloutState::Reverted, 3);
    reverted.release.reason =
        "1 host failed: exited 101 (first: eu-1); hosts are back on r1".into();
    coordinator.gives(R2, &reverted);
    coordinator.gives("GET /v1/regions", &serde_json::json!({"regions": []}));
    let done = Person::of(&coordinator).ends(&["why", "r2"], 0);
    let said = "r2 of web in prod is reverted\n\
        \x20 because 1 host failed: exited 101 (first: eu-1); hosts are back on r1\n\
        \x20     | panic: RETRY_CAP is not set\n\
        next: nothing: fix it and deploy the fix\n\
        hint: deployctl logs r2 -a web -e prod\n\
        hint: deployctl history -a web -e prod\n";
    assert_eq!(done.stdout, said);
}

#[test]
fn a_rollout_that_bakes_says_what_comes_after() {
    let coordinator = Coordinator::start();
    let mut open = under_way().apps.remove(0).rollout.unwrap();
    open.stage = Stage::Baking;
    coordinator.gives(R2, &open);
    coordinator.gives(
        "GET /v1/regions",
        &Regions {
            regions: vec![],
            main_store_trouble: String::new(),
            main_store_not_owned: String::new(),
            main_store_anothers: false,
            main_store_grant: String::new(),
            clock_doubted: String::new(),
        },
    );
    let done = Person::of(&coordinator).ends(&["why", "r2"], 0);
    assert!(done.stdout.contains("is baking, step 1 of 2 \"canary eu\""), "{}", done.stdout);
    assert!(done.stdout.contains("step \"eu 100%\" begins, if hosts stay"), "{}", done.stdout);
}

#[test]
fn a_build_says_which_region_lacks_it_and_which_queue_it_waits_in() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/workers", &Workers { workers: vec![], queue: None });
    let mut lacking = build(JobState::Succeeded);
    lacking.deployable = false;
    lacking.replication.regions = vec![RegionReplica {
        region: "ap".parse().unwrap(),
        status: ReplicationStatus::Partial,
        bytes: 512,
        checked_at: None,
        reason: "the store refused".into(),
    }];
    coordinator.gives(B1, &lacking);
    let person = Person::of(&coordinator);
    let done = person.ends(&["why", "b1"], 0);
    assert!(done.stdout.contains("ap has 512 B of 1.0 KiB: the store refused"), "{}", done.stdout);
    coordinator.gives(B1, &build(JobState::Queued));
    let done = person.ends(&["why", "b1"], 0);
    assert!(done.stdout.contains("no worker was heard of"), "{}", done.stdout);
    coordinator.gives(B1, &build(JobState::Failed));
    let done = person.ends(&["why", "b1"], 0);
    assert!(done.stdout.contains("because the command exited 2"), "{}", done.stdout);
}

#[test]
fn a_commit_is_followed_from_its_build_to_what_came_after() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/hosts", &Hosts { hosts: vec![], total: 0 });
    coordinator.gives("GET /v1/builds", &Builds { builds: vec![] });
    let (commit, person) = ("a".repeat(40), Person::of(&coordinator));
    let why = || person.ends(&["why", &commit], 0).stdout;
    assert!(why().contains("aaaaaaaaaa of web was never built"), "{}", why());
    coordinator.gives("GET /v1/builds", &Builds { builds: vec![build(JobState::Succeeded)] });
    let mut current = release(RolloutState::Succeeded);
    (current.release, current.commit) = ("r3".parse().unwrap(), "b".repeat(40).parse().unwrap());
    current.version = Some(VERSION);
    let mut runs = status(Some(RolloutState::Succeeded), None);
    runs.apps[0].current = Some(current.clone());
    coordinator.gives("GET /v1/status", &runs);
    let left = release(RolloutState::Reverted);
    let history = Releases { releases: vec![current, left] };
    coordinator.gives("GET /v1/apps/web/envs/prod/releases", &history);
    let words = why();
    assert!(words.contains("aaaaaaaaaa does not run in prod; web runs r3 (bbbbbbbbbb)"), "{words}");
    assert!(words.contains("r2 brought it and was reverted"), "{words}");
}

#[test]
fn what_nobody_knows_is_code_3() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/hosts", &Hosts { hosts: vec![], total: 0 });
    let done = Person::of(&coordinator).ends(&["why", "nonsense"], 3);
    assert!(done.stderr.contains("nothing is called \"nonsense\""), "{}", done.stderr);
}
