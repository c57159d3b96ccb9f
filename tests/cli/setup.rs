//! The first hour: `init`, registering, tokens; and the roles that run.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::samples::app;
use crate::support::{Coordinator, Person};

#[test]
fn init_recognises_a_repository_and_never_overwrites() {
    let person = Person::nowhere();
    let file = person.work().join("deployctl.toml");
    std::fs::write(person.work().join("go.mod"), "module example.org/server\n").unwrap();
    let done = person.ends(&["init", "--health", "127.0.0.1:${PORT}"], 0);
    assert!(done.stderr.contains("found go.mod"), "{}", done.stderr);
    let text = std::fs::read_to_string(&file).unwrap();
    for line in ["app = \"server\"", "artifact = \"bin/server\"", "probe = { tcp ="] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let again = person.ends(&["init"], 2);
    assert!(again.stderr.contains("init --force"), "{}", again.stderr);
    // What is there is enough to register the app; here nobody answers.
    let register = person.ends(&["init", "--register", "--build", "make"], 2);
    assert!(register.stderr.contains("init --register"), "{}", register.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    person.ends(&["init", "--force", "--app", "other"], 0);
    assert!(std::fs::read_to_string(&file).unwrap().contains("app = \"other\""));
}

#[test]
fn init_without_a_person_names_the_flag_that_is_missing() {
    let person = Person::nowhere();
    let done = person.ends(&["init"], 2);
    assert!(done.stderr.contains("--build COMMAND is missing"), "{}", done.stderr);
    let done = person.ends(&["init", "--build", "make", "--artifact", "../x"], 2);
    assert!(done.stderr.contains("build.artifact"), "{}", done.stderr);
    assert!(!person.work().join("deployctl.toml").exists());
}

#[test]
fn init_registers_where_the_remote_says_workers_fetch() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/apps", &app("https://example.org/web.git"));
    let mut person = Person::nowhere();
    person.set("DEPLOYCTL_SERVER", &coordinator.url).set("DEPLOYCTL_TOKEN", "dct_x");
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        assert!(command.current_dir(person.work()).args(args).status().unwrap().success());
    };
    git(&["init", "-q", "-b", "trunk"]);
    git(&["remote", "add", "origin", "git@example.org:team/web.git"]);
    git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable"]);
    let args = ["init", "--app", "web", "--build", "make", "--artifact", "out", "--register"];
    let done = person.ends(&[args.as_slice(), &["-o", "json"]].concat(), 0);
    assert_eq!(done.json()["app"], "web");
    let body = &coordinator.requests_of("POST /v1/apps")[0].body;
    assert_eq!(body["repo"], "ssh://git@example.org/team/web.git");
    assert_eq!((&body["trunk"], &body["name"]), (&json!("stable"), &json!("web")));
    assert_eq!(body["recipe"]["build"]["command"], "make");
}

#[test]
fn init_registers_no_other_app_than_the_file_names() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/apps", &app("https://example.org/bar.git"));
    let person = Person::of(&coordinator);
    let file = person.work().join("deployctl.toml");
    let recipe = "[build]\ncommand = \"make\"\nartifact = \"out\"\n";
    for (app, said, hints) in [
        ("", &[][..], ["app = \"NAME\"", "init --force --app NAME"]),
        ("", &["--app", "foo"], ["app = \"foo\"", "init --force --app foo"]),
        ("app = \"bar\"\n", &["--app", "foo"], ["init --register", "init --force --app foo"]),
    ] {
        std::fs::write(&file, format!("{app}{recipe}")).unwrap();
        let done = person.ends(&[&["init", "--register"], said].concat(), 2);
        for hint in hints {
            assert!(done.stderr.contains(hint), "{hint}: {}", done.stderr);
        }
    }
    assert!(coordinator.requests_of("POST /v1/apps").is_empty());
    person.ends(&["init", "--register", "--app", "bar"], 0);
    assert_eq!(coordinator.requests_of("POST /v1/apps").len(), 1);
}

#[test]
fn a_new_token_is_shown_once_or_written_for_one_person() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/tokens", &json!({"id": "1f", "token": "dct_1f_secret"}));
    let person = Person::of(&coordinator);
    let args = ["tokens", "create", "ann", "--role", "deployer"];
    assert_eq!(person.ends(&args, 0).stdout, "dct_1f_secret\n");
    let to_file = [args.as_slice(), &["--out", "ann.token"]].concat();
    let done = person.ends(&to_file, 0);
    assert!(!done.stdout.contains("secret") && !done.stderr.contains("secret"), "{done:?}");
    let file = person.work().join("ann.token");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "dct_1f_secret\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let sent = coordinator.requests_of("POST /v1/tokens").len();
    person.ends(&to_file, 2);
    assert_eq!(coordinator.requests_of("POST /v1/tokens").len(), sent, "the file was there");
    coordinator.refuses("POST /v1/tokens", 403, "forbidden");
    person.ends(&[args.as_slice(), &["--out", "bob.token"]].concat(), 4);
    assert!(!person.work().join("bob.token").exists(), "no file without a token");
    person.ends(&["tokens", "create", "ann", "--role", "king"], 2);
    person.ends(&["tokens", "delete", "../apps"], 2);
}

#[test]
fn apps_are_registered_with_what_the_project_says() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/apps", &app("file:///srv/web.git"));
    let person = Person::of(&coordinator);
    let recipe = "app = \"web\"\n[build]\ncommand = \"make\"\nartifact = \"out\"\n";
    std::fs::write(person.work().join("deployctl.toml"), recipe).unwrap();
    let args = ["apps", "add", "web", "--repo", "file:///srv/web.git", "--envs", "staging,prod"];
    let waves = ["--wave", "eu", "--wave", "us,ap", "--hosts", "role=web"];
    let done = person.ends(&[args.as_slice(), &waves].concat(), 0);
    assert!(done.stdout.starts_with("web\tmain\t"), "{}", done.stdout);
    let body = &coordinator.requests_of("POST /v1/apps")[0].body;
    assert_eq!(body["waves"], json!([["eu"], ["us", "ap"]]));
    assert_eq!(
        (&body["envs"], &body["hosts"]["role"]),
        (&json!(["staging", "prod"]), &json!("web"))
    );
    assert_eq!(body["recipe"]["build"]["artifact"], "out");
}

#[test]
fn logs_are_the_text_itself() {
    let coordinator = Coordinator::start();
    let part = |text: &str, next: u64| {
        crate::support::Reply::Json(200, json!({"text": text, "next": next, "ended": true}))
    };
    let parts = || [part("one\n", 4), part("two\n", 8), part("", 8)];
    coordinator.on("GET /v1/builds/b1/log", parts());
    let person = Person::of(&coordinator);
    assert_eq!(person.ends(&["logs", "b1"], 0).stdout, "one\ntwo\n");
    coordinator.on("GET /v1/builds/b1/log", parts());
    assert_eq!(person.ends(&["logs", "b1", "-f", "-o", "json"], 0).json()["log"], "one\ntwo\n");
    assert!(coordinator.requests()[1].line.contains("from=4"));
}

#[test]
fn a_role_is_played_by_its_program() {
    let done = Person::nowhere().ends(&["coordinator", "--help"], 0);
    assert!(done.stdout.contains("deployctl-coordinator"), "{done:?}");
}
