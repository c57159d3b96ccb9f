//! `--hosts`: looked at before a deploy, said twice, and what is hinted where nobody is meant.

use deployctl::model::rollout::RolloutState;
use serde_json::{Value, json};

use crate::samples::{B1, R2, ROLLOUTS, app, build, rollout, status};
use crate::support::{Coordinator, Person, Reply};
use crate::terminal::on_terminal;

const HOSTS: &str = "GET /v1/hosts";

fn host(name: &str, region: &str, labels: Value, zone: &str) -> Value {
    json!({"info": {"host": name, "env": "prod", "labels": labels, "rack": "", "zone": zone,
        "peer_port": 1, "agent_version": "1"}, "region": region, "address": "",
        "reachable": true, "seen_at": "2026-11-22T00:00:00.000Z", "apps": []})
}

/// Three hosts, one of which does not run the app `web`.
fn ready() -> (Coordinator, Person) {
    let coordinator = Coordinator::start();
    let hosts = [
        host("web-1", "eu", json!({"rack": "14", "role": "web"}), "a"),
        host("web-2", "us", json!({"rack": "15", "role": "web"}), ""),
        host("db-1", "eu", json!({"role": "db"}), ""),
    ];
    coordinator.gives(HOSTS, &json!({"hosts": hosts, "total": 3}));
    let mut web = app("file:///x");
    web.spec.hosts = "role=web".parse().unwrap();
    coordinator.gives("GET /v1/apps/web", &web);
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Succeeded, 1));
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    let person = Person::of(&coordinator);
    (coordinator, person)
}

#[test]
fn who_is_meant_can_be_looked_at_before_the_deploy() {
    let (coordinator, person) = ready();
    for (args, hosts) in [
        (&["--hosts", "web-*"][..], "web-1\nweb-2\n"),
        (&["--hosts", "rack=14"], "web-1\n"),
        (&["--hosts", "zone=a,region=eu"], "web-1\n"),
        // The app does not run on db-1; without an app it is a host as any other.
        (&["--hosts", "region=eu"], "web-1\n"),
        (&["--hosts", "region=eu", "-A"], "web-1\ndb-1\n"),
        (&["--hosts", "web-1", "--hosts", "web-2"], "web-1\nweb-2\n"),
        (&["--hosts", "*-?", "--hosts", "rack=15"], "web-2\n"),
    ] {
        let done = person.ends(&[&["hosts", "-o", "name"], args].concat(), 0);
        assert_eq!(done.stdout, hosts, "{args:?}");
    }
    let json = person.ends(&["hosts", "--hosts", "rack=14", "-o", "json"], 0).json();
    assert_eq!((&json["total"], &json["hosts"][0]["info"]["host"]), (&json!(1), &json!("web-1")));
    assert!(coordinator.requests_of("POST ").is_empty());
}

#[test]
fn a_label_that_nobody_has_is_answered_with_those_that_there_are() {
    let (_, person) = ready();
    for (selector, said) in [
        ("rack=9", "no host has rack=9; there is rack=14, 15"),
        ("team=a", "no host has a label team; they have rack, region, role, zone"),
        ("region=su", "no host has region=su; there is region=eu, us"),
    ] {
        let done = person.ends(&["hosts", "--hosts", selector], 3);
        assert!(done.stderr.contains(said), "{}", done.stderr);
    }
    // Several values of one label are no list.
    for command in [&["hosts"][..], &["deploy", "r2", "--yes"]] {
        let twice = ["--hosts", "rack=14", "--hosts", "rack=15"];
        let done = person.ends(&[command, &twice].concat(), 2);
        assert!(done.stderr.contains("a host has one value of a label"), "{}", done.stderr);
    }
}

#[test]
fn names_that_nobody_has_are_answered_with_those_that_there_are() {
    let (_, person) = ready();
    for (args, title, why) in [
        (&["x-*"][..], "no host matches x-*", "there is web-1, web-2"),
        (&["x-*", "-A"], "no host matches x-*", "there is db-1, web-1, web-2"),
        // The ones that are called alike, of all that there are.
        (&["web-9", "-A"], "no host matches web-9", "there is web-1, web-2, of 3 hosts"),
        (&["rack=14,zone=b"], "no host matches rack=14,zone=b", "there is zone=a"),
        (&["wbe-1,rack=14"], "no host matches wbe-1,rack=14", "there is web-1, web-2"),
    ] {
        let done = person.ends(&[&["hosts", "--hosts"], args].concat(), 3);
        let said = format!("error: {title}\ncause: ");
        assert!(done.stderr.starts_with(&said) && done.stderr.contains(why), "{}", done.stderr);
    }
    let near = person.ends(&["hosts", "--hosts", "ewb-1"], 3).stderr;
    assert!(near.contains("did you mean: deployctl hosts --hosts web-1\n"), "{near}");
    // A program reads the same in JSON.
    let json = person.ends(&["hosts", "--hosts", "x-*", "-o", "json"], 3).json();
    assert_eq!((&json["exit_code"], &json["error"]["code"]), (&json!(3), &json!("not-found")));
    assert_eq!(json["error"]["causes"], json!(["there is web-1, web-2"]));
}

