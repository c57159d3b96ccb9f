//! The scripts in `examples/runbooks`, against a real fleet: a runbook that nobody ran
//! is not one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::fleet::{Fleet, eventually, text};
use crate::{fleet_with_app, fleet_without_coordinator};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/runbooks")
}

/// Runs a runbook as an engineer with `deployctl` in the path does.
fn run(fleet: &Fleet, folder: &Path, script: &str, args: &[&str]) -> Output {
    let own = Path::new(env!("CARGO_BIN_EXE_deployctl")).parent().unwrap();
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
    let ours = fleet.command(folder, &[]);
    let mut command = Command::new(scripts().join(script));
    command.args(args).current_dir(folder).stdin(std::process::Stdio::null());
    command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", path).output().unwrap()
}

fn ends(done: &Output, code: i32, says: &str) {
    let story = text(&done.stdout) + &text(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{story}");
    assert!(story.contains(says), "{says}: {story}");
}

#[test]
fn every_runbook_is_clean_shell() {
    let mut count = 0;
    for entry in fs::read_dir(scripts()).unwrap() {
        let path = entry.unwrap().path();
        let done = Command::new("shellcheck").arg(&path).output();
        let done = done.expect("shellcheck is installed: scripts/test says how");
        assert!(done.status.success(), "{}", text(&done.stdout));
        let script = fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("#!/bin/sh\n# "), "{} says what it is for", path.display());
        count += 1;
    }
    assert!(count >= 5, "only {count} runbooks");
}

#[test]
fn runbooks_deploy_freeze_roll_back_and_find_who_is_behind() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");

    let hour = ["start", "prod", "1h", "INC-4412"];
    ends(&run(&fleet, &at, "freeze.sh", &hour), 0, "frozen: f1");
    let deploy = ["HEAD", "prod", "the second"];
    ends(&run(&fleet, &at, "deploy-and-wait.sh", &deploy), 7, "nothing was started");
    ends(&run(&fleet, &at, "freeze.sh", &["end"]), 0, "not frozen any more");
    ends(&run(&fleet, &at, "freeze.sh", &[]), 2, "usage");

    fleet.expect(&at, &["deploy", "HEAD", "--yes", "--build", "--bake", "0"], 0);
    ends(&run(&fleet, &at, "deploy-and-wait.sh", &deploy), 0, "done: HEAD runs in prod");
    ends(&run(&fleet, &at, "find-stragglers.sh", &["prod"]), 0, "where it should be");

    let back = run(&fleet, &at, "roll-back-and-verify.sh", &["prod", "INC-4412"]);
    ends(&back, 0, "every host is back");
    let version = |host: &str| fs::read_to_string(fleet.current(host, "api").join("version"));
    assert_eq!((version("eu-1").unwrap(), version("us-1").unwrap()), ("1".into(), "1".into()));

    fleet.kill("us-1");
    eventually("a host that is away is found", || {
        let done = run(&fleet, &at, "find-stragglers.sh", &["prod"]);
        done.status.code() == Some(1) && text(&done.stdout).contains("us-1 was last heard of")
    });
}

#[test]
fn a_runbook_takes_a_region_back_without_a_coordinator() {
    let (mut fleet, repository) = fleet_without_coordinator();
    let at = repository.folder.clone();
    let back = run(&fleet, &at, "roll-back-and-verify.sh", &["prod", "INC-4412"]);
    ends(&back, 5, "deployctl help runbook");
    let key = fleet.path("coordinator/keys/goal.ed25519").display().to_string();
    let folder = at.display().to_string();
    for region in ["eu", "us"] {
        let url = format!("http://127.0.0.1:{}", fleet.port(&format!("region-{region}")));
        let token = fleet.token(&format!("region-{region}"));
        let args = ["api", "prod", &url, &token, &key, &folder];
        ends(&run(&fleet, &at, "coordinator-is-gone.sh", &args), 0, "say once where api belongs");
    }
    for host in ["eu-1", "us-1"] {
        let version = fleet.current(host, "api").join("version");
        eventually("hosts are back", || fs::read_to_string(&version).is_ok_and(|v| v == "1"));
    }
}
