//! An older backup takes the place of the coordinator's data: hosts that have seen newer
//! goals follow the next deploy, and so does a region that was away.

use std::fs;

use crate::fleet::Fleet;
use crate::fleet_with_app;

fn version(fleet: &Fleet, host: &str) -> String {
    fs::read_to_string(fleet.current(host, "api").join("version")).unwrap_or_default()
}

#[test]
fn a_restored_backup_leads_hosts_that_have_seen_newer_goals() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    let go = ["deploy", "--yes", "--build", "--plan", "all-at-once"];
    fleet.expect(&at, &go, 0);
    let data = fleet.path("coordinator").display().to_string();
    let backup = fleet.path("backup").display().to_string();
    let admin = |fleet: &Fleet, verb: &str, code: i32| {
        fleet.expect(&at, &["admin", verb, &backup, "--data", &data], code);
    };
    admin(&fleet, "backup", 0);
    admin(&fleet, "backup", 6);
    admin(&fleet, "restore", 6);

    // History goes on after the backup.
    repository.publish(&[("version", "2")], "Second");
    fleet.expect(&at, &go, 0);
    assert_eq!([version(&fleet, "eu-1"), version(&fleet, "us-1")], ["2", "2"]);
    fleet.kill("region-us");
    fleet.kill("coordinator");

    // A backup that was changed is refused before anything is replaced.
    let key = fleet.path("backup/token.key");
    let sound = fs::read(&key).unwrap();
    fs::write(&key, "00").unwrap();
    admin(&fleet, "restore", 1);
    fs::write(&key, sound).unwrap();
    // Twice: the second one knows the epoch of the first.
    for epoch in [2, 3] {
        let done = fleet.json(&at, &["admin", "restore", &backup, "--data", &data], 0);
        assert_eq!(done["restored"]["epoch"], epoch, "{done}");
        let kept = done["restored"]["kept"].as_str().unwrap();
        assert!(fs::metadata(format!("{kept}/coordinator.db")).is_ok());
    }
    fleet.start_coordinator();
    assert_eq!(version(&fleet, "eu-1"), "2", "nothing moves by itself");

    fleet.start_region("us");
    repository.publish(&[("version", "3")], "Third");
    fleet.expect(&at, &go, 0);
    assert_eq!([version(&fleet, "eu-1"), version(&fleet, "us-1")], ["3", "3"]);
}
