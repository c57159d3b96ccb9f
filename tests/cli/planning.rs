//! Plans of one's own: what is checked before anything is sent, and what is sent.

use std::path::Path;

use deployctl::config::plan;
use deployctl::model::digest::Digest;
use deployctl::model::goal::GoalVersion;
use deployctl::model::plan::PlanRef;
use deployctl::model::rollout::{RolloutKind, RolloutState, Step};
use deployctl::wire::v1::rollout::Rollout;
use serde_json::json;

use crate::samples::{R2, ROLLOUTS, app, rollout, status};
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

/// A deploy whose canary, web-1 of `eu`, is done and held.
fn held() -> Rollout {
    let mut held = rollout(RolloutState::Paused, 2);
    held.held = true;
    let canary = json!({"asked": "web-1", "hosts": {"eu": ["web-1"]}});
    held.release.canary = serde_json::from_value(canary).unwrap();
    held.release.reason = "held after the canary web-1: promote goes on".into();
    held.waiting_on = "a person to promote the rest or cancel; the canary web-1 is done".into();
    let tally = held.regions.values_mut().next().unwrap();
    (tally.admitted, tally.healthy) = (1, 1);
    held.steps = vec![step("canary web-1", 0), step("all hosts", 10_000)];
    held
}

fn step(name: &str, eu: u32) -> Step {
    let admit = [("eu".to_owned(), eu)].into();
    Step { wave: 0, name: name.into(), admit, bake_s: 60, hold: true }
}

#[test]
fn a_canary_that_is_held_is_told_as_what_was_asked_for_and_not_as_an_error() {
    let (coordinator, person) = ready();
    coordinator.gives(R2, &held());
    let done = person.ends(&["deploy", "r2", "--yes", "--hosts", "web-1"], 14);
    let end = "‖ r2 is held after the canary web-1: 1 of 1 host healthy\n\
               next:  promote goes on with the rest by the plan, cancel (or rollback) goes back to r1\n\
               hint:  deployctl promote r2 -a web -e prod\n\
               hint:  deployctl cancel r2 -a web -e prod\n";
    assert!(done.stderr.ends_with(end), "{}", done.stderr);
    assert!(!done.stderr.contains("error:"), "{}", done.stderr);
    let json = person.ends(&["watch", "r2", "-o", "json"], 14).json();
    assert_eq!((&json["exit_code"], &json["error"]["code"]), (&json!(14), &json!("paused")));

    // Nothing ran before: there is nowhere to go back to.
    let first = Rollout { base: None, ..held() };
    coordinator.gives(R2, &first);
    let done = person.ends(&["watch", "r2"], 14);
    assert!(done.stderr.contains("deployctl cancel r2 --keep -a web"), "{}", done.stderr);
    // The same bits: a rollback would go further back, or nowhere.
    let mut same = held();
    same.base.as_mut().unwrap().artifact = same.release.artifact.unwrap();
    coordinator.gives(R2, &same);
    let done = person.ends(&["watch", "r2"], 14);
    let said = "cancel goes back to r1, which brought the same\n";
    assert!(done.stderr.contains(said) && !done.stderr.contains("rollback"), "{}", done.stderr);
    // One that a plan holds says so too, and one that is unwell is an error as ever.
    let mut planned = held();
    planned.release.canary = None;
    coordinator.gives(R2, &planned);
    let done = person.ends(&["watch", "r2"], 14);
    let said = "r2 is held after \"canary web-1\", as its plan says";
    assert!(done.stderr.contains(said) && !done.stderr.contains("error:"), "{}", done.stderr);
    coordinator.gives(R2, &Rollout { held: false, ..held() });
    let done = person.ends(&["watch", "r2"], 14);
    assert!(done.stderr.contains("error: r2 is paused"), "{}", done.stderr);
}

#[test]
fn who_watches_a_held_canary_reads_the_whole_line_to_type() {
    let (coordinator, person) = ready();
    let mut held = held();
    held.release.app = "an-app-with-a-name-that-is-quite-long-for-a-terminal".parse().unwrap();
    coordinator.gives(R2, &held);
    coordinator.gives(&R2.replace("/web/", &format!("/{}/", held.release.app)), &held);
    let typed =
        "deployctl promote r2 -a an-app-with-a-name-that-is-quite-long-for-a-terminal -e prod";
    let done = on_terminal(&person, &["watch", "r2"], ("-e prod", "\x03"));
    assert_eq!(done.code, 130, "{done:?}");
    let shown = done.stdout.replace("\r\n", "\n");
    assert!(shown.contains(typed), "{shown}");
    assert!(shown.contains("go back  deployctl cancel r2"), "{shown}");
    // Who goes away is told that it waits, and the same lines.
    let (_, after) = shown.split_once("detached; r2 stays held").expect("it waits for a person");
    assert!(after.contains(typed), "{after}");
}

/// `web-1` to `web-4` in one region, which run nothing yet.
fn four_hosts() -> serde_json::Value {
    let host = |n: u8| {
        json!({"info": {"host": format!("web-{n}"), "env": "prod", "labels": {},
        "rack": "", "zone": "", "peer_port": 1, "agent_version": "1"}, "region": "eu", "address": "", "reachable": true,
        "seen_at": "2026-11-21T00:00:00.000Z", "apps": []})
    };
    let hosts: Vec<_> = (1..=4).map(host).collect();
    json!({"hosts": hosts, "total": 4})
}

