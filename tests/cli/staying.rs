//! `-w`: a list that stays and is told again when it changed; `--json FIELDS`: some members.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use deployctl::model::job::JobState;
use deployctl::model::rollout::RolloutState;
use serde_json::{Value, json};

use crate::samples::{build, status};
use crate::support::{Coordinator, Person, Reply};
use crate::terminal::on_terminal;

const STATUS: &str = "GET /v1/status";

/// Twice the same, then away, then another one for ever.
fn changing() -> (Coordinator, Person) {
    let coordinator = Coordinator::start();
    let reply =
        |current, open| Reply::Json(200, serde_json::to_value(status(current, open)).unwrap());
    let first = || reply(Some(RolloutState::Succeeded), None);
    let second = reply(None, Some(RolloutState::Paused));
    coordinator.on(STATUS, [first(), first(), Reply::Hangup, second]);
    let person = Person::of(&coordinator);
    (coordinator, person)
}

/// The first lines that the command writes; then it is ended.
fn first_lines(person: &Person, args: &[&str], lines: usize) -> Vec<String> {
    let mut child = person.command(args).stdout(Stdio::piped()).spawn().unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines().take(lines);
    let told = told.map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    told
}

#[test]
fn a_pipe_gets_a_block_for_each_change_and_none_for_each_look() {
    let (coordinator, person) = changing();
    let told = first_lines(&person, &["status", "-w"], 4);
    assert!(told[0].contains("\tsucceeded\t"), "{told:?}");
    let end = told.iter().position(String::is_empty).unwrap();
    assert!(told[end + 1].contains("\tpaused\t"), "{told:?}");
    assert!(coordinator.requests_of(STATUS).len() >= 4);
}

#[test]
fn a_stream_says_hello_and_a_line_for_each_change() {
    let (_coordinator, person) = changing();
    let told = first_lines(&person, &["status", "-w", "-o", "jsonl"], 3);
    let lines: Vec<Value> = told.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"type": "hello", "schema": 1}));
    assert_eq!(
        (&lines[1]["type"], &lines[1]["apps"][0]["rollout"]),
        (&"status".into(), &Value::Null)
    );
    assert_eq!(lines[2]["apps"][0]["rollout"]["state"], "paused");
    let done = person.ends(&["status", "-w", "-o", "json"], 2);
    assert!(done.json()["error"]["hints"][0] == "deployctl status -w -o jsonl", "{done:?}");
    person.ends(&["hosts", "-w", "--json", "region"], 2);
    person.ends(&["hosts", "-w", "--exit-code"], 2);
}

#[test]
fn a_terminal_is_drawn_over_and_left_with_the_last_look() {
    let (_coordinator, person) = changing();
    let done = on_terminal(&person, &["status", "-w"], ("paused", "\x03"));
    assert_eq!(done.code, 130, "{done:?}");
    let (before, after) = done.stdout.split_once("paused").unwrap();
    assert!(before.contains("succeeded") && before.contains("\x1b["), "{done:?}");
    assert!(!after.contains("^C"), "{done:?}");
}

#[test]
fn members_of_rows_are_chosen_by_name() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives("GET /v1/builds", &json!({"builds": [build(JobState::Queued)]}));
    let some = person.ends(&["builds", "--json", "build,failure"], 0);
    assert_eq!(some.json(), json!([{"build": "b1", "failure": null}]));
    let lines = person.ends(&["builds", "--json=state", "-o", "jsonl"], 0);
    assert_eq!(lines.stdout, "{\"state\":\"QUEUED\"}\n");
    let names = person.ends(&["builds", "--json"], 2);
    assert!(names.stderr.contains("queue_position, ") && names.stderr.contains("worker"));
    let wrong = person.ends(&["builds", "--json", "build,stat"], 2);
    let line = "did you mean: deployctl builds --json build,state\n";
    assert!(wrong.stderr.contains(line), "{}", wrong.stderr);
    // Which names there are does not depend on whether there is a row.
    coordinator.gives("GET /v1/builds", &json!({"builds": []}));
    assert_eq!(person.ends(&["builds", "--json", "state"], 0).json(), json!([]));
    person.ends(&["builds", "--json", "stat"], 2);
    coordinator.gives(STATUS, &status(Some(RolloutState::Succeeded), None));
    let apps = person.ends(&["status", "--json", "app,env"], 0);
    assert_eq!(apps.json(), json!([{"app": "web", "env": "prod"}]));
}
