//! An app that needs another one first: refused, waited for, and let through when told.

use std::process::Stdio;

use crate::fleet::{eventually, text};
use crate::repository::Repository;
use crate::{RUN, SERVICE, fleet_with_app};

#[test]
fn a_deploy_waits_for_the_commit_of_another_app_that_it_needs() {
    let (fleet, repository) = fleet_with_app(1);
    let at = &repository.folder;
    std::fs::create_dir(fleet.path("ledger")).unwrap();
    let ledger = Repository::new(&fleet.path("ledger"));
    let service = SERVICE.replace("app = \"api\"", "app = \"ledger\"");
    let first = [("deployctl.toml", &*service), ("run.sh", RUN), ("version", "ledger 1")];
    ledger.publish(&first, "First");
    fleet.expect(at, &["apps", "add", "ledger", "--repo", &ledger.url()], 0);
    let refusal = |args: &[&str]| {
        let done = fleet.cli(at, args);
        assert_eq!(done.status.code(), Some(7), "{args:?}");
        text(&done.stderr)
    };
    let go = ["deploy", "--yes", "--build", "--plan", "all-at-once"];
    fleet.expect(&ledger.folder, &go, 0);
    let min = ledger.publish(&[("version", "ledger 2")], "Second");

    let needs = format!("{SERVICE}\n[[requires]]\napp = \"ledger\"\nmin = \"{min}\"\n");
    repository.publish(&[("deployctl.toml", &needs), ("version", "2")], "Needs the second");
    fleet.expect(at, &["build", "HEAD"], 0);
    let refused = refusal(&["deploy", "--yes", "HEAD"]);
    let lacks = format!("it needs ledger at {} or later in prod", &min[..10]);
    assert!(refused.contains(&lacks) && refused.contains("--allow-unmet"), "{refused}");

    let late = refusal(&["deploy", "--yes", "HEAD", "--when-ready=2s"]);
    assert!(late.contains(&lacks) && late.contains("did not change in time"), "{late}");

    let args = ["deploy", "--yes", "HEAD", "--plan", "all-at-once", "--when-ready"];
    let waiter = fleet.command(at, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut waiter = waiter.unwrap();
    eventually("it waits for the other app", || {
        let status = fleet.json(at, &["status", "api"], 0);
        let why = status["apps"][0]["rollout"]["waiting_on"].as_str().unwrap_or_default();
        why.contains(&lacks)
    });
    let running = |app: &str| {
        std::fs::read_to_string(fleet.current("eu-1", app).join("version")).unwrap_or_default()
    };
    assert_eq!(running("api"), "", "nothing began");
    // One that contains it will do; its worker compares it with what the other app needs.
    ledger.publish(&[("version", "ledger 3")], "Third");
    fleet.expect(&ledger.folder, &go, 0);
    assert!(waiter.wait().unwrap().success());
    assert_eq!((running("api").as_str(), running("ledger").as_str()), ("2", "ledger 3"));

    // Whoever knows better says so, and a way back needs nothing.
    let nobody = needs.replace("app = \"ledger\"", "app = \"nobody\"");
    repository.publish(&[("deployctl.toml", &nobody), ("version", "3")], "Needs nobody");
    fleet.expect(at, &["build", "HEAD"], 0);
    let refused = refusal(&["deploy", "--yes", "HEAD"]);
    assert!(refused.contains("there is no app nobody"), "{refused}");
    let args = ["deploy", "--yes", "HEAD", "--allow-unmet", "--bake", "0s"];
    let lacks = |planned: &serde_json::Value| planned["unmet"].to_string();
    let planned = fleet.json(at, &[&args[..], &["--dry-run"]].concat(), 0);
    assert!(lacks(&planned).contains("there is no app nobody"), "{planned}");
    let done = fleet.json(at, &args, 0);
    assert!(lacks(&done).contains("there is no app nobody"), "{done}");
    assert_eq!(running("api"), "3");
    let events = fleet.json(at, &["events", "-n", "500"], 0);
    assert!(events.to_string().contains("requirement.broken"), "{events}");
    // What is there already is said, and nothing asked or started.
    let again = fleet.cli(at, &args);
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(0), "{said}");
    assert!(said.contains("is there already; nothing was started"), "{said}");
    assert!(said.contains("warning: it needs nobody at"), "{said}");
    fleet.expect(at, &["rollback", "--yes"], 0);
    assert_eq!(running("api"), "2");
}