#[test]
fn a_plan_that_is_only_asked_for_counts_the_hosts_of_its_steps() {
    let (coordinator, person) = ready();
    let mut planned = held();
    planned.release.version = Some(GoalVersion { epoch: 1, generation: 7, step: 1 });
    coordinator.gives(ROLLOUTS, &planned);
    coordinator.gives("GET /v1/apps/web", &app("file:///x"));
    coordinator.gives("GET /v1/hosts", &four_hosts());
    let done = person.ends(&["deploy", "r2", "-n", "--hosts", "web-1"], 0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], "1\t1\tcanary web-1\teu 1\t60s\theld");
    assert!(lines[1].contains("\teu 4\t"), "{lines:?}");
    // Hosts that can't be counted leave shares, and no share of nothing.
    coordinator.gives("GET /v1/hosts", &json!({"hosts": [], "total": 4}));
    let done = person.ends(&["deploy", "r2", "-n", "--hosts", "web-1"], 0);
    assert!(done.stdout.starts_with("1\t1\tcanary web-1\teu 1\t"), "{}", done.stdout);
    assert!(done.stdout.contains("\teu all\t"), "{}", done.stdout);
}

#[test]
fn how_far_a_promote_would_go_is_told_in_hosts() {
    let (coordinator, person) = ready();
    let mut open = held();
    open.release.version = Some(GoalVersion { epoch: 1, generation: 7, step: 1 });
    let free = |name: &str, eu: u32| Step { hold: false, ..step(name, eu) };
    open.steps = vec![
        step("canary web-1", 0),
        free("eu 50%", 5000),
        step("all hosts", 10_000),
        free("rest", 10_000),
    ];
    let mut now = status(Some(RolloutState::Succeeded), Some(RolloutState::Paused));
    now.apps[0].rollout = Some(open.clone());
    coordinator.gives("GET /v1/status", &now);
    coordinator.gives(R2, &open);
    coordinator.gives("GET /v1/apps/web", &app("file:///x"));
    coordinator.gives("GET /v1/hosts", &four_hosts());
    let done = person.ends(&["promote", "-n"], 0);
    for said in [
        "now      r2 is held after the canary web-1: 1 of 1 host healthy\n",
        "would    go on to step \"eu 50%\", then by itself to \"all hosts\"\n",
        "hosts    4 hosts once that is done; 1 may run it now\n",
    ] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("2\t1\teu 50%\teu "), "{lines:?}");
    assert_eq!(lines[1], "3\t1\tall hosts\teu 4\t60s\theld");
    let full = person.ends(&["promote", "r2", "--full", "-n"], 0);
    assert!(full.stderr.contains("would    skip every step that is left\n"), "{}", full.stderr);
    assert_eq!(full.stdout, "4\t1\trest\teu 4\t0s\t\n");
    // What a promote would be refused for is said.
    for (state, why) in
        [(RolloutState::Pending, "not begun"), (RolloutState::Reverting, "going back")]
    {
        open.release.state = state;
        coordinator.gives(R2, &open);
        let done = person.ends(&["promote", "r2", "-n"], 6);
        assert!(done.stderr.contains(why), "{}", done.stderr);
    }
    (open.release.state, open.release.kind) = (RolloutState::Running, RolloutKind::Rollback);
    coordinator.gives(R2, &open);
    let done = person.ends(&["promote", "r2", "-n"], 6);
    assert!(done.stderr.contains("hint:  deployctl cancel r2 --keep -a "), "{}", done.stderr);
    assert!(coordinator.requests_of("POST ").is_empty(), "nothing was promoted");
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
    assert!(why.contains("deployctl hosts --hosts 'web-*' -a web -e prod"), "{why}");
    assert!(!why.contains("hosts --failed"), "nothing failed: {why}");
    let open = now.apps[0].rollout.as_mut().unwrap();
    open.waiting_on = "a person to promote the rest or cancel".into();
    coordinator.gives("GET /v1/status", &now);
    let shown = on_terminal(&person, &["status"], ("\0", "")).stdout;
    assert!(shown.contains("a canary by name: web-1, web-2"), "{shown}");
    assert!(shown.contains("go on: deployctl promote r2 -a web -e prod"), "{shown}");
    // A hold is ended by `promote`, and by no `resume`.
    let paused = person.ends(&["pause", "r2"], 0).stderr;
    assert!(paused.contains("r2 is held already"), "{paused}");
    assert!(paused.contains("deployctl promote r2") && !paused.contains("resume"), "{paused}");
    // Paused for another reason, it is not known whether the canary is well.
    now.apps[0].rollout.as_mut().unwrap().held = false;
    coordinator.gives(R2, now.apps[0].rollout.as_ref().unwrap());
    let why = on_terminal(&person, &["why", "r2"], ("\0", "")).stdout;
    assert!(why.contains("deployctl resume r2") && !why.contains("promote r2"), "{why}");
}
