//! Stores compared with what is known when a person asks, not when the round comes.

use deployctl::wire::v1::reconcile::{Reconciled, ReconciledStore};
use serde_json::json;

use crate::process::{Coordinator, PATIENCE};
use crate::replication::Region;

/// The first round passes before the test begins; the next does not come.
const RARELY: &str = "beat_ms = 1000\n[synchronizer]\nevery_ms = 3600000";

async fn reconciled(coordinator: &Coordinator) -> Vec<ReconciledStore> {
    let body = json!({});
    let done: Reconciled =
        coordinator.admin().post("/v1/reconcile", &body, PATIENCE).await.unwrap();
    done.stores
}

#[tokio::test]
async fn what_a_store_lost_or_has_too_much_is_found_at_once_and_healed() {
    let coordinator = Coordinator::new(RARELY).await;
    let region = Region::start(&coordinator);
    let build = coordinator.queue(1).await.build;
    let worker = coordinator.worker("w1");
    let claim = worker.claim(10_000).await.unwrap();
    let artifact = coordinator.publish(1, &[1; 5000]).await;
    worker.succeed(&claim, artifact).await.unwrap();
    coordinator.until(build, |build| build.deployable).await;
    let well = reconciled(&coordinator).await;
    assert_eq!(well.len(), 2);
    for store in &well {
        assert_eq!((store.holds, store.lacks, store.lost, store.extra), (1, 0, 0, 0), "{well:?}");
    }

    // The region's pack is lost; nobody would look for an hour. Its process heals it.
    let hex = artifact.to_string();
    let pack = |store: std::path::PathBuf| store.join("packs").join(&hex[..2]).join(&hex);
    std::fs::remove_file(pack(coordinator.eu())).unwrap();
    let found = reconciled(&coordinator).await;
    assert_eq!((found[1].holds, found[1].lost), (0, 1), "{found:?}");
    coordinator.until(build, |build| build.deployable).await;
    assert!(pack(coordinator.eu()).exists());
    drop(region);

    // What nobody told of is too much; what the main store lost only a build brings back.
    coordinator.publish(2, &[2; 5000]).await;
    std::fs::remove_file(pack(coordinator.data().join("blobs"))).unwrap();
    let found = reconciled(&coordinator).await;
    assert_eq!((found[0].holds, found[0].lost, found[0].extra), (0, 1, 1), "{found:?}");
    assert!(found[0].extra_bytes >= 5000 && found[0].error.is_empty());
    let again = coordinator.queue(1).await.build;
    assert_ne!(again, build, "what is lost is no success");
    assert_eq!(coordinator.queue(1).await.build, again);
    let claim = worker.claim(10_000).await.unwrap();
    assert_eq!(claim.build, again);
    assert_eq!(coordinator.publish(1, &[1; 5000]).await, artifact);
    worker.succeed(&claim, artifact).await.unwrap();
    assert_eq!(coordinator.queue(1).await.build, again, "it is there again");
    assert_eq!(reconciled(&coordinator).await[0].lost, 0);
    assert!(coordinator.event_kinds().await.contains(&"build.lost".into()));
}
