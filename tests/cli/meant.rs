//! What was likely meant: the first hint, as the line that was typed with one change.

use serde_json::json;

use crate::support::{Coordinator, Person, Reply};

fn refusal(title: &str) -> Reply {
    Reply::Json(404, json!({"code": "not_found", "title": title, "hints": ["deployctl apps list"]}))
}

fn first_hint(person: &Person, args: &[&str], code: i32) -> String {
    let done = person.ends(args, code);
    let hint = done.stderr.lines().find_map(|line| line.strip_prefix("hint:  "));
    hint.unwrap_or_else(|| panic!("{done:?}")).to_owned()
}

#[test]
fn a_name_that_does_not_exist_is_answered_with_the_nearest() {
    let coordinator = Coordinator::start();
    let names = json!({"names": [["hello", ""], ["payments", ""], ["prod", ""]]});
    coordinator.gives("GET /v1/complete", &names);
    let person = Person::of(&coordinator);
    let status = "GET /v1/status";
    coordinator.on(status, [refusal("there is no app helo")]);
    let hint = first_hint(&person, &["status", "helo"], 3);
    assert_eq!(hint, "did you mean: deployctl status hello");
    coordinator.on("GET /v1/apps/helo", [refusal("there is no app helo")]);
    let hint = first_hint(&person, &["apps", "show", "helo"], 3);
    assert_eq!(hint, "did you mean: deployctl apps show hello");
    coordinator.on(status, [refusal("web has no env \"prd\"")]);
    let hint = first_hint(&person, &["status", "--env=prd"], 3);
    assert_eq!(hint, "did you mean: deployctl status --env=prod");
    // The name came from a variable: the flag is added.
    let hint = first_hint(Person::of(&coordinator).set("DEPLOYCTL_ENV", "prd"), &["status"], 3);
    assert_eq!(hint, "did you mean: deployctl status -e prod");
    coordinator.on(status, [refusal("there is no app zzzzzz")]);
    assert_eq!(first_hint(&person, &["status", "zzzzzz"], 3), "deployctl apps list");
}

#[test]
fn a_coordinator_without_names_changes_nothing_but_the_hint() {
    let coordinator = Coordinator::start();
    coordinator.on("GET /v1/complete", [Reply::Silence]);
    coordinator.on("GET /v1/status", [refusal("there is no app helo")]);
    let hint = first_hint(&Person::of(&coordinator), &["status", "helo"], 3);
    assert_eq!(hint, "deployctl apps list");
}

#[test]
fn the_nearest_of_a_line_that_can_not_be_read_is_a_whole_line() {
    let person = Person::nowhere();
    let cases: [(&[&str], &str); 4] = [
        (&["stauts"], "did you mean: deployctl status"),
        (&["apps", "shw"], "did you mean: deployctl apps show"),
        (&["deploy", "--plan", "quick"], "deployctl deploy --help"),
        (&["deploy", "--plan", "fats"], "did you mean: fast"),
    ];
    for (args, hint) in cases {
        assert_eq!(first_hint(&person, args, 2), hint, "{args:?}");
    }
    let done = person.ends(&["deploy", "--plan", "quick"], 2);
    assert!(done.stderr.contains("it is one of fast, standard"), "{}", done.stderr);
    let done = person.ends(&["tokens", "delete"], 2);
    assert!(done.stderr.starts_with("error: deployctl tokens delete needs <ID>"), "{done:?}");
}
