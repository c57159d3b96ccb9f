//! What nobody needs goes from every store, what is needed stays, and what went can be built
//! again: a real coordinator and a real region.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deployctl::model::digest::ArtifactId;
use deployctl::model::id::JobNo;
use deployctl::model::job::{BuildFailure, JobState};
use deployctl::net::client::CallError;
use deployctl::rules::{collection, patch};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::build::Build;
use deployctl::wire::v1::collect::Collection;
use deployctl::wire::v1::patch::{Between, PatchOutcome, PatchReport};
use deployctl::wire::v1::worker::Claim;
use serde_json::{Value, json};

use crate::process::{Coordinator, PATIENCE, manifest, refusal};
use crate::replication::Region;

pub(crate) const AT_ONCE: &str = "beat_ms = 1000\n[synchronizer]\nevery_ms = 100\n\
                       [collector]\nenabled = true\nevery_ms = 100\ndelay_minutes = 0\nkeep_good = 3";
pub(crate) const LATER: &str = "beat_ms = 1000\n[synchronizer]\nevery_ms = 100\n\
                     [collector]\nenabled = true\nevery_ms = 100\nkeep_good = 3";

async fn claimed(coordinator: &Coordinator) -> Claim {
    coordinator.worker("w1").claim(10_000).await.unwrap()
}

/// Publishes what a claim asks for as today's worker does: under another name when one was
/// collected.
async fn publish(coordinator: &Coordinator, claim: &Claim, commit: u8) -> ArtifactId {
    let content = vec![commit; 5000];
    let mut made = manifest("web", commit, &content);
    let command = &mut made.provenance.command;
    *command = collection::command_again(command, claim.collected);
    coordinator.publish_as(made, &content, true).await
}

pub(crate) async fn built(coordinator: &Coordinator, commit: u8) -> (JobNo, ArtifactId) {
    let build = coordinator.queue(commit).await.build;
    let claim = claimed(coordinator).await;
    let artifact = publish(coordinator, &claim, commit).await;
    coordinator.worker("w1").succeed(&claim, artifact).await.unwrap();
    coordinator.until(build, |build| build.deployable).await;
    (build, artifact)
}

async fn rollout(coordinator: &Coordinator, body: Value) -> Result<Value, CallError> {
    coordinator.admin().post("/v1/apps/web/envs/prod/rollouts", &body, PATIENCE).await
}

fn deploying(target: impl ToString) -> Value {
    json!({"kind": "deploy", "target": target.to_string(), "plan": "all-at-once",
        "allow_older": true})
}

