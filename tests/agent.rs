//! An agent against a fake region: real processes, real signals, releases placed on disk.

#![expect(clippy::unwrap_used, reason = "a test may stop at any surprise")]

#[path = "agent/configs.rs"]
mod configs;
#[path = "agent/host.rs"]
mod host;
#[path = "coordinator/ready.rs"]
mod ready;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use deployctl::model::fleet::{FailureClass, Phase};
use deployctl::model::goal::{GoalKind, Target};
use deployctl::model::recipe::{Probe, RunKind, RunSpec};
use ed25519_dalek::SigningKey;

use crate::host::{Host, Region, eventually, goal, key, seal, service_of};

const STAYS: &str = "echo up; exec sleep 600";

fn healthy_on(region: &Region, target: Target) {
    region.hears(&format!("healthy on {}", target.release), |status| {
        (status.phase == Phase::Healthy && status.running == Some(target)).then_some(())
    });
}

/// A host that runs release 1, and its region.
fn running(run: RunSpec) -> (Region, Host, Target) {
    let (region, mut host) = (Region::start(), Host::new());
    let first = host.place(1, run);
    region.say_goal(&goal(1, first, None));
    host.start(&region.url);
    healthy_on(&region, first);
    (region, host, first)
}

#[test]
fn a_service_is_started_with_its_environment_and_reported_healthy() {
    let env =
        "echo $GREETING $DEPLOYCTL_APP $DEPLOYCTL_RELEASE $DEPLOYCTL_HOST > $OUT; exec sleep 600";
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut run = service_of(env);
    run.env.insert("OUT".into(), out.path().display().to_string());
    let (_region, host, first) = running(run);
    assert_eq!(std::fs::read_to_string(out.path()).unwrap().trim(), "hello api r1 h1");
    assert_eq!(host.current(), Some(first.artifact));
    assert!(host.pid().is_some());
    let (code, text) = host.command(&["status"]);
    assert!(code == 0 && text.contains("agent runs") && text.contains("api  r1 ("), "{text}");
    let (code, text) = host.command(&["status", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &document["apps"][0]["running"]["release"]), (0, &"r1".into()));
}

#[test]
fn an_app_whose_probe_fails_later_is_told_and_left_alone_until_it_passes_again() {
    let (region, mut host) = (Region::start(), Host::new());
    let flag = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut run = service_of(STAYS);
    run.probe = Some(Probe::Exec(format!("test -e {}", flag.display())));
    let first = host.place(1, run);
    region.say_goal(&goal(1, first, None));
    host.start(&region.url);
    healthy_on(&region, first);
    let pid = host.pid();
    std::fs::remove_file(&flag).unwrap();
    let failure = region.hears("a failing probe", |status| {
        let probing = status.phase == Phase::Probing && status.running == Some(first);
        status.failure.clone().filter(|_| probing)
    });
    assert_eq!(failure.class, FailureClass::Release);
    assert!(failure.reason.starts_with("probe failed 3 times: exit 1"), "{failure:?}");
    std::fs::write(&flag, "").unwrap();
    healthy_on(&region, first);
    region.hears("no failure", |status| status.failure.is_none().then_some(()));
    assert_eq!(host.pid(), pid, "the app was left alone");
    // What comes back is not doubted: a way back waits for no probe that fails later.
    let mut back = goal(2, first, Some(first));
    back.kind = GoalKind::Rollback;
    region.say_goal(&back);
    std::fs::remove_file(&flag).unwrap();
    region.hears("the way back", |status| (status.version.generation == 2).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(17));
    healthy_on(&region, first);
}

#[test]
fn an_app_whose_probe_fails_later_is_started_again_by_a_retry_and_one_that_works_is_not() {
    let (region, mut host) = (Region::start(), Host::new());
    let flag = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut run = service_of(&format!("touch {}; {STAYS}", flag.display()));
    run.probe = Some(Probe::Exec(format!("test -e {}", flag.display())));
    let first = host.place(1, run);
    let mut asked = goal(1, first, None);
    region.say_goal(&asked);
    host.start(&region.url);
    healthy_on(&region, first);
    let pid = host.pid();
    let mut try_again = || {
        (asked.version.step, asked.retry) = (asked.version.step + 1, asked.retry + 1);
        region.say_goal(&asked);
        asked.version.step
    };
    let step = try_again();
    region.hears("a retry that finds all well", |status| {
        (status.version.step == step && status.phase == Phase::Healthy).then_some(())
    });
    std::fs::remove_file(&flag).unwrap();
    region.hears("a failing probe", |status| status.failure.clone());
    assert_eq!(host.pid(), pid, "nobody asked for a new start since");
    let step = try_again();
    region.hears("healthy again", |status| {
        let well = status.phase == Phase::Healthy && status.failure.is_none();
        (status.version.step == step && well).then_some(())
    });
    assert!(flag.exists() && host.pid() != pid, "it was started again");
}

