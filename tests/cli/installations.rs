//! Several installations: signing in, contexts, whose token goes where, and the API by hand.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::support::{Coordinator, Done, Person};

fn version(name: &str) -> serde_json::Value {
    json!({"version": "0.1.0", "api": "v1", "now": "2026-11-21T00:00:00.000Z", "name": name, "role": "deployer"})
}

fn login(person: &Person, args: &[&str], token: &str) -> Done {
    let mut all = vec!["auth", "login"];
    all.extend(args);
    let mut command = person.command(&all);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn signing_in_keeps_a_token_that_only_its_server_gets() {
    let (work, home) = (Coordinator::start(), Coordinator::start());
    for (coordinator, name) in [(&work, "ann"), (&home, "ann-at-home")] {
        coordinator.gives("GET /v1/version", &version(name));
        coordinator.gives("GET /v1/apps", &json!({"apps": []}));
    }
    let person = Person::nowhere();
    let done = login(&person, &["--context", "work", "--server", &work.url], "dct_work_1\n");
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("as ann (deployer)"), "{done:?}");
    let done = login(&person, &["--context", "home", "--server", &home.url], "dct_home_2");
    assert!(done.code == 0 && done.stderr.contains("deployctl context use home"), "{done:?}");
    // The first is in use, a flag and a variable choose another, and tokens stay apart.
    person.ends(&["apps"], 0);
    person.ends(&["apps", "--context", "home"], 0);
    assert_eq!(work.requests_of("GET /v1/apps")[0].token, "Bearer dct_work_1");
    assert_eq!(home.requests_of("GET /v1/apps")[0].token, "Bearer dct_home_2");
    person.ends(&["apps", "--context", "work", "--server", &home.url], 0);
    assert_eq!(home.requests_of("GET /v1/apps")[1].token, "Bearer dct_home_2");
    let file = person.folder.path().join(".config/deployctl/tokens/work.token");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read the token: {mode:o}");
    let status = person.ends(&["auth", "status", "-o", "json"], 0).json();
    assert_eq!((&status["name"], &status["context"]), (&json!("ann"), &json!("work")));
    assert_eq!(person.ends(&["auth", "token"], 0).stdout, "dct_work_1\n");
    person.ends(&["auth", "logout"], 0);
    assert!(!file.exists());
    let done = person.ends(&["apps"], 4);
    assert!(done.stderr.contains("deployctl auth login"), "{done:?}");
}

#[test]
fn a_token_that_the_coordinator_does_not_know_is_not_kept() {
    let coordinator = Coordinator::start();
    coordinator.refuses("GET /v1/version", 401, "unauthenticated");
    let person = Person::nowhere();
    let done = login(&person, &["--server", &coordinator.url], "dct_x_1");
    assert_eq!(done.code, 4, "{done:?}");
    assert!(!person.folder.path().join(".config/deployctl/contexts.toml").exists());
    assert_eq!(login(&person, &["--server", &coordinator.url], "two words").code, 2);
}

#[test]
fn contexts_are_added_used_and_removed() {
    let person = Person::nowhere();
    person.ends(&["context", "add", "work", "--server", "https://a.example.org"], 0);
    person.ends(&["context", "add", "lab", "--server", "http://127.0.0.1:1"], 0);
    let names = |person: &Person| person.ends(&["context", "-o", "name"], 0).stdout;
    assert_eq!(names(&person), "lab\nwork\n");
    person.ends(&["context", "use", "lab"], 0);
    let config = person.ends(&["config", "show", "--origin"], 0).stdout;
    assert!(config.contains("server\thttp://127.0.0.1:1\tcontext lab ("), "{config}");
    let done = person.ends(&["context", "use", "lob"], 3);
    assert!(done.stderr.contains("did you mean: deployctl context use lab"), "{done:?}");
    person.ends(&["apps", "--context", "nope"], 3);
    person.ends(&["context", "add", "Bad Name", "--server", "http://x"], 2);
    person.ends(&["context", "add", "new"], 2);
    person.ends(&["context", "remove", "lab"], 0);
    assert_eq!(names(&person), "work\n");
    person.ends(&["apps"], 5);
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let mut person = Person::nowhere();
    std::fs::write(person.work().join("deployctl.toml"), "app = \"web\"").unwrap();
    person.set("DEPLOYCTL_SERVER", "http://127.0.0.1:1").set("DEPLOYCTL_TOKEN", "dct_secret_1");
    let done = person.ends(&["config", "show", "-e", "staging", "-o", "json"], 0);
    assert!(!done.stdout.contains("dct_secret_1"), "{done:?}");
    let settings = done.json();
    let from = |name: &str| {
        let all = settings["settings"].as_array().unwrap();
        let row = all.iter().find(|row| row["setting"] == name).unwrap();
        row["from"].as_str().unwrap().to_owned()
    };
    assert!(from("app").ends_with("deployctl.toml"), "{settings}");
    assert_eq!(from("env"), "--env");
    assert_eq!(from("server"), "DEPLOYCTL_SERVER");
    assert_eq!(from("token"), "DEPLOYCTL_TOKEN");
    assert_eq!(from("output"), "--output");
    // With nothing to go by it still answers.
    Person::nowhere().ends(&["config"], 0);
}

#[test]
fn the_api_by_hand_sends_the_token_one_key_and_the_body() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives("GET /v1/x", &json!({"a": 1}));
    coordinator.gives("POST /v1/x", &json!({"b": 2}));
    assert_eq!(person.ends(&["api", "/v1/x"], 0).stdout, "{\"a\":1}\n");
    person.ends(&["api", "/v1/x", "-d", "{\"q\": 1}", "--idempotency-key", "k1"], 0);
    std::fs::write(person.work().join("body.json"), "{\"q\": 2}").unwrap();
    person.ends(&["api", "post", "/v1/x", "-d", "@body.json"], 0);
    let sent = coordinator.requests_of("POST /v1/x");
    assert_eq!((sent[0].key.as_str(), &sent[0].body), ("k1", &json!({"q": 1})));
    assert_eq!((sent[1].key.len(), &sent[1].body), (32, &json!({"q": 2})));
    assert_eq!(sent[0].token, "Bearer dct_test");
    coordinator.refuses("GET /v1/x", 404, "not_found");
    person.ends(&["api", "/v1/x"], 3);
    for bad in [
        &["api", "http://evil.example/v1/x"][..],
        &["api", "JUMP", "/v1/x"],
        &["api", "/v1/x", "-d", "{"],
    ] {
        person.ends(bad, 2);
    }
}
