#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
//! The main job with real processes on loopback: commit to running hosts and
//! back, with processes killed at each arrow.

#[path = "flow/back.rs"]
mod back;
#[path = "flow/bad.rs"]
mod bad;
#[path = "flow/by_hand.rs"]
mod by_hand;
#[path = "flow/configs.rs"]
mod configs;
#[path = "coordinator/configured.rs"]
mod configured;
#[expect(dead_code, reason = "other tests ask more of it")]
#[path = "goals/etcd.rs"]
mod etcd;
#[path = "flow/first.rs"]
mod first;
#[path = "flow/fleet.rs"]
mod fleet;
#[path = "flow/forgotten.rs"]
mod forgotten;
#[path = "flow/full.rs"]
mod full;
#[path = "flow/happy.rs"]
mod happy;
#[path = "flow/killed.rs"]
mod killed;
#[path = "flow/metrics.rs"]
mod metrics;
#[path = "flow/moved.rs"]
mod moved;
#[path = "flow/on_etcd.rs"]
mod on_etcd;
#[path = "flow/on_s3.rs"]
mod on_s3;
#[path = "flow/patched.rs"]
mod patched;
#[path = "flow/ports.rs"]
mod ports;
#[path = "flow/processes.rs"]
mod processes;
#[path = "flow/refused.rs"]
mod refused;
#[path = "flow/repository.rs"]
mod repository;
#[path = "flow/requires.rs"]
mod requires;
#[path = "flow/restored.rs"]
mod restored;
#[path = "flow/runbooks.rs"]
mod runbooks;
#[path = "blobs/server.rs"]
mod s3_server;
#[path = "postgres/server.rs"]
mod server;
#[path = "flow/several.rs"]
mod several;
#[path = "flow/traced.rs"]
mod traced;

use fleet::{Engines, Fleet, eventually};
use repository::Repository;

/// A recipe whose app is a shell loop: it needs no compiler and no port.
pub(crate) const SERVICE: &str = r#"
app = "api"

[build]
command = "mkdir -p out && cp run.sh out/run.sh && chmod +x out/run.sh && cp -R data out/ 2>/dev/null; cat version > out/version"
artifact = "out"

[run]
start = "exec ./run.sh"
min_healthy_s = 1
deadline_s = 20
probe = { exec = "test -s version" }
"#;

/// What the app runs: it says its version and stays.
pub(crate) const RUN: &str =
    "#!/bin/sh\necho \"version $(cat version)\"\nwhile :; do sleep 1; done\n";

/// A fleet of two regions with `hosts` each, a worker, and the app registered.
pub(crate) fn fleet_with_app(hosts: usize) -> (Fleet, Repository) {
    stock(Fleet::new(&["eu", "us"]), hosts)
}

/// The same on a database of a PostgreSQL server.
pub(crate) fn fleet_on_server(hosts: usize) -> (Fleet, Repository) {
    let database = Some(server::fresh_database());
    stock(Fleet::on(&["eu", "us"], Engines { database, ..Engines::default() }), hosts)
}

fn stock(mut fleet: Fleet, hosts: usize) -> (Fleet, Repository) {
    let repository = Repository::new(&fleet.path(""));
    repository.publish(&[("deployctl.toml", SERVICE), ("run.sh", RUN), ("version", "1")], "First");
    for region in ["eu", "us"] {
        fleet.start_region(region);
        for n in 1..=hosts {
            fleet.start_agent(region, &format!("{region}-{n}"));
        }
    }
    fleet.start_worker("worker-1");
    fleet.expect(&repository.folder, &["apps", "add", "api", "--repo", &repository.url()], 0);
    // A host that reports for the first time after a rollout has begun is none of its hosts.
    eventually("every host is known", || {
        let known = fleet.json(&repository.folder, &["hosts", "-A"], 0);
        known["hosts"].as_array().is_some_and(|known| known.len() == 2 * hosts)
    });
    (fleet, repository)
}

/// A host in each region that runs the second of two releases, and a dead coordinator.
pub(crate) fn fleet_without_coordinator() -> (Fleet, Repository) {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = &repository.folder;
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");
    fleet.expect(at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    fleet.kill("coordinator");
    (fleet, repository)
}
