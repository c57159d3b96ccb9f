//! `admin gc|fence|reconcile`: what is asked before, what is said after, and the exit code.

use serde_json::json;

use crate::support::{Coordinator, Person};

#[test]
fn what_cannot_be_undone_takes_a_name_and_a_reason() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/fence", &json!({"epoch": 7, "goals": 2}));
    let person = Person::of(&coordinator);
    let cases: [(&[&str], &str); 6] = [
        (&["admin", "gc", "--force"], "deployctl admin gc --force --confirm=main -m WHY"),
        (
            &["admin", "gc", "--at-once", "-m", "full"],
            "deployctl admin gc --at-once -m full --confirm=main",
        ),
        (
            &["admin", "gc", "--adopt-store"],
            "deployctl admin gc --adopt-store --confirm=main -m WHY",
        ),
        (&["admin", "fence"], "deployctl admin fence --confirm=goals -m WHY"),
        (&["admin", "fence", "--confirm=goals"], "deployctl admin fence --confirm=goals -m WHY"),
        // `--yes` stands in every alias: it does not answer this.
        (
            &["admin", "fence", "--yes", "-m", "x"],
            "deployctl admin fence --yes -m x --confirm=goals",
        ),
    ];
    for (args, line) in cases {
        let done = person.ends(args, 2);
        assert!(done.stderr.contains(&format!("hint:  {line}\n")), "{args:?}: {}", done.stderr);
    }
    let other = person.ends(&["admin", "fence", "--confirm=web", "-m", "x"], 2);
    assert!(other.stderr.contains("it is about goals"), "{}", other.stderr);
    let done = person.ends(&["admin", "fence", "--confirm=goals", "-m", "x", "-o", "json"], 0);
    assert!(done.stdout.contains("\"epoch\":7"), "{}", done.stdout);
}

#[test]
fn gc_says_what_goes_by_store() {
    let coordinator = Coordinator::start();
    let store = |region: Option<&str>| json!({"region": region, "artifacts": 2, "bytes": 3 << 20});
    let none = json!({"artifacts": 0, "bytes": 0, "error": ""});
    let would = json!({
        "dry_run": true, "older_than_s": 1_209_600, "keep_good": 10, "artifacts": 2,
        "bytes": 3 << 20, "delay_s": 3600,
        "apps": [{"app": "web", "artifacts": 2, "bytes": 3 << 20}],
        "stores": [store(None), store(Some("eu"))],
        "left_over": none, "waiting": {"artifacts": 1, "bytes": 5, "error": "denied"},
    });
    coordinator.gives("POST /v1/collect", &would);
    let person = Person::of(&coordinator);
    let done = person.ends(&["admin", "gc", "-n", "--older-than", "60d"], 0);
    assert!(done.stdout.contains("main") && done.stdout.contains("eu"), "{}", done.stdout);
    for said in ["2 artifacts would go: web 2", "warning: denied", "hint: deployctl admin gc"] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }

    // Who may not, and what is switched off, is told with the line to type.
    let mut other = would.clone();
    other["not_owner"] = "the main store is another installation's".into();
    coordinator.gives("POST /v1/collect", &other);
    let done = person.ends(&["admin", "gc", "-n"], 0);
    for said in ["warning: the main store is another", "hint: deployctl admin gc --adopt-store -"] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
    let mut off = would.clone();
    off["switched_off"] = true.into();
    coordinator.gives("POST /v1/collect", &off);
    let done = person.ends(&["admin", "gc", "-n"], 0);
    assert!(done.stderr.contains("gc --at-once --confirm=main"), "{}", done.stderr);
    let mut whose = would;
    whose["whose"] = "installation 77, database /srv/db".into();
    coordinator.gives("POST /v1/collect", &whose);
    whose["unknown"] = 12.into();
    whose["unknown_more"] = true.into();
    coordinator.gives("POST /v1/collect", &whose);
    let adopt = ["admin", "gc", "--adopt-store", "--confirm=main", "-m", "restored"];
    let done = person.ends(&adopt, 0);
    let warned = "at least 12 artifacts that this installation does not know";
    assert!(done.stderr.contains(warned), "{}", done.stderr);
    assert!(done.stderr.contains("before, installation 77, database /srv/db"), "{}", done.stderr);
    let bad = person.ends(&["admin", "gc", "--older-than", "4000d"], 2);
    assert!(bad.stderr.contains("at most 3650d"), "{}", bad.stderr);
}

#[test]
fn reconcile_ends_by_what_was_found() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let store = |lost: u64, error: &str| {
        json!({"region": "eu", "holds": 3, "lacks": 0, "lost": lost, "extra": 0,
            "extra_bytes": 0, "error": error})
    };
    for (lost, error, code) in [(0, "", 0), (1, "", 8), (1, "it does not answer in time", 5)] {
        coordinator.gives("POST /v1/reconcile", &json!({"stores": [store(lost, error)]}));
        let done = person.ends(&["admin", "reconcile", "-o", "json"], code);
        assert!(done.stdout.contains(&format!("\"exit_code\":{code}")), "{}", done.stdout);
    }
    let done = person.ends(&["admin", "reconcile"], 5);
    assert!(done.stderr.contains("eu: it does not answer"), "{}", done.stderr);
}