#[test]
fn a_name_that_is_mistyped_comes_before_what_else_is_lacking() {
    let (coordinator, person) = ready();
    let refusal = json!({"code": "not_found", "title": "there is no host web-9 to go first"});
    coordinator.on(ROLLOUTS, [Reply::Json(404, refusal)]);
    let typo = ["deploy", "r2", "--hosts", "web-9"];
    let done = person.ends(&typo, 3);
    assert!(done.stderr.starts_with("error: there is no host web-9"), "{}", done.stderr);
    // Nor is anything built before.
    let commit = "a".repeat(40);
    person.ends(&["deploy", &commit, "--hosts", "web-9", "--build", "--yes"], 3);
    let sent = coordinator.requests_of("POST ");
    assert!(sent.iter().all(|request| request.body["dry_run"] == true), "{sent:?}");
    // With a name that is one, the rest is asked for.
    let mut planned = rollout(RolloutState::Pending, 1);
    planned.dry_run = true;
    coordinator.gives(ROLLOUTS, &planned);
    let done = person.ends(&typo, 2);
    assert!(done.stderr.contains("prod needs --yes"), "{}", done.stderr);
    let sent = coordinator.requests_of("POST ");
    assert!(sent.iter().all(|request| request.body["dry_run"] == true), "{sent:?}");
}

#[test]
fn labels_are_shown_where_there_is_room() {
    let (_, person) = ready();
    let shown = on_terminal(&person, &["hosts", "-A"], ("\0", "")).stdout;
    assert!(shown.contains("LABELS") && shown.contains("rack=14,role=web"), "{shown}");
    let plain = person.ends(&["hosts", "-A", "-o", "plain"], 0).stdout;
    let last = |line: &str| line.rsplit('\t').next().unwrap().to_owned();
    let labels: Vec<String> = plain.lines().map(last).collect();
    assert_eq!(labels, ["rack=14,role=web,zone=a", "rack=15,role=web", "role=db"]);
}

#[test]
fn hosts_that_are_named_twice_are_one_list() {
    let (coordinator, person) = ready();
    person.ends(&["deploy", "r2", "--yes", "--hosts", "web-1", "--hosts", "web-2,zone=a"], 0);
    let sent = coordinator.requests_of(ROLLOUTS).last().unwrap().body.clone();
    assert_eq!(sent["hosts"], "web-1,web-2,zone=a");
}

#[test]
fn as_many_as_may_go_first_are_a_whole_line_to_paste() {
    let (coordinator, person) = ready();
    let refusal = json!({"code": "usage", "title": "a canary of web-* does not fit the fleet",
        "hints": ["did you mean: --hosts web-1"]});
    coordinator.on(ROLLOUTS, [Reply::Json(400, refusal)]);
    let done = person.ends(&["deploy", "r2", "--hosts", "web-*", "--yes"], 2);
    let line = "hint:  did you mean: deployctl deploy r2 --hosts web-1 --yes\n";
    assert!(done.stderr.contains(line), "{}", done.stderr);
}

#[test]
fn names_that_differ_in_a_number_are_listed_and_none_is_guessed() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let names = json!({"names": [["eu-1", ""], ["eu-10", ""], ["eu-2", ""], ["us-1", ""]]});
    coordinator.gives("GET /v1/complete", &names);
    let refusal = json!({"code": "not_found", "title": "there is no region eu-9"});
    coordinator.on("GET /v1/status", [Reply::Json(404, refusal)]);
    let done = person.ends(&["status"], 3);
    assert!(done.stderr.contains("cause: there is eu-1, eu-2, eu-10\n"), "{}", done.stderr);
    assert!(!done.stderr.contains("did you mean"), "{}", done.stderr);
}

#[test]
fn what_would_be_taken_back_is_said_and_nothing_is_sent() {
    let (coordinator, person) = ready();
    let mut open = rollout(RolloutState::Paused, 2);
    let tally = open.regions.values_mut().next().unwrap();
    (tally.hosts, tally.on_next) = (4, 1);
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Paused));
    now.apps[0].rollout = Some(open.clone());
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives(R2, &open);
    for args in [&["cancel", "-n"][..], &["cancel", "r2", "--dry-run"]] {
        let done = person.ends(args, 0);
        assert!(done.stderr.contains("back     1 host that runs r2: to r1"), "{}", done.stderr);
        assert!(done.stderr.contains("rest     3 other hosts: nothing moves"), "{}", done.stderr);
        assert!(done.stdout.starts_with("r2\tdeploy\t"), "{}", done.stdout);
    }
    let kept = person.ends(&["cancel", "-n", "--keep"], 0);
    assert!(kept.stderr.contains("stays    1 host that runs r2"), "{}", kept.stderr);
    coordinator.gives(B1, &build(deployctl::model::job::JobState::Running));
    let done = person.ends(&["cancel", "b1", "-n"], 0);
    assert!(done.stderr.contains("and would be stopped"), "{}", done.stderr);
    assert!(coordinator.requests_of("POST ").is_empty(), "nothing was stopped");

    let asked = on_terminal(&person, &["cancel", "r2"], ("[y/N]", "n"));
    assert_eq!(asked.code, 1, "{asked:?}");
    for said in ["back     1 host that runs r2", "Stop r2 and go back?", "r2 is as it was"] {
        assert!(asked.stdout.contains(said), "{said}: {asked:?}");
    }
    let back = person.ends(&["rollback", "-n"], 0);
    let ends = "ends r2, which is paused with 1 host on it: this takes its place";
    assert!(back.stderr.contains(ends), "{}", back.stderr);
    let sent = coordinator.requests_of("POST ");
    assert!(sent.iter().all(|request| request.body["dry_run"] == true), "{sent:?}");
}
