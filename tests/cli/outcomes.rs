//! Every exit code that a command can end with, and where its words go.

use std::process::Stdio;

use deployctl::model::job::{BuildFailure, JobState};
use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{B1, BUILDS, R2, ROLLOUTS, build, rollout, status};
use crate::support::{Coordinator, Person, Reply, eventually};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn a_refusal_has_its_code_its_cause_and_its_hints() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let cases = [
        (500, "internal", 1),
        (400, "usage", 2),
        (413, "too_large", 2),
        (404, "not_found", 3),
        (401, "unauthenticated", 4),
        (403, "forbidden", 4),
        (503, "unavailable", 5),
        (409, "conflict", 6),
        (423, "blocked", 7),
        (422, "not_deployable", 8),
    ];
    for (status, code, exit) in cases {
        coordinator.refuses("GET /v1/apps", status, code);
        let done = person.ends(&["apps", "--request-timeout", "1s"], exit);
        assert_eq!(done.stdout, "");
        let expected = format!("error: it is {code}\ncause: the cause\nhint:  deployctl apps\n");
        assert!(done.stderr.starts_with(&expected), "{}", done.stderr);
        assert!(done.stderr.contains("req-7"), "{}", done.stderr);
    }
}

#[test]
fn an_answer_that_is_not_ours_is_code_1() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/apps", &json!({"surprise": true}));
    let done = Person::of(&coordinator).ends(&["apps"], 1);
    assert!(done.stderr.contains("does not understand"), "{}", done.stderr);
}

#[test]
fn a_line_that_can_not_be_read_is_code_2_and_is_answered_with_the_nearest() {
    let person = Person::nowhere();
    let cases: [(&[&str], &str); 6] = [
        (&["depoly"], "did you mean: deployctl deploy"),
        (&["deploy", "--regoin", "eu"], "did you mean: --region"),
        (&["apps", "-o", "yaml"], "yaml"),
        (&["build", "--timeout", "soon"], "a time is a number"),
        (&["-a", "../x", "status"], "not a valid app name"),
        (&[], "Usage: deployctl"),
    ];
    for (args, says) in cases {
        let done = person.ends(args, 2);
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
        assert_eq!(done.stdout, "");
    }
    assert_eq!(person.ends(&["help", "deplo"], 3).stdout, "");
}

