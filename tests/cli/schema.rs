//! What `-o json` writes is what `docs/cli.schema.json` says, and that is printed by
//! `deployctl help json-schema`.

use deployctl::model::job::JobState;
use deployctl::model::rollout::RolloutState;
use serde_json::{Value, json};

use crate::samples::{B1, BUILDS, R2, ROLLOUTS, app, build, rollout, status};
use crate::support::{Coordinator, Person, Reply};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn published() -> Value {
    serde_json::from_str(include_str!("../../docs/cli.schema.json")).unwrap()
}

/// Where `value` is not what the definition `name` says; empty: nowhere.
fn wrong(name: &str, value: &Value) -> Vec<String> {
    let root = published();
    assert!(root["$defs"][name].is_object(), "the schema does not define {name}");
    let mut wrong = vec![];
    check(&root, &root["$defs"][name], value, name, &mut wrong);
    wrong
}

/// The part of JSON Schema that the file uses; another word in it is refused.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    for (word, says) in schema.as_object().unwrap() {
        match word.as_str() {
            "$ref" => {
                let name = says.as_str().unwrap().trim_start_matches("#/$defs/");
                check(root, &root["$defs"][name], value, at, wrong);
            }
            "anyOf" => {
                let fits = |one: &Value| {
                    let mut wrong = vec![];
                    check(root, one, value, at, &mut wrong);
                    wrong.is_empty()
                };
                if !says.as_array().unwrap().iter().any(fits) {
                    wrong.push(format!("{at}: {value} is none of {says}"));
                }
            }
            "type" => {
                let is = |kind: &Value| match kind.as_str().unwrap() {
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "null" => value.is_null(),
                    other => panic!("{other}"),
                };
                let kinds = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                if !kinds.iter().any(is) {
                    wrong.push(format!("{at}: {value} is no {says}"));
                }
            }
            "enum" if !says.as_array().unwrap().contains(value) => {
                wrong.push(format!("{at}: {value} is none of {says}"));
            }
            "minimum" if value.is_number() && value.as_i64() < says.as_i64() => {
                wrong.push(format!("{at}: {value}"))
            }
            "required" if value.is_object() => {
                for name in says.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        wrong.push(format!("{at} has no {name}"));
                    }
                }
            }
            "properties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    match says.get(name) {
                        Some(schema) => check(root, schema, field, &format!("{at}.{name}"), wrong),
                        // Readers may go by the file alone: what is written stands in it.
                        None => wrong.push(format!("{at}.{name} is not in the schema")),
                    }
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(root, says, item, &format!("{at}[]"), wrong);
                }
            }
            "additionalProperties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    check(root, says, field, &format!("{at}.{name}"), wrong);
                }
            }
            "description" | "format" | "enum" | "minimum" | "required" => {}
            other => panic!("the test does not know {other:?}"),
        }
    }
}

fn holds(person: &Person, name: &str, args: &[&str], code: i32) {
    let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
    let document = person.ends(&args, code).json();
    assert_eq!(wrong(name, &document), Vec::<String>::new(), "{args:?}");
}

#[test]
fn the_check_finds_what_is_missing_wrong_or_unknown() {
    assert!(wrong("target", &json!({"release": "r1", "artifact": "x"})).is_empty());
    for bad in [
        json!({"release": "r1"}),
        json!({"release": 1, "artifact": "x"}),
        json!({"release": "r1", "artifact": "x", "new": 1}),
        json!(null),
    ] {
        assert!(!wrong("target", &bad).is_empty(), "{bad}");
    }
}

