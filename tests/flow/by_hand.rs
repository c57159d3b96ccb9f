//! The coordinator is dead and a release must go back: goals by hand, region by region.

use std::fs;

use crate::fleet::{Fleet, eventually};
use crate::fleet_without_coordinator;

fn version(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("version")).unwrap_or_default()
}

#[test]
fn a_goal_by_hand_takes_regions_back_and_the_coordinator_goes_on_above_it() {
    let (mut fleet, repository) = fleet_without_coordinator();
    let at = repository.folder.clone();
    fleet.expect(&at, &["rollback", "--yes"], 5);

    let url = |fleet: &mut Fleet, region: &str| {
        format!("http://127.0.0.1:{}", fleet.port(&format!("region-{region}")))
    };
    let (eu, us) = (url(&mut fleet, "eu"), url(&mut fleet, "us"));
    let (own, others) = (fleet.token("region-eu"), fleet.token("agent-eu"));
    let show = ["plumbing", "goal", "show", "--server", &eu, "--token-file"];
    fleet.expect(&at, &[&show[..], &[&others]].concat(), 4);
    let shown = fleet.expect(&at, &[&show[..], &[&own]].concat(), 0);
    fs::write(at.join("goal.json"), &shown).unwrap();
    let key = fleet.path("coordinator/keys/goal.ed25519").display().to_string();
    let back = fleet.expect(&at, &["plumbing", "goal", "sign", "goal.json", "--key", &key], 0);
    fs::write(at.join("back.json"), &back).unwrap();
    let wrong = fleet.path("coordinator/keys/build.ed25519").display().to_string();
    let forged = fleet.expect(&at, &["plumbing", "goal", "sign", "goal.json", "--key", &wrong], 0);
    fs::write(at.join("forged.json"), forged).unwrap();

    let put = |fleet: &Fleet, file: &str, url: &str, token: &str, code: i32| {
        let place = ["--server", url, "--token-file", token];
        let args = [&["plumbing", "goal", "put", file][..], &place, &["--yes"]].concat();
        fleet.expect(&at, &args, code);
    };
    put(&fleet, "forged.json", &eu, &own, 4);
    put(&fleet, "back.json", &eu, &others, 4);
    assert_eq!(version(&fleet, "eu-1"), "2");
    put(&fleet, "back.json", &eu, &own, 0);
    put(&fleet, "back.json", &eu, &own, 0);
    put(&fleet, "goal.json", &eu, &own, 6);
    eventually("the region that was told goes back", || version(&fleet, "eu-1") == "1");
    assert_eq!(version(&fleet, "us-1"), "2", "nobody told the other region");
    put(&fleet, "back.json", &us, &fleet.token("region-us"), 0);
    eventually("so does the other", || version(&fleet, "us-1") == "1");

    // The coordinator comes back, learns of it, and its next word counts.
    fleet.start_coordinator();
    eventually("the coordinator knows of the goal by hand", || {
        let dry = fleet.json(&at, &["deploy", "r1", "--dry-run", "--allow-older"], 0);
        dry["version"]["generation"].as_u64().is_some_and(|generation| generation > 1_000)
    });
    fleet.expect(&at, &["rollback", "r1", "--yes", "-m", "as it is"], 0);
    fleet.expect(&at, &["deploy", "r2", "--yes", "--allow-bad", "--plan", "all-at-once"], 0);
    assert_eq!((version(&fleet, "eu-1"), version(&fleet, "us-1")), ("2".into(), "2".into()));
}
