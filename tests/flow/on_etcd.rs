//! Goals through three members of etcd: the main job, a leader killed under it, the
//! coordinator away, a region without its memory, and a store that lost everything.

use std::fs;

use deployctl::model::goal::Goal;
use deployctl::store::goals::Goals;
use deployctl::wire::seal::Sealed;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::etcd::Etcd;
use crate::fleet::{Fleet, eventually};
use crate::stock;

fn version(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("version")).unwrap_or_default()
}

/// The generation of the app's goal under a prefix; 0: none.
fn generation(runtime: &Runtime, etcd: &str, prefix: &str) -> u64 {
    runtime.block_on(async {
        let goals = Goals::etcd(&format!("{etcd}/{prefix}")).unwrap();
        let rows = goals.after(0).await.unwrap();
        rows.iter().map(|row| row.version.generation).max().unwrap_or(0)
    })
}

#[test]
fn goals_travel_by_etcd_and_survive_what_may_happen_to_it() {
    let runtime = Runtime::new().unwrap();
    let mut members = runtime.block_on(Etcd::start(3));
    let etcd = members.url("");
    let (mut fleet, repository) = stock(Fleet::with_etcd(&["eu", "us"], Some(etcd.clone())), 1);
    let at = repository.folder.clone();
    let hosts = ["eu-1", "us-1"];
    let all_on =
        |fleet: &Fleet, wanted: &str| hosts.iter().all(|host| version(fleet, host) == wanted);
    let stands = |prefix: &str| generation(&runtime, &etcd, prefix);
    let everywhere =
        |least: u64| ["global", "eu", "us"].iter().all(|prefix| stands(prefix) >= least);

    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    assert!(all_on(&fleet, "1"));
    eventually("the goal is in every store", || everywhere(1));

    // The leader dies, and a deploy is made.
    let leader = runtime.block_on(members.leader());
    members.kill(leader);
    repository.publish(&[("version", "2")], "Second");
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    assert!(all_on(&fleet, "2"));
    let second = stands("global").max(2);
    eventually("two of three members have the goal", || everywhere(second));
    members.start_member(leader);

    // The coordinator is away: what is put into the global store reaches every region.
    fleet.kill("coordinator");
    let own = fleet.token("region-eu");
    let url = format!("http://127.0.0.1:{}", fleet.port("region-eu"));
    let show = ["plumbing", "goal", "show", "--server", &url, "--token-file", &own];
    fs::write(at.join("goal.json"), fleet.expect(&at, &show, 0)).unwrap();
    let key = fleet.path("coordinator/keys/goal.ed25519").display().to_string();
    let back = fleet.expect(&at, &["plumbing", "goal", "sign", "goal.json", "--key", &key], 0);
    let back: Sealed = serde_json::from_str(&back).unwrap();
    let goal: Goal = serde_json::from_str(&back.payload).unwrap();
    let global = Goals::etcd(&format!("{etcd}/global")).unwrap();
    runtime.block_on(global.put("api/prod", goal.version, &back)).unwrap();
    eventually("both regions go back", || all_on(&fleet, "1"));
    let by_hand = goal.version.generation;
    eventually("each keeps it in its own store", || everywhere(by_hand));

    // A region starts again without its goals, and has them from its own store.
    fleet.kill("region-eu");
    let db = rusqlite::Connection::open(fleet.path("regions/eu/data/region.db")).unwrap();
    assert_eq!(db.execute("DELETE FROM goals", []).unwrap(), 1);
    drop(db);
    fleet.start_region("eu");
    eventually("the region has its goal again", || {
        fleet.cli(&at, &show).status.success() && {
            let shown = fleet.expect(&at, &show, 0);
            shown.contains(&by_hand.to_string())
        }
    });

    // The stores lose everything; those who decided put it there again.
    let everything = json!({ "key": "AA==", "range_end": "AA==" });
    let wiped = runtime.block_on(members.ask(0, "/v3/kv/deleterange", &everything));
    assert!(wiped.is_some());
    assert_eq!(stands("global"), 0);
    fleet.start_coordinator();
    eventually("the global store is healed", || stands("global") > 0);
    eventually("the coordinator knows of the goal by hand", || {
        let dry = fleet.json(&at, &["deploy", "r1", "--dry-run", "--allow-older"], 0);
        dry["version"]["generation"].as_u64().is_some_and(|generation| generation > by_hand)
    });
    fleet.expect(&at, &["rollback", "r1", "--yes", "-m", "as it is"], 0);
    fleet.expect(&at, &["deploy", "r2", "--yes", "--allow-bad", "--plan", "all-at-once"], 0);
    assert!(all_on(&fleet, "2"));
    eventually("its goal is everywhere", || everywhere(by_hand + 1));
}

#[test]
fn the_doctor_says_how_goals_travel() {
    let runtime = Runtime::new().unwrap();
    let mut members = runtime.block_on(Etcd::start(3));
    let etcd = members.url("");
    let (fleet, repository) = stock(Fleet::with_etcd(&["eu", "us"], Some(etcd)), 1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    let says = |verdict: &str, words: &[&str]| {
        let done = fleet.cli(&at, &["doctor", "-o", "json"]);
        let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let checks = said["checks"].as_array().unwrap();
        let goals = checks.iter().find(|check| check["check"] == "goals").unwrap();
        let text = goals.to_string();
        goals["verdict"] == verdict && words.iter().all(|word| text.contains(word))
    };
    let well = ["the global etcd has 3 members, revision", "eu's etcd", "us's etcd"];
    eventually("all is well", || says("ok", &well));

    let leader = runtime.block_on(members.leader());
    members.kill(leader);
    let address = members.url("").replace("etcd://", "http://");
    let address = address.replace(',', ",http://");
    let lost = address.split(',').nth(leader).unwrap();
    eventually("the member that is away is named", || says("warning", &[lost]));
    members.start_member(leader);
    eventually("all is well again", || says("ok", &well));

    let alarm = |action| json!({"action": action, "memberID": "1", "alarm": "NOSPACE"});
    let raised = runtime.block_on(members.ask(0, "/v3/maintenance/alarm", &alarm("ACTIVATE")));
    assert!(raised.is_some());
    let full = ["the global etcd has raised NOSPACE", "us's etcd has raised", "alarm disarm"];
    eventually("the alarm is told", || says("failed", &full));
    let ended = runtime.block_on(members.ask(0, "/v3/maintenance/alarm", &alarm("DEACTIVATE")));
    assert!(ended.is_some());
    eventually("the alarm is over", || says("ok", &well));

    members.kill(0);
    members.kill(1);
    eventually("a store without a majority is told", || says("failed", &["the global etcd: "]));
}