#[test]
fn rollouts_builds_and_failures_are_as_published() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for (state, code) in [
        (RolloutState::Succeeded, 0),
        (RolloutState::Reverted, 10),
        (RolloutState::Failed, 11),
        (RolloutState::Paused, 14),
    ] {
        coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
        coordinator.gives(R2, &rollout(state, 2));
        holds(&person, "rollout", &["deploy", COMMIT, "--yes"], code);
        holds(&person, "rollout", &["watch", "r2"], code);
    }
    coordinator.gives(BUILDS, &build(JobState::Succeeded));
    coordinator.gives(B1, &build(JobState::Succeeded));
    coordinator.gives("GET /v1/apps/web", &app("file:///srv/web"));
    holds(&person, "build", &["build", COMMIT], 0);
    coordinator.gives("GET /v1/builds", &json!({"builds": [build(JobState::Queued)]}));
    holds(&person, "builds", &["builds"], 0);
    coordinator.refuses("GET /v1/regions", 503, "unavailable");
    holds(&person, "failure", &["regions", "--request-timeout", "1s"], 5);
    holds(&person, "failure", &["deplyo"], 2);
}

#[test]
fn what_is_only_asked_says_so_in_its_document() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let mut open = rollout(RolloutState::Paused, 1);
    (open.held, open.baked) = (true, true);
    let canary = json!({"asked": "web-1", "hosts": {"eu": ["web-1"]}});
    open.release.canary = serde_json::from_value(canary).unwrap();
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Paused));
    now.apps[0].rollout = Some(open.clone());
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives(R2, &open);
    coordinator.gives(B1, &build(JobState::Running));
    // One that does not say it itself is an older coordinator's.
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Pending, 1));
    for args in [
        &["deploy", COMMIT, "-n"][..],
        &["rollback", "-n"],
        &["cancel", "-n"],
        &["promote", "-n"],
        &["promote", "--from", "staging", "--to", "prod", "-n"],
    ] {
        holds(&person, "rollout", args, 0);
        let json = person.ends(&[args, &["-o", "json"]].concat(), 0).json();
        assert_eq!(json["dry_run"], true, "{args:?}");
    }
    holds(&person, "build", &["cancel", "b1", "-n"], 0);
    let json = person.ends(&["cancel", "b1", "-n", "-o", "json"], 0).json();
    assert_eq!(json["dry_run"], true);
    let sent = coordinator.requests();
    assert!(
        sent.iter()
            .all(|request| request.line.starts_with("GET ") || request.body["dry_run"] == true)
    );
}

#[test]
fn lists_are_as_published() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let now = "2026-11-21T00:00:00.000Z";
    let give = |path: &str, document: &Value| {
        coordinator.on(path, [Reply::Json(200, document.clone())]);
    };
    give(
        "GET /v1/status",
        &json!(status(Some(RolloutState::Succeeded), Some(RolloutState::Running))),
    );
    holds(&person, "status", &["status"], 0);
    give("GET /v1/apps", &json!({"apps": [app("file:///srv/web")]}));
    holds(&person, "apps", &["apps", "list"], 0);
    let releases = json!({"releases": [crate::samples::release(RolloutState::Reverted)]});
    give("GET /v1/apps/web/envs/prod/releases", &releases);
    holds(&person, "releases", &["history"], 0);
    give("GET /v1/releases", &releases);
    holds(&person, "releases", &["history", "-A"], 0);
    let event =
        json!({"seq": 1, "at": now, "kind": "x.y", "actor": "ann", "message": "m", "app": "web"});
    give("GET /v1/events", &json!({"events": [event], "next": 1}));
    holds(&person, "events", &["events", "-n", "1"], 0);
    let version =
        json!({"version": "0.1.0", "api": "v1", "now": now, "name": "ann", "role": "viewer"});
    give("GET /v1/version", &version);
    holds(&person, "version", &["version"], 0);
    holds(&person, "auth", &["auth", "status"], 0);
    holds(&person, "contexts", &["context"], 0);
    holds(&person, "settings", &["config"], 0);
    give("GET /v1/freezes", &json!({"freezes": []}));
    holds(&person, "freezes", &["freeze"], 0);
    give("GET /v1/complete", &json!({"names": [["r1", "First"]]}));
    holds(&person, "completions", &["plumbing", "complete", "release"], 0);
}

#[test]
fn the_program_prints_what_is_published() {
    let printed = Person::nowhere().ends(&["help", "json-schema"], 0).stdout;
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), published());
    assert!(Person::nowhere().ends(&["help", "json"], 0).stdout.contains("exactly one document"));
}
