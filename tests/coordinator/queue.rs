//! The queue through HTTP, with fake workers.

use std::time::Duration;

use deployctl::model::id::JobNo;
use deployctl::model::job::{BuildFailure, JobState};
use deployctl::net::client::CallError;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::fleet::{QueueScale, Workers};
use deployctl::wire::v1::worker::{Claims, Heard, Order, ReportReply};
use serde_json::json;

use crate::process::{Coordinator, PATIENCE, manifest, refusal};

/// Leases that nobody loses while a test runs.
const SLOW: &str = "beat_ms = 60000";
/// Leases of 150 ms.
const FAST: &str = "beat_ms = 50\nmissed_beats = 2\nmonitor_ms = 10\nmax_attempts = 2";

#[tokio::test]
async fn jobs_are_given_out_in_order_each_to_one_worker() {
    let coordinator = Coordinator::new(SLOW).await;
    let mut queued = vec![];
    for commit in 1..=12 {
        queued.push(coordinator.queue(commit).await.build);
    }
    let (a, b) = (coordinator.worker("a"), coordinator.worker("b"));
    let mut given = vec![];
    for _ in 0..6 {
        let (first, second) = tokio::join!(a.claim(1000), b.claim(1000));
        let mut pair = [first.unwrap().build, second.unwrap().build];
        pair.sort();
        given.extend(pair);
    }
    assert_eq!(given, queued);
    assert!(a.claim(0).await.is_none());
    let view = coordinator.build(queued[0]).await;
    assert_eq!((view.state, view.attempt), (JobState::Running, 1));
    assert!(view.worker.unwrap().starts_with("m-"));
}

#[tokio::test]
async fn whoever_wants_several_jobs_gets_one_like_everybody_and_then_more() {
    let coordinator = Coordinator::new(SLOW).await;
    let client = coordinator.client("worker");
    let wants = |worker: &str, want: u32| json!({"worker": worker, "machine": "m", "slots": 8, "want": want, "wait_ms": 30_000});
    let claim = async |worker: &str, want: u32| -> Result<Claims, CallError> {
        client.post("/v1/worker/claims", &wants(worker, want), PATIENCE).await
    };
    for commit in 1..=5 {
        coordinator.queue(commit).await;
    }
    let first = claim("a", 3).await.unwrap().claims;
    let numbers: Vec<u64> = first.iter().map(|claim| claim.build.0).collect();
    assert_eq!(numbers, [1, 2, 3]);
    // The last is compared with all before it.
    assert_eq!(first[2].compare.len(), 2);
    let second = claim("a", 64).await.unwrap().claims;
    assert_eq!(second.iter().map(|claim| claim.build.0).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(refusal(claim("a", 0).await).code, Code::Usage);
    // Both wait when two jobs come.
    let (c, d, ()) = tokio::join!(claim("c", 8), claim("d", 8), async {
        let listed =
            async || -> Workers { coordinator.admin().get("/v1/workers", PATIENCE).await.unwrap() };
        while listed().await.workers.len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        coordinator.queue(6).await;
        coordinator.queue(7).await;
    });
    let given = [c.unwrap().claims, d.unwrap().claims];
    assert_eq!(given.map(|claims| claims.len()), [1, 1]);
    let kinds = coordinator.event_kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "build.started").count(), 7);
}

#[tokio::test]
async fn an_autoscaler_is_told_how_many_workers_are_wanted() {
    let coordinator = Coordinator::new(SLOW).await;
    let ask = async |query: &str| -> Result<QueueScale, CallError> {
        coordinator.admin().get(&format!("/v1/queue/scale{query}"), PATIENCE).await
    };
    let idle = ask("").await.unwrap();
    assert_eq!((idle.queued, idle.wanted_slots, idle.wanted_workers), (0, 0, 0));
    for commit in 1..=4 {
        coordinator.queue(commit).await;
    }
    let worker = coordinator.worker("a");
    let claim = worker.claim(1000).await.unwrap();
    let busy = ask("?drain_s=60").await.unwrap();
    assert_eq!((busy.queued, busy.running, busy.drain_s), (3, 1, 60));
    assert_eq!((busy.busy_workers, busy.idle_workers), (1, 0));
    // No job has ended: each is taken to last the minute that the queue may.
    assert_eq!((busy.service_ms, busy.arrivals_per_hour), (60_000, 16));
    assert_eq!((busy.wanted_slots, busy.wanted_workers), (4, 4));
    worker.fail(&claim, BuildFailure::BuildFailed).await.unwrap();
    let after = ask("").await.unwrap();
    assert_eq!((after.busy_workers, after.idle_workers), (0, 1));
    assert!(after.service_ms < 60_000, "{after:?}");
    assert_eq!(refusal(ask("?drain_s=0").await).code, Code::Usage);
    let listed: Workers = coordinator.admin().get("/v1/workers", PATIENCE).await.unwrap();
    assert_eq!(listed.queue.map(|queue| queue.queued), Some(3));
}

