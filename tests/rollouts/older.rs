//! What is older never overwrites what is newer, and two deploys at once have an order.

use deployctl::model::rollout::OnConflict;
use deployctl::model::rollout::RolloutState::{Expired, Running, Succeeded, Superseded};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::RolloutRequest;

use crate::house::{commit, deploy, rollback};
use crate::{only, runs, settled};

#[tokio::test(flavor = "multi_thread")]
async fn an_ancestor_of_what_runs_is_refused_with_the_way_back() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b3")).await.unwrap();
    // On its way counts as much as there.
    let refused = house.ask(&deploy("b2")).await.unwrap_err();
    assert_eq!(refused.code, Code::Blocked);
    assert!(refused.title.ends_with("is older than r2 in prod"), "{refused:?}");
    assert!(refused.hints[0].starts_with(&format!("deployctl rollback {}", &commit(2)[..10])));
    assert!(refused.hints[1].ends_with("--allow-older"));
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    for older in ["b1", "b2", "r1"] {
        assert_eq!(house.ask(&deploy(older)).await.unwrap_err().code, Code::Blocked, "{older}");
    }
    assert_eq!(runs(&eu, &us), only(3));
    let meant = RolloutRequest { allow_older: true, ..deploy("b2") };
    house.ask(&meant).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    house.ask(&rollback("r1")).await.unwrap();
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_compared_is_said_so_and_what_is_apart_passes() {
    let (house, mut eu, mut us) = settled().await;
    house.estrange(2);
    let refused = house.ask(&deploy("b2")).await.unwrap_err();
    assert_eq!(refused.code, Code::Blocked);
    assert!(refused.title.starts_with("nobody knows whether"), "{refused:?}");
    assert!(refused.hints[0].ends_with("--allow-older"));
    house.relate(2, 1, "apart");
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_turns_out_older_does_not_begin() {
    let (house, mut eu, mut us) = settled().await;
    house.build(6, "SUCCEEDED", "partial");
    house.estrange(6);
    let waiting = RolloutRequest { when_ready_s: Some(3600), ..deploy("b6") };
    house.ask(&waiting).await.unwrap();
    house.relate(6, 1, "descendant");
    house.replicated(6);
    let ended = house.until_state("r2", &mut [&mut eu, &mut us], Expired).await;
    assert!(ended.waiting_on.contains("is older than r1"), "{}", ended.waiting_on);
    assert_eq!(runs(&eu, &us), only(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_rollout_gives_way_to_newer_work_and_else_only_when_told() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&RolloutRequest { bake_s: Some(3600), ..deploy("b2") }).await.unwrap();
    let polite = RolloutRequest { on_conflict: Some(OnConflict::Fail), ..deploy("b3") };
    let refused = house.ask(&polite).await.unwrap_err();
    assert_eq!((refused.code, refused.title.as_str()), (Code::Conflict, "r2 is open in prod"));
    house.estrange(4);
    house.relate(4, 1, "ancestor");
    house.relate(4, 2, "apart");
    let refused = house.ask(&deploy("b4")).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.detail.contains("does not contain its commit"), "{refused:?}");
    assert!(refused.hints.iter().any(|hint| hint.ends_with("--on-conflict supersede")));
    assert_eq!(house.show("r2").await.release.state, Running);
    let told = RolloutRequest { on_conflict: Some(OnConflict::Supersede), ..deploy("b4") };
    house.ask(&told).await.unwrap();
    assert_eq!(house.show("r2").await.release.state, Superseded);
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_a_healthy_rollout_restart_once_when_its_place_is_taken() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&RolloutRequest { bake_s: Some(3600), ..deploy("b2") }).await.unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in")).await;
    assert_ne!(runs(&eu, &us), only(1), "a canary runs b2");
    house.ask(&RolloutRequest { bake_s: Some(3600), ..deploy("b3") }).await.unwrap();
    house.until("r3", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in")).await;
    let now = runs(&eu, &us);
    assert!(!now.is_disjoint(&only(3)), "a canary runs b3");
    // The canary of r2, unless r3 drew the same host.
    let back = now.iter().flatten().any(|digest| *digest == crate::house::artifact(2));
    let same = eu
        .hosts
        .iter()
        .chain(&us.hosts)
        .filter(|h| h.running.unwrap().artifact == crate::house::artifact(1))
        .count()
        == 7;
    assert!(back || same, "{now:?}");
}
