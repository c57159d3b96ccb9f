//! Holds and pins: what they keep where it is, what passes, and what a rollback says.

use deployctl::model::id::HostId;
use deployctl::model::rollout::RolloutState::{Paused, Reverted, Running, Succeeded};
use deployctl::net::client::Client;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::event::Events;
use deployctl::wire::v1::fleet::Status;
use deployctl::wire::v1::hold::{Hold, Holds};
use deployctl::wire::v1::rollout::{EnvStatus, RolloutRequest};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, artifact, deploy, refused, rollback};
use crate::region::FakeRegion;
use crate::{only, runs, settled};

async fn ask(by: &Client, body: Value) -> Result<Hold, Problem> {
    refused(by.post("/v1/holds", &body, PATIENCE).await)
}

async fn end(by: &Client, hold: &Hold) -> Result<Hold, Problem> {
    refused(by.post(&format!("/v1/holds/{}/end", hold.hold), &json!({}), PATIENCE).await)
}

async fn standing(house: &House) -> Vec<Hold> {
    house.admin.get::<Holds>("/v1/holds", PATIENCE).await.unwrap().holds
}

async fn prod(house: &House) -> EnvStatus {
    let path = "/v1/status?app=api&env=prod";
    house.admin.get::<Status>(path, PATIENCE).await.unwrap().apps.remove(0)
}

/// The number of the artifact that a host runs.
fn on(region: &FakeRegion, host: usize) -> u64 {
    let runs = region.hosts[host].running.unwrap().artifact;
    (1..=9).find(|n| artifact(*n) == runs).unwrap()
}

