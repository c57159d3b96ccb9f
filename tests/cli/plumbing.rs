//! Single facts for scripts: one JSON document each.

use deployctl::model::goal::{BUCKETS, GoalVersion, bucket};
use deployctl::model::job::JobState;
use deployctl::model::rollout::{RolloutState, Step};
use serde_json::{Value, json};

use crate::samples::{B1, R2, ROLLOUTS, app, build, rollout, status};
use crate::support::{Coordinator, Person};

const HOSTS: &str = "GET /v1/hosts";

fn host(number: usize) -> Value {
    json!({"info": {"host": format!("web-{number}"), "env": "prod", "labels": {}, "rack": "",
        "zone": "", "peer_port": 1, "agent_version": "1"}, "region": "eu", "address": "",
        "reachable": true, "seen_at": "2026-11-22T00:00:00.000Z", "apps": []})
}

fn step(wave: u32, name: &str, buckets: u32) -> Step {
    Step {
        wave,
        name: name.into(),
        admit: [("eu".into(), buckets)].into(),
        bake_s: 60,
        hold: false,
    }
}

#[test]
fn a_revision_a_build_and_a_release_are_one_full_commit() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives(B1, &build(JobState::Queued));
    coordinator.gives(R2, &rollout(RolloutState::Running, 1));
    for rev in ["b1", "r2"] {
        let fact = person.ends(&["plumbing", "resolve-rev", rev], 0).json();
        assert_eq!(fact, json!({"rev": rev, "commit": "a".repeat(40), "subject": "Second"}));
    }
    person.ends(&["plumbing", "resolve-rev", "@~"], 2);
    person.ends(&["plumbing", "resolve-rev", "r9"], 3);
    let work = person.work();
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(args).current_dir(&work).env("HOME", &work).env("GIT_CONFIG_NOSYSTEM", "1");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    let id = ["-c", "user.name=a", "-c", "user.email=a@b"];
    git(&[&id[..], &["commit", "-q", "--allow-empty", "-m", "First"]].concat());
    let fact = person.ends(&["plumbing", "resolve-rev", "main"], 0).json();
    assert_eq!(
        fact,
        json!({"rev": "main", "commit": git(&["rev-parse", "HEAD"]), "subject": "First"})
    );
}

#[test]
fn a_plan_counts_the_hosts_of_each_step_and_starts_nothing() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let mut planned = rollout(RolloutState::Running, 1);
    planned.release.version = Some(GoalVersion { epoch: 1, generation: 7, step: 1 });
    planned.steps =
        vec![step(0, "canary eu", 100), step(0, "eu 50%", 5000), step(1, "rest", BUCKETS)];
    coordinator.gives(ROLLOUTS, &planned);
    coordinator.gives("GET /v1/apps/web", &app("file:///x"));
    coordinator.gives(HOSTS, &json!({"hosts": (0..40).map(host).collect::<Vec<_>>(), "total": 40}));
    let fact = person.ends(&["plumbing", "plan", "b1"], 0).json();
    assert_eq!(fact["waves"][1]["steps"][0]["hosts"], json!({"eu": 40}), "{fact}");
    let half = (0..40).map(|n| format!("web-{n}").parse().unwrap());
    let half = half.filter(|host| bucket("7", &"web".parse().unwrap(), host) < 5000).count();
    assert_eq!(fact["waves"][0]["steps"][1]["hosts"], json!({"eu": half}));
    assert_eq!(fact["waves"][1]["steps"][0]["new"], json!({"eu": 40 - half}));
    let asked = coordinator.requests_of("POST ");
    assert!(asked.iter().all(|request| request.body["dry_run"] == true), "{asked:?}");
}

#[test]
fn a_cohort_is_the_hosts_bucket_and_the_step_that_admits_it() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Running));
    let own = bucket("9", &"web".parse().unwrap(), &"web-1".parse().unwrap());
    let open = now.apps[0].rollout.as_mut().unwrap();
    open.release.version = Some(GoalVersion { epoch: 1, generation: 9, step: 1 });
    open.steps = vec![step(0, "eu some", own), step(0, "eu more", own + 1)];
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives(HOSTS, &json!({"hosts": [host(1)], "total": 1}));
    let fact = person.ends(&["plumbing", "cohort", "web-1"], 0).json();
    assert_eq!(fact["bucket"], own);
    assert_eq!(
        (&fact["step"], &fact["name"], &fact["admitted"]),
        (&json!(2), &json!("eu more"), &json!(false))
    );
    coordinator.gives(HOSTS, &json!({"hosts": [], "total": 0}));
    person.ends(&["plumbing", "cohort", "web-9"], 3);
}

#[test]
fn a_digest_is_the_sha_256_of_the_bytes() {
    let person = Person::nowhere();
    std::fs::write(person.work().join("a.toml"), "level = 2").unwrap();
    let fact = person.ends(&["plumbing", "digest", "a.toml"], 0).json();
    let digest = deployctl::model::digest::Digest::of(b"level = 2").to_string();
    assert_eq!(fact, json!({"file": "a.toml", "digest": digest, "bytes": 9}));
    let empty = person.ends(&["plumbing", "digest", "-"], 0).json();
    assert_eq!(empty["bytes"], 0);
    person.ends(&["plumbing", "digest", "no-such"], 3);
    person.ends(&["plumbing", "digest", "."], 2);
}
