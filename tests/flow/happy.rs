//! Nothing is killed: build, deploy, deploy again, fail and revert, roll back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::fleet::{Fleet, eventually};
use crate::repository::Repository;
use crate::{RUN, fleet_on_server, fleet_with_app};

fn versions(fleet: &Fleet, hosts: &[&str]) -> Vec<String> {
    let version = |host: &&str| fs::read_to_string(fleet.current(host, "api").join("version"));
    hosts.iter().map(|host| version(host).unwrap_or_default()).collect()
}

#[test]
fn a_commit_reaches_every_host_and_a_bad_one_goes_back() {
    commit_to_hosts_and_back(fleet_with_app(2));
}

#[test]
fn the_same_on_a_database_server() {
    commit_to_hosts_and_back(fleet_on_server(2));
}

fn commit_to_hosts_and_back((fleet, repository): (Fleet, Repository)) {
    let hosts = ["eu-1", "eu-2", "us-1", "us-2"];
    let at = &repository.folder;

    let build = fleet.json(at, &["build", "HEAD"], 0);
    assert_eq!(build["state"], "SUCCEEDED", "{build}");
    fleet.expect(
        at,
        &["deploy", "HEAD", "--yes", "--bake", "1s", "--when-ready", "-m", "first"],
        0,
    );
    assert_eq!(versions(&fleet, &hosts), ["1"; 4]);

    repository.publish(&[("version", "2"), ("data/big", &"x".repeat(1 << 20))], "Second");
    fleet.expect(at, &["deploy", "HEAD", "--yes", "--build", "--bake", "1s"], 0);
    assert_eq!(versions(&fleet, &hosts), ["2"; 4]);
    // The same again is no rollout: it is there already.
    fleet.expect(at, &["deploy", "HEAD", "--yes"], 0);
    // What runs is not overwritten with what it contains; the worker saw the history.
    let older = fleet.cli(at, &["deploy", "HEAD~1", "--yes"]);
    let story = crate::fleet::text(&older.stderr);
    assert_eq!(older.status.code(), Some(7), "{story}");
    assert!(story.contains("is older than r2") && story.contains("deployctl rollback"), "{story}");

    let crash = "#!/bin/sh\necho 'panic: RETRY_CAP is not set' >&2\nexit 101\n";
    repository.publish(&[("version", "3"), ("run.sh", crash)], "Broken");
    let failed = fleet.cli(at, &["deploy", "HEAD", "--yes", "--build", "--bake", "1s"]);
    let story = crate::fleet::text(&failed.stderr) + &crate::fleet::text(&failed.stdout);
    assert_eq!(failed.status.code(), Some(10), "{story}");
    assert!(story.contains("RETRY_CAP"), "the app's last words reach the engineer: {story}");
    eventually("every host is back on 2", || versions(&fleet, &hosts) == ["2"; 4]);

    repository.publish(&[("version", "4"), ("run.sh", RUN)], "Mended");
    fleet.expect(at, &["deploy", "HEAD", "--yes", "--build", "--plan", "all-at-once"], 0);
    fleet.expect(at, &["rollback", "--yes", "-m", "INC-1"], 0);
    assert_eq!(versions(&fleet, &hosts), ["2"; 4]);

    // `watch` of what ended before gives the same code as waiting did.
    fleet.expect(at, &["watch", "r3"], 10);
    let history = fleet.json(at, &["history"], 0);
    let states: Vec<&str> = history["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states,
        ["succeeded", "succeeded", "reverted", "succeeded", "succeeded"],
        "{history}"
    );
    changed_lately(&fleet, at, &history);
    assert_eq!(fleet.json(at, &["hosts"], 0)["hosts"].as_array().unwrap().len(), 4);
}

/// The history of everything has the same, and says where.
fn changed_lately(fleet: &Fleet, at: &Path, history: &Value) {
    assert_eq!(&fleet.json(at, &["history", "-A", "--since", "1h"], 0), history);
    let elsewhere = fleet.json(at, &["history", "-A", "-e", "other"], 3);
    assert_eq!(elsewhere["error"]["causes"], json!(["there are prod"]));
    let listed = fleet.expect(at, &["history", "-A", "-n", "1"], 0);
    assert!(listed.starts_with("api\tprod\tr5\trollback\t"), "{listed}");
}

#[test]
fn one_region_can_be_deployed_and_rolled_back_alone() {
    let (fleet, repository) = fleet_with_app(1);
    let at = &repository.folder;
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");
    let only_eu = ["deploy", "--yes", "--build", "--plan", "all-at-once", "--region", "eu"];
    fleet.expect(at, &only_eu, 0);
    assert_eq!(versions(&fleet, &["eu-1", "us-1"]), ["2", "1"]);
}
