//! The next release of something large comes as a patch: made by the worker,
//! replicated, told by `diff`, applied by the hosts, and survived when they are killed.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::{Fleet, eventually, text};
use crate::fleet_with_app;
use crate::killed::{OutputInThread, noise};
use crate::repository::Repository;

/// Bytes of the app's data.
const BYTES: usize = 6 << 20;
/// One byte of so many differs from a release to the next: every piece does.
const EVERY: usize = 100_000;
const DEPLOY: [&str; 6] = ["deploy", "--yes", "--plan", "all-at-once", "--timeout", "2m"];

/// The app's data at a version.
fn data(version: usize) -> String {
    let mut bytes = noise(BYTES).into_bytes();
    for older in 1..version {
        bytes.iter_mut().skip(older * 777).step_by(EVERY).for_each(|byte| *byte ^= 1);
    }
    String::from_utf8(bytes).unwrap()
}

/// Builds the version and waits until every region holds the patch from what runs; what
/// `diff` says then.
fn built(fleet: &Fleet, repository: &Repository, version: usize) -> Value {
    let at = &repository.folder;
    let files = [("version", version.to_string()), ("data/noise", data(version))];
    let files = files.each_ref().map(|(path, content)| (*path, content.as_str()));
    repository.publish(&files, "Next");
    fleet.expect(at, &["build"], 0);
    let diff = || fleet.json(at, &["diff", "@", "HEAD"], 0);
    let patched = |diff: &Value| {
        let regions = diff["regions"].as_array().unwrap().clone();
        let ways = regions.iter().flat_map(|region| region["groups"].as_array().unwrap().clone());
        diff["patch"]["state"] == "made" && ways.clone().all(|group| group["way"] == "patch")
    };
    eventually("every region holds the patch", || patched(&diff()));
    diff()
}

/// Where the host's bytes of its running release came from: local, moved. `None`: it
/// was not heard of yet.
fn sources(fleet: &Fleet, repository: &Repository, host: &str) -> Option<(u64, u64)> {
    let hosts = fleet.json(&repository.folder, &["hosts"], 0);
    let hosts = hosts["hosts"].as_array().unwrap().clone();
    let row = hosts.into_iter().find(|row| row["info"]["host"] == host)?;
    let number = |name: &str| row["apps"][0]["sources"][name].as_u64();
    Some((number("local")?, number("peer")? + number("store")?))
}

#[test]
fn hosts_are_patched_from_what_they_run_and_diff_told_so() {
    let (mut fleet, repository) = fleet_with_app(2);
    let at = repository.folder.clone();
    repository.publish(&[("data/noise", &data(1))], "First");
    fleet.expect(&at, &["deploy", "--build", "--yes", "--plan", "all-at-once"], 0);

    let diff = built(&fleet, &repository, 2);
    let (size, wire) = (&diff["to"]["size"], diff["to"]["wire_size"].as_u64().unwrap());
    let size = size.as_u64().unwrap();
    let patch = diff["patch"]["wire_bytes"].as_u64().unwrap();
    assert!(patch * 20 < wire, "{diff}");
    let total = &diff["total"];
    assert_eq!((&total["hosts"], &total["full_bytes"]), (&4.into(), &0.into()), "{diff}");
    assert_eq!(total["store_bytes"].as_u64().unwrap(), 2 * patch, "one copy a region: {diff}");
    let changes = diff["changes"].as_array().unwrap();
    assert!(
        changes.iter().any(|c| c["path"] == "data/noise" && c["change"] == "changed"),
        "{diff}"
    );
    fleet.expect(&at, &["diff", "@", "HEAD", "--exit-code"], 20);
    fleet.expect(&at, &["diff", "@", "@", "--exit-code"], 0);
    fleet.expect(&at, &["diff", "@", "r77"], 3);

    let mut deploy = DEPLOY.to_vec();
    deploy.push("HEAD");
    fleet.expect(&at, &deploy, 0);
    for host in ["eu-1", "eu-2", "us-1", "us-2"] {
        let data_now = fs::read_to_string(fleet.current(host, "api").join("data/noise")).unwrap();
        assert!(data_now == data(2), "{host} runs what was built");
        let seen = || sources(&fleet, &repository, host) == Some((size, patch));
        eventually("all its bytes are local but the patch's", seen);
    }
    // A host that has nothing takes the full pack.
    fleet.start_agent("eu", "eu-late");
    let late = fleet.current("eu-late", "api").join("version");
    eventually("a new host converges", || fs::read_to_string(&late).is_ok_and(|v| v == "2"));
    eventually("it reports", || sources(&fleet, &repository, "eu-late") == Some((0, wire)));
    let here = fleet.json(&at, &["diff", "@~", "@"], 0);
    assert_eq!(here["total"]["store_bytes"], 0, "{here}");
}

#[test]
fn agents_killed_while_they_patch_go_on() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    repository.publish(&[("data/noise", &data(1))], "First");
    fleet.expect(&at, &["deploy", "--build", "--yes", "--plan", "all-at-once"], 0);
    for version in 2..=3 {
        built(&fleet, &repository, version);
        let mut deploy = DEPLOY.to_vec();
        deploy.push("HEAD");
        let waiting = fleet.command(&at, &deploy).output_in_thread();
        let folder = fleet.root("eu-1").join("staging");
        let begun = || fs::read_dir(&folder).is_ok_and(|mut names| names.next().is_some());
        eventually("the agent stages it", begun);
        for pause_ms in [20 * version as u64, 300, 100] {
            std::thread::sleep(Duration::from_millis(pause_ms));
            fleet.kill("eu-1");
            fleet.start_agent("eu", "eu-1");
        }
        let done = waiting.join().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
        let current = fleet.current("eu-1", "api").join("data/noise");
        assert!(fs::read_to_string(current).unwrap() == data(version));
    }
}
