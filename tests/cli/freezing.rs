//! `deployctl freeze`, and what a deploy says when it is stopped by one.

use serde_json::{Value, json};

use crate::samples::ROLLOUTS;
use crate::support::{Coordinator, Person, Reply};

fn made() -> Value {
    json!({"freeze": "f3", "app": "web", "env": null, "reason": "holidays", "actor": "ann",
        "from": "2026-11-21T00:00:00.000Z", "until": "2096-11-22T00:00:00.000Z",
        "ended_at": null, "ended_by": null})
}

#[test]
fn a_freeze_is_started_for_an_app_or_for_all_and_ended_by_number() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/freezes", &made());
    let person = Person::of(&coordinator);
    let done = person.ends(&["freeze", "start", "--for", "4h", "-m", "holidays"], 0);
    assert!(done.stdout.starts_with("f3\tweb\t*\t"), "{}", done.stdout);
    person
        .ends(&["freeze", "start", "-A", "-e", "prod", "--in", "1d", "--for", "7d", "-m", "x"], 0);
    let sent = coordinator.requests_of("POST /v1/freezes");
    assert_eq!(
        sent[0].body,
        json!({"app": "web", "env": null, "reason": "holidays", "starts_in_s": 0,
            "lasts_s": 14_400})
    );
    assert_eq!(
        sent[1].body,
        json!({"app": null, "env": "prod", "reason": "x", "starts_in_s": 86_400,
            "lasts_s": 604_800})
    );
    coordinator.gives("POST /v1/freezes/f3/end", &made());
    person.ends(&["freeze", "end", "f3"], 0);
    person.ends(&["freeze", "start", "--for", "4h"], 2);
    let mut nobody = Person::of(&coordinator);
    let done =
        nobody.set("DEPLOYCTL_APP", "").ends(&["freeze", "start", "--for", "4h", "-m", "x"], 2);
    assert!(done.stderr.contains("deployctl freeze start --all"), "{}", done.stderr);
}

#[test]
fn freezes_are_listed_and_counted() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/freezes", &json!({"freezes": [made()]}));
    let person = Person::of(&coordinator);
    let done = person.ends(&["freeze", "list"], 0);
    assert!(done.stdout.contains("\tfrozen\t") && done.stdout.contains("holidays"), "{done:?}");
    person.ends(&["freeze", "list", "--exit-code"], 20);
    coordinator.gives("GET /v1/freezes", &json!({"freezes": []}));
    assert_eq!(person.ends(&["freeze", "list", "--exit-code"], 0).stdout, "");
}

#[test]
fn a_deploy_that_is_frozen_ends_with_7_and_says_how_to_pass() {
    let coordinator = Coordinator::start();
    let problem = json!({"code": "blocked", "title": "web in prod is frozen",
        "detail": "f3 by ann until 2096-11-22: holidays", "request_id": "req-1",
        "hints": ["deployctl deploy b1 --break-glass -m WHY"]});
    coordinator.on(ROLLOUTS, [Reply::Json(423, problem)]);
    let person = Person::of(&coordinator);
    let done = person.ends(&["deploy", "b1", "--yes"], 7);
    assert!(done.stderr.contains("--break-glass -m WHY"), "{}", done.stderr);
    // Who asked what would happen pastes a line that asks the same.
    let dry = person.ends(&["deploy", "b1", "-n"], 7);
    assert!(dry.stderr.contains("--break-glass -m WHY -n"), "{}", dry.stderr);
    person.ends(&["deploy", "b1", "--yes", "--break-glass"], 2);
    person.ends(&["deploy", "b1", "--confirm=web", "--break-glass", "-m", "INC-1"], 7);
    assert_eq!(coordinator.requests_of("POST").last().unwrap().body["break_glass"], true);
}
