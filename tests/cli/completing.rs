//! TAB: names from the coordinator, and silence when there are none to be had.

use serde_json::json;

use crate::support::{Coordinator, Person, Reply};

fn complete(person: &Person, words: &[&str]) -> crate::support::Done {
    let mut all = vec!["--", "deployctl"];
    all.extend(words);
    let index = (words.len()).to_string();
    let mut command = person.command(&all);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index);
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    crate::support::Done::from(command.output().unwrap())
}

#[test]
fn commands_and_flags_need_no_coordinator() {
    let person = Person::nowhere();
    let done = complete(&person, &["dep"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.lines().any(|word| word == "deploy"), "{done:?}");
    assert!(complete(&person, &["deploy", "--wh"]).stdout.contains("--when-ready"));
    assert!(complete(&person, &["deploy", "--plan", "all"]).stdout.contains("all-at-once"));
}

#[test]
fn names_come_from_the_coordinator_and_follow_the_flags_before() {
    let coordinator = Coordinator::start();
    let names = json!({"names": [["r411", "First"], ["r412", "Second"], ["x", "of another"]]});
    coordinator.gives("GET /v1/complete", &names);
    let person = Person::of(&coordinator);
    let done = complete(&person, &["-a", "api", "rollback", "r4"]);
    let words: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(words, ["r411", "r412"], "{done:?}");
    let asked = &coordinator.requests()[0].line;
    for part in ["kind=release", "prefix=r4", "app=api"] {
        assert!(asked.contains(part), "{asked}");
    }
}

#[test]
fn a_coordinator_that_says_nothing_is_left_alone() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for reply in [Reply::Silence, Reply::Hangup, Reply::Json(500, json!("x"))] {
        coordinator.on("GET /v1/complete", [reply]);
        let done = complete(&person, &["status", "w"]);
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""));
    }
    let nowhere = complete(&Person::nowhere(), &["status", "w"]);
    assert_eq!((nowhere.code, nowhere.stdout.as_str(), nowhere.stderr.as_str()), (0, "", ""));
}

#[test]
fn the_lines_for_a_shell_need_no_network() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            person.ends(&["completion", shell], 0).stdout.contains(&format!("COMPLETE={shell}"))
        );
        let mut command = person.command(&[]);
        let done = crate::support::Done::from(command.env("COMPLETE", shell).output().unwrap());
        assert!(done.code == 0 && done.stdout.contains("deployctl"), "{done:?}");
    }
    assert!(coordinator.requests().is_empty());
}
