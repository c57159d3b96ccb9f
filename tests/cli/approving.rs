//! `deployctl approve` and `reject`, and how a deploy ends that nobody approved.

use deployctl::model::rollout::RolloutState;
use deployctl::wire::v1::app::App;
use serde_json::{Value, json};

use crate::samples::{R2, ROLLOUTS, app, rollout, status};
use crate::support::{Coordinator, Person};

const APPROVE: &str = "POST /v1/apps/web/envs/prod/rollouts/r2/approve";
const REJECT: &str = "POST /v1/apps/web/envs/prod/rollouts/r2/reject";

#[test]
fn the_open_rollout_is_approved_or_rejected_with_words() {
    let coordinator = Coordinator::start();
    let mut pending = rollout(RolloutState::Pending, 1);
    pending.release.approvals = 2;
    pending.waiting_on = "1 more approval, by somebody else than ann".into();
    coordinator.gives("GET /v1/status", &status(None, Some(RolloutState::Pending)));
    coordinator.gives(R2, &pending).gives(APPROVE, &pending).gives(REJECT, &pending);
    let person = Person::of(&coordinator);
    let done = person.ends(&["approve", "-m", "read it"], 0);
    assert!(done.stdout.starts_with("r2\t"), "{}", done.stdout);
    assert!(done.stderr.contains("r2 waits: 1 more approval"), "{}", done.stderr);
    assert_eq!(coordinator.requests_of(APPROVE)[0].body, json!({"message": "read it"}));
    person.ends(&["reject", "r2", "-m", "not now"], 0);
    assert_eq!(coordinator.requests_of(REJECT)[0].body, json!({"message": "not now"}));
    coordinator.refuses(APPROVE, 403, "forbidden");
    person.ends(&["approve", "r2"], 4);
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    person.ends(&["approve", "r2"], 6);
}

#[test]
fn a_deploy_that_nobody_approved_ends_with_7_and_one_that_was_not_ready_with_8() {
    for (blocked, code) in [(true, 7), (false, 8)] {
        let coordinator = Coordinator::start();
        let mut ended = rollout(RolloutState::Expired, 2);
        ended.release.blocked = blocked;
        coordinator.gives(ROLLOUTS, &rollout(RolloutState::Pending, 1)).gives(R2, &ended);
        let person = Person::of(&coordinator);
        person.ends(&["deploy", "b1", "--yes"], code);
        person.ends(&["watch", "r2"], code);
    }
}

#[test]
fn approvals_a_spread_and_a_pace_are_asked_for_by_flags() {
    let coordinator = Coordinator::start();
    let there: App = app("file:///srv/web");
    coordinator.gives("GET /v1/apps/web", &there).gives("PUT /v1/apps/web", &there);
    let person = Person::of(&coordinator);
    person.ends(&["apps", "set", "web", "--approvals", "prod=2"], 0);
    let sent: Value = coordinator.requests_of("PUT /v1/apps/web")[0].body.clone();
    assert_eq!(sent["approvals"], json!({"prod": 2}));
    person.ends(&["apps", "set", "web", "--approvals", "prod"], 2);
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
    person.ends(&["deploy", "b1", "--yes", "--spread", "10m", "-d"], 0);
    person.ends(&["deploy", "b1", "--yes", "--max-unavailable", "10%", "-d"], 0);
    person.ends(&["deploy", "b1", "--yes", "--max-unavailable", "0", "-d"], 2);
    person.ends(&["rollback", "--yes", "--spread", "30s", "--unpin", "-d"], 0);
    person.ends(&["deploy", "b1", "--yes", "--pace", "15m", "-d"], 0);
    let sent = coordinator.requests_of(ROLLOUTS);
    assert_eq!((&sent[0].body["spread_s"], &sent[0].body["pace_s"]), (&json!(600), &Value::Null));
    assert_eq!(sent[3].body["pace_s"], 900);
    assert_eq!((&sent[2].body["spread_s"], &sent[2].body["unpin"]), (&json!(30), &json!(true)));
    assert_eq!(sent[1].body["max_unavailable"], "10%");
    assert!(sent[0].body.get("unpin").is_none(), "an older coordinator knows no such field");
}
