//! Waiting through trouble: lost replies, a coordinator that comes and goes, time up.

use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{R2, ROLLOUTS, rollout};
use crate::support::{Coordinator, Person, Reply};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn running(stamp: u64) -> Reply {
    Reply::Json(200, json!(rollout(RolloutState::Running, stamp)))
}

fn ended(state: RolloutState) -> Reply {
    Reply::Json(200, json!(rollout(state, 9)))
}

#[test]
fn a_lost_reply_is_asked_for_again_under_the_same_key() {
    let coordinator = Coordinator::start();
    coordinator.on(ROLLOUTS, [Reply::Hangup, running(1)]);
    coordinator.on(R2, [ended(RolloutState::Succeeded)]);
    Person::of(&coordinator).ends(&["deploy", COMMIT, "--yes"], 0);
    let sent = coordinator.requests_of(ROLLOUTS);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].key.len(), 32);
    assert_eq!((&sent[0].key, &sent[0].body), (&sent[1].key, &sent[1].body));
}

#[test]
fn a_reply_that_never_comes_is_code_5_and_says_that_it_may_have_started() {
    let coordinator = Coordinator::start();
    coordinator.on(ROLLOUTS, [Reply::Hangup]);
    let done = Person::of(&coordinator).ends(&["deploy", COMMIT, "--yes"], 5);
    assert!(done.stderr.contains("it may have started"), "{}", done.stderr);
    assert!(done.stderr.contains("deployctl status"), "{}", done.stderr);
    let keys: Vec<_> = coordinator.requests_of(ROLLOUTS).into_iter().map(|r| r.key).collect();
    assert!(keys.len() > 1 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let coordinator = Coordinator::start();
    coordinator.refuses(ROLLOUTS, 423, "blocked");
    Person::of(&coordinator).ends(&["deploy", COMMIT, "--yes"], 7);
    assert_eq!(coordinator.requests_of(ROLLOUTS).len(), 1);
}

#[test]
fn a_coordinator_that_restarts_is_waited_for() {
    let coordinator = Coordinator::start();
    let starting = Reply::Json(503, json!({"code": "unavailable", "title": "starting"}));
    coordinator.on(
        R2,
        [
            running(1),
            running(1),
            Reply::Hangup,
            starting,
            running(2),
            ended(RolloutState::Succeeded),
        ],
    );
    let done = Person::of(&coordinator).ends(&["watch", "r2"], 0);
    assert_eq!(done.stderr.matches("the coordinator can't be reached; trying on").count(), 1);
    assert!(done.stderr.contains("the coordinator is back"), "{}", done.stderr);
}

#[test]
fn time_up_is_code_124_and_says_that_it_goes_on() {
    let coordinator = Coordinator::start();
    coordinator.on(R2, [running(1)]);
    let person = Person::of(&coordinator);
    let done = person.ends(&["watch", "r2", "--timeout", "400ms"], 124);
    assert!(done.stderr.contains("r2 goes on"), "{}", done.stderr);
    assert!(done.stderr.contains("hint:  deployctl watch r2 -a web -e prod"), "{}", done.stderr);
    let document = person.ends(&["watch", "r2", "--timeout", "300ms", "-o", "json"], 124).json();
    assert_eq!((&document["exit_code"], &document["state"]), (&json!(124), &json!("running")));

    coordinator.on(R2, [running(1), Reply::Hangup]);
    person.ends(&["watch", "r2", "--timeout", "1s"], 124);
}

#[test]
fn a_pipe_is_told_one_line_per_change() {
    let coordinator = Coordinator::start();
    let mut more = rollout(RolloutState::Running, 3);
    more.regions.values_mut().next().unwrap().failed = 1;
    let more = Reply::Json(200, json!(more));
    coordinator.on(R2, [running(1), running(2), more, ended(RolloutState::Succeeded)]);
    let done = Person::of(&coordinator).ends(&["watch", "r2"], 0);
    let lines: Vec<&str> =
        done.stderr.lines().filter(|line| line.contains("r2 converging")).collect();
    assert_eq!(lines.len(), 2, "{}", done.stderr);
    assert!(lines[0].as_bytes()[10] == b'T' && lines[0].contains("Z r2 converging 4/4 failed=0"));
    assert!(lines[1].contains("failed=1"));
}

#[test]
fn detached_asks_nothing_more() {
    let coordinator = Coordinator::start();
    coordinator.on(ROLLOUTS, [running(1)]);
    let done = Person::of(&coordinator).ends(&["deploy", COMMIT, "--yes", "-d", "-o", "json"], 0);
    assert_eq!(done.json()["state"], "running");
    assert!(coordinator.requests_of(R2).is_empty());
}
