//! SIGKILL at each arrow: nothing that was answered is lost, nothing is half done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fleet::{eventually, text};
use crate::fleet_with_app;

/// Bytes that do not compress, as hexadecimal text, so that they fit a `&str`.
pub(crate) fn noise(bytes: usize) -> String {
    let mut x = 88_172_645_463_325_252u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..bytes / 16).map(|_| format!("{:016x}", next())).collect()
}

#[test]
fn a_worker_killed_in_a_build_loses_its_job_to_the_next_worker() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    let slow = crate::SERVICE.replace("mkdir -p out", "test -f /tmp/never; sleep 4; mkdir -p out");
    repository.publish(&[("deployctl.toml", &slow)], "Slow");
    let queued = fleet.json(&at, &["build", "-d"], 0);
    let build = queued["build"].as_str().unwrap().to_owned();
    let state = |fleet: &crate::Fleet| fleet.json(&at, &["builds", "show", &build], 0);
    eventually("the build runs", || state(&fleet)["state"] == "RUNNING");
    fleet.kill("worker-1");
    fleet.start_worker("worker-2");
    eventually("another worker finishes it", || state(&fleet)["state"] == "SUCCEEDED");
    assert_eq!(state(&fleet)["attempt"], 2);
}

#[test]
fn a_coordinator_killed_in_a_rollout_goes_on_where_it_was() {
    let (mut fleet, repository) = fleet_with_app(2);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");
    let args = ["deploy", "--yes", "--build", "--bake", "2s", "--timeout", "2m"];
    let waiting = fleet.command(&at, &args).output_in_thread();
    eventually("the rollout runs", || {
        fleet.json(&at, &["status"], 0)["apps"][0]["rollout"]["state"] == "running"
    });
    fleet.kill("coordinator");
    std::thread::sleep(std::time::Duration::from_millis(300));
    fleet.start_coordinator();
    let done = waiting.join().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
}

/// What a gate runs: until `go` is there it hangs, with a child that no polite signal ends.
const HANGS: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 2
echo run >> runs
[ -e go ] && exit 0
(trap '' TERM HUP INT; sleep 300 & echo "$$ $!" > pids.new; mv pids.new pids; wait) &
wait
"#;

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_coordinator_killed_while_a_gate_runs_takes_it_along_and_the_next_one_runs_it_again() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    let gate = fleet.path("gate");
    fs::create_dir(&gate).unwrap();
    fs::write(gate.join("hangs.sh"), HANGS).unwrap();
    fs::set_permissions(gate.join("hangs.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let config = fleet.path("deployctl.config.toml");
    let command = gate.join("hangs.sh").display().to_string();
    let table = format!("[[gates]]\nname = \"hangs\"\ncommand = [{command:?}]\ntimeout_s = 10\n");
    let whole = fs::read_to_string(&config).unwrap() + &table;
    fs::write(&config, whole).unwrap();
    fleet.kill("coordinator");
    fleet.start_coordinator();
    repository.publish(&[("version", "2")], "Second");
    let args = ["deploy", "--yes", "--build", "--plan", "all-at-once", "--timeout", "2m"];
    let waiting = fleet.command(&at, &args).output_in_thread();
    let told = || fs::read_to_string(gate.join("pids"));
    eventually("the gate runs", || told().is_ok());
    let pids = told().unwrap();
    assert!(pids.split_whitespace().all(lives), "{pids}");
    fleet.kill("coordinator");
    eventually("what the gate started ends with it", || !pids.split_whitespace().any(lives));
    fs::write(gate.join("go"), "").unwrap();
    fleet.start_coordinator();
    let done = waiting.join().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
    let runs = fs::read_to_string(gate.join("runs")).unwrap();
    assert!(runs.lines().count() > 1, "it was not asked again");
    for host in ["eu-1", "us-1"] {
        let version = fs::read_to_string(fleet.current(host, "api").join("version")).unwrap();
        assert_eq!(version, "2");
    }
}

/// One host of us, then us until a person says go on, then all others.
const US_FIRST: &str = r#"
[[wave]]
regions = ["us"]
steps = [{ hosts = 1, bake_s = 1 }, { percent = 100, hold = true }]

[[wave]]
regions = ["*"]
steps = [{ percent = 100, bake_s = 1 }]
"#;

#[test]
fn a_plan_from_a_file_holds_where_it_says_also_with_the_file_and_the_coordinator_gone() {
    let (mut fleet, repository) = fleet_with_app(2);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2")], "Second");
    let file = at.join("us-first.toml");
    fs::write(&file, US_FIRST).unwrap();
    let planned = ["plumbing", "plan", "HEAD~1", "--plan", "us-first.toml"];
    assert_eq!(fleet.json(&at, &planned, 0)["joined"], true, "it is there already");
    let go = ["deploy", "--yes", "--build", "--plan", "us-first.toml", "--timeout", "2m"];
    // Paused for a person: exit code 14.
    fleet.expect(&at, &go, 14);
    let planned = ["plumbing", "plan", "HEAD", "--plan", "us-first.toml"];
    let planned = fleet.json(&at, &planned, 0);
    assert_eq!(planned["plan_file"]["name"], "us-first.toml", "{planned}");
    assert_eq!(planned["waves"][0]["steps"][0]["new"]["us"], 1, "{planned}");
    assert_eq!(planned["waves"][1]["steps"][0]["hosts"]["eu"], 2, "{planned}");
    let of = |fleet: &crate::Fleet, host: &str| {
        fs::read_to_string(fleet.current(host, "api").join("version")).unwrap()
    };
    let all = ["eu-1", "eu-2", "us-1", "us-2"];
    assert_eq!(all.map(|host| of(&fleet, host)), ["1", "1", "2", "2"]);
    fs::remove_file(&file).unwrap();
    fleet.kill("coordinator");
    fleet.start_coordinator();
    fleet.expect(&at, &["promote", "--yes", "--timeout", "2m"], 0);
    assert_eq!(all.map(|host| of(&fleet, host)), ["2"; 4]);
}

#[test]
fn a_region_serves_with_the_coordinator_dead() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    fleet.kill("coordinator");
    fleet.kill("region-eu");
    fleet.start_region("eu");
    fleet.start_agent("eu", "eu-late");
    let late = fleet.current("eu-late", "api").join("version");
    eventually("a new host converges", || fs::read_to_string(&late).is_ok_and(|v| v == "1"));
}

