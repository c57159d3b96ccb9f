//! On a terminal: questions, tables for people, nothing asked under CI.
//!
//! The terminal is util-linux's `script`, which `scripts/test` installs.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{R2, ROLLOUTS, rollout, status};
use crate::support::{Coordinator, Done, Person, program};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What `deployctl` shows and how it ends when `keys` are typed once it shows `prompt`.
pub(crate) fn on_terminal(person: &Person, args: &[&str], (prompt, keys): (&str, &str)) -> Done {
    let line = format!("{} {}", program().display(), args.join(" "));
    let plain = person.command(&[]);
    let mut command = Command::new("timeout");
    command.args(["60", "script", "-qefc", &line, "/dev/null"]);
    command.current_dir(person.work()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    // The pipe stays open to the end: its end would be the terminal's end too.
    let mut typing = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let (mut shown, mut part, mut typed) = (Vec::new(), [0; 1024], false);
    while let Ok(n @ 1..) = screen.read(&mut part) {
        shown.extend_from_slice(&part[..n]);
        if !typed && String::from_utf8_lossy(&shown).contains(prompt) {
            typing.write_all(keys.as_bytes()).unwrap();
            typed = true;
        }
    }
    let code = child.wait().unwrap().code().unwrap_or(-1);
    let stdout = String::from_utf8_lossy(&shown).into_owned();
    Done { code, stdout, stderr: String::new() }
}

fn ready() -> (Coordinator, Person) {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    coordinator.gives(ROLLOUTS, &rollout(RolloutState::Running, 1));
    coordinator.gives(R2, &rollout(RolloutState::Succeeded, 2));
    (coordinator, person)
}

#[test]
fn the_question_says_from_which_config_to_which() {
    let (coordinator, person) = ready();
    let mut planned = rollout(RolloutState::Running, 1);
    planned.release.config = Some(deployctl::model::digest::Digest([9; 32]));
    coordinator.gives(ROLLOUTS, &planned);
    std::fs::write(person.work().join("web.toml"), "level = 2").unwrap();
    let line = ["deploy", "@", "--config", "web.toml"];
    let done = on_terminal(&person, &line, ("[y/N]", "n"));
    assert!(done.stdout.contains("config   none → 0909090909"), "{done:?}");
    planned.base.as_mut().unwrap().config = planned.release.config;
    coordinator.gives(ROLLOUTS, &planned);
    let done = on_terminal(&person, &["deploy", COMMIT], ("[y/N]", "n"));
    assert!(done.stdout.contains("config   0909090909, as it is"), "{done:?}");
    // Some region runs something else: there it may change.
    planned.mixed_base = true;
    coordinator.gives(ROLLOUTS, &planned);
    let done = on_terminal(&person, &["deploy", COMMIT], ("[y/N]", "n"));
    assert!(done.stdout.contains("config   0909090909"), "{done:?}");
    assert!(!done.stdout.contains("as it is"), "{done:?}");
}

#[test]
fn yes_deploys_and_no_starts_nothing() {
    let (coordinator, person) = ready();
    let done = on_terminal(&person, &["deploy", COMMIT], ("[y/N]", "y"));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("web prod   r1 → r2") && done.stdout.contains("Deploy? [y/N]"));
    let dry: Vec<_> =
        coordinator.requests_of(ROLLOUTS).iter().map(|r| r.body["dry_run"].clone()).collect();
    assert_eq!(dry, [json!(true), json!(false)]);
    let done = on_terminal(&person, &["deploy", COMMIT], ("[y/N]", "n"));
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("nothing was started"), "{done:?}");
    assert_eq!(coordinator.requests_of(ROLLOUTS).len(), 3, "one more question, no deploy");
}

#[test]
fn what_is_there_already_is_said_and_nothing_asked() {
    let (coordinator, person) = ready();
    let mut there = rollout(RolloutState::Succeeded, 2);
    there.joined = true;
    coordinator.gives(ROLLOUTS, &there);
    for args in [&["deploy", COMMIT][..], &["rollback"]] {
        let done = on_terminal(&person, args, ("[", "n"));
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.contains("is there already; nothing was started"), "{done:?}");
        assert!(!done.stdout.contains("[y/N]") && !done.stdout.contains("[Y/n]"), "{done:?}");
    }
    let asked = coordinator.requests_of("POST ");
    assert!(asked.iter().all(|request| request.body["dry_run"] == true), "{asked:?}");
}

#[test]
fn what_is_lacking_is_shown_before_the_question() {
    let (coordinator, person) = ready();
    let mut planned = rollout(RolloutState::Running, 1);
    planned.unmet = vec!["it needs api at 1234567890 or later in prod".into()];
    coordinator.gives(ROLLOUTS, &planned);
    let done = on_terminal(&person, &["deploy", COMMIT, "--allow-unmet"], ("[y/N]", "n"));
    assert!(done.stdout.contains("lacks    it needs api at 1234567890"), "{done:?}");
}

#[test]
fn enter_rolls_back_because_speed_is_safety() {
    let (coordinator, person) = ready();
    let done = on_terminal(&person, &["rollback"], ("[Y/n]", "\r"));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(coordinator.requests_of(ROLLOUTS).last().unwrap().body["dry_run"], json!(false));
}

