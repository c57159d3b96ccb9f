//! `deploy --hosts`: real agents, one of which goes first.

use std::fs;

use crate::fleet::{Fleet, eventually, text};
use crate::fleet_with_app;

const HOSTS: [&str; 4] = ["eu-1", "eu-2", "us-1", "us-2"];

fn versions(fleet: &Fleet) -> Vec<String> {
    let version = |host: &str| fs::read_to_string(fleet.current(host, "api").join("version"));
    HOSTS.iter().map(|host| version(host).unwrap_or_default()).collect()
}

#[test]
fn the_host_that_is_named_goes_first_and_the_rest_when_a_person_says() {
    let (fleet, repository) = fleet_with_app(2);
    let at = &repository.folder;
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");
    let first = ["deploy", "--yes", "--build", "--bake", "1s", "--hosts"];
    let with = |host| [&first[..], &[host]].concat();

    let wrong = fleet.cli(at, &with("us-22"));
    let said = text(&wrong.stderr);
    assert!(wrong.status.code() == Some(3) && said.contains("there is us-1, us-2"), "{said}");
    let many = fleet.cli(at, &with("us-*"));
    let said = text(&many.stderr);
    assert!(many.status.code() == Some(2) && said.contains("2 of 4 hosts, and 1"), "{said}");
    let line = "did you mean: deployctl deploy --yes --build --bake 1s --hosts us-1";
    assert!(said.contains(line), "{said}");
    let listed = text(&fleet.cli(at, &["hosts", "--hosts", "us-*,region=us", "-o", "name"]).stdout);
    assert_eq!(listed, "us-1\nus-2\n");

    // Nobody watches who could decide: it ends with the code of a pause.
    let held = fleet.cli(at, &with("us-2"));
    let said = text(&held.stderr) + &text(&held.stdout);
    assert_eq!(held.status.code(), Some(14), "{said}");
    assert!(said.contains("held after the canary us-2"), "{said}");
    assert_eq!(versions(&fleet), ["1", "1", "1", "2"]);
    // It is well, so there is nothing to be tried again; how far it would go can be asked.
    let retried = fleet.cli(at, &["retry"]);
    let said = text(&retried.stderr);
    assert!(retried.status.code() == Some(6) && said.contains("no host has failed"), "{said}");
    let far = fleet.cli(at, &["promote", "-n"]);
    let said = text(&far.stderr);
    assert!(said.contains("4 hosts once that is done; 1 may run it now"), "{said}");
    assert_eq!(fleet.json(at, &["promote", "-n"], 0)["dry_run"], true);
    let why = text(&fleet.cli(at, &["why", "us-1"]).stdout);
    assert!(why.contains("only the canary is admitted yet: us-2"), "{why}");
    let cohort = fleet.json(at, &["plumbing", "cohort", "us-2"], 0);
    assert_eq!((&cohort["step"], &cohort["admitted"]), (&1.into(), &true.into()), "{cohort}");

    fleet.expect(at, &["cancel", "--yes"], 0);
    fleet.expect(at, &["watch", "r2"], 13);
    eventually("it is back", || versions(&fleet) == ["1"; 4]);

    fleet.expect(at, &with("us-2"), 14);
    fleet.expect(at, &["promote", "--yes"], 0);
    assert_eq!(versions(&fleet), ["2"; 4]);

    let crash = "#!/bin/sh\necho 'panic: RETRY_CAP is not set' >&2\nexit 101\n";
    repository.publish(&[("version", "3"), ("run.sh", crash)], "Broken");
    fleet.expect(at, &with("eu-1"), 10);
    eventually("it is back", || versions(&fleet) == ["2"; 4]);

    repository.publish(&[("version", "4"), ("run.sh", crate::RUN)], "Mended");
    fleet.expect(at, &with("eu-*,zone="), 2);
    fleet.expect(at, &with("eu-?,us-1"), 2);
    fleet.expect(at, &with("eu-1"), 14);
    assert_eq!(versions(&fleet), ["4", "2", "2", "2"]);
    fleet.expect(at, &["rollback", "--yes", "-m", "INC-1"], 0);
    assert_eq!(versions(&fleet), ["2"; 4]);
}