#[test]
fn nobody_listening_is_code_5_with_what_to_type() {
    let mut person = Person::nowhere();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    person.set("DEPLOYCTL_SERVER", &format!("http://{free}")).set("DEPLOYCTL_TOKEN", "dct_test");
    let done = person.ends(&["status"], 5);
    assert!(done.stderr.contains("can't be reached"), "{}", done.stderr);
    assert!(
        done.stderr.contains("hint:  start one here: deployctl coordinator"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_failure_counts_who_still_runs_it_or_who_is_not_back() {
    // Went back, settled hosts, unreachable ones.
    let cases = [
        (false, 4, 0, "r2 failed, and 1 of 4 hosts still run it"),
        (true, 2, 0, "r2 failed, and 2 hosts did not come back in time"),
        (true, 2, 1, "r2 failed, and 1 host did not come back in time"),
        (true, 3, 1, "r2 failed, and of 1 host that can't be reached nobody knows"),
    ];
    for (went_back, settled, unreachable, title) in cases {
        let coordinator = Coordinator::start();
        let mut ended = rollout(RolloutState::Failed, 2);
        ended.went_back = went_back;
        for tally in ended.regions.values_mut() {
            (tally.settled, tally.unreachable, tally.on_next) = (settled, unreachable, 1);
        }
        coordinator.gives(R2, &ended);
        let done = Person::of(&coordinator).ends(&["watch", "r2"], 11);
        assert!(done.stderr.contains(title), "{}", done.stderr);
    }
}

#[test]
fn a_rollout_that_ended_has_the_same_code_for_deploy_and_for_watch() {
    let cases = [
        (RolloutState::Succeeded, 0),
        (RolloutState::Expired, 8),
        (RolloutState::Reverted, 10),
        (RolloutState::Failed, 11),
        (RolloutState::Superseded, 12),
        (RolloutState::Canceled, 13),
        (RolloutState::Paused, 14),
    ];
    for (state, code) in cases {
        let coordinator = Coordinator::start();
        let person = Person::of(&coordinator);
        coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
        coordinator.gives(R2, &rollout(state, 2));
        let deployed = person.ends(&["deploy", COMMIT, "--yes"], code);
        let watched = person.ends(&["watch", "r2"], code);
        for done in [&deployed, &watched] {
            assert!(done.stdout.starts_with("r2\tdeploy\t"), "{state:?}: {done:?}");
            assert!(done.stdout.contains(state.word()), "{state:?}: {done:?}");
        }
        if code == 10 {
            assert!(deployed.stderr.contains("RETRY_CAP"), "the last words: {}", deployed.stderr);
            assert!(deployed.stderr.contains("deployctl logs r2"), "{}", deployed.stderr);
        }
        if code == 0 {
            let undo = "undo: deployctl rollback r1 -a web -e prod";
            assert!(deployed.stderr.contains(undo), "{}", deployed.stderr);
        }
    }
}

#[test]
fn who_cancels_what_is_over_is_told_the_way_back_that_there_is() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    let mut back = rollout(RolloutState::Pending, 1);
    back.release.same_as = Some("r1".parse().unwrap());
    coordinator.gives(ROLLOUTS, &back);
    let done = person.ends(&["cancel", "r2", "--yes"], 6);
    assert!(
        done.stderr.contains("hint:  deployctl rollback r1 -a web -e prod\n"),
        "{}",
        done.stderr
    );
    // None is left: a line that only leads to the next refusal is none.
    coordinator.refuses(ROLLOUTS, 404, "not_found");
    let done = person.ends(&["cancel", "r2", "--yes"], 6);
    assert!(done.stderr.contains("hint:  deployctl history -a web -e prod\n"), "{}", done.stderr);
    let sent = coordinator.requests_of("POST ");
    assert!(sent.len() == 2 && sent.iter().all(|request| request.body["dry_run"] == true));
}

#[test]
fn a_build_that_failed_is_code_9_with_its_last_lines() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let log = |text: &str, next: u64| json!({"text": text, "next": next, "ended": true});
    coordinator.gives(BUILDS, &build(JobState::Queued)).gives(B1, &build(JobState::Failed)).on(
        "GET /v1/builds/b1/log",
        [Reply::Json(200, log("one\nthe compiler says no\n", 26)), Reply::Json(200, log("", 26))],
    );
    let done = person.ends(&["build", COMMIT], 9);
    assert!(done.stderr.contains("  | the compiler says no"), "{}", done.stderr);
    assert!(done.stderr.contains("cause: the command exited 2"), "{}", done.stderr);
    assert!(done.stderr.contains("hint:  deployctl retry b1"), "{}", done.stderr);
    let deployed = person.ends(&["deploy", COMMIT, "--build", "--yes"], 9);
    assert!(coordinator.requests_of(ROLLOUTS).is_empty(), "{deployed:?}");

    let mut canceled = build(JobState::Failed);
    canceled.failure.as_mut().unwrap().class = BuildFailure::Canceled;
    coordinator.gives(B1, &canceled);
    person.ends(&["build", COMMIT], 13);
}

#[test]
fn a_build_that_succeeded_waits_for_the_regions_unless_told_not_to() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let mut built = build(JobState::Succeeded);
    coordinator.gives(BUILDS, &build(JobState::Queued));
    coordinator.gives(B1, &built);
    person.ends(&["build", COMMIT], 0);
    built.deployable = false;
    coordinator.gives(B1, &built);
    person.ends(&["build", COMMIT, "--no-replication"], 0);
    let late = person.ends(&["build", COMMIT, "--timeout", "300ms"], 124);
    assert!(late.stderr.contains("b1 goes on"), "{}", late.stderr);
}

