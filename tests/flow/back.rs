//! The way back on real processes: in one region, again and again, in the midst of a
//! rollout, on one host with its region and coordinator dead; and hosts that are pinned.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::fleet::{Fleet, eventually, text};
use crate::fleet_with_app;
use crate::repository::Repository;

const HOSTS: [&str; 4] = ["eu-1", "eu-2", "us-1", "us-2"];

/// A fleet of two hosts in each of two regions that runs the newest of `versions`.
fn running(versions: &[&str]) -> (Fleet, Repository) {
    let (fleet, repository) = fleet_with_app(2);
    for version in versions {
        repository.publish(&[("version", version)], version);
        deploy(&fleet, &repository, &["--plan", "all-at-once"], 0);
    }
    assert_eq!(on(&fleet), [*versions.last().unwrap(); 4]);
    (fleet, repository)
}

fn deploy(fleet: &Fleet, repository: &Repository, how: &[&str], code: i32) {
    let args = [&["deploy", "--yes", "--build", "--timeout", "3m"], how].concat();
    fleet.expect(&repository.folder, &args, code);
}

fn version(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("version")).unwrap_or_default()
}

fn on(fleet: &Fleet) -> [String; 4] {
    HOSTS.map(|host| version(fleet, host))
}

fn status(fleet: &Fleet, repository: &Repository) -> Value {
    fleet.json(&repository.folder, &["status", "api"], 0)["apps"][0].clone()
}

#[test]
fn one_region_goes_back_alone_and_the_rest_follows_or_is_brought_forward() {
    let (fleet, repository) = running(&["1", "2", "3"]);
    let at = &repository.folder;
    let back = fleet.json(at, &["rollback", "--region", "eu", "--yes", "-m", "INC-1"], 0);
    assert_eq!((&back["state"], &back["same_as"]), (&"succeeded".into(), &"r2".into()), "{back}");
    assert_eq!(on(&fleet), ["2", "2", "3", "3"], "elsewhere nothing moves");
    // Only everywhere says that the release is bad.
    let history = fleet.json(at, &["history"], 0);
    let of = |release: &str| {
        let rows = history["releases"].as_array().unwrap().iter();
        rows.clone().find(|row| row["release"] == release).unwrap().clone()
    };
    assert_eq!(of("r3")["bad"], false);
    fleet.expect(at, &["rollback", "r1", "--region", "us", "--yes"], 0);
    assert_eq!(on(&fleet), ["2", "2", "1", "1"]);
    fleet.expect(at, &["deploy", "r3", "--yes", "--plan", "all-at-once"], 0);
    assert_eq!(on(&fleet), ["3"; 4], "one deploy brings both together again");
}

#[test]
fn a_rollback_in_the_midst_of_a_rollout_and_another_after_it_go_further_back() {
    let (fleet, repository) = running(&["1", "2", "3"]);
    let at = &repository.folder;
    repository.publish(&[("version", "4")], "4");
    deploy(&fleet, &repository, &["--bake", "1h", "-d", "--when-ready"], 0);
    eventually("the canary runs 4", || on(&fleet).iter().any(|version| version == "4"));
    let back = fleet.json(at, &["rollback", "--yes", "-m", "INC-2"], 0);
    assert_eq!(back["same_as"], "r3", "{back}");
    assert_eq!(on(&fleet), ["3"; 4]);
    fleet.expect(at, &["watch", "r4"], 12);
    for target in ["2", "1"] {
        fleet.expect(at, &["rollback", "--yes"], 0);
        assert_eq!(on(&fleet), [target; 4], "further back, and never forth");
    }
    fleet.expect(at, &["rollback", "--yes"], 3);
    assert_eq!(on(&fleet), ["1"; 4]);
    // What was rolled back is not deployed again by a script that tries.
    fleet.expect(at, &["deploy", "HEAD", "--yes"], 7);
}

