//! Events: the newest by default, from a cursor or an age on, and on through a restart.

use serde_json::{Value, json};

use crate::support::{Coordinator, Person, Reply};

const EVENTS: &str = "GET /v1/events";

fn event(seq: u64, at: &str) -> Value {
    json!({"seq": seq, "at": at, "kind": "build.queued", "actor": "ann", "message": "m"})
}

fn page(events: &[Value], next: u64) -> Reply {
    Reply::Json(200, json!({"events": events, "next": next}))
}

const OLD: &str = "2020-01-01T00:00:00.000Z";
const NEW: &str = "2099-01-01T00:00:00.000Z";

#[test]
fn the_newest_come_in_order_and_the_cursor_is_the_end() {
    let coordinator = Coordinator::start();
    let newest_first = [event(9, NEW), event(8, OLD)];
    coordinator.on(EVENTS, [page(&[], 9), page(&newest_first, 8)]);
    let done = Person::of(&coordinator).ends(&["events", "-n", "2", "-o", "json"], 0).json();
    let seqs: Vec<_> =
        done["events"].as_array().unwrap().iter().map(|e| e["seq"].clone()).collect();
    assert_eq!((seqs, &done["next"]), (vec![json!(8), json!(9)], &json!(9)));
    assert!(coordinator.requests()[1].line.contains("before=10"), "{:?}", coordinator.requests());
}

#[test]
fn an_age_leaves_out_what_is_older() {
    let coordinator = Coordinator::start();
    let newest_first = [event(9, NEW), event(8, OLD)];
    coordinator.on(EVENTS, [page(&[], 9), page(&newest_first, 8), page(&[], 9)]);
    let done = Person::of(&coordinator).ends(&["events", "--since", "2h", "-o", "jsonl"], 0);
    let lines: Vec<Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{done:?}");
    assert_eq!(lines[0]["seq"], 9);
    Person::of(&coordinator).ends(&["events", "--since", "soon"], 2);
}

#[test]
fn a_stream_goes_on_from_its_cursor_when_the_coordinator_was_away() {
    use std::io::{BufRead, BufReader};
    let coordinator = Coordinator::start();
    coordinator.on(
        EVENTS,
        [page(&[event(5, NEW)], 5), Reply::Hangup, page(&[event(6, NEW)], 6), Reply::Silence],
    );
    let person = Person::of(&coordinator);
    let mut command = person.command(&["events", "--since", "4", "-f", "-o", "jsonl"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for seq in [5, 6] {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["seq"], seq);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let asked: Vec<String> = coordinator.requests().into_iter().map(|r| r.line).collect();
    for (line, since) in asked.iter().zip(["since=4", "since=5", "since=5"]) {
        assert!(line.contains(since), "{asked:?}");
    }
}