#[test]
fn a_reader_of_current_never_sees_a_broken_tree() {
    let files_only = RunSpec { deadline_s: 3, ..RunSpec::default() };
    let (region, host, first) = running(files_only.clone());
    let second = host.place(2, files_only);
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let current = host.folder().path().join("current");
    let reader = std::thread::spawn({
        let (done, reads) = (done.clone(), reads.clone());
        move || {
            while !done.load(Ordering::Relaxed) || reads.load(Ordering::Relaxed) < 10_000 {
                // One look at the link, then both files of that release: the same number.
                let release = std::fs::canonicalize(&current).unwrap();
                let read = |name| std::fs::read_to_string(release.join(name)).unwrap();
                assert_eq!(read("a"), read("b"));
                assert!(!std::fs::read_to_string(current.join("a")).unwrap().is_empty());
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for generation in 2..22 {
        let next = if generation % 2 == 0 { second } else { first };
        region.say_goal(&goal(generation, next, Some(first)));
        eventually("switched", || (host.current() == Some(next.artifact)).then_some(()));
    }
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert!(reads.load(Ordering::Relaxed) >= 10_000);
}

#[test]
fn a_release_that_ends_at_its_start_reverts_with_its_last_words() {
    let (region, host, first) = running(service_of(STAYS));
    let second = host.place(2, service_of("echo no database >&2; exit 3"));
    region.say_goal(&goal(2, second, Some(first)));
    let failure = region.hears("reverted", |status| {
        let settled = status.phase == Phase::Reverted && status.running == Some(first);
        settled.then(|| status.failure.clone()).flatten()
    });
    assert_eq!(failure.class, FailureClass::Release);
    assert_eq!(failure.reason, "process ended: exit 3");
    assert_eq!(failure.log, ["no database"]);
    eventually("the first release runs again", || host.pid());
    assert_eq!(host.current(), Some(first.artifact));
    // Not tried again, until a person asks for it.
    let mut again = goal(2, second, Some(first));
    again.version.step = 2;
    region.say_goal(&again);
    region.hears("step 2 seen", |status| (status.version.step == 2).then_some(()));
    assert_eq!(host.current(), Some(first.artifact));
    again.version.step = 3;
    again.retry = 1;
    region.say_goal(&again);
    region.hears("tried again", |status| {
        (status.version.step == 3 && status.phase == Phase::Reverted).then_some(())
    });
}

#[test]
fn a_probe_that_fails_reverts_and_a_first_release_leaves_nothing() {
    let (region, host) = (Region::start(), Host::new());
    let mut host = host;
    let bad = RunSpec {
        probe: Some(Probe::Exec("echo not ready; exit 1".into())),
        deadline_s: 1,
        ..service_of(STAYS)
    };
    let first = host.place(1, bad.clone());
    region.say_goal(&goal(1, first, None));
    host.start(&region.url);
    let reason = region.hears("failed", |status| {
        let failed = status.phase == Phase::Failed && status.running.is_none();
        failed.then(|| status.failure.clone().map(|failure| failure.reason)).flatten()
    });
    assert_eq!(reason, "not healthy within 1 s: probe failed: exit 1: not ready");
    assert_eq!((host.current(), host.pid()), (None, None));

    let second = host.place(2, service_of(STAYS));
    region.say_goal(&goal(2, second, None));
    healthy_on(&region, second);
    let third = host.place(3, bad);
    region.say_goal(&goal(3, third, Some(second)));
    region.hears("reverted", |status| {
        (status.phase == Phase::Reverted && status.running == Some(second)).then_some(())
    });
    assert!(host.pid().is_some());
}

#[test]
fn a_one_shot_release_succeeds_by_its_exit() {
    let oneshot = |start: &str| RunSpec { kind: RunKind::Oneshot, ..service_of(start) };
    let (region, host, first) = running(oneshot("test -f a"));
    let second = host.place(2, oneshot("echo bad; exit 4"));
    region.say_goal(&goal(2, second, Some(first)));
    let failure = region.hears("reverted", |status| {
        (status.phase == Phase::Reverted).then(|| status.failure.clone()).flatten()
    });
    assert_eq!(failure.reason, "start command failed: exit 4");
    assert_eq!(failure.log, ["bad"]);
    assert_eq!(host.current(), Some(first.artifact));
}

#[test]
fn the_app_outlives_a_killed_agent_which_finds_it_again() {
    let (region, mut host, first) = running(service_of(STAYS));
    let pid = host.pid().unwrap();
    host.kill();
    assert_eq!(host.pid(), Some(pid));
    region.told().reports.clear();
    host.start(&region.url);
    healthy_on(&region, first);
    assert_eq!(host.pid(), Some(pid));
    // Stopping for the next release takes everything that the app had started.
    let second = host.place(2, service_of(STAYS));
    region.say_goal(&goal(2, second, Some(first)));
    healthy_on(&region, second);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn nothing_that_an_app_started_survives_its_stop() {
    // A process that left the app's group, session and parent, and ignores SIGTERM.
    let escapes = "setsid sh -c 'trap \"\" TERM; echo $$ > $OUT; exec sleep 600' & exec sleep 600";
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut run = service_of(escapes);
    run.env.insert("OUT".into(), out.path().display().to_string());
    let (region, host, first) = running(run);
    let escaped = eventually("it tells its number", || {
        std::fs::read_to_string(out.path()).unwrap().trim().parse::<i32>().ok()
    });
    let second = host.place(2, service_of(STAYS));
    region.say_goal(&goal(2, second, Some(first)));
    healthy_on(&region, second);
    assert!(!std::path::Path::new(&format!("/proc/{escaped}")).exists());
}

#[test]
fn an_agent_killed_at_any_moment_of_an_activation_ends_it_after_its_restart() {
    let (region, mut host, first) = running(service_of(STAYS));
    let slow = "trap 'sleep 0.2; exit' TERM; echo up; sleep 600 & wait";
    let slow = RunSpec { min_healthy_s: 1, ..service_of(slow) };
    for round in 0..6u64 {
        let next = host.place(2 + round % 2, slow.clone());
        region.say_goal(&goal(2 + round, next, Some(first)));
        region.hears("goal seen", |s| (s.version.generation == 2 + round).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(150 * round));
        host.kill();
        assert!(host.current().is_some());
        host.start(&region.url);
        healthy_on(&region, next);
        assert_eq!(host.current(), Some(next.artifact));
        assert!(host.pid().is_some());
    }
}

#[test]
fn old_goals_and_strangers_goals_are_refused() {
    let (region, host, first) = running(service_of(STAYS));
    let second = host.place(2, service_of(STAYS));
    region.say(seal(&goal(9, second, None), &SigningKey::from_bytes(&[8; 32])));
    let reason = region
        .hears("refused", |status| status.failure.as_ref().map(|failure| failure.reason.clone()));
    assert!(reason.starts_with("goal refused: no trusted key"), "{reason}");
    // Older, and equal but other content.
    region.say(seal(&goal(0, second, None), &key()));
    region.say(seal(&goal(1, second, None), &key()));
    let polls = region.told().polls;
    eventually("polled twice", || (region.told().polls > polls + 2).then_some(()));
    assert_eq!(host.current(), Some(first.artifact));
    region.hears("still under generation 1", |s| (s.version.generation == 1).then_some(()));
}

#[test]
fn a_goal_that_the_disk_refused_is_taken_when_the_disk_is_well_again() {
    let (region, mut host) = (Region::start(), Host::new());
    let first = host.place(1, service_of(STAYS));
    // Renaming over a folder fails as writing to a full disk does.
    let goal_file = host.folder().path().join("goal.json");
    std::fs::create_dir_all(goal_file.join("x")).unwrap();
    region.say_goal(&goal(1, first, None));
    host.start(&region.url);
    let reason = region
        .hears("the fault", |status| status.failure.as_ref().map(|failure| failure.reason.clone()));
    assert!(reason.starts_with("the goal can't be written to disk: "), "{reason}");
    assert_eq!(host.current(), None);
    std::fs::remove_dir_all(&goal_file).unwrap();
    healthy_on(&region, first);
}

#[test]
fn a_status_that_can_not_be_written_ends_no_supervisor() {
    let starts = tempfile::NamedTempFile::new().unwrap();
    let mut run = service_of("echo >> $STARTS; exec sleep 600");
    run.env.insert("STARTS".into(), starts.path().display().to_string());
    let (region, host, first) = running(run);
    let (pid, status) = (host.pid().unwrap(), host.folder().path().join("status.json"));
    std::fs::remove_file(&status).unwrap();
    std::fs::create_dir_all(status.join("x")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let started = || std::fs::read(starts.path()).unwrap().len();
    eventually("it is started again", || (started() == 2).then_some(()));
    std::fs::remove_dir_all(&status).unwrap();
    let again = eventually("it says again how it goes", || host.pid());
    assert_ne!(again, pid.as_raw_nonzero().get());
    healthy_on(&region, first);
}

#[test]
fn without_any_network_a_restarted_agent_starts_what_ran() {
    let (region, mut host, first) = running(service_of(STAYS));
    let pid = host.pid().unwrap();
    drop(region);
    host.kill();
    // As after a reboot: supervisor and app are gone.
    let folder = host.folder();
    let supervisor = deployctl::host::service::supervisor(folder.path()).unwrap();
    for process in [supervisor.pid, pid] {
        let process = rustix::process::Pid::from_raw(process).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    }
    eventually("all gone", || host.pid().is_none().then_some(()));
    host.start("http://127.0.0.1:1");
    let again = eventually("up again", || host.pid());
    assert_ne!(again, pid);
    assert_eq!(host.current(), Some(first.artifact));
}

#[test]
fn a_host_goes_back_by_itself_with_and_without_an_agent() {
    let (region, mut host, first) = running(service_of(STAYS));
    let [second, third] = [2, 3].map(|number| {
        let next = host.place(number, service_of(STAYS));
        region.say_goal(&goal(number, next, Some(first)));
        healthy_on(&region, next);
        next
    });
    let (code, text) = host.command(&["rollback", "api"]);
    assert!(code == 0 && text.starts_with("api runs r2 ("), "{code} {text}");
    assert_eq!(host.current(), Some(second.artifact));
    host.kill();
    drop(region);
    let (code, text) = host.command(&["rollback", "api"]);
    assert!(code == 0 && text.starts_with("api runs r1 ("), "{code} {text}");
    assert_eq!(host.current(), Some(first.artifact));
    assert!(host.pid().is_some());
    let (code, text) = host.command(&["rollback", "api"]);
    assert!(code == 8 && text.contains("no earlier release"), "{code} {text}");
    // The goal that is known does not undo it; a newer one does.
    let region = Region::start();
    region.say_goal(&goal(3, third, Some(first)));
    host.start(&region.url);
    region.hears("held", |status| (status.running == Some(first)).then_some(()));
    region.say_goal(&goal(4, third, Some(first)));
    healthy_on(&region, third);
}

#[test]
fn a_rollback_does_not_wait_for_the_probe_of_what_it_leaves() {
    let (region, host, first) = running(service_of(STAYS));
    let slow = RunSpec { min_healthy_s: 600, deadline_s: 900, ..service_of(STAYS) };
    let second = host.place(2, slow);
    region.say_goal(&goal(2, second, Some(first)));
    region.hears("probing", |status| (status.phase == Phase::Probing).then_some(()));
    let mut back = goal(3, first, Some(first));
    back.kind = GoalKind::Rollback;
    region.say_goal(&back);
    healthy_on(&region, first);
    assert_eq!(host.current(), Some(first.artifact));
}

#[test]
fn a_crash_loop_after_the_probe_is_the_releases_failure() {
    let (region, host, first) = running(service_of(STAYS));
    let second = host.place(2, service_of("sleep 1; echo crashed; exit 7"));
    region.say_goal(&goal(2, second, Some(first)));
    let failure = region.hears("failed", |status| {
        let failed = status.phase == Phase::Failed && status.running == Some(second);
        failed.then(|| status.failure.clone()).flatten()
    });
    assert_eq!(failure.class, FailureClass::Release);
    assert!(failure.reason.starts_with("crash loop: ended"), "{}", failure.reason);
    assert_eq!(failure.log, ["crashed"]);
    // The coordinator's answer.
    let mut back = goal(3, first, Some(first));
    back.kind = GoalKind::Rollback;
    region.say_goal(&back);
    healthy_on(&region, first);
}

#[test]
fn one_root_has_one_agent_and_bad_flags_are_told_in_a_line() {
    let (region, host, _) = running(RunSpec { deadline_s: 1, ..RunSpec::default() });
    let token = host.root.with_file_name("token");
    let args = ["--region", &region.url, "--host", "h1", "--env", "prod", "--token-file"];
    let args: Vec<&str> = args.into_iter().chain([token.to_str().unwrap()]).collect();
    let (code, text) = host.command(&args);
    assert!(code == 6 && text.contains("another agent runs on"), "{code} {text}");
    let (code, text) = host.command(&["--nope"]);
    assert_eq!((code, text.lines().count()), (2, 1), "{text}");
    let (code, text) = host.command(&["--version"]);
    assert!(code == 0 && text.starts_with("deployctl-agent "), "{text}");
    assert_eq!(host.command(&["rollback", "other"]).0, 3);
}
