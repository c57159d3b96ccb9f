//! The table of exit codes, whole: each is reached by a command, and a waiter that comes
//! after the end gives the same code as one that was there before.

use std::collections::BTreeMap;

use deployctl::cli::failure::ExitCode;
use deployctl::model::job::JobState;
use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{B1, BUILDS, R2, ROLLOUTS, build, rollout, status};
use crate::support::{Coordinator, Person};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Reached in `outcomes.rs`, which sends the signal and closes the pipe.
const BY_SIGNAL: [ExitCode; 2] = [ExitCode::Interrupted, ExitCode::BrokenPipe];

/// Codes of refusals: the coordinator's status and word.
const REFUSED: [(ExitCode, u16, &str); 8] = [
    (ExitCode::Error, 500, "internal"),
    (ExitCode::Usage, 400, "usage"),
    (ExitCode::NotFound, 404, "not_found"),
    (ExitCode::Auth, 401, "unauthenticated"),
    (ExitCode::Unreachable, 503, "unavailable"),
    (ExitCode::Conflict, 409, "conflict"),
    (ExitCode::Blocked, 423, "blocked"),
    (ExitCode::NotDeployable, 422, "not_deployable"),
];

/// Codes of outcomes.
const ENDED: [(ExitCode, RolloutState); 7] = [
    (ExitCode::Ok, RolloutState::Succeeded),
    (ExitCode::Reverted, RolloutState::Reverted),
    (ExitCode::Failed, RolloutState::Failed),
    (ExitCode::Superseded, RolloutState::Superseded),
    (ExitCode::Canceled, RolloutState::Canceled),
    (ExitCode::Paused, RolloutState::Paused),
    (ExitCode::NotDeployable, RolloutState::Expired),
];

#[test]
fn every_code_of_the_table_is_reached() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let mut reached: BTreeMap<u8, &str> = BY_SIGNAL.map(|code| (code as u8, code.word())).into();
    let mut reach = |code: ExitCode, args: &[&str]| {
        person.ends(args, i32::from(code as u8));
        reached.insert(code as u8, code.word());
    };
    for (code, status, word) in REFUSED {
        coordinator.refuses(ROLLOUTS, status, word);
        reach(code, &["deploy", COMMIT, "--yes", "--request-timeout", "1s"]);
    }
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
    for (code, state) in ENDED {
        coordinator.gives(R2, &rollout(state, 2));
        reach(code, &["deploy", COMMIT, "--yes"]);
    }
    coordinator.gives(R2, &rollout(RolloutState::Running, 1));
    reach(ExitCode::WaitTimeout, &["watch", "r2", "--timeout", "100ms"]);
    coordinator.gives(BUILDS, &build(JobState::Queued));
    coordinator.gives(B1, &build(JobState::Failed));
    coordinator.gives("GET /v1/builds/b1/log", &json!({"text": "", "next": 0, "ended": true}));
    reach(ExitCode::BuildFailed, &["build", COMMIT]);
    coordinator.gives("GET /v1/status", &status(None, Some(RolloutState::Running)));
    reach(ExitCode::Changes, &["status", "--exit-code"]);
    let all: BTreeMap<u8, &str> =
        ExitCode::ALL.iter().map(|code| (*code as u8, code.word())).collect();
    assert_eq!(reached, all);
}

#[test]
fn who_comes_after_the_end_gets_the_code_of_who_was_there() {
    for (code, state) in ENDED {
        let coordinator = Coordinator::start();
        let person = Person::of(&coordinator);
        let code = i32::from(code as u8);
        let reply = |state, stamp| crate::support::Reply::Json(200, json!(rollout(state, stamp)));
        // Before the end: it runs at first, then it ends while somebody looks on.
        let running = reply(RolloutState::Running, 1);
        coordinator.on(R2, [running.clone(), running, reply(state, 2)]);
        let before = person.ends(&["watch", "r2", "-o", "json"], code).json();
        // After it.
        let after = person.ends(&["watch", "r2", "-o", "json"], code).json();
        assert_eq!(before, after, "{state:?}");
    }
}
