//! One host's disk is full: it says so, and the others go on.

use std::fs;

use crate::fleet::eventually;
use crate::fleet_with_app;

#[test]
fn a_host_without_room_says_so_and_the_others_get_the_release() {
    let (mut fleet, repository) = fleet_with_app(2);
    // Less than what an agent leaves to everybody else.
    fleet.start_agent_on_small_disk("eu", "eu-small", 16);
    let at = &repository.folder;
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once", "--detach"], 0);
    let version = |host: &str| fs::read_to_string(fleet.current(host, "api").join("version"));
    for host in ["eu-1", "eu-2", "us-1", "us-2"] {
        eventually("the others run it", || version(host).is_ok_and(|v| v == "1"));
    }
    let small = || {
        let hosts = fleet.json(at, &["hosts"], 0);
        let mut rows = hosts["hosts"].as_array().cloned().unwrap_or_default().into_iter();
        let row = rows.find(|row| row["info"]["host"] == "eu-small").unwrap_or_default();
        row["apps"][0].clone()
    };
    let said = |app: &serde_json::Value| {
        let reason = app["failure"]["reason"].as_str().unwrap_or_default().to_owned();
        app["failure"]["class"] == "host" && reason.starts_with("no room on disk")
    };
    eventually("its reason is told", || said(&small()));
    assert!(small()["running"].is_null());
}