/// Deploys to no host, which succeeds.
pub(crate) async fn deployed(coordinator: &Coordinator, build: JobNo) {
    rollout(coordinator, deploying(build)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = "/v1/apps/web/envs/prod/releases";
        let releases: Value = coordinator.admin().get(path, PATIENCE).await.unwrap();
        if releases["releases"][0]["state"] == "succeeded" {
            return;
        }
        assert!(Instant::now() < deadline, "{releases:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn collect(
    coordinator: &Coordinator,
    body: Value,
) -> Result<Collection, CallError> {
    coordinator.admin().post("/v1/collect", &body, PATIENCE).await
}

/// Everything that is old enough, whatever its age.
pub(crate) fn all() -> Value {
    json!({"older_than_s": 0, "force": true, "message": "a test"})
}

pub(crate) fn objects(store: &Path, artifact: ArtifactId) -> Vec<PathBuf> {
    let hex = artifact.to_string();
    let at = |kind: &str| store.join(kind).join(&hex[..2]).join(&hex);
    ["packs", "signatures", "manifests"].map(at).into_iter().filter(|path| path.exists()).collect()
}

pub(crate) async fn until_gone(coordinator: &Coordinator, artifact: ArtifactId) {
    let stores = [coordinator.data().join("blobs"), coordinator.eu()];
    let deadline = Instant::now() + PATIENCE;
    while stores.iter().any(|store| !objects(store, artifact).is_empty()) {
        assert!(Instant::now() < deadline, "{artifact} is there still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_nobody_needs_goes_everywhere_and_what_is_needed_stays() {
    let coordinator = Coordinator::new(AT_ONCE).await;
    let _region = Region::start(&coordinator);
    let mut builds: Vec<(JobNo, ArtifactId)> = vec![];
    for commit in 1..=6 {
        builds.push(built(&coordinator, commit).await);
    }
    for (build, _) in &builds[..5] {
        deployed(&coordinator, *build).await;
    }
    // A patch goes with its base, here the first.
    let (from, to) = (builds[0].1, builds[4].1);
    let mut made = manifest("web", 5, b"pretended");
    made.entries[0].path = patch::FILE.into();
    made.provenance.command = patch::command(from, to);
    let patch = coordinator.publish_as(made, b"pretended", true).await;
    let outcome = PatchOutcome::Made { patch, wire_bytes: 9 };
    let report = PatchReport { between: Between { from, to }, outcome };
    let worker = coordinator.client("worker");
    let _: () = worker.post("/v1/worker/patches", &report, PATIENCE).await.unwrap();

    // What was in use lately stays, unless somebody insists; and looking changes nothing.
    let none = collect(&coordinator, json!({})).await.unwrap();
    assert_eq!((none.artifacts, none.older_than_s), (0, 14 * 86_400));
    let young = refusal(collect(&coordinator, json!({"older_than_s": 60})).await);
    assert_eq!(young.code, Code::Blocked, "{young:?}");
    let silent = json!({"older_than_s": 0, "force": true});
    assert_eq!(refusal(collect(&coordinator, silent).await).code, Code::Usage);
    let look = json!({"older_than_s": 0, "dry_run": true});
    let would = collect(&coordinator, look).await.unwrap();
    // The first deployed is the base of a patch to what is deployed: it stays. The second is
    // no way back any more, the last was never deployed.
    let expected = [builds[1], builds[5]];
    assert_eq!((would.artifacts, would.stores.len()), (2, 2), "{would:?}");
    assert!(would.stores.iter().all(|store| store.artifacts == 2 && store.bytes > 10_000));
    assert!(!coordinator.build(builds[5].0).await.collected);

    let went = collect(&coordinator, all()).await.unwrap();
    assert_eq!((went.artifacts, went.bytes), (would.artifacts, would.bytes));
    assert_eq!(went.apps[0].app.as_str(), "web");
    for (build, artifact) in expected {
        until_gone(&coordinator, artifact).await;
        let seen = coordinator.build(build).await;
        assert!(seen.collected && !seen.deployable && seen.state == JobState::Succeeded);
    }
    for (build, artifact) in [builds[0], builds[2], builds[3], builds[4]] {
        assert!(coordinator.build(build).await.deployable, "{build}");
        for store in [coordinator.data().join("blobs"), coordinator.eu()] {
            assert_eq!(objects(&store, artifact).len(), 3, "{build}");
        }
    }
    assert_eq!(objects(&coordinator.data().join("blobs"), patch).len(), 3);
    let kinds = coordinator.event_kinds().await;
    assert!(kinds.contains(&"artifacts.collected".into()), "{kinds:?}");
    // Nothing that was collected counts as lost.
    assert!(!kinds.contains(&"build.replication_lost".into()), "{kinds:?}");

    // Two deploys later no goal names the patch's target: its base goes, and the patch with it.
    for commit in [7, 8] {
        let (build, _) = built(&coordinator, commit).await;
        deployed(&coordinator, build).await;
    }
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 4);
    until_gone(&coordinator, patch).await;
    until_gone(&coordinator, builds[0].1).await;
    let again = collect(&coordinator, all()).await.unwrap();
    assert_eq!((again.artifacts, again.waiting.error.as_str()), (0, ""));
    assert_eq!((again.left_over.artifacts, again.left_over.error.as_str()), (0, ""));
}

#[tokio::test]
async fn what_no_build_names_goes_and_its_name_with_it() {
    let coordinator = Coordinator::new(AT_ONCE).await;
    let _region = Region::start(&coordinator);
    // What a worker published that was killed before it said so.
    let lost = coordinator.publish(9, &[9; 5000]).await;
    let look = json!({"older_than_s": 0, "dry_run": true});
    assert_eq!(collect(&coordinator, look).await.unwrap().left_over.artifacts, 1);
    let none = collect(&coordinator, json!({"dry_run": true})).await.unwrap();
    assert_eq!(none.left_over.artifacts, 0, "somebody may be about to tell of it");
    let went = collect(&coordinator, all()).await.unwrap().left_over;
    assert!(went.artifacts == 1 && went.bytes > 5000, "{went:?}");
    until_gone(&coordinator, lost).await;
    // The build that made it is tried again, and what it makes has another name.
    let build = coordinator.queue(9).await.build;
    let claim = claimed(&coordinator).await;
    let worker = coordinator.worker("w1");
    assert_eq!((claim.collected, coordinator.publish(9, &[9; 5000]).await), (0, lost));
    assert_eq!(refusal(worker.succeed(&claim, lost).await).code, Code::NotDeployable);
    worker.fail(&claim, BuildFailure::Infra).await.unwrap();
    let claim = claimed(&coordinator).await;
    assert_eq!(claim.collected, 1);
    let fresh = publish(&coordinator, &claim, 9).await;
    worker.succeed(&claim, fresh).await.unwrap();
    coordinator.until(build, |build| build.deployable).await;
}

#[tokio::test]
async fn what_went_is_refused_with_the_line_to_type_and_can_be_built_again() {
    let coordinator = Coordinator::new(AT_ONCE).await;
    let _region = Region::start(&coordinator);
    let (old, artifact) = built(&coordinator, 1).await;
    deployed(&coordinator, old).await;
    for commit in 2..=4 {
        let (build, _) = built(&coordinator, commit).await;
        deployed(&coordinator, build).await;
    }
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    until_gone(&coordinator, artifact).await;

    let commit = coordinator.build(old).await.commit;
    let asked = [
        deploying(old),
        deploying(&commit),
        deploying("r1"),
        json!({"kind": "rollback", "target": "r1"}),
    ];
    for body in asked {
        let problem = refusal(rollout(&coordinator, body.clone()).await);
        assert_eq!(problem.code, Code::NotDeployable, "{body}: {problem:?}");
        assert_eq!(problem.hints[0], format!("deployctl build {commit} -a web"), "{body}");
    }
    for (from, to) in [(old, old), (old, JobNo(old.0 + 1)), (JobNo(old.0 + 1), old)] {
        let path = format!("/v1/apps/web/envs/prod/diff?from={from}&to={to}");
        let problem = refusal(coordinator.admin().get::<Value>(&path, PATIENCE).await);
        assert!(problem.detail.contains("was collected"), "{problem:?}");
        assert_eq!(problem.hints[0], format!("deployctl build {commit} -a web"));
    }
    let pin = json!({"app": "web", "env": "prod", "region": "eu", "release": "r1",
        "reason": "a test", "lasts_s": 60});
    let pinned = coordinator.admin().post::<Value>("/v1/holds", &pin, PATIENCE).await;
    assert_eq!(refusal(pinned).code, Code::NotDeployable);

    // A worker of before comes out at the same name: its build is never taken for done.
    let again = coordinator.queue(1).await.build;
    assert!(again > old);
    let claim = claimed(&coordinator).await;
    assert_eq!((claim.build, claim.collected), (again, 1));
    let same = coordinator.publish(1, &[1; 5000]).await;
    assert_eq!(same, artifact);
    let worker = coordinator.worker("w1");
    let problem = refusal(worker.succeed(&claim, same).await);
    assert_eq!(problem.code, Code::NotDeployable, "{problem:?}");
    assert_eq!(coordinator.build(again).await.state, JobState::Running);
    worker.fail(&claim, BuildFailure::Infra).await.unwrap();

    let claim = claimed(&coordinator).await;
    assert_eq!((claim.build, claim.attempt, claim.collected), (again, 2, 1));
    let fresh = publish(&coordinator, &claim, 1).await;
    assert_ne!(fresh, artifact);
    worker.succeed(&claim, fresh).await.unwrap();
    coordinator.until(again, |build| build.deployable).await;
    // The commit means what is there now, the old build's number what it was.
    rollout(&coordinator, deploying(&commit)).await.unwrap();
    assert_eq!(refusal(rollout(&coordinator, deploying(old)).await).code, Code::NotDeployable);
    assert_eq!(coordinator.queue(1).await.build, again);
}

#[tokio::test]
async fn what_is_only_marked_comes_back_by_being_built_or_asked_for() {
    let mut coordinator = Coordinator::new(LATER).await;
    let region = Region::start(&coordinator);
    let (build, artifact) = built(&coordinator, 1).await;
    let (other, _) = built(&coordinator, 2).await;
    let went = collect(&coordinator, all()).await.unwrap();
    assert_eq!((went.artifacts, went.delay_s, went.waiting.artifacts), (2, 3600, 2));
    assert!(coordinator.build(build).await.collected);
    // Regions let go at once, the main store later; a crash in between changes nothing.
    let deadline = Instant::now() + PATIENCE;
    while !objects(&coordinator.eu(), artifact).is_empty() {
        assert!(Instant::now() < deadline, "the region keeps it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(region);
    coordinator.crash_and_restart();
    assert_eq!(objects(&coordinator.data().join("blobs"), artifact).len(), 3);

    let same = coordinator.queue(1).await;
    assert_eq!((same.build, same.collected, same.deployable), (build, false, false));
    let _region = Region::start(&coordinator);
    coordinator.until(build, |build| build.deployable).await;
    assert_eq!(objects(&coordinator.eu(), artifact).len(), 3);
    let seen: Build = coordinator.build(other).await;
    assert!(seen.collected);

    // At once, also what was marked before: then it does not come back.
    let asked = json!({"older_than_s": 0, "force": true, "at_once": true, "message": "full"});
    assert_eq!(collect(&coordinator, asked).await.unwrap().artifacts, 1);
    until_gone(&coordinator, artifact).await;
    assert!(coordinator.queue(2).await.build > other);
}

/// Another job of the same commit, as after a change of the app: what it makes is the same.
async fn another(coordinator: &Coordinator, n: u64) -> Claim {
    let app = json!({"name": "web", "repo": "file:///srv/web", "trunk": format!("t{n}")});
    let admin = coordinator.admin();
    let put = admin.request(reqwest::Method::PUT, "/v1/apps/web").json(&app);
    admin.send::<Value>(put, PATIENCE).await.unwrap();
    coordinator.queue(1).await;
    claimed(coordinator).await
}

/// Publishes as a worker does that finds it "in the store already".
async fn publish_unless_there(coordinator: &Coordinator, claim: &Claim) -> ArtifactId {
    let content = vec![1; 5000];
    let mut made = manifest("web", 1, &content);
    let command = &mut made.provenance.command;
    *command = collection::command_again(command, claim.collected);
    if objects(&coordinator.data().join("blobs"), made.id()).len() == 3 {
        return made.id();
    }
    coordinator.publish_as(made, &content, true).await
}

#[tokio::test]
async fn no_build_that_succeeded_beside_a_collector_is_without_its_bytes() {
    let coordinator = Coordinator::new(AT_ONCE).await;
    let _region = Region::start(&coordinator);
    let main = coordinator.data().join("blobs");
    let forced = json!({"older_than_s": 0, "force": true, "at_once": true, "message": "a race"});
    let (mut builds, mut refused, mut went) = (vec![], 0, 0);
    for n in 0..12 {
        let claim = another(&coordinator, n).await;
        let artifact = publish_unless_there(&coordinator, &claim).await;
        let worker = coordinator.worker("w1");
        let finish = async {
            // Before, within and after what the collector does.
            tokio::time::sleep(Duration::from_millis(n % 6 * 4)).await;
            worker.succeed(&claim, artifact).await
        };
        let (finished, collected) = tokio::join!(finish, collect(&coordinator, forced.clone()));
        went += collected.unwrap().artifacts;
        builds.push(claim.build);
        if let Err(error) = finished {
            assert_eq!(refusal::<()>(Err(error)).code, Code::NotDeployable);
            refused += 1;
            worker.fail(&claim, BuildFailure::Infra).await.unwrap();
            let claim = claimed(&coordinator).await;
            let artifact = publish_unless_there(&coordinator, &claim).await;
            worker.succeed(&claim, artifact).await.unwrap();
        }
        let look = json!({"dry_run": true});
        let deadline = Instant::now() + PATIENCE;
        while collect(&coordinator, look.clone()).await.unwrap().waiting.artifacts > 0 {
            assert!(Instant::now() < deadline, "the collector does not get done");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for build in &builds {
            let seen = coordinator.build(*build).await;
            assert_eq!(seen.state, JobState::Succeeded);
            if let Some(artifact) = seen.artifact {
                assert_eq!(objects(&main, artifact.artifact).len(), 3, "{build} of round {n}");
            }
        }
        coordinator.until(claim.build, |build| build.deployable || build.collected).await;
    }
    println!("{went} went, {refused} builds were refused");
    assert!(went > 0);
}