#[test]
fn a_host_goes_back_by_itself_with_its_region_and_coordinator_dead() {
    let (mut fleet, repository) = running(&["1", "2"]);
    fleet.kill("coordinator");
    fleet.kill("region-eu");
    let agent = |fleet: &Fleet, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl-agent"));
        let done = command.args(args).arg("--root").arg(fleet.root("eu-1")).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    };
    agent(&fleet, &["rollback", "api"]);
    assert_eq!(version(&fleet, "eu-1"), "1");
    let local = agent(&fleet, &["status"]);
    assert!(local.contains("held here over generation"), "{local}");
    assert_eq!(on(&fleet)[1..], ["2", "2", "2"], "nobody else was asked");
    // Its agent killed too: what it went back to comes up again.
    fleet.kill("eu-1");
    fleet.start_agent("eu", "eu-1");
    assert_eq!(version(&fleet, "eu-1"), "1");
    // They come back: the goal that it was taken from moves it no more, a newer one does.
    fleet.start_coordinator();
    fleet.start_region("eu");
    let at = &repository.folder;
    eventually("the host is heard of again", || {
        let known = fleet.json(at, &["hosts", "eu-1", "-A"], 0);
        known["hosts"][0]["apps"][0]["running"]["release"] == "r1"
    });
    assert_eq!(version(&fleet, "eu-1"), "1");
    let why = fleet.expect(at, &["why", "eu-1"], 0);
    assert!(why.contains("eu-1 (eu) runs api r1; prod leads to r2"), "{why}");
    fleet.expect(at, &["rollback", "--yes"], 0);
    assert_eq!(on(&fleet), ["1"; 4]);
    repository.publish(&[("version", "3")], "3");
    deploy(&fleet, &repository, &["--plan", "all-at-once"], 0);
    assert_eq!(on(&fleet), ["3"; 4]);
}

#[test]
fn pinned_hosts_stay_through_deploys_and_restarts_and_say_who_keeps_them() {
    let (mut fleet, repository) = running(&["1", "2"]);
    let at = repository.folder.clone();
    fleet.expect(&at, &["pin", "eu-2", "r1", "--for", "1h", "-m", "a core dump"], 0);
    eventually("the host is on its pin", || version(&fleet, "eu-2") == "1");
    let hold = ["hold", "start", "--host", "us-2", "--all", "--for", "1h", "-m", "a slow disk"];
    fleet.expect(&at, &hold, 0);
    repository.publish(&[("version", "3")], "3");
    deploy(&fleet, &repository, &["--bake", "1s"], 0);
    assert_eq!(on(&fleet), ["3", "1", "3", "2"]);
    assert_eq!(status(&fleet, &repository)["pins"].as_array().unwrap().len(), 2);
    let why = fleet.expect(&at, &["why", "eu-2"], 0);
    assert!(why.contains("it is pinned to r1: h1 by admin until"), "{why}");
    assert!(why.contains("hint: deployctl hold end h1"), "{why}");
    // The goal says it, so a restarted agent knows without anybody.
    fleet.kill("coordinator");
    fleet.kill("eu-2");
    fleet.start_agent("eu", "eu-2");
    assert_eq!(version(&fleet, "eu-2"), "1");
    fleet.start_coordinator();
    let back = fleet.json(&at, &["rollback", "--yes"], 0);
    let kept = "2 held or pinned hosts stay where they are";
    assert!(back["waiting_on"].as_str().unwrap().ends_with(kept), "{back}");
    assert_eq!(on(&fleet), ["2", "1", "2", "2"]);
    fleet.expect(&at, &["unpin", "eu-2"], 0);
    eventually("it follows again", || version(&fleet, "eu-2") == "2");
    fleet.expect(&at, &["unpin", "eu-2"], 3);
    // Of the host that is held: a way back that leaves nobody out.
    fleet.expect(&at, &["rollback", "r1", "--yes", "--unpin"], 0);
    assert_eq!(on(&fleet), ["1"; 4]);
    fleet.expect(&at, &["hold", "list", "--exit-code"], 0);
}
