//! A config goes out beside the code, by the same way, and comes back with it.

use std::fs;

use crate::fleet::{Fleet, eventually};
use crate::fleet_with_app;
use crate::repository::Repository;

/// What the app runs: it notes its config, and ends when that is bad.
const READS: &str = "#!/bin/sh\ncat ${DEPLOYCTL_CONFIG:-/dev/null} > seen\n\
                     grep -q bad seen && { echo 'bad config' >&2; exit 3; }\n\
                     while :; do sleep 1; done\n";

fn seen(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("seen")).unwrap_or_default()
}

fn version(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("version")).unwrap_or_default()
}

fn write(repository: &Repository, text: &str) -> String {
    let path = repository.folder.parent().unwrap().join("app.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_config_alone_is_deployed_reverted_and_rolled_back_as_code_is() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    repository.publish(&[("run.sh", READS)], "Reads its config");
    let quick = ["--yes", "--plan", "all-at-once"];
    let deploy = |fleet: &Fleet, args: &[&str], code: i32| {
        fleet.expect(&at, &[&["deploy"], args, &quick[..]].concat(), code)
    };
    let file = write(&repository, "level = 1\n");
    deploy(&fleet, &["--build", "--config", &file], 0);
    assert_eq!(
        (seen(&fleet, "eu-1"), seen(&fleet, "us-1")),
        ("level = 1\n".into(), "level = 1\n".into())
    );
    // The config alone; the same again changes nothing.
    let file = write(&repository, "level = 2\n");
    deploy(&fleet, &["@", "--config", &file], 0);
    assert_eq!(seen(&fleet, "eu-1"), "level = 2\n");
    let again = fleet.json(&at, &[&["deploy", "@", "--config", &file][..], &quick].concat(), 0);
    assert_eq!(again["release"], "r2");
    // A bad one reverts: exit code 10, and every host is back.
    let bad = write(&repository, "bad\n");
    deploy(&fleet, &["@", "--config", &bad], 10);
    assert_eq!(
        (seen(&fleet, "eu-1"), seen(&fleet, "us-1")),
        ("level = 2\n".into(), "level = 2\n".into())
    );
    // New code keeps it.
    repository.publish(&[("version", "2")], "Second");
    deploy(&fleet, &["--build"], 0);
    assert_eq!((version(&fleet, "us-1"), seen(&fleet, "us-1")), ("2".into(), "level = 2\n".into()));
    assert_eq!(fleet.expect(&at, &["apps", "config", "api"], 0), "level = 2\n");
    assert_eq!(fleet.expect(&at, &["apps", "config", "api", "r1"], 0), "level = 1\n");
    fleet.expect(&at, &["apps", "config", "api", "r99"], 3);
    let history = fleet.json(&at, &["history"], 0);
    let releases = history["releases"].as_array().unwrap();
    assert_eq!(releases[0]["config"], releases[2]["config"]);
    assert_ne!(releases[0]["config"], releases[3]["config"]);
    let config = releases[0]["config"].as_str().unwrap();
    assert!(fleet.expect(&at, &["history", "-o", "wide"], 0).contains(config));
    assert!(fleet.expect(&at, &["status", "api", "-o", "wide"], 0).contains(config));
    let diff = fleet.json(&at, &["diff", "r1", "r2", "--exit-code"], 20);
    assert_eq!(diff["from"]["artifact"], diff["to"]["artifact"]);
    assert_ne!(diff["from"]["config"], diff["to"]["config"]);
    let large = write(&repository, &"x".repeat((64 << 10) + 1));
    deploy(&fleet, &["@", "--config", &large], 2);
    deploy(&fleet, &["@", "--config", "/nowhere"], 2);
    // Back by code and config, twice.
    fleet.expect(&at, &["rollback", "--yes"], 0);
    assert_eq!((version(&fleet, "eu-1"), seen(&fleet, "eu-1")), ("1".into(), "level = 2\n".into()));
    fleet.expect(&at, &["rollback", "--yes"], 0);
    assert_eq!((version(&fleet, "eu-1"), seen(&fleet, "eu-1")), ("1".into(), "level = 1\n".into()));

    // With the coordinator dead, a host that is new and a region that starts anew have it.
    fleet.kill("coordinator");
    fleet.kill("region-eu");
    fleet.start_region("eu");
    fleet.start_agent("eu", "eu-2");
    eventually("a new host has code and config", || seen(&fleet, "eu-2") == "level = 1\n");
}