#[test]
fn a_region_killed_in_replication_resumes() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    repository.publish(&[("data/noise", &noise(48 << 20))], "Large");
    fleet.kill("region-us");
    let queued = fleet.json(&at, &["build", "-d"], 0);
    let build = queued["build"].as_str().unwrap().to_owned();
    let show = |fleet: &crate::Fleet| fleet.json(&at, &["builds", "show", &build], 0);
    eventually("it is built", || show(&fleet)["state"] == "SUCCEEDED");
    eventually("one region has it", || show(&fleet)["replication"]["status"] == "partial");
    assert_eq!(show(&fleet)["deployable"], false);
    fleet.expect(&at, &["deploy", &build, "--yes"], 8);
    fleet.start_region("us");
    fleet.kill("region-us");
    fleet.start_region("us");
    eventually("every region has it", || show(&fleet)["replication"]["status"] == "complete");
}

#[test]
fn an_agent_killed_again_and_again_never_shows_a_broken_release() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    repository.publish(&[("version", "2"), ("data/noise", &noise(24 << 20))], "Large");

    let stop = Arc::new(AtomicBool::new(false));
    let current = fleet.current("eu-1", "api");
    let reader = {
        let (stop, current) = (stop.clone(), current.clone());
        std::thread::spawn(move || {
            let mut reads = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Through the resolved folder, so that one read sees one release.
                let release = fs::canonicalize(&current).expect("current leads somewhere");
                let version = fs::read_to_string(release.join("version")).expect("a whole release");
                assert!(release.join("run.sh").exists());
                if version == "2" {
                    assert_eq!(fs::metadata(release.join("data/noise")).unwrap().len(), 24 << 20);
                }
                reads += 1;
            }
            reads
        })
    };
    let args = ["deploy", "--yes", "--build", "--plan", "all-at-once", "--timeout", "2m"];
    let waiting = fleet.command(&at, &args).output_in_thread();
    for pause_ms in [700, 150, 250, 350, 450, 550] {
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        fleet.kill("eu-1");
        fleet.start_agent("eu", "eu-1");
    }
    let done = waiting.join().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("the reader saw only whole releases") > 100);
    assert_eq!(fs::read_to_string(current.join("version")).unwrap(), "2");
}

#[test]
fn a_kept_release_that_was_damaged_is_not_activated_again() {
    let (fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    let deploy = ["deploy", "--yes", "--build", "--plan", "all-at-once"];
    repository.publish(&[("data/a", "sound"), ("data/b", "sound")], "First");
    fleet.expect(&at, &deploy, 0);
    let first = fs::canonicalize(fleet.current("eu-1", "api")).unwrap();
    repository.publish(&[("version", "2"), ("data/a", "new"), ("data/b", "new")], "Second");
    fleet.expect(&at, &deploy, 0);
    fs::write(first.join("data/a"), "wrong").unwrap();
    fs::remove_file(first.join("data/b")).unwrap();
    fleet.expect(&at, &["rollback", "--yes"], 0);
    assert_eq!(fs::canonicalize(fleet.current("eu-1", "api")).unwrap(), first);
    for file in ["data/a", "data/b"] {
        assert_eq!(fs::read_to_string(first.join(file)).unwrap(), "sound");
    }
    assert!(fleet.log("eu-1").contains("kept release is damaged"));
}

/// Runs a command on a thread of its own, so that a test can do harm meanwhile.
pub(crate) trait OutputInThread {
    fn output_in_thread(self) -> std::thread::JoinHandle<std::process::Output>;
}

impl OutputInThread for std::process::Command {
    fn output_in_thread(mut self) -> std::thread::JoinHandle<std::process::Output> {
        self.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        std::thread::spawn(move || self.output().unwrap())
    }
}