fn of_host(host: &str, release: Option<&str>) -> Value {
    json!({"app": "api", "host": host, "release": release, "reason": "a core dump",
        "lasts_s": 3600})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_app_is_not_deployed_and_is_rolled_back() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let bob = house.holder("bob", "deployer").await;
    let body = json!({"app": "api", "env": "prod", "reason": "INC-1", "lasts_s": 3600});
    let made = ask(&bob, body).await.unwrap();
    let stopped = house.ask(&deploy("b3")).await.unwrap_err();
    assert_eq!((stopped.code, stopped.title.as_str()), (Code::Blocked, "api in prod is held"));
    assert!(stopped.detail.starts_with("h1 by bob until"), "{}", stopped.detail);
    assert!(stopped.hints.contains(&"deployctl hold end h1".to_owned()), "{:?}", stopped.hints);
    assert_eq!(prod(&house).await.held.unwrap().reason, "INC-1");
    let elsewhere = RolloutRequest { dry_run: true, ..deploy("b3") };
    house.ask_in("staging", &elsewhere).await.unwrap();
    house.ask(&rollback("")).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    let broken = RolloutRequest { break_glass: true, message: "INC-2".into(), ..deploy("b3") };
    house.ask(&broken).await.unwrap();
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told: Vec<_> = events.events.iter().filter(|e| e.kind == "hold.broken").collect();
    assert!(told.len() == 1 && told[0].message.contains("INC-2"), "{events:?}");
    // Whoever is there may release it: nobody has to find bob at night.
    let eve = house.holder("eve", "deployer").await;
    assert_eq!(end(&eve, &made).await.unwrap().ended_by.as_deref(), Some("eve"));
    assert!(standing(&house).await.is_empty());
    house.ask(&deploy("b4")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_way_pauses_at_a_hold_and_goes_on_when_it_is_released() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    eu.follow().await;
    let body = json!({"reason": "everybody stops", "lasts_s": 3600});
    let made = ask(&house.admin, body).await.unwrap();
    let regions = &mut [&mut eu, &mut us];
    let paused = house.until("r2", regions, |r| r.release.state == Paused).await;
    assert!(paused.release.reason.starts_with("held, h1 by admin"), "{paused:?}");
    assert_eq!(house.act("r2", "resume").await.unwrap_err().code, Code::Blocked);
    end(&house.admin, &made).await.unwrap();
    house.act("r2", "resume").await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_host_stays_where_it_is_and_follows_when_it_is_released() {
    let (house, mut eu, mut us) = settled().await;
    let hold = ask(&house.admin, of_host("eu-1", None)).await.unwrap();
    assert_eq!(hold.env.as_ref().unwrap().as_str(), "prod");
    assert_eq!(hold.region.as_ref().unwrap().as_str(), "eu");
    house.ask(&deploy("b2")).await.unwrap();
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((on(&eu, 1), on(&eu, 0), on(&us, 1)), (1, 2, 2));
    assert_eq!(done.waiting_on, "7 of 7 hosts on r2; 1 held or pinned host stays where it is");
    assert_eq!(done.regions.values().map(|tally| tally.pinned).sum::<u32>(), 1);
    assert_eq!(prod(&house).await.pins, std::slice::from_ref(&hold));
    end(&house.admin, &hold).await.unwrap();
    eu.live().await;
    assert_eq!(on(&eu, 1), 2, "it follows the goal that stood meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_but_the_canaries_pin_decides_who_the_canary_is() {
    let (house, mut eu, mut us) = settled().await;
    for n in [0, 1, 3] {
        ask(&house.admin, of_host(&format!("eu-{n}"), Some("r1"))).await.unwrap();
    }
    house.ask(&deploy("b2")).await.unwrap();
    eu.follow().await;
    us.follow().await;
    assert_eq!((on(&eu, 2), on(&us, 0)), (2, 1), "the canary is the one that is free");
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!([0, 1, 3].map(|n| on(&eu, n)), [1, 1, 1]);
    assert!(done.waiting_on.starts_with("5 of 5 hosts on r2; 3 held"), "{}", done.waiting_on);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_pinned_whole_is_left_out_and_blocks_nobody() {
    let (house, mut eu, mut us) = settled().await;
    let body = json!({"app": "api", "env": "prod", "region": "eu", "release": "@",
        "reason": "INC-1", "lasts_s": 3600});
    let pin = ask(&house.admin, body).await.unwrap();
    assert_eq!(pin.at.unwrap().release.to_string(), "r1");
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((on(&eu, 0), on(&eu, 3), on(&us, 0), on(&us, 3)), (1, 1, 2, 2));
    house.ask(&deploy("b3")).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    end(&house.admin, &pin).await.unwrap();
    eu.live().await;
    assert_eq!((0..4).map(|n| on(&eu, n)).collect::<Vec<_>>(), [3; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_tries_a_release_ahead_and_the_rollback_of_it_ends_its_pin() {
    let (house, mut eu, mut us) = settled().await;
    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b2") };
    house.ask(&slow).await.unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in")).await;
    ask(&house.admin, of_host("us-3", Some("r2"))).await.unwrap();
    let elsewhere = ask(&house.admin, of_host("us-0", Some("r1"))).await.unwrap();
    us.live().await;
    assert_eq!((on(&us, 3), on(&us, 2)), (2, 1), "pinned ahead of its step");
    house.ask(&rollback("")).await.unwrap();
    let back = house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1), "nobody stays on what was rolled back");
    assert!(back.waiting_on.ends_with("; 1 held or pinned host stays where it is"), "{back:?}");
    assert_eq!(standing(&house).await, [elsewhere], "the other pin is not the rollback's business");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_that_reverts_leaves_no_host_pinned_to_it() {
    let (house, mut eu, mut us) = settled().await;
    eu.broken.insert(artifact(2));
    house.ask(&RolloutRequest { bake_s: Some(3600), ..deploy("b2") }).await.unwrap();
    ask(&house.admin, of_host("us-3", Some("r2"))).await.unwrap();
    us.live().await;
    assert_eq!(on(&us, 3), 2);
    house.until_state("r2", &mut [&mut eu, &mut us], Reverted).await;
    assert_eq!(runs(&eu, &us), only(1));
    assert!(standing(&house).await.is_empty());
    let again = ask(&house.admin, of_host("us-3", Some("r2"))).await.unwrap_err();
    assert_eq!(again.code, Code::Blocked, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_says_whom_it_did_not_move_and_moves_them_when_told_to() {
    let (house, mut eu, mut us) = settled().await;
    for (n, release) in [(2, "r2"), (3, "r3")] {
        house.ask(&deploy(&format!("b{n}"))).await.unwrap();
        house.until_state(release, &mut [&mut eu, &mut us], Succeeded).await;
    }
    ask(&house.admin, of_host("eu-0", None)).await.unwrap();
    ask(&house.admin, of_host("us-0", None)).await.unwrap();
    house.ask(&rollback("")).await.unwrap();
    let back = house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((on(&eu, 0), on(&us, 0), on(&eu, 1)), (3, 3, 2));
    assert!(back.waiting_on.ends_with("2 held or pinned hosts stay where they are"), "{back:?}");
    let only_eu =
        RolloutRequest { unpin: true, regions: vec!["eu".parse().unwrap()], ..rollback("r1") };
    house.ask(&only_eu).await.unwrap();
    house.until_state("r5", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((on(&eu, 0), on(&us, 0)), (1, 3), "only where it goes");
    let left: Vec<HostId> = standing(&house).await.into_iter().filter_map(|h| h.host).collect();
    assert_eq!(left, ["us-0".parse().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_ends_by_itself_and_a_newer_one_takes_the_place_of_an_older() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    ask(&house.admin, of_host("eu-0", Some("r2"))).await.unwrap();
    let newer = ask(&house.admin, of_host("eu-0", Some("r1"))).await.unwrap();
    assert_eq!(standing(&house).await, std::slice::from_ref(&newer));
    eu.live().await;
    assert_eq!(on(&eu, 0), 1);
    let sql = "UPDATE holds SET until_at = from_at + 1 WHERE ended_at IS NULL";
    house.db().execute(sql, []).unwrap();
    let regions = &mut [&mut eu, &mut us];
    house.until("r2", regions, |r| r.regions.values().all(|tally| tally.pinned == 0)).await;
    eu.live().await;
    assert_eq!(on(&eu, 0), 2);
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told: Vec<&str> =
        events.events.iter().filter(|e| e.kind == "hold.ended").map(|e| &*e.message).collect();
    assert!(told.len() == 2 && told[0].contains("gave way"), "{told:?}");
    assert!(told[1].contains(&format!("the time of {} is over", newer.hold)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_held_or_pinned_is_refused_with_the_reason() {
    let (house, _eu, _us) = settled().await;
    let refusals = [
        (of_host("moon-1", None), Code::NotFound, "there is no host moon-1"),
        (of_host("eu-1", Some("r9")), Code::NotFound, "api has no release r9 in prod"),
        (of_host("eu-1", Some("b2")), Code::NotFound, "was never deployed to prod"),
        (json!({"region": "moon", "reason": "x", "lasts_s": 1}), Code::NotFound, "no region moon"),
        (json!({"app": "moon", "reason": "x", "lasts_s": 1}), Code::NotFound, "moon"),
        (json!({"reason": "", "lasts_s": 1}), Code::Usage, "out of bounds"),
        (json!({"reason": "x", "lasts_s": 0}), Code::Usage, "out of bounds"),
        (json!({"reason": "x", "lasts_s": 31 * 86_400}), Code::Usage, "out of bounds"),
        (
            json!({"app": "api", "release": "r1", "reason": "x", "lasts_s": 1}),
            Code::Usage,
            "out of bounds",
        ),
        (
            json!({"region": "eu", "release": "r1", "reason": "x", "lasts_s": 1}),
            Code::Usage,
            "one app and env",
        ),
        (
            json!({"env": "staging", "host": "eu-1", "reason": "x", "lasts_s": 1}),
            Code::NotFound,
            "eu-1 serves prod",
        ),
    ];
    for (body, code, title) in refusals {
        let refusal = ask(&house.admin, body.clone()).await.unwrap_err();
        assert_eq!(refusal.code, code, "{body} {refusal:?}");
        assert!(refusal.title.contains(title), "{body} {refusal:?}");
    }
    let viewer = house.holder("vic", "viewer").await;
    assert_eq!(ask(&viewer, of_host("eu-1", None)).await.unwrap_err().code, Code::Forbidden);
    assert!(standing(&house).await.is_empty());
    assert_eq!(house.ask(&deploy("b2")).await.unwrap().release.state, Running);
}
