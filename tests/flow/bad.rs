//! Bad releases: each is stopped among the first hosts, goes back by itself, and ends the
//! command with code 10. `bench/bad_releases` does the same with fifty hosts.

use std::fs;

use serde_json::Value;

use crate::fleet::{Fleet, eventually, text};
use crate::killed::OutputInThread;
use crate::repository::Repository;

const HOSTS: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];

/// A fleet that runs version 1 of an app that writes down each of its starts.
fn running() -> (Fleet, Repository) {
    let mut fleet = Fleet::new(&["eu"]);
    let repository = Repository::new(&fleet.path(""));
    publish(&fleet, &repository, ("1", GOOD), "exec sleep 1000000");
    fleet.start_region("eu");
    for host in HOSTS {
        fleet.start_agent("eu", host);
    }
    fleet.start_worker("worker-1");
    let at = &repository.folder;
    fleet.expect(at, &["apps", "add", "api", "--repo", &repository.url()], 0);
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    (fleet, repository)
}

const GOOD: &str = "start = \"exec ./run.sh\"\nmin_healthy_s = 1\ndeadline_s = 20";

/// Publishes a version with the lines of its `[run]`, and what the app does once it has
/// written down that it started.
fn publish(fleet: &Fleet, repository: &Repository, (version, run): (&str, &str), body: &str) {
    let starts = fleet.path("starts");
    fs::create_dir_all(&starts).unwrap();
    let script = format!("#!/bin/sh\ncat version >>\"{}/$PORT\"\n{body}\n", starts.display());
    let recipe = format!(
        "app = \"api\"\n[build]\ncommand = \"mkdir out && cp run.sh version out/ && chmod +x out/run.sh\"\n\
         artifact = \"out\"\n[run]\n{run}\n"
    );
    let version_line = format!("{version}\n");
    let files =
        [("deployctl.toml", recipe.as_str()), ("run.sh", &script), ("version", &version_line)];
    repository.publish(&files, version);
}

/// Hosts on which the version was ever started.
fn exposed(fleet: &Fleet, version: &str) -> usize {
    let started = |entry: &std::io::Result<fs::DirEntry>| {
        let starts = fs::read_to_string(entry.as_ref().unwrap().path()).unwrap();
        starts.lines().any(|line| line == version)
    };
    fs::read_dir(fleet.path("starts")).unwrap().filter(started).count()
}

fn all_on(fleet: &Fleet, version: &str) -> bool {
    let runs = |host: &&str| fs::read_to_string(fleet.current(host, "api").join("version"));
    HOSTS.iter().all(|host| runs(host).is_ok_and(|text| text.trim() == version))
}

fn rollout(fleet: &Fleet, repository: &Repository) -> Value {
    fleet.json(&repository.folder, &["status"], 0)["apps"][0]["rollout"].clone()
}

#[test]
fn hooks_that_fail_and_apps_that_hang_or_die_late_are_stopped_among_the_first_hosts() {
    let (fleet, repository) = running();
    let late = "grep -c \"^$(cat version)$\" \"$STARTS/$PORT\" | grep -qx 1 && sleep 3; exit 3";
    let late = late.replace("$STARTS", &fleet.path("starts").display().to_string());
    let hangs = "start = \"exec ./run.sh\"\nmin_healthy_s = 1\ndeadline_s = 2\n\
                 probe = { exec = \"sleep 1000\" }";
    let cases = [
        ("2", "type = \"oneshot\"\nstart = \"./run.sh\"", "exit 7"),
        ("3", hangs, "exec sleep 1000000"),
        // Its canary is healthy first: the bake must see it die.
        ("4", GOOD, late.as_str()),
    ];
    for (version, run, body) in cases {
        publish(&fleet, &repository, (version, run), body);
        let args = ["deploy", "--yes", "--build", "--bake", "20s", "--timeout", "3m"];
        let done = fleet.cli(&repository.folder, &args);
        let story = text(&done.stderr);
        assert_eq!(done.status.code(), Some(10), "version {version}: {story}");
        let exposed = exposed(&fleet, version);
        assert!((1..=2).contains(&exposed), "version {version} ran on {exposed} hosts");
        eventually("every host is back on 1", || all_on(&fleet, "1"));
    }
}

#[test]
fn an_app_that_dies_again_and_again_passes_no_bake_however_short() {
    let (fleet, repository) = running();
    // Up for longer than `min_healthy_s`, each time: healthy whenever it is looked at late.
    publish(&fleet, &repository, ("2", GOOD), "sleep 1.6; exit 3");
    let args = ["deploy", "--yes", "--build", "--bake", "3s", "--timeout", "3m"];
    let done = fleet.cli(&repository.folder, &args);
    let story = text(&done.stderr);
    assert_eq!(done.status.code(), Some(10), "{story}");
    assert!(story.contains("crash loop: ended"), "{story}");
    assert!((1..=2).contains(&exposed(&fleet, "2")));
    eventually("every host is back on 1", || all_on(&fleet, "1"));
}

#[test]
fn a_coordinator_killed_while_it_reverts_ends_what_it_began() {
    let (mut fleet, repository) = running();
    publish(&fleet, &repository, ("2", GOOD), "exit 3");
    let args = ["deploy", "--yes", "--build", "--bake", "1s", "--timeout", "3m"];
    let waiting = fleet.command(&repository.folder, &args).output_in_thread();
    // On a busy machine it may be over between two looks; the end must be the same.
    eventually("it reverts, or has", || {
        rollout(&fleet, &repository)["state"] == "reverting" || waiting.is_finished()
    });
    fleet.kill("coordinator");
    fleet.start_coordinator();
    let done = waiting.join().unwrap();
    assert_eq!(done.status.code(), Some(10), "{}", text(&done.stderr));
    eventually("every host is back on 1", || all_on(&fleet, "1"));
    assert!((1..=2).contains(&exposed(&fleet, "2")));
}
