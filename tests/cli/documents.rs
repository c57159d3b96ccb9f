//! `-o json` is exactly one document, and pipes get tables that programs can read.

use deployctl::model::job::JobState;
use deployctl::model::rollout::RolloutState;
use serde_json::{Value, json};

use crate::samples::{B1, BUILDS, R2, ROLLOUTS, app, build, rollout, status};
use crate::support::{Coordinator, Person};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn success_and_failure_are_one_document_each_and_stderr_is_silent() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives("GET /v1/apps", &json!({"apps": [app("https://example.org/x.git")]}));
    coordinator.gives("GET /v1/status", &status(Some(RolloutState::Succeeded), None));
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
    coordinator.gives(R2, &rollout(RolloutState::Reverted, 2));
    coordinator.gives(BUILDS, &build(JobState::Succeeded));
    coordinator.gives(B1, &build(JobState::Succeeded));
    coordinator.refuses("GET /v1/regions", 403, "forbidden");
    let cases: [(&[&str], i32); 9] = [
        (&["apps"], 0),
        (&["status"], 0),
        (&["build", COMMIT], 0),
        (&["deploy", COMMIT, "--yes"], 10),
        (&["watch", "r2"], 10),
        (&["regions"], 4),
        (&["deploy", COMMIT], 2),
        (&["depoly"], 2),
        (&["workers", "--nosuch"], 2),
    ];
    for (args, code) in cases {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let done = person.ends(&args, code);
        let document = done.json();
        assert_eq!(done.stderr, "", "{args:?}");
        assert_eq!(done.stdout.lines().count(), 1, "compact in a pipe: {}", done.stdout);
        if code != 0 {
            assert_eq!(document["exit_code"], code, "{args:?}");
            assert!(
                document["error"]["title"].is_string() && document["error"]["hints"].is_array()
            );
        }
    }
    let failed = person.ends(&["watch", "r2", "--output=json"], 10).json();
    assert_eq!(failed["release"], "r2", "the rollout is there beside its error");
    assert_eq!(failed["state"], "reverted");
    let variable = Person::of(&coordinator).set("DEPLOYCTL_OUTPUT", "json").run(&["depoly"]).json();
    assert_eq!(variable["error"]["code"], "usage");
}

#[test]
fn a_stream_says_hello_first_and_its_result_last() {
    let coordinator = Coordinator::start();
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    let done = Person::of(&coordinator).ends(&["watch", "r2", "-o", "jsonl"], 0);
    let lines: Vec<Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.first().unwrap(), &json!({"type": "hello", "schema": 1}));
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"]), (&json!("result"), &json!(0)));
}

#[test]
fn pipes_get_tabs_without_header_full_ids_and_rfc_3339() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives("GET /v1/builds", &json!({"builds": [build(JobState::Succeeded)]}));
    let done = person.ends(&["builds"], 0);
    let fields: Vec<&str> = done.stdout.trim_end().split('\t').collect();
    assert_eq!(&fields[..4], &["b1", "web", COMMIT, "SUCCEEDED"]);
    assert!(fields.iter().any(|field| field.starts_with("2026-") && field.ends_with('Z')));
    assert_eq!(person.ends(&["builds", "-o", "name"], 0).stdout, "b1\n");
    assert!(!done.stdout.contains('\x1b'));
    let colored = person.ends(&["nosuch", "--color", "always"], 2);
    assert!(!colored.stdout.contains('\x1b'), "stdout is empty: {colored:?}");
}

#[test]
fn colour_is_forced_and_forbidden_by_the_environment() {
    let person = Person::nowhere();
    assert!(!person.ends(&["status"], 5).stderr.contains('\x1b'));
    let mut forced = Person::nowhere();
    forced.set("CLICOLOR_FORCE", "1");
    assert!(forced.ends(&["status"], 5).stderr.contains("\x1b[1;31merror:"));
    forced.set("NO_COLOR", "1");
    assert!(!forced.ends(&["status"], 5).stderr.contains('\x1b'));
}

#[test]
fn glyphs_are_ascii_where_the_locale_is() {
    let coordinator = Coordinator::start();
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    let mut person = Person::of(&coordinator);
    assert!(person.ends(&["watch", "r2"], 0).stderr.contains("✓ r2 succeeded"));
    person.set("LC_ALL", "C");
    let ascii = person.ends(&["watch", "r2"], 0);
    assert!(ascii.stderr.contains("+ r2 succeeded") && ascii.stderr.is_ascii(), "{}", ascii.stderr);
}

#[test]
fn quiet_tells_no_story_but_errors() {
    let coordinator = Coordinator::start();
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    coordinator.refuses("GET /v1/apps", 403, "forbidden");
    let person = Person::of(&coordinator);
    assert_eq!(person.ends(&["watch", "r2", "-q"], 0).stderr, "");
    assert!(person.ends(&["apps", "-q"], 4).stderr.starts_with("error:"));
}
