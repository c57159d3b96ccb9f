//! What a person calls a commit, against real repositories.

use std::path::Path;
use std::process::Command;

use deployctl::model::job::JobState;
use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{B1, BUILDS, R2, ROLLOUTS, app, build, rollout};
use crate::support::{Coordinator, Person};

fn git(folder: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
    let done =
        Command::new("git").arg("-C").arg(folder).args(identity).args(args).output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A person in a working copy with one commit, and a coordinator that takes all.
fn person_with_repository() -> (Coordinator, Person) {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    git(&person.work(), &["init", "-q", "-b", "main"]);
    commit(&person, "First");
    coordinator.gives("GET /v1/apps/web", &app("https://example.org/web.git"));
    coordinator.gives(BUILDS, &build(JobState::Succeeded)).gives(B1, &build(JobState::Succeeded));
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    (coordinator, person)
}

fn commit(person: &Person, subject: &str) -> String {
    std::fs::write(person.work().join("file"), subject).unwrap();
    git(&person.work(), &["add", "file"]);
    git(&person.work(), &["commit", "-q", "-m", subject]);
    git(&person.work(), &["rev-parse", "HEAD"])
}

fn with_remote(person: &Person) {
    let bare = person.folder.path().join("origin.git");
    git(
        person.folder.path().join("work").as_path(),
        &["clone", "-q", "--bare", ".", &bare.display().to_string()],
    );
    git(&person.work(), &["remote", "add", "origin", &bare.display().to_string()]);
    git(&person.work(), &["fetch", "-q", "origin"]);
}

#[test]
fn head_becomes_a_full_commit_and_the_story_says_which() {
    let (coordinator, person) = person_with_repository();
    with_remote(&person);
    let head = git(&person.work(), &["rev-parse", "HEAD"]);
    let done = person.ends(&["build", "HEAD"], 0);
    let story = format!("HEAD → {} \"First\" (main, pushed)", &head[..10]);
    assert!(done.stderr.starts_with(&story), "{}", done.stderr);
    let body = &coordinator.requests_of(BUILDS)[0].body;
    assert_eq!((&body["commit"], &body["subject"]), (&json!(head), &json!("First")));
    assert!(!done.stderr.contains("warning:"), "{}", done.stderr);
}

#[test]
fn edits_that_are_not_committed_are_warned_about() {
    let (_, person) = person_with_repository();
    with_remote(&person);
    std::fs::write(person.work().join("file"), "edited").unwrap();
    let done = person.ends(&["build"], 0);
    assert!(done.stderr.contains("warning: the working copy has edits"), "{}", done.stderr);
}

#[test]
fn a_commit_that_is_not_pushed_is_code_8_with_the_push() {
    let (coordinator, person) = person_with_repository();
    with_remote(&person);
    commit(&person, "Second");
    for args in [vec!["build"], vec!["deploy", "--yes"]] {
        let done = person.ends(&args, 8);
        assert!(done.stderr.contains("hint:  git push origin main"), "{}", done.stderr);
    }
    assert!(coordinator.requests_of("POST").is_empty(), "nothing was started");
}

#[test]
fn a_repository_without_remotes_is_fine_when_workers_fetch_from_it() {
    let (coordinator, person) = person_with_repository();
    let refused = person.ends(&["build"], 8);
    assert!(refused.stderr.contains("has no remote"), "{}", refused.stderr);
    let here = format!("file://{}", person.work().display());
    coordinator.gives("GET /v1/apps/web", &app(&here));
    person.ends(&["build"], 0);
}

#[test]
fn names_of_the_coordinator_go_there_as_they_are() {
    let (coordinator, person) = person_with_repository();
    let hex = "3f2a91c04d";
    for name in ["r411", "b12", "@", "@~2", "@latest", "staging:@", hex, &"b".repeat(40)] {
        person.ends(&["deploy", name, "--yes", "-d"], 0);
        assert_eq!(coordinator.requests_of(ROLLOUTS).last().unwrap().body["target"], json!(name));
    }
    person.ends(&["rollback", "--yes", "-d"], 0);
    let body = coordinator.requests_of(ROLLOUTS).last().unwrap().body.clone();
    assert_eq!((&body["kind"], &body["target"]), (&json!("rollback"), &json!("")));
}

#[test]
fn short_digits_of_a_commit_that_is_here_are_made_whole() {
    let (coordinator, person) = person_with_repository();
    let head = git(&person.work(), &["rev-parse", "HEAD"]);
    // One id in 400 begins like a build's number: `b` and seven decimal digits.
    let is_number = |digits: &str| digits.parse::<deployctl::model::id::JobNo>().is_ok();
    let digits = (8..40).map(|n| &head[..n]).find(|digits| !is_number(digits)).unwrap();
    person.ends(&["deploy", digits, "-y", "-d"], 0);
    assert_eq!(coordinator.requests_of(ROLLOUTS)[0].body["target"], json!(head));
}

#[test]
fn a_branch_named_like_a_release_asks_for_its_full_name() {
    let (coordinator, person) = person_with_repository();
    with_remote(&person);
    git(&person.work(), &["branch", "r411"]);
    let done = person.ends(&["deploy", "r411", "--yes"], 2);
    assert!(done.stderr.contains("refs/heads/r411"), "{}", done.stderr);
    person.ends(&["deploy", "refs/heads/r411", "--yes"], 0);
    let head = git(&person.work(), &["rev-parse", "HEAD"]);
    assert_eq!(coordinator.requests_of(ROLLOUTS)[0].body["target"], json!(head));
}

#[test]
fn what_git_does_not_know_is_code_3_and_no_option_reaches_it() {
    let (_, person) = person_with_repository();
    for rev in ["nosuch", "HEAD~9", "--output=/tmp/x", "$(id)", "HEAD:file"] {
        let done = person.ends(&["deploy", "--yes", "--", rev], 3);
        assert!(done.stderr.contains("is no commit of this repository"), "{}", done.stderr);
    }
    let done = person.ends(&["build", "r411"], 2);
    assert!(done.stderr.contains("r411 is not a commit"), "{}", done.stderr);
}

#[test]
fn without_a_repository_only_names_and_full_ids_work() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    std::fs::remove_dir(person.folder.path().join(".git")).unwrap();
    coordinator.gives(BUILDS, &build(JobState::Queued));
    let done = person.ends(&["build", "HEAD"], 2);
    assert!(done.stderr.contains("is not in a git checkout"), "{}", done.stderr);
    person.ends(&["build", &"a".repeat(40), "-d"], 0);
}

