//! Freezes: what they stop, what passes, and what a rollout under way does.

use deployctl::model::rollout::RolloutState::{Paused, Pending, Running, Succeeded};
use deployctl::net::client::Client;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::event::Events;
use deployctl::wire::v1::fleet::Status;
use deployctl::wire::v1::freeze::{Freeze, Freezes};
use deployctl::wire::v1::rollout::RolloutRequest;
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, artifact, deploy, refused, rollback};
use crate::{only, runs, settled};

async fn freeze(by: &Client, body: Value) -> Freeze {
    refused(by.post("/v1/freezes", &body, PATIENCE).await).unwrap()
}

async fn end(by: &Client, freeze: &Freeze) -> Result<Freeze, Problem> {
    let path = format!("/v1/freezes/{}/end", freeze.freeze);
    refused(by.post(&path, &json!({}), PATIENCE).await)
}

fn window(env: &str) -> Value {
    json!({"app": "api", "env": env, "reason": "holidays", "lasts_s": 3600})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_stops_a_deploy_and_not_a_rollback() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let made = freeze(&house.admin, window("prod")).await;
    assert_eq!(made.freeze.to_string(), "f1");
    let stopped = house.ask(&deploy("b3")).await.unwrap_err();
    assert_eq!((stopped.code, stopped.title.as_str()), (Code::Blocked, "api in prod is frozen"));
    assert!(stopped.detail.contains("f1 by admin until"), "{}", stopped.detail);
    assert!(stopped.hints[0].ends_with("--break-glass -m WHY"), "{:?}", stopped.hints);
    let waits = RolloutRequest { when_ready_s: Some(60), ..deploy("b3") };
    assert_eq!(house.ask(&waits).await.unwrap_err().code, Code::Blocked);
    let there = house.ask(&deploy("b2")).await.unwrap();
    assert!(there.joined, "what is there already starts nothing");
    let elsewhere = RolloutRequest { dry_run: true, ..deploy("b3") };
    house.ask_in("staging", &elsewhere).await.unwrap();
    house.ask(&rollback("")).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    let status: Status = house.admin.get("/v1/status?app=api&env=prod", PATIENCE).await.unwrap();
    assert_eq!(status.apps[0].frozen.as_ref().unwrap().reason, "holidays");
    end(&house.admin, &made).await.unwrap();
    let listed: Freezes = house.admin.get("/v1/freezes", PATIENCE).await.unwrap();
    assert!(listed.freezes.is_empty(), "{listed:?}");
    assert_eq!(house.ask(&deploy("b3")).await.unwrap().release.state, Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_with_a_reason_breaks_the_glass_and_everybody_is_told() {
    let (house, mut eu, mut us) = settled().await;
    freeze(&house.admin, json!({"reason": "everything", "lasts_s": 60})).await;
    let broken = RolloutRequest { break_glass: true, ..deploy("b2") };
    assert_eq!(house.ask(&broken).await.unwrap_err().code, Code::Usage);
    let broken = RolloutRequest { message: "INC-1".into(), ..broken };
    let bob = house.holder("bob", "deployer").await;
    let path = "/v1/apps/api/envs/prod/rollouts";
    let forbidden = refused(bob.post::<Value>(path, &broken, PATIENCE).await).unwrap_err();
    assert_eq!(forbidden.code, Code::Forbidden);
    house.ask(&broken).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told: Vec<_> = events.events.iter().filter(|e| e.kind == "freeze.broken").collect();
    assert_eq!(told.len(), 1, "{events:?}");
    assert!(told[0].message.contains("INC-1") && told[0].actor == "admin", "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_way_pauses_where_its_next_step_would_begin() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    eu.follow().await;
    us.follow().await;
    let made = freeze(&house.admin, window("prod")).await;
    let regions = &mut [&mut eu, &mut us];
    let paused = house.until("r2", regions, |r| r.release.state == Paused).await;
    assert!(paused.release.reason.starts_with("frozen, f1 by admin"), "{paused:?}");
    assert_eq!(paused.step, 0);
    let moved = |region: &crate::region::FakeRegion| {
        region.hosts.iter().filter(|h| h.running.unwrap().artifact == artifact(2)).count()
    };
    assert_eq!((moved(&eu), moved(&us)), (1, 0), "no host beyond the canary");
    for verb in ["resume", "promote"] {
        assert_eq!(house.act("r2", verb).await.unwrap_err().code, Code::Blocked, "{verb}");
    }
    end(&house.admin, &made).await.unwrap();
    house.act("r2", "resume").await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_waits_for_its_build_waits_for_the_freeze_too() {
    let (house, mut eu, mut us) = settled().await;
    house.build(5, "SUCCEEDED", "partial");
    let waits = RolloutRequest { when_ready_s: Some(3600), ..deploy("b5") };
    assert_eq!(house.ask(&waits).await.unwrap().release.state, Pending);
    let made = freeze(&house.admin, window("prod")).await;
    house.replicated(5);
    let pending = house.until("r2", &mut [], |r| r.waiting_on.starts_with("frozen, f1")).await;
    assert_eq!(pending.release.state, Pending);
    end(&house.admin, &made).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_is_ended_by_its_owner_or_an_admin_and_has_bounds() {
    let house = House::open().await;
    let (bob, eve) = (house.holder("bob", "deployer").await, house.holder("eve", "deployer").await);
    let made = freeze(&bob, window("prod")).await;
    assert_eq!(end(&eve, &made).await.unwrap_err().code, Code::Forbidden);
    assert_eq!(end(&bob, &made).await.unwrap().ended_by.as_deref(), Some("bob"));
    assert!(end(&house.admin, &made).await.is_ok(), "what is over is over");
    let again = freeze(&bob, json!({"reason": "x", "starts_in_s": 60, "lasts_s": 60})).await;
    assert!(again.from < again.until && again.freeze.to_string() == "f2");
    let announced: Status = house.admin.get("/v1/status?app=api", PATIENCE).await.unwrap();
    assert!(announced.apps.iter().all(|env| env.frozen.is_none()), "not begun yet");
    for bad in [
        json!({"reason": "", "lasts_s": 60}),
        json!({"reason": "x", "lasts_s": 0}),
        json!({"reason": "x", "lasts_s": 31 * 86_400}),
        json!({"reason": "x", "lasts_s": 60, "starts_in_s": 91 * 86_400}),
    ] {
        let refusal = refused(bob.post::<Value>("/v1/freezes", &bad, PATIENCE).await).unwrap_err();
        assert_eq!(refusal.code, Code::Usage, "{bad}");
    }
    let nowhere = json!({"app": "api", "env": "moon", "reason": "x", "lasts_s": 60});
    let refusal = refused(bob.post::<Value>("/v1/freezes", &nowhere, PATIENCE).await).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}
