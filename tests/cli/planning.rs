//! Plans of one's own: what is checked before anything is sent, and what is sent.

use std::path::Path;

use deployctl::config::plan;
use deployctl::model::digest::Digest;
use deployctl::model::plan::PlanRef;
use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::{R2, ROLLOUTS, rollout, status};
use crate::support::{Coordinator, Person};
use crate::terminal::on_terminal;

const SLOW: &str = "max_unavailable = \"10%\"\n[[wave]]\nregions = [\"eu\", \"*\"]\n\
    steps = [{ hosts = 1, bake_s = 60 }, { percent = 100 }]\n";

fn ready() -> (Coordinator, Person) {
    let coordinator = Coordinator::start();
    let mut planned = rollout(RolloutState::Succeeded, 1);
    planned.release.plan_file =
        Some(PlanRef { name: "slow.toml".into(), digest: Digest([0xab; 32]) });
    coordinator.gives(ROLLOUTS, &planned);
    coordinator.gives(R2, &planned);
    let person = Person::of(&coordinator);
    std::fs::write(person.work().join("slow.toml"), SLOW).unwrap();
    (coordinator, person)
}

#[test]
fn a_file_is_sent_as_waves_and_named_where_it_is_shown() {
    let (coordinator, person) = ready();
    for args in [
        &["deploy", "r2", "--yes", "--plan", "slow.toml"][..],
        &["promote", "--from", "staging", "--to", "prod", "--yes", "--plan", "./slow.toml"],
        &["deploy", "r2", "-n", "--plan", "slow.toml"],
    ] {
        let done = person.ends(args, 0);
        assert!(done.stderr.contains("plan slow.toml (ababababab)"), "{args:?}: {}", done.stderr);
        let body = coordinator.requests_of(ROLLOUTS).last().unwrap().body.clone();
        assert_eq!(body["plan_file"]["name"], "slow.toml");
        assert_eq!(
            body["plan_file"]["waves"],
            json!([{"regions": ["eu", "*"], "steps": [{"hosts": 1, "bake_s": 60}, {"percent": 100}]}])
        );
        assert_eq!((&body["plan"], &body["max_unavailable"]), (&json!("standard"), &json!("10%")));
    }
    let more = ["deploy", "r2", "--yes", "--plan", "slow.toml", "--max-unavailable", "3"];
    person.ends(&more, 0);
    assert_eq!(coordinator.requests_of(ROLLOUTS).last().unwrap().body["max_unavailable"], "3");
}

#[test]
fn who_looks_at_an_open_rollout_is_told_by_what_it_goes() {
    let (coordinator, person) = ready();
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Running));
    let open = now.apps[0].rollout.as_mut().unwrap();
    open.release.plan_file = Some(PlanRef { name: "slow.toml".into(), digest: Digest([1; 32]) });
    coordinator.gives(R2, open);
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives("GET /v1/regions", &json!({"regions": []}));
    for args in [["status"].as_slice(), &["why", "r2"]] {
        let done = on_terminal(&person, args, ("\0", ""));
        assert!(done.stdout.contains("goes by the plan slow.toml (0101010101)"), "{done:?}");
    }
}

#[test]
fn what_can_be_seen_to_be_wrong_is_not_sent() {
    let (coordinator, person) = ready();
    std::fs::write(person.work().join("bad.toml"), SLOW.replace("100", "101")).unwrap();
    std::fs::write(person.work().join("large.toml"), "# ".repeat(200_000)).unwrap();
    for (plan, said) in [
        ("standrad", "did you mean: standard"),
        ("slow", "did you mean: slow.toml"),
        ("mine", "it is one of fast, standard, careful, all-at-once"),
        ("./slwo.toml", "did you mean: ./slow.toml"),
        ("none/at.all", "there is no plan at none/at.all"),
        ("bad.toml", "percent is 1 to 100"),
        ("large.toml", "is over 262144 bytes"),
        (".", "there is no plan at ."),
    ] {
        let done = person.ends(&["deploy", "r2", "--yes", "--plan", plan], 2);
        assert!(done.stderr.contains(said), "{plan}: {}", done.stderr);
    }
    assert!(coordinator.requests_of("POST ").is_empty());
}