#[test]
fn a_registered_app_is_changed_by_what_is_given_and_by_no_more() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let before = app("https://example.org/web.git");
    let mut after = before.clone();
    after.spec.trunk = "master".into();
    coordinator.gives("GET /v1/apps/web", &before).gives("PUT /v1/apps/web", &after);
    let done = person.ends(&["apps", "set", "web", "--trunk", "master"], 0);
    assert!(done.stderr.contains("changed web: trunk: main → master"), "{}", done.stderr);
    let body = &coordinator.requests_of("PUT /v1/apps/web")[0].body;
    assert_eq!(*body, serde_json::to_value(&after.spec).unwrap());
    let nothing = person.ends(&["apps", "set", "web"], 2);
    assert!(nothing.stderr.contains("nothing to change"), "{}", nothing.stderr);
}

#[test]
fn registering_another_app_of_a_name_says_what_differs_and_how_to_change_it() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives("GET /v1/apps/web", &app("https://example.org/web.git"));
    coordinator.refuses("POST /v1/apps", 409, "conflict");
    let add = ["apps", "add", "web", "--repo", "git://h/w.git", "--build", "make all"];
    let half = person.ends(&add, 2);
    assert!(half.stderr.contains("--build and --artifact go together"), "{}", half.stderr);
    let done = person.ends(&[&add[..], &["--artifact", "out"]].concat(), 6);
    let line = "deployctl apps set web --repo git://h/w.git --build 'make all' --artifact out";
    assert!(done.stderr.contains(line), "{}", done.stderr);
    assert!(
        done.stderr.contains("repo: https://example.org/web.git → git://h/w.git"),
        "{}",
        done.stderr
    );
}

#[test]
fn init_guesses_no_start_for_an_artifact_that_it_did_not_guess() {
    let person = Person::nowhere();
    std::fs::write(person.work().join("Cargo.toml"), "[package]\nname = \"web\"\n").unwrap();
    let written = || std::fs::read_to_string(person.work().join("deployctl.toml")).unwrap();
    person.ends(&["init", "--no-input"], 0);
    assert!(written().contains("start = \"exec ./web\""), "{}", written());
    person.ends(&["init", "--no-input", "--force", "--build", "make", "--artifact", "site"], 0);
    assert!(!written().contains("exec ./web"), "{}", written());
}
