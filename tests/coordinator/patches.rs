//! Patches on their way from a worker's word to a region's offer.

use std::time::Instant;

use deployctl::model::digest::{ArtifactId, Digest};
use deployctl::model::replication::ReplicationStatus;
use deployctl::net::client::{CallError, Client};
use deployctl::rules::patch;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::build::Build;
use deployctl::wire::v1::patch::{Between, PatchOutcome, PatchReport, Patches};
use serde_json::{Value, json};

use crate::process::{Coordinator, PATIENCE, manifest, refusal};
use crate::replication::{CONFIG, Region};

async fn built(coordinator: &Coordinator, commit: u8) -> (Build, ArtifactId) {
    let build = coordinator.queue(commit).await;
    let worker = coordinator.worker("w1");
    let claim = worker.claim(10_000).await.unwrap();
    let artifact = coordinator.publish(commit, &[commit; 5000]).await;
    worker.succeed(&claim, artifact).await.unwrap();
    (build, artifact)
}

/// Publishes a patch whose manifest says `says`.
async fn published(coordinator: &Coordinator, file: &str, says: String) -> ArtifactId {
    let bytes = b"pretended";
    let mut made = manifest("web", 2, bytes);
    made.entries[0].path = file.into();
    made.provenance.command = says;
    coordinator.publish_as(made, bytes, true).await
}

async fn tell(
    coordinator: &Coordinator,
    between: Between,
    outcome: PatchOutcome,
) -> Result<Value, CallError> {
    let report = PatchReport { between, outcome };
    coordinator.client("worker").post("/v1/worker/patches", &report, PATIENCE).await
}

async fn offers(region: &Region, coordinator: &Coordinator, to: ArtifactId, from: &str) -> Patches {
    let agent = Client::new(&region.url, Some(coordinator.token("agent-eu")));
    let path = format!("/v1/agent/artifacts/{to}/patches?from={from}");
    agent.get(&path, PATIENCE).await.unwrap()
}

#[tokio::test]
async fn a_patch_is_checked_replicated_and_offered_and_no_build_waits_for_it() {
    let coordinator = Coordinator::new(CONFIG).await;
    let region = Region::start(&coordinator);
    let (first, from) = built(&coordinator, 1).await;
    let (second, to) = built(&coordinator, 2).await;
    coordinator.until(second.build, |build| build.deployable).await;
    let between = Between { from, to };
    tell(&coordinator, between, PatchOutcome::Making).await.unwrap();

    // What is not a patch between these two is not taken.
    let says = patch::command(from, to);
    let turned = published(&coordinator, patch::FILE, patch::command(to, from)).await;
    let other = published(&coordinator, "app", says.clone()).await;
    for wrong in [Digest::of(b"nowhere"), turned, other, from] {
        let made = PatchOutcome::Made { patch: wrong, wire_bytes: 9 };
        let problem = refusal(tell(&coordinator, between, made).await);
        assert_eq!(problem.code, Code::NotDeployable, "{problem:?}");
    }
    let unknown = Between { from: Digest::of(b"nowhere"), to };
    let problem = refusal(tell(&coordinator, unknown, PatchOutcome::Making).await);
    assert_eq!(problem.code, Code::NotFound);
    let problem =
        refusal(tell(&coordinator, Between { from, to: from }, PatchOutcome::Making).await);
    assert_eq!(problem.code, Code::Usage);
    assert_eq!(offers(&region, &coordinator, to, &from.to_string()).await, Patches::default());

    let patch = published(&coordinator, patch::FILE, says).await;
    let made = PatchOutcome::Made { patch, wire_bytes: 9 };
    for _ in 0..2 {
        tell(&coordinator, between, made.clone()).await.unwrap();
    }
    // Once made it stays made.
    tell(&coordinator, between, PatchOutcome::None { reason: "late".into() }).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let held = format!("{},{from}", Digest::of(b"elsewhere"));
    let found = loop {
        let found = offers(&region, &coordinator, to, &held).await.patches;
        if !found.is_empty() {
            break found;
        }
        assert!(Instant::now() < deadline, "the patch was never offered");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(
        (found.len(), found[0].from, found[0].patch, found[0].wire_bytes),
        (1, from, patch, 9)
    );
    assert_eq!(offers(&region, &coordinator, from, &to.to_string()).await, Patches::default());

    // Losing the patch for good hurts no build: it is just not offered.
    let hex = patch.to_string();
    for store in [coordinator.eu(), coordinator.data().join("blobs")] {
        for kind in ["packs", "manifests"] {
            std::fs::remove_file(store.join(kind).join(&hex[..2]).join(&hex)).unwrap();
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    for build in [first.build, second.build] {
        let seen = coordinator.build(build).await;
        assert!(seen.deployable && seen.replication.status == ReplicationStatus::Complete);
    }
    let kinds = coordinator.event_kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "patch.made").count(), 1);
    assert_eq!(kinds.iter().filter(|kind| *kind == "build.replicated").count(), 2);
    assert!(!kinds.contains(&"build.replication_lost".into()));
}

#[tokio::test]
async fn a_claim_names_what_was_deployed_last() {
    let coordinator = Coordinator::new(CONFIG).await;
    let _region = Region::start(&coordinator);
    let mut artifacts = vec![];
    for commit in [1, 2] {
        let (build, artifact) = built(&coordinator, commit).await;
        coordinator.until(build.build, |build| build.deployable).await;
        let path = "/v1/apps/web/envs/prod/rollouts";
        for _ in 0..2 {
            let body = json!({"kind": "deploy", "target": build.build.to_string(), "plan": "all-at-once", "allow_older": true});
            let _: Value = coordinator.admin().post(path, &body, PATIENCE).await.unwrap();
        }
        artifacts.insert(0, artifact);
    }
    let (undeployed, _) = built(&coordinator, 3).await;
    coordinator.until(undeployed.build, |build| build.deployable).await;
    coordinator.queue(4).await;
    let claim = coordinator.worker("w1").claim(10_000).await.unwrap();
    assert_eq!(claim.bases, artifacts);
    // What runs, and what was asked for before: the worker compares its commit with each.
    assert_eq!(claim.compare.len(), 3, "{:?}", claim.compare);
}