#[test]
fn a_file_is_no_way_round_the_name_of_the_app() {
    let (coordinator, person) = ready();
    let at_once = SLOW.replace(", bake_s = 60", "");
    std::fs::write(person.work().join("at-once.toml"), at_once).unwrap();
    for args in [&["--plan", "at-once.toml"][..], &["--plan", "slow.toml", "--bake", "0s"]] {
        let args = [&["deploy", "r2", "--yes"], args].concat();
        let done = person.ends(&args, 2);
        assert!(done.stderr.contains("--confirm=web -m WHY"), "{}", done.stderr);
        assert!(coordinator.requests_of("POST ").is_empty());
        person.ends(&[&args[..], &["--confirm=web", "-m", "INC-7"]].concat(), 0);
        coordinator.forget();
    }
    person.ends(&["deploy", "r2", "--yes", "--plan", "slow.toml", "--bake", "1s"], 0);
}

#[test]
fn the_examples_are_plans() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/plans");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let written = plan::read(&path).unwrap().unwrap();
        assert!(!written.plan.is_all_at_once(None), "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} says what it is for", path.display());
        seen += 1;
    }
    assert_eq!(seen, 3);
    // The manual's own example is one too.
    let manual = include_str!("../../src/cli/texts/plan.txt");
    let (_, example) = manual.split_once("EXAMPLE\n").unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), example).unwrap();
    assert_eq!(plan::read(file.path()).unwrap().unwrap().plan.waves().len(), 2);
}

#[test]
fn named_hosts_are_sent_as_they_were_said_and_not_beside_what_does_not_go_with_them() {
    let (coordinator, person) = ready();
    person.ends(&["deploy", "r2", "--yes", "--hosts", "web-*,rack=14"], 0);
    let sent = coordinator.requests_of(ROLLOUTS).len();
    let body = coordinator.requests_of(ROLLOUTS).last().unwrap().body.clone();
    assert_eq!(body["hosts"], "web-*,rack=14");
    for (more, said) in [
        (&["--plan", "slow.toml"][..], "--hosts is not for --plan slow.toml"),
        (
            &["--plan", "all-at-once", "-m", "x", "--confirm", "web"],
            "--hosts is not for --plan all",
        ),
        (&["--max-unavailable", "3"], "cannot be used with"),
        (&["--hosts", "rack="], "rack="),
    ] {
        let mut args = vec!["deploy", "r2", "--yes"];
        if more[0] != "--hosts" {
            args.extend(["--hosts", "web-1"]);
        }
        args.extend(more);
        let done = person.ends(&args, 2);
        assert!(done.stderr.contains(said), "{args:?}: {}", done.stderr);
    }
    assert_eq!(coordinator.requests_of(ROLLOUTS).len(), sent, "nothing of that was sent");
}

#[test]
fn whoever_looks_at_a_held_canary_is_told_of_both_ways_on() {
    let (coordinator, person) = ready();
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Paused));
    let open = now.apps[0].rollout.as_mut().unwrap();
    open.held = true;
    let canary = json!({"asked": "web-*", "hosts": {"eu": ["web-1", "web-2"]}});
    open.release.canary = serde_json::from_value(canary).unwrap();
    coordinator.gives(R2, open);
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives("GET /v1/regions", &json!({"regions": []}));
    let why = on_terminal(&person, &["why", "r2"], ("\0", "")).stdout;
    for said in
        ["--hosts web-* goes first: web-1, web-2", "deployctl promote r2", "deployctl cancel r2"]
    {
        assert!(why.contains(said), "{said}: {why}");
    }
    let shown = on_terminal(&person, &["status"], ("\0", "")).stdout;
    assert!(shown.contains("a canary by name: web-1, web-2"), "{shown}");
    // Paused for another reason, it is not known whether the canary is well.
    now.apps[0].rollout.as_mut().unwrap().held = false;
    coordinator.gives(R2, now.apps[0].rollout.as_ref().unwrap());
    let why = on_terminal(&person, &["why", "r2"], ("\0", "")).stdout;
    assert!(why.contains("deployctl resume r2") && !why.contains("promote r2"), "{why}");
}
