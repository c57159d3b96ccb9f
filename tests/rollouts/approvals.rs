//! Approvals: who may give one, what waits for them, and what does not.

use deployctl::model::rollout::PlanName;
use deployctl::model::rollout::RolloutState::{Canceled, Expired, Pending, Running, Succeeded};
use deployctl::net::client::Client;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::app::App;
use deployctl::wire::v1::event::Events;
use deployctl::wire::v1::rollout::{Rollout, RolloutRequest};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, artifact, deploy, refused, rollback};
use crate::region::FakeRegion;
use crate::{only, runs, settled};

async fn wants(house: &House, approvals: Value) -> Result<App, Problem> {
    let spec = json!({"name": "api", "repo": "file:///srv/api", "envs": ["prod", "staging"],
        "approvals": approvals});
    let request = house.admin.request(reqwest::Method::PUT, "/v1/apps/api").json(&spec);
    refused(house.admin.send(request, PATIENCE).await)
}

async fn says(by: &Client, release: &str, verb: &str) -> Result<Rollout, Problem> {
    let path = format!("/v1/apps/api/envs/prod/rollouts/{release}/{verb}");
    refused(by.post(&path, &json!({"message": "read it"}), PATIENCE).await)
}

/// r1 everywhere, and a deploy of b2 that waits for `approvals`.
async fn waiting(approvals: u32) -> (House, FakeRegion, FakeRegion) {
    let (house, eu, us) = settled().await;
    wants(&house, json!({"prod": approvals})).await.unwrap();
    let pending = house.ask(&deploy("b2")).await.unwrap();
    assert_eq!((pending.release.state, pending.release.approvals), (Pending, approvals));
    assert!(pending.release.version.is_none() && pending.due_at.is_some());
    (house, eu, us)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_waits_for_people_beside_who_asked() {
    let (house, mut eu, mut us) = waiting(2).await;
    let asked = "2 approvals, by somebody else than admin: deployctl approve r2 -a api -e prod";
    assert_eq!(house.show("r2").await.waiting_on, asked);
    assert!(house.ask(&deploy("b2")).await.unwrap().joined, "asked again it is the same");
    let own = says(&house.admin, "r2", "approve").await.unwrap_err();
    assert_eq!((own.code, own.title.as_str()), (Code::Forbidden, "r2 is your own"));
    let why = "admin asked for it, so somebody else must approve it with the line below";
    assert_eq!(own.detail, why);
    let (bob, eve) = (house.holder("bob", "deployer").await, house.holder("eve", "deployer").await);
    for _ in 0..2 {
        let once = says(&bob, "r2", "approve").await.unwrap();
        assert!(once.waiting_on.starts_with("1 more approval, by"), "{}", once.waiting_on);
    }
    eu.live().await;
    us.live().await;
    assert_eq!(runs(&eu, &us), only(1), "nothing moves before");
    says(&eve, "r2", "approve").await.unwrap();
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    let by: Vec<&str> = done.release.approved.iter().map(|given| given.by.as_str()).collect();
    assert_eq!(by, ["bob", "eve"]);
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told = |kind: &str| events.events.iter().filter(|event| event.kind == kind).count();
    assert_eq!((told("rollout.unapproved"), told("rollout.approved")), (1, 2));
    let late = says(&bob, "r2", "approve").await.unwrap_err();
    assert_eq!(late.code, Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_a_broken_glass_need_nobody() {
    let (house, mut eu, mut us) = waiting(1).await;
    let viewer = house.holder("vic", "viewer").await;
    assert_eq!(says(&viewer, "r2", "approve").await.unwrap_err().code, Code::Forbidden);
    let bob = house.holder("bob", "deployer").await;
    says(&bob, "r2", "approve").await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let back = house.ask(&rollback("")).await.unwrap();
    assert_eq!((back.release.state, back.release.approvals), (Running, 0));
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    let broken = RolloutRequest { break_glass: true, message: "INC-3".into(), ..deploy("b3") };
    assert_eq!(house.ask(&broken).await.unwrap().release.state, Running);
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told: Vec<_> = events.events.iter().filter(|e| e.kind == "approval.broken").collect();
    assert!(told.len() == 1 && told[0].message.contains("INC-3"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_or_not_approved_in_time_never_begins() {
    let (house, mut eu, mut us) = waiting(1).await;
    let bob = house.holder("bob", "deployer").await;
    let rejected = says(&bob, "r2", "reject").await.unwrap();
    assert_eq!(rejected.release.state, Canceled);
    assert_eq!(rejected.release.reason, "rejected by bob: read it");
    house.ask(&deploy("b3")).await.unwrap();
    let sql = "UPDATE releases SET rollout = json_set(rollout, '$.due_at', ?1) WHERE release = 3";
    house.db().execute(sql, ["1970-01-01T00:00:01.000Z"]).unwrap();
    let expired = house.until_state("r3", &mut [&mut eu, &mut us], Expired).await;
    assert_eq!(expired.release.reason, "not approved in time: 0 of 1 approvals");
    assert!(expired.release.blocked);
    assert_eq!(runs(&eu, &us), only(1));
    let open = says(&bob, "r1", "reject").await.unwrap_err();
    assert_eq!(open.code, Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_are_of_the_apps_envs_and_few() {
    let house = House::open().await;
    for bad in [json!({"moon": 1}), json!({"prod": 0}), json!({"prod": 6})] {
        let refusal = wants(&house, bad.clone()).await.unwrap_err();
        assert_eq!(refusal.code, Code::Usage, "{bad}");
        assert!(refusal.detail.starts_with("approvals"), "{refusal:?}");
    }
    let app = wants(&house, json!({"staging": 5})).await.unwrap();
    assert_eq!(app.spec.approvals.values().copied().collect::<Vec<_>>(), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_told_to_begin_spread_over_a_while_and_a_revert_is_not() {
    let (house, mut eu, mut us) = settled().await;
    let spread = RolloutRequest { spread_s: Some(600), bake_s: Some(3600), ..deploy("b2") };
    let started = house.ask(&spread).await.unwrap();
    let left = started.due_at.unwrap().since(started.release.created_at);
    assert_eq!(left.as_secs(), 600 + 600, "who may begin late is not late");
    eu.follow().await;
    assert_eq!(eu.goals.values().next().unwrap().spread_ms, 600_000);
    let regions = &mut [&mut eu, &mut us];
    house.until("r2", regions, |r| r.waiting_on.starts_with("bake ends in")).await;
    house.cancel("r2", false).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Canceled).await;
    assert_eq!(eu.goals.values().next().unwrap().spread_ms, 0);
    let slowly = RolloutRequest { spread_s: Some(30), allow_bad: true, ..rollback("r2") };
    house.ask(&slowly).await.unwrap();
    eu.follow().await;
    assert_eq!(eu.goals.values().next().unwrap().spread_ms, 30_000);
    let long = RolloutRequest { spread_s: Some(3601), ..deploy("b3") };
    assert_eq!(house.ask(&long).await.unwrap_err().code, Code::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_may_take_their_time_to_fetch_and_not_on_the_way_back() {
    let (house, mut eu, mut us) = settled().await;
    let paced = RolloutRequest { pace_s: Some(900), bake_s: Some(3600), ..deploy("b2") };
    let started = house.ask(&paced).await.unwrap();
    let left = started.due_at.unwrap().since(started.release.created_at);
    assert_eq!(left.as_secs(), 600 + 900, "who may take its time is not late");
    eu.follow().await;
    assert_eq!(eu.goals.values().next().unwrap().pace_ms, 900_000);
    house.cancel("r2", false).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Canceled).await;
    assert_eq!(eu.goals.values().next().unwrap().pace_ms, 0);
    let back = RolloutRequest { pace_s: Some(30), allow_bad: true, ..rollback("r2") };
    assert_eq!(house.ask(&back).await.unwrap_err().code, Code::Usage);
    let long = RolloutRequest { pace_s: Some(3601), ..deploy("b3") };
    assert_eq!(house.ask(&long).await.unwrap_err().code, Code::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_permits_one_host_of_a_region_is_let_in_after_the_other() {
    let (house, mut eu, mut us) = settled().await;
    let one: RolloutRequest = RolloutRequest {
        plan: PlanName::AllAtOnce,
        max_unavailable: Some("1".parse().unwrap()),
        ..deploy("b2")
    };
    us.hosts[2].idle = true;
    house.ask(&one).await.unwrap();
    let on_2 = |region: &FakeRegion| {
        region.hosts.iter().filter(|h| h.running.unwrap().artifact == artifact(2)).count()
    };
    // Each takes the goal that it finds: between two looks one host of each may move.
    let mut before = (0, 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while on_2(&eu) < 4 {
        for region in [&mut eu, &mut us] {
            region.live().await;
        }
        let now = (on_2(&eu), on_2(&us));
        assert!(now.0 <= before.0 + 1 && now.1 <= before.1 + 1, "{before:?} then {now:?}");
        before = now;
        assert!(std::time::Instant::now() < deadline, "{now:?}");
    }
    let shown = house.show("r2").await;
    assert_eq!(shown.release.state, Running, "us has one that does not move, and waits for it");
    assert!(shown.waiting_on.ends_with("; one host of a region at a time"), "{shown:?}");
    us.hosts[2].idle = false;
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
}