#[tokio::test]
async fn who_is_drained_counts_for_nothing_in_what_is_wanted() {
    let coordinator = Coordinator::new(SLOW).await;
    let (going, staying) = (coordinator.worker("a"), coordinator.worker("b"));
    for commit in 1..=3 {
        coordinator.queue(commit).await;
        going.claim(1000).await.unwrap();
    }
    let admin = coordinator.admin();
    let ask = async || -> QueueScale { admin.get("/v1/queue/scale", PATIENCE).await.unwrap() };
    // One that asked for so short a time may have gone before it was written down.
    let listed = loop {
        assert!(staying.claim(50).await.is_none(), "there is nothing left");
        let listed: Workers = admin.get("/v1/workers", PATIENCE).await.unwrap();
        if listed.workers.len() == 2 {
            break listed;
        }
    };
    let slots = |machine: &str| {
        let own = listed.workers.iter().filter(|worker| worker.machine == machine);
        own.map(|worker| u64::from(worker.slots)).sum::<u64>()
    };
    let before = ask().await;
    assert_eq!(
        (before.slots, before.busy_workers, before.idle_workers),
        (slots("m-a") + slots("m-b"), 1, 1)
    );
    assert_eq!((before.running, before.wanted_slots), (3, 3), "three run");
    let _: Workers = admin.post("/v1/workers/m-a/drain", &json!({}), PATIENCE).await.unwrap();
    let after = ask().await;
    assert_eq!((after.slots, after.busy_workers, after.idle_workers), (slots("m-b"), 0, 1));
    assert_eq!(
        (after.running, after.wanted_slots),
        (3, 1),
        "three arrived in a quarter of an hour"
    );
}

#[tokio::test]
async fn a_waiting_worker_is_woken_by_a_new_job() {
    let coordinator = Coordinator::new(SLOW).await;
    let (a, b) = (coordinator.worker("a"), coordinator.worker("b"));
    let (first, second, queued) = tokio::join!(a.claim(30_000), b.claim(300), coordinator.queue(1));
    let claims: Vec<_> = [first, second].into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].build, queued.build);
    assert_eq!((claims[0].trunk.as_str(), claims[0].lease_ms), ("main", 180_000));
}

#[tokio::test]
async fn one_commit_is_one_job_until_it_fails() {
    let coordinator = Coordinator::new(SLOW).await;
    let (first, again) = tokio::join!(coordinator.queue(1), coordinator.queue(1));
    assert_eq!(first.build, again.build);
    let worker = coordinator.worker("a");
    let claim = worker.claim(1000).await.unwrap();
    assert_eq!(coordinator.queue(1).await.build, first.build);
    worker.fail(&claim, BuildFailure::BuildFailed).await.unwrap();
    let new = coordinator.queue(1).await;
    assert_ne!(new.build, first.build);
    assert_eq!(new.queue_position, Some(0));
    let retried = coordinator.act(first.build, "retry").await;
    assert_eq!(refusal(retried).code, Code::Conflict, "the new job does the same");
    coordinator.act(new.build, "cancel").await.unwrap();
    let retried = coordinator.act(first.build, "retry").await.unwrap();
    assert_eq!(retried.state, JobState::Queued);
    let claim = worker.claim(1000).await.unwrap();
    assert_eq!((claim.build, claim.attempt), (first.build, 2));
}

