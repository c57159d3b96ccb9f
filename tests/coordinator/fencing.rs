//! A goal that hosts have seen and the coordinator has not: a new epoch passes it.

use std::time::{Duration, Instant};

use deployctl::model::goal::GoalVersion;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::Fenced;
use serde_json::{Value, json};

use crate::process::{Coordinator, PATIENCE, refusal};
use crate::replication::{CONFIG, Region};

async fn version(coordinator: &Coordinator) -> GoalVersion {
    let path = "/v1/apps/web/envs/prod/releases";
    let releases: Value = coordinator.admin().get(path, PATIENCE).await.unwrap();
    serde_json::from_value(releases["releases"][0]["version"].clone()).unwrap()
}

#[tokio::test]
async fn a_fence_sends_every_goal_under_an_epoch_that_passes_all() {
    let coordinator = Coordinator::new(CONFIG).await;
    let _region = Region::start(&coordinator);
    let build = coordinator.queue(1).await.build;
    let worker = coordinator.worker("w1");
    let claim = worker.claim(10_000).await.unwrap();
    let artifact = coordinator.publish(1, b"a program").await;
    worker.succeed(&claim, artifact).await.unwrap();
    coordinator.until(build, |build| build.deployable).await;
    let body = json!({"kind": "deploy", "target": build.to_string(), "plan": "all-at-once"});
    let path = "/v1/apps/web/envs/prod/rollouts";
    let _: Value = coordinator.admin().post(path, &body, PATIENCE).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !coordinator.event_kinds().await.contains(&"rollout.succeeded".into()) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = version(&coordinator).await;

    let fence =
        async |body: Value| coordinator.admin().post::<Fenced>("/v1/fence", &body, PATIENCE).await;
    assert_eq!(refusal(fence(json!({"message": ""})).await).code, Code::Usage);
    let done = fence(json!({"message": "a test", "above": 6})).await.unwrap();
    assert_eq!((done.epoch, done.goals), (7, 1));
    let after = version(&coordinator).await;
    // Hosts are drawn by the generation: it stays.
    assert_eq!((after.epoch, after.generation), (7, before.generation));
    assert!(after > before && coordinator.event_kinds().await.contains(&"goals.fenced".into()));

    // The next one passes it by itself.
    assert_eq!(fence(json!({"message": "again"})).await.unwrap().epoch, 8);
    assert_eq!(version(&coordinator).await.epoch, 8);
}
