//! Who holds a job: cancel, fencing, a coordinator that is away, workers that stop or die.

use std::time::{Duration, Instant};

use deployctl::model::job::{BuildFailure, Outcome};

use crate::farm::{Farm, Worker, eventually};

const HANGS: &str =
    "touch \"$DEPLOYCTL_SCRATCH/../../up\"; setsid sleep 1000 & echo begun; sleep 1000";

async fn hanging(farm: &Farm) -> String {
    let build = farm.queue(&farm.commit(HANGS, "artifact = 'out'"));
    eventually("the build runs", || farm.path("work/up").exists()).await;
    build
}

async fn gone(worker: &Worker) {
    eventually("no process of the build is left", || worker.build_processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_cancel_ends_the_build_as_canceled() {
    let mut farm = Farm::new().await;
    farm.lease_ms = 2000;
    let worker = farm.worker("work", &[]);
    let build = hanging(&farm).await;
    farm.coordinator.change(&build, |job| job.cancel = true);
    let (outcome, job) = farm.ended(&build).await;
    let reason = "canceled".to_owned();
    assert_eq!(outcome, Outcome::Failed { class: BuildFailure::Canceled, reason });
    assert!(job.log.contains("\nbegun\n"), "{}", job.log);
    assert!(job.log.ends_with("\ndeployctl: canceled\n"), "{}", job.log);
    gone(&worker).await;
    farm.succeeds(&farm.commit("touch out", "artifact = 'out'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_beat_together_in_one_call() {
    let mut farm = Farm::new().await;
    farm.lease_ms = 2000;
    let _worker = farm.worker("work", &["--slots", "3"]);
    let commit = farm.commit("sleep 1000", "artifact = 'out'");
    let builds = [(); 3].map(|()| farm.queue(&commit));
    eventually("a call for all", || farm.coordinator.heard(|heard| heard.reports.contains(&3)))
        .await;
    assert!(builds.iter().all(|build| farm.coordinator.job(build).beats > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_coordinator_hears_attempts_one_by_one() {
    let mut farm = Farm::new().await;
    farm.lease_ms = 2000;
    farm.coordinator.heard(|heard| heard.older = true);
    let _worker = farm.worker("work", &[]);
    let build = hanging(&farm).await;
    eventually("a beat", || farm.coordinator.job(&build).beats > 0).await;
    farm.coordinator.change(&build, |job| job.cancel = true);
    let (outcome, _) = farm.ended(&build).await;
    assert!(matches!(outcome, Outcome::Failed { class: BuildFailure::Canceled, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_attempt_is_killed_and_says_no_more() {
    let mut farm = Farm::new().await;
    farm.lease_ms = 2000;
    let worker = farm.worker("work", &[]);
    let build = hanging(&farm).await;
    farm.coordinator.change(&build, |job| job.fenced = true);
    gone(&worker).await;
    // The slot is free for another job.
    farm.succeeds(&farm.commit("touch out", "artifact = 'out'")).await;
    let job = farm.coordinator.job(&build);
    assert!(job.outcome.is_none() && !job.handed_back);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_coordinator_kills_the_build_before_the_lease_ends() {
    let mut farm = Farm::new().await;
    farm.lease_ms = 6000;
    let worker = farm.worker("work", &[]);
    let build = hanging(&farm).await;
    eventually("a beat", || farm.coordinator.job(&build).beats > 0).await;
    farm.coordinator.heard(|heard| heard.away = true);
    let last_beat = Instant::now();
    assert!(worker.build_processes() > 0);
    gone(&worker).await;
    assert!(last_beat.elapsed() < Duration::from_millis(6000));
    farm.coordinator.heard(|heard| heard.away = false);
    farm.succeeds(&farm.commit("touch out", "artifact = 'out'")).await;
    assert!(farm.coordinator.job(&build).outcome.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_outcome_outlast_a_coordinator_that_is_away() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let command = "touch \"$DEPLOYCTL_SCRATCH/../../up\"; seq 1 30000; touch out";
    let build = farm.queue(&farm.commit(command, "artifact = 'out'"));
    eventually("the build runs", || farm.path("work/up").exists()).await;
    farm.coordinator.heard(|heard| heard.away = true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(farm.coordinator.job(&build).outcome.is_none());
    farm.coordinator.heard(|heard| heard.away = false);
    let (outcome, job) = farm.ended(&build).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    let numbers = job.log.lines().filter(|line| line.parse::<u32>().is_ok());
    assert!(numbers.eq((1..=30_000).map(|n| n.to_string())), "in order, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_hands_its_job_back_and_ends_well() {
    let farm = Farm::new().await;
    let mut worker = farm.worker("work", &["--drain-s", "0"]);
    let build = hanging(&farm).await;
    worker.signal("-TERM");
    let status = tokio::task::block_in_place(|| worker.child.wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(worker.build_processes(), 0);
    let job = farm.coordinator.job(&build);
    assert!(job.handed_back && job.outcome.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_ends_in_time_is_finished_by_a_worker_that_stops() {
    let farm = Farm::new().await;
    let mut worker = farm.worker("work", &["--drain-s", "50"]);
    let command = "touch \"$DEPLOYCTL_SCRATCH/../../up\"; sleep 1; touch out";
    let build = farm.queue(&farm.commit(command, "artifact = 'out'"));
    eventually("the build runs", || farm.path("work/up").exists()).await;
    worker.signal("-TERM");
    let status = tokio::task::block_in_place(|| worker.child.wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(matches!(farm.coordinator.job(&build).outcome, Some(Outcome::Succeeded { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_nothing_that_its_successor_meets() {
    let farm = Farm::new().await;
    let mut worker = farm.worker("work", &[]);
    hanging(&farm).await;
    worker.signal("-KILL");
    tokio::task::block_in_place(|| worker.child.wait().unwrap());
    // Where this machine has namespaces nothing is left already; the next start
    // makes sure everywhere.
    let next = farm.worker("work", &[]);
    gone(&next).await;
    assert!(!farm.path("work/slots/0").exists());
    farm.succeeds(&farm.commit("touch out", "artifact = 'out'")).await;
}