#[tokio::test]
async fn a_dead_workers_job_goes_to_the_front_and_its_late_words_are_refused() {
    let coordinator = Coordinator::new(FAST).await;
    let first = coordinator.queue(1).await;
    let dead = coordinator.worker("dead");
    let lost = dead.claim(5000).await.unwrap();
    coordinator.queue(2).await;
    coordinator.until(first.build, |build| build.state == JobState::Queued).await;
    assert_eq!(coordinator.build(first.build).await.queue_position, Some(0));
    let alive = coordinator.worker("alive");
    let claim = alive.claim(5000).await.unwrap();
    assert_eq!((claim.build, claim.attempt), (first.build, 2));
    let artifact = coordinator.publish(1, b"late").await;
    assert_eq!(refusal(dead.succeed(&lost, artifact).await).code, Code::Fenced);
    assert_eq!(refusal(dead.beat(&lost).await).code, Code::Fenced);
    assert_eq!(refusal(dead.log(&lost, 0, "x").await).code, Code::Fenced);
    assert_eq!(refusal(dead.release(&lost).await).code, Code::Fenced);
    let kinds = coordinator.event_kinds().await;
    assert!(kinds.contains(&"build.requeued".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn a_job_that_loses_every_worker_fails_and_says_so() {
    let coordinator = Coordinator::new(FAST).await;
    let job = coordinator.queue(1).await;
    for attempt in 1..=2 {
        let claim = coordinator.worker(&format!("w{attempt}")).claim(20_000).await.unwrap();
        assert_eq!(claim.attempt, attempt);
    }
    let build = coordinator.until(job.build, |build| build.state == JobState::Failed).await;
    let failure = build.failure.unwrap();
    assert_eq!(failure.class, BuildFailure::LostWorker);
    assert!(failure.reason.contains("2 attempts"), "{}", failure.reason);
}

#[tokio::test]
async fn beats_hold_a_job_and_a_release_gives_it_back() {
    let coordinator = Coordinator::new("beat_ms = 1000\nmonitor_ms = 10").await;
    let job = coordinator.queue(1).await;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    // Five beats span more than one lease.
    for _ in 0..5 {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        assert_eq!(worker.beat(&claim).await.unwrap().order, Order::Continue);
    }
    worker.release(&claim).await.unwrap();
    let back = coordinator.build(job.build).await;
    assert_eq!((back.state, back.max_attempts), (JobState::Queued, 4));
    let again = worker.claim(5000).await.unwrap();
    assert_eq!((again.build, again.attempt), (job.build, 2));
    assert_eq!(refusal(worker.beat(&claim).await).code, Code::Fenced);
}

#[tokio::test]
async fn each_word_of_a_report_is_answered_by_itself() {
    let coordinator = Coordinator::new(SLOW).await;
    let worker = coordinator.worker("a");
    for commit in 1..=2 {
        coordinator.queue(commit).await;
        worker.claim(5000).await.unwrap();
    }
    let artifact = coordinator.publish(1, b"good").await;
    let made = json!({"finish": {"outcome": {"outcome": "succeeded", "artifact": artifact}}});
    let said = json!({"worker": "a", "said": [
        {"build": "b1", "attempt": 1, "word": "beat"},
        {"build": "b2", "attempt": 7, "word": "release"},
        {"build": "b2", "attempt": 1, "word": made},
        {"build": "b1", "attempt": 1, "word": made},
        {"build": "b2", "attempt": 1, "word": "release"},
    ]});
    let client = coordinator.client("worker");
    let reply: ReportReply = client.post("/v1/worker/report", &said, PATIENCE).await.unwrap();
    let code = |heard| match heard {
        Heard::Order(order) => Ok(order),
        Heard::Refused(problem) => Err(problem.code),
    };
    let heard: Vec<_> = reply.heard.into_iter().map(code).collect();
    let go_on = Ok(Order::Continue);
    let refused = [Err(Code::Fenced), Err(Code::NotDeployable)];
    assert_eq!(heard, [go_on, refused[0], refused[1], go_on, go_on]);
    let state = async |no| coordinator.build(JobNo(no)).await.state;
    assert_eq!((state(1).await, state(2).await), (JobState::Succeeded, JobState::Queued));
}

#[tokio::test]
async fn infra_trouble_is_tried_again_after_a_while() {
    let coordinator = Coordinator::new("beat_ms = 500\nmax_attempts = 2").await;
    let job = coordinator.queue(1).await;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    worker.fail(&claim, BuildFailure::Infra).await.unwrap();
    worker.fail(&claim, BuildFailure::Infra).await.unwrap();
    assert_eq!(coordinator.build(job.build).await.state, JobState::Queued);
    let claim = worker.claim(30_000).await.unwrap();
    assert_eq!(claim.attempt, 2);
    worker.fail(&claim, BuildFailure::Infra).await.unwrap();
    let failure = coordinator.build(job.build).await.failure.unwrap();
    assert_eq!(failure.class, BuildFailure::Infra);
    assert!(failure.reason.contains("after 2 attempts"), "{}", failure.reason);
}

#[tokio::test]
async fn a_cancel_ends_a_waiting_job_at_once_and_a_running_one_by_its_beat() {
    let coordinator = Coordinator::new(SLOW).await;
    let running = coordinator.queue(1).await.build;
    let waiting = coordinator.queue(2).await.build;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    let canceled = coordinator.act(waiting, "cancel").await.unwrap();
    assert_eq!(canceled.failure.unwrap().class, BuildFailure::Canceled);
    let asked = coordinator.act(running, "cancel").await.unwrap();
    assert_eq!(asked.state, JobState::Running);
    assert_eq!(worker.beat(&claim).await.unwrap().order, Order::Cancel);
    worker.fail(&claim, BuildFailure::Canceled).await.unwrap();
    let ended = coordinator.act(running, "cancel").await.unwrap();
    assert_eq!(
        (ended.state, ended.failure.unwrap().class),
        (JobState::Failed, BuildFailure::Canceled)
    );
    assert!(worker.claim(0).await.is_none());
}

#[tokio::test]
async fn a_cancel_that_no_worker_hears_is_done_when_the_lease_lapses() {
    let coordinator = Coordinator::new(FAST).await;
    let job = coordinator.queue(1).await.build;
    coordinator.worker("a").claim(5000).await.unwrap();
    coordinator.act(job, "cancel").await.unwrap();
    let build = coordinator.until(job, |build| build.state == JobState::Failed).await;
    assert_eq!(build.failure.unwrap().class, BuildFailure::Canceled);
}

#[tokio::test]
async fn a_build_succeeds_only_with_a_whole_artifact_of_its_own_in_the_store() {
    let coordinator = Coordinator::new(SLOW).await;
    let job = coordinator.queue(1).await.build;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    let refused = async |artifact, why: &str| {
        let problem = refusal(worker.succeed(&claim, artifact).await);
        assert_eq!(problem.code, Code::NotDeployable);
        assert!(problem.detail.contains(why), "{problem}");
        assert_eq!(coordinator.build(job).await.state, JobState::Running);
    };
    let nowhere = deployctl::model::digest::Digest::of(b"nowhere");
    refused(nowhere, "is not in the blob store").await;
    refused(coordinator.publish(2, b"x").await, "is of web at 0202020202").await;
    let other = manifest("other", 1, b"x");
    refused(coordinator.publish_as(other, b"x", true).await, "is of other").await;
    let unsigned = manifest("web", 1, b"unsigned");
    refused(coordinator.publish_as(unsigned, b"unsigned", false).await, "no trusted key").await;
    let short = manifest("web", 1, b"short");
    refused(coordinator.publish_as(short, b"sho", true).await, "3 bytes in place of 5").await;
    let artifact = coordinator.publish(1, b"good").await;
    worker.succeed(&claim, artifact).await.unwrap();
    worker.succeed(&claim, artifact).await.expect("the same again is no error");
    let late = worker.fail(&claim, BuildFailure::BuildFailed).await;
    assert_eq!(refusal(late).code, Code::Fenced);
    let build = coordinator.build(job).await;
    assert_eq!(build.state, JobState::Succeeded);
    assert_eq!(build.artifact.unwrap().wire_size, 4);
    assert!(!build.deployable, "no region holds it yet");
    assert_eq!(coordinator.queue(1).await.build, job);
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let mut coordinator = Coordinator::new(SLOW).await;
    let first = coordinator.queue(1).await.build;
    let second = coordinator.queue(2).await.build;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    worker.log(&claim, 0, "hello\n").await.unwrap();
    let artifact = coordinator.publish(1, b"one").await;
    coordinator.crash_and_restart();
    let worker = coordinator.worker("a");
    assert_eq!(worker.beat(&claim).await.unwrap().order, Order::Continue);
    worker.succeed(&claim, artifact).await.unwrap();
    coordinator.crash_and_restart();
    let worker = coordinator.worker("a");
    worker.succeed(&claim, artifact).await.expect("recorded before the crash");
    assert_eq!(coordinator.build(first).await.artifact.unwrap().artifact, artifact);
    assert_eq!(worker.claim(5000).await.unwrap().build, second);
    assert!(matches!(first, JobNo(1)));
}

#[tokio::test]
async fn a_restart_gives_running_jobs_one_more_lease() {
    // A lease far shorter than a restart takes; without grace it would be over.
    let mut coordinator =
        Coordinator::new("beat_ms = 1000\nmissed_beats = 2\nmonitor_ms = 50").await;
    let job = coordinator.queue(1).await.build;
    let claim = coordinator.worker("a").claim(5000).await.unwrap();
    coordinator.crash_and_restart();
    let build = coordinator.build(job).await;
    assert_eq!((build.state, build.attempt), (JobState::Running, claim.attempt));
    coordinator.until(job, |build| build.state == JobState::Queued).await;
}

#[tokio::test]
async fn a_build_that_an_admin_takes_back_is_first_in_line_and_its_worker_is_fenced() {
    let coordinator = Coordinator::new(SLOW).await;
    let first = coordinator.queue(1).await.build;
    coordinator.queue(2).await;
    let (lost, other) = (coordinator.worker("lost"), coordinator.worker("other"));
    let claim = lost.claim(1000).await.unwrap();
    assert_eq!(claim.build, first);
    let taken = coordinator.act(first, "requeue").await.unwrap();
    assert_eq!((taken.state, taken.attempt), (JobState::Queued, 1));
    let again = other.claim(1000).await.unwrap();
    assert_eq!((again.build, again.attempt), (first, 2), "before what waited behind it");
    assert_eq!(refusal(lost.beat(&claim).await).code, Code::Fenced);
    assert_eq!(refusal(coordinator.act(JobNo(2), "requeue").await).code, Code::Conflict);
    assert_eq!(refusal(coordinator.act(JobNo(99), "requeue").await).code, Code::NotFound);
    assert!(coordinator.event_kinds().await.contains(&"build.requeued".to_owned()));
    let token = coordinator.client("worker");
    let mine = token.post::<serde_json::Value>("/v1/builds/b1/requeue", &json!({}), PATIENCE).await;
    assert_eq!(refusal(mine).code, Code::Forbidden);
}

#[tokio::test]
async fn a_drained_machine_ends_what_it_runs_and_gets_nothing_new_until_that_ends() {
    let coordinator = Coordinator::new(SLOW).await;
    let (going, staying) = (coordinator.worker("a"), coordinator.worker("b"));
    coordinator.queue(1).await;
    let running = going.claim(1000).await.unwrap();
    let admin = coordinator.admin();
    let drain = async |name: &str, body: serde_json::Value| -> Result<Workers, CallError> {
        admin.post(&format!("/v1/workers/{name}/drain"), &body, PATIENCE).await
    };
    let drained = drain("m-a", json!({"message": "new disk"})).await.unwrap();
    assert_eq!(drained.workers.len(), 1);
    assert!(drained.workers[0].draining && drained.workers[0].running == 1, "{drained:?}");
    for commit in 2..=3 {
        coordinator.queue(commit).await;
    }
    assert!(going.claim(300).await.is_none());
    assert_eq!(staying.claim(1000).await.unwrap().build, JobNo(2), "others are given what waits");
    going.beat(&running).await.unwrap();
    let ended = drain("m-a", json!({"end": true})).await.unwrap();
    assert!(!ended.workers[0].draining);
    assert_eq!(going.claim(1000).await.unwrap().build, JobNo(3));
    for body in [json!({}), json!({"end": true})] {
        assert_eq!(refusal(drain("nobody", body).await).code, Code::NotFound);
    }
    let kinds = coordinator.event_kinds().await;
    assert!(
        kinds.ends_with(&["worker.resumed".to_owned(), "build.started".to_owned()]),
        "{kinds:?}"
    );
}