#[test]
fn differences_are_code_20_only_when_asked_for() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let moving = status(Some(RolloutState::Succeeded), Some(RolloutState::Running));
    coordinator.gives("GET /v1/status", &moving);
    person.ends(&["status"], 0);
    person.ends(&["status", "--exit-code"], 20);
    coordinator.gives("GET /v1/hosts", &json!({"hosts": [], "total": 0}));
    person.ends(&["hosts", "--behind", "--exit-code"], 0);
    person.ends(&["hosts", "nosuch"], 3);
}

#[test]
fn production_in_a_script_needs_yes_and_gets_the_line_to_paste() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for (args, line) in [
        (vec!["deploy", COMMIT, "-m", "a b"], format!("deployctl deploy {COMMIT} -m 'a b' --yes")),
        (vec!["rollback", "r1"], "deployctl rollback r1 --yes".to_owned()),
        (vec!["promote", "--from", "staging", "--to", "prod"], "--to prod --yes".to_owned()),
        (vec!["cancel", "r2"], "deployctl cancel r2 --yes".to_owned()),
    ] {
        let done = person.ends(&args, 2);
        assert!(done.stderr.contains(&line), "{}", done.stderr);
    }
    assert!(coordinator.requests().is_empty(), "nothing was sent");
    let staging = "POST /v1/apps/web/envs/staging/rollouts";
    coordinator.gives(staging, &rollout(RolloutState::Running, 1));
    person.ends(&["deploy", COMMIT, "-e", "staging", "-d"], 0);
}

#[test]
fn an_interrupt_detaches_with_code_130() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator
        .on(R2, [Reply::Json(200, json!(rollout(RolloutState::Running, 1))), Reply::Silence]);
    let mut command = person.command(&["watch", "r2"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it follows", || coordinator.requests_of(R2).len() >= 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = crate::support::Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 130, "{done:?}");
    assert!(done.stderr.contains("detached; r2 continues"), "{}", done.stderr);
    assert!(done.stderr.contains("deployctl watch r2 -a web -e prod"), "{}", done.stderr);
}

#[test]
fn a_reader_that_goes_away_is_code_141_in_silence() {
    let person = Person::nowhere();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = person.command(&["help", "exit-codes"]);
    let done = crate::support::Done::from(command.stdout(writer).output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (141, ""));
}

#[test]
fn pause_says_why_and_may_be_said_twice_and_resume_sees_it_through() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives(R2, &rollout(RolloutState::Running, 1));
    let pause = "POST /v1/apps/web/envs/prod/rollouts/r2/pause";
    coordinator.gives(pause, &rollout(RolloutState::Paused, 2));
    let done = person.ends(&["pause", "r2", "-m", "errors in eu"], 0);
    assert!(done.stderr.contains("deployctl resume r2 -a web -e prod"), "{}", done.stderr);
    let sent = coordinator.requests_of(pause);
    assert_eq!(sent[0].body["message"], "errors in eu");

    coordinator.gives(R2, &rollout(RolloutState::Paused, 2));
    let again = person.ends(&["pause", "r2"], 0);
    assert!(again.stderr.contains("r2 is paused already"), "{}", again.stderr);
    assert_eq!(coordinator.requests_of(pause).len(), 1);
    coordinator.gives(
        "POST /v1/apps/web/envs/prod/rollouts/r2/resume",
        &rollout(RolloutState::Succeeded, 3),
    );
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 3));
    let over = person.ends(&["pause", "r2"], 6);
    assert!(over.stderr.contains("r2 is over: succeeded"), "{}", over.stderr);
    coordinator.on(
        R2,
        [
            Reply::Json(200, json!(rollout(RolloutState::Paused, 2))),
            Reply::Json(200, json!(rollout(RolloutState::Succeeded, 3))),
        ],
    );
    person.ends(&["resume", "r2"], 0);
}
