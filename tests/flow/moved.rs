//! A coordinator moves from SQLite to PostgreSQL: people, workers, regions and hosts see the
//! same apps, builds, releases, goals and tokens, and numbers go on where they were.

use std::fs;

use serde_json::Value;

use crate::fleet::{Fleet, eventually};
use crate::{fleet_with_app, server};

/// What a command answers, but for what is looked at anew all the time.
fn told(fleet: &Fleet, at: &std::path::Path, args: &[&str]) -> Value {
    let mut answer = fleet.json(at, args, 0);
    still(&mut answer);
    answer
}

fn still(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "now" && name != "checked_at");
            fields.values_mut().for_each(still);
        }
        Value::Array(all) => all.iter_mut().for_each(still),
        _ => {}
    }
}

/// What is asked before and after.
const ASKED: [&[&str]; 7] = [
    &["apps"],
    &["builds"],
    &["history"],
    &["history", "-A", "--since", "1d"],
    &["tokens", "list"],
    &["webhooks", "list"],
    &["freeze", "list"],
];

#[test]
fn a_fleet_goes_on_when_its_coordinator_moves_to_a_server() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    let go = ["deploy", "--yes", "--build", "--plan", "all-at-once"];
    fleet.expect(&at, &go, 0);
    repository.publish(&[("version", "2")], "Second");
    fleet.expect(&at, &go, 0);
    fleet.expect(&at, &["rollback", "--yes", "-m", "INC-1"], 0);
    fleet.expect(&at, &["tokens", "create", "ci", "--role", "deployer"], 0);
    fleet.expect(
        &at,
        &["webhooks", "add", "chat", "https://chat.invalid/hook", "--kind", "rollout.failed"],
        0,
    );
    fleet.expect(
        &at,
        &["freeze", "start", "-e", "prod", "--in", "1d", "--for", "4h", "-m", "INC-1"],
        0,
    );
    let goal = fleet.root("eu-1").join("apps/api/goal.json");
    let before: Vec<Value> = ASKED.iter().map(|args| told(&fleet, &at, args)).collect();
    fleet.kill("coordinator");
    let followed = fs::read_to_string(&goal).unwrap();

    let (url, data) = (server::fresh_database(), fleet.path("coordinator").display().to_string());
    let copied = fleet.json(&at, &["admin", "db", "copy", "--data", &data, "--to", &url], 0);
    let rows = |name: &str| {
        let mut tables = copied["tables"].as_array().unwrap().iter();
        tables.find(|one| one["table"] == name).unwrap()["rows"].as_u64().unwrap()
    };
    for table in ["apps", "jobs", "attempts", "job_log", "artifacts", "tokens", "workers", "events"]
    {
        assert!(rows(table) > 0, "{table}: {copied}");
    }
    for table in ["envs", "releases", "goals", "feed", "tallies", "hosts", "regions", "replicas"] {
        assert!(rows(table) > 0, "{table}: {copied}");
    }
    for table in ["curves", "freezes", "webhooks", "meta", "ancestry", "idempotency"] {
        assert!(rows(table) > 0, "{table}: {copied}");
    }
    let config = fleet.path("deployctl.config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("database = \"{url}\"\n{text}")).unwrap();
    fs::rename(fleet.path("coordinator/coordinator.db"), fleet.path("put-away.db")).unwrap();
    fleet.start_coordinator();

    let after: Vec<Value> = ASKED.iter().map(|args| told(&fleet, &at, args)).collect();
    for ((args, before), after) in ASKED.iter().zip(before).zip(after) {
        assert_eq!(before, after, "{args:?}");
    }
    assert_eq!(fs::read_to_string(&goal).unwrap(), followed, "nothing moves by itself");
    repository.publish(&[("version", "3")], "Third");
    let done = fleet.json(&at, &go, 0);
    assert_eq!(done["exit_code"], 0, "{done}");
    for host in ["eu-1", "us-1"] {
        let version = fleet.current(host, "api").join("version");
        eventually("the host runs it", || fs::read_to_string(&version).is_ok_and(|is| is == "3"));
    }
    let history = fleet.json(&at, &["history"], 0);
    assert_eq!(history["releases"].as_array().unwrap().len(), 4, "{history}");
    fleet.expect(
        &at,
        &["admin", "backup", "/nowhere/backup", "--config", &config.display().to_string()],
        2,
    );
}