#[test]
fn everything_at_once_in_production_asks_for_the_name() {
    let (coordinator, person) = ready();
    let args = ["deploy", COMMIT, "--plan", "all-at-once"];
    let done = on_terminal(&person, &args, ("to go on", "yes\r"));
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(on_terminal(&person, &args, ("to go on", "web\r")).code, 0);
    assert_eq!(coordinator.requests_of(ROLLOUTS).last().unwrap().body["plan"], "all-at-once");
    let yes = [&args[..], &["--yes"]].concat();
    let done = on_terminal(&person, &yes, ("to go on", "no\r"));
    assert_eq!(done.code, 1, "--yes is no name: {done:?}");
    let said = [&args[..], &["--confirm=web", "-m", "INC-7"]].concat();
    assert!(!on_terminal(&person, &said, ("to go on", "no\r")).stdout.contains("to go on"));
}

#[test]
fn a_script_says_the_name_and_why_where_a_person_would_type_it() {
    let (coordinator, person) = ready();
    let all = "deployctl deploy r2 --yes --plan all-at-once";
    let glass = "deployctl deploy r2 --yes --break-glass";
    for (line, more) in [
        (all, "--confirm=web -m WHY"),
        (&format!("{all} -m INC-7"), "--confirm=web"),
        (&format!("{all} --confirm=web"), "-m WHY"),
        (glass, "--confirm=web -m WHY"),
        ("deployctl promote --from staging --to prod --plan all-at-once", "--confirm=web -m WHY"),
        // The env that is not prod does not ask, but a broken glass has a reason anywhere.
        (&format!("{glass} -e staging"), "-m WHY"),
    ] {
        let args: Vec<&str> = line.split(' ').skip(1).collect();
        let done = person.ends(&args, 2);
        assert!(
            done.stderr.contains(&format!("hint:  {line} {more}\n")),
            "{line}: {}",
            done.stderr
        );
        assert!(coordinator.requests_of("POST ").is_empty(), "{line} was sent");
        let pasted: Vec<&str> = args.into_iter().chain(more.split(' ')).collect();
        if !line.contains("staging") {
            person.ends(&pasted, 0);
            coordinator.forget();
        }
    }
    let other =
        person.ends(&["deploy", "r2", "--plan", "all-at-once", "--confirm=wob", "-m", "x"], 2);
    assert!(other.stderr.contains("--confirm=wob, and the app is web"), "{}", other.stderr);
    // A way back needs no name, and neither does an ordinary deploy.
    person.ends(&["rollback", "--yes"], 0);
    person.ends(&["deploy", "r2", "--yes"], 0);
    person.ends(&["deploy", "r2", "--confirm=web"], 0);
}

#[test]
fn ctrl_c_at_a_question_is_code_130_with_the_cursor_back() {
    let (coordinator, person) = ready();
    let done = on_terminal(&person, &["deploy", COMMIT], ("[y/N]", "\x03"));
    assert_eq!(done.code, 130, "{done:?}");
    assert!(done.stdout.contains("\x1b[?25h"), "the cursor is shown again: {done:?}");
    assert_eq!(coordinator.requests_of(ROLLOUTS).len(), 1, "only the dry run");
}

#[test]
fn ctrl_c_while_watching_detaches_and_leaves_no_half_line() {
    let (coordinator, person) = ready();
    let mut running = rollout(RolloutState::Running, 1);
    running.waiting_on = "2 of 4 hosts on r2; waiting for 2".into();
    coordinator.gives(R2, &running);
    for args in [&["watch", "r2"][..], &["deploy", COMMIT, "--yes"]] {
        let done = on_terminal(&person, args, ("waiting for 2", "\x03"));
        assert_eq!(done.code, 130, "{done:?}");
        assert!(!done.stdout.contains("^C"), "it would move what is to be wiped: {done:?}");
        let (before, after) = done.stdout.split_once("detached; r2 continues").unwrap();
        assert!(!after.contains("waiting for 2"), "nothing is drawn after the end: {done:?}");
        // The line that moved was wiped, and the message begins at the left edge.
        let wiped = before.rfind("\x1b[2K").unwrap();
        assert!(wiped > before.rfind("waiting for 2").unwrap(), "{done:?}");
        assert!(after.contains("deployctl watch r2") && after.contains("deployctl cancel r2"));
    }
}

#[test]
fn nothing_is_asked_under_ci_or_without_input() {
    let (coordinator, mut person) = ready();
    let done = on_terminal(&person, &["deploy", COMMIT, "--no-input"], ("\0", ""));
    assert_eq!(done.code, 2, "{done:?}");
    person.set("CI", "true");
    assert_eq!(on_terminal(&person, &["deploy", COMMIT], ("\0", "")).code, 2);
    assert!(coordinator.requests_of(ROLLOUTS).is_empty());
}

#[test]
fn people_get_a_header_ages_and_short_ids() {
    let (coordinator, person) = ready();
    coordinator.gives("GET /v1/status", &status(Some(RolloutState::Succeeded), None));
    let done = on_terminal(&person, &["status"], ("\0", ""));
    assert!(done.stdout.contains("APP") && done.stdout.contains("RELEASE"), "{done:?}");
    assert!(done.stdout.contains(&COMMIT[..10]) && !done.stdout.contains(COMMIT));
    assert!(done.stdout.contains("✓ succeeded"), "{done:?}");
    let plain = on_terminal(&person, &["status", "-o", "plain"], ("\0", ""));
    assert!(plain.stdout.contains(COMMIT) && !plain.stdout.contains("RELEASE"), "{plain:?}");
}
