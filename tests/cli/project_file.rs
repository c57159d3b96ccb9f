//! A deployctl.toml that can't be used: what stops, what goes on, and what is said.

use deployctl::model::rollout::RolloutState;

use crate::samples::status;
use crate::support::{Coordinator, Person};

/// Sound above the first table, and not below.
const SOUND_HEAD: &str = "app = \"web\"\nenv = \"stage\"\n[run\nstart = \"./web\"\n";
const UNREADABLE: &str = "app = web\nenv = \"stage\"\n";

fn person(coordinator: &Coordinator, text: &str) -> Person {
    coordinator.gives("GET /v1/status", &status(Some(RolloutState::Succeeded), None));
    let person = Person::of(coordinator);
    std::fs::write(person.work().join("deployctl.toml"), text).unwrap();
    person
}

fn said(text: &str) -> String {
    let coordinator = Coordinator::start();
    person(&coordinator, text).ends(&["build", &"a".repeat(40)], 2).stderr
}

#[test]
fn a_sound_head_of_a_broken_file_still_says_what_commands_are_about() {
    let coordinator = Coordinator::start();
    let mut person = person(&coordinator, SOUND_HEAD);
    person.set("DEPLOYCTL_APP", "");
    let done = person.ends(&["status"], 0);
    let warned = done.stderr.lines().filter(|line| line.starts_with("warning:")).count();
    assert_eq!(warned, 1, "{}", done.stderr);
    assert!(done.stderr.contains("line 3: "), "{}", done.stderr);
    let asked = coordinator.requests_of("GET /v1/status");
    assert!(asked[0].line.contains("app=web"), "{asked:?}");
    person.ends(&["pause"], 3);
    let asked = coordinator.requests_of("GET /v1/status");
    assert!(asked[1].line.contains("env=stage"), "{asked:?}");
}

#[test]
fn a_file_that_can_not_be_read_stops_only_what_needs_its_words() {
    let coordinator = Coordinator::start();
    let mut person = person(&coordinator, UNREADABLE);
    person.set("DEPLOYCTL_APP", "");
    let flags = ["-a", "web", "-e", "stage"];
    for command in ["status", "pause", "watch", "why", "rollback", "history"] {
        let mut args = vec![command, "--yes"];
        args.extend(flags);
        let done = person.run(&args);
        assert!(done.stderr.contains("warning: "), "{command}: {}", done.stderr);
        assert!(done.stderr.contains("going on without it"), "{command}: {}", done.stderr);
        assert!(!done.stderr.contains("must be quoted\n"), "{command}: {}", done.stderr);
    }
    assert!(coordinator.requests().len() >= 6, "{:?}", coordinator.requests());
    // It may have named another env: the default must not step in.
    let asked = coordinator.requests().len();
    for args in [&["rollback", "--yes", "-a", "web"][..], &["rollback", "--yes", "-e", "prod"]] {
        let done = person.ends(args, 2);
        assert!(done.stderr.contains("hint:  without the file: deployctl rollback"), "{done:?}");
    }
    assert_eq!(coordinator.requests().len(), asked);
}

#[test]
fn no_other_coordinator_steps_in_for_one_that_can_not_be_read() {
    let coordinator = Coordinator::start();
    let named = format!("server = \"https://other.example\"\n{UNREADABLE}");
    let mut person = person(&coordinator, &named);
    let server = coordinator.url.clone();
    person.ends(&["context", "add", "here", "--server", &server], 0);
    person.set("DEPLOYCTL_SERVER", "");
    let args = ["rollback", "--yes", "-a", "web", "-e", "stage"];
    let done = person.ends(&args, 2);
    assert!(done.stderr.contains("--server URL"), "{}", done.stderr);
    assert!(coordinator.requests().is_empty(), "{:?}", coordinator.requests());
    for told in [["--server", server.as_str()], ["--context", "here"]] {
        person.run(&[&args[..], &told[..]].concat());
        assert!(!coordinator.requests().is_empty(), "{told:?}");
    }
    // It says nothing of one: whatever is found elsewhere is meant.
    std::fs::write(person.work().join("deployctl.toml"), UNREADABLE).unwrap();
    let asked = coordinator.requests().len();
    person.run(&args);
    assert!(coordinator.requests().len() > asked);
}

#[test]
fn commands_about_the_file_refuse_one_that_can_not_be_used() {
    let coordinator = Coordinator::start();
    let person = person(&coordinator, SOUND_HEAD);
    person.ends(&["build", &"a".repeat(40)], 2);
    person.ends(&["deploy", &"a".repeat(40), "--build", "--yes"], 2);
    person.ends(&["apps", "add", "web", "--repo", "file:///none"], 2);
    assert!(coordinator.requests().is_empty());
    let done = person.run(&["doctor"]);
    assert!(done.stdout.contains("config\tfailed"), "{}", done.stdout);
    let args = ["init", "--force", "--app", "web", "--build", "make", "--artifact", "web"];
    person.ends(&[&args[..], &["--start", "./web"]].concat(), 0);
    assert!(person.run(&["doctor"]).stdout.contains("config\tok"));
}

#[test]
fn a_mistake_in_what_is_required_is_met_with_how_it_is_written() {
    let head = "app = \"web\"\n[build]\ncommand = \"make\"\nartifact = \"web\"\n";
    let commit = "a".repeat(40);
    for wrong in [
        "[[requires]]\napp = \"api\"\nmin = \"HEAD\"".to_owned(),
        "[[requires]]\napp = \"api\"\nmin = 12".to_owned(),
        "[[requires]]\napp = \"api\"".to_owned(),
        format!("[[requires]]\nmin = {commit:?}"),
        format!("[requires]\napp = \"api\"\nmin = {commit:?}"),
        "requires = [\"api\"]".to_owned(),
    ] {
        let stderr = said(&format!("{head}{wrong}\n"));
        assert!(stderr.contains("deployctl.toml is not valid"), "{wrong}: {stderr}");
        assert!(stderr.contains("min = \"COMMIT\""), "{wrong}: {stderr}");
        assert!(stderr.contains("git rev-parse"), "{wrong}: {stderr}");
    }
    let one = format!("[[requires]]\napp = \"api\"\nmin = {commit:?}\n");
    let stderr = said(&format!("{head}{one}{one}"));
    assert!(stderr.contains("\"api\"") && stderr.contains("twice"), "{stderr}");
    let stderr = said(&format!("{head}[run]\nprobe = {{ http = \"x\", tcp = \"y\" }}\n"));
    assert!(stderr.contains("one of http, tcp and exec"), "{stderr}");
    let stderr = said(&format!("{head}[run]\nmin_healthy_s = 9999\n"));
    assert!(stderr.contains("0 to 3600 seconds"), "{stderr}");
}
