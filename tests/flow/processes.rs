//! A region with two processes: its hosts are shared among them, each may be lost, and
//! every host is counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deployctl::rules::rendezvous;

use crate::fleet::{Fleet, eventually, metric, process, text};
use crate::killed::{OutputInThread, noise};
use crate::repository::Repository;
use crate::several::watch_generations;
use crate::{RUN, SERVICE};

/// Hosts of each process.
const EACH: usize = 3;

/// Names of hosts of which each process is the first for as many.
fn hosts(urls: &[String]) -> Vec<String> {
    let mut chosen: Vec<String> = vec![];
    for url in urls {
        let own = |name: &String| {
            let first = rendezvous::first(name.as_bytes(), urls.iter().map(String::as_str));
            first == Some(url)
        };
        chosen.extend((0..).map(|n| format!("eu-{n}")).filter(own).take(EACH));
    }
    chosen
}

/// What the region says of its hosts.
fn counts(fleet: &Fleet) -> (u64, u64) {
    let regions = fleet.json(&fleet.path(""), &["regions"], 0);
    let eu = &regions["regions"][0];
    (eu["hosts"].as_u64().unwrap(), eu["unreachable"].as_u64().unwrap())
}

#[test]
fn a_process_of_a_region_is_killed_in_a_rollout_and_its_hosts_turn_to_the_other() {
    let mut fleet = Fleet::new(&["eu"]);
    let repository = Repository::new(&fleet.path(""));
    let at = repository.folder.clone();
    let files = [("deployctl.toml", SERVICE), ("run.sh", RUN), ("version", "1")];
    repository.publish(&files, "First");
    fleet.start_processes("eu", 2);
    let urls = fleet.process_urls("eu");
    let hosts = hosts(&urls);
    // Every agent is told of the first process alone; it hears of the other one there.
    hosts.iter().for_each(|host| fleet.start_agent("eu", host));
    fleet.start_worker("worker-1");
    fleet.expect(&at, &["apps", "add", "api", "--repo", &repository.url()], 0);
    let metrics = [1, 2].map(|n| fleet.metrics(&process("eu", n)));
    let shared = || {
        let elsewhere = |address: &String| metric(address, "deployctl_region_agents_elsewhere");
        metrics.iter().all(|address| elsewhere(address) == EACH as f64)
    };
    eventually("each process hears its hosts", shared);
    eventually("all are known", || counts(&fleet) == (2 * EACH as u64, 0));
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);

    let stop = Arc::new(AtomicBool::new(false));
    let goal = fleet.root(&hosts[0]).join("apps/api/goal.json");
    let seen = watch_generations(goal, stop.clone());
    for (round, victim) in [2, 1].into_iter().enumerate() {
        let version = format!("{}", round + 2);
        repository.publish(&[("version", &version), ("data/big", &noise(3 << 20))], "Next");
        let args = ["deploy", "--yes", "--build", "--bake", "1s", "--timeout", "3m"];
        let waiting = fleet.command(&at, &args).output_in_thread();
        eventually("the rollout runs", || {
            assert!(counts(&fleet).0 <= hosts.len() as u64, "a host was counted twice");
            fleet.json(&at, &["status"], 0)["apps"][0]["rollout"]["state"] == "running"
        });
        fleet.kill(&process("eu", victim));
        while !waiting.is_finished() {
            assert!(counts(&fleet).0 <= hosts.len() as u64, "a host was counted twice");
        }
        let done = waiting.join().unwrap();
        let story = format!("{}{}", text(&done.stdout), text(&done.stderr));
        assert_eq!(done.status.code(), Some(0), "process {victim} was killed\n{story}");
        for host in &hosts {
            let path = fleet.current(host, "api").join("version");
            assert_eq!(std::fs::read_to_string(path).unwrap(), version, "{host}");
        }
        eventually("every host is counted once", || counts(&fleet) == (2 * EACH as u64, 0));
        fleet.start_process("eu", victim);
        eventually("hosts return to their process", shared);
        assert_eq!(counts(&fleet).0, hosts.len() as u64);
    }
    stop.store(true, Ordering::Relaxed);
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() >= 2, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "generations only grow: {seen:?}");
}
