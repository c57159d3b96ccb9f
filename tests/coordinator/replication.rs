//! A build's way into a region's store, its loss there, and its healing: a real
//! coordinator and a real region.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use deployctl::model::digest::ArtifactId;
use deployctl::model::replication::ReplicationStatus;
use deployctl::wire::v1::build::Build;

use crate::process::{Coordinator, PATIENCE};
use crate::ready::ready;

/// Looks often, so that a test need not wait a minute.
pub(crate) const CONFIG: &str = "beat_ms = 1000\n[synchronizer]\nevery_ms = 100";

pub(crate) struct Region {
    child: Child,
    pub(crate) url: String,
}

impl Region {
    pub(crate) fn start(coordinator: &Coordinator) -> Self {
        let data = coordinator.data();
        let url = |path: &std::path::Path| format!("file://{}", path.display());
        let (child, url) = ready(
            Command::new(env!("CARGO_BIN_EXE_deployctl-region"))
                .args(["--name", "eu", "--listen", "127.0.0.1:0"])
                .args(["--coordinator", &coordinator.server])
                .args(["--main-blobs", &url(&data.join("blobs"))])
                .args(["--blobs", &url(&coordinator.eu())])
                .arg("--token-file")
                .arg(data.join("tokens/region-eu.token"))
                .arg("--data")
                .arg(data.join("region"))
                .env("DEPLOYCTL_LOG", "warn"),
        );
        Self { child, url }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds one commit; returns the build and its artifact.
async fn built(coordinator: &Coordinator, content: &[u8]) -> (Build, ArtifactId) {
    let build = coordinator.queue(1).await;
    let worker = coordinator.worker("w1");
    let claim = worker.claim(10_000).await.unwrap();
    let artifact = coordinator.publish(1, content).await;
    worker.succeed(&claim, artifact).await.unwrap();
    (build, artifact)
}

#[tokio::test]
async fn a_build_is_deployable_only_while_its_region_holds_it_whole() {
    let coordinator = Coordinator::new(CONFIG).await;
    let content = b"a small program".repeat(1000);
    let (build, artifact) = built(&coordinator, &content).await;
    let at = |kind: &str| {
        let hex = artifact.to_string();
        coordinator.eu().join(kind).join(&hex[..2]).join(hex)
    };
    // A region that never reported is shown, and required.
    let seen = coordinator.until(build.build, |build| build.replication.regions.len() == 1).await;
    assert!(!seen.deployable);
    let region = Region::start(&coordinator);
    coordinator.until(build.build, |build| build.deployable).await;
    assert!(coordinator.event_kinds().await.contains(&"build.replicated".into()));

    // Damage behind everybody's back is found, and healed from the main store.
    let mut wrong = content.clone();
    wrong[7] ^= 1;
    std::fs::write(at("packs"), &wrong).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !coordinator.event_kinds().await.contains(&"build.replication_lost".into()) {
        assert!(Instant::now() < deadline, "the damage was not found");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    coordinator.until(build.build, |build| build.deployable).await;
    assert_eq!(std::fs::read(at("packs")).unwrap(), content);

    // With the region gone, a loss stays a loss until it is back.
    drop(region);
    std::fs::remove_file(at("manifests")).unwrap();
    let is_lost = |build: &Build| build.replication.status == ReplicationStatus::Lost;
    let seen = coordinator.until(build.build, is_lost).await;
    assert!(!seen.deployable);
    assert_eq!(seen.replication.regions[0].reason, "the manifest is missing");
    let _region = Region::start(&coordinator);
    coordinator.until(build.build, |build| build.deployable).await;
    assert!(at("manifests").exists());
}
