//! Rollouts through a real coordinator, with regions that speak the wire.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

#[path = "rollouts/approvals.rs"]
mod approvals;
#[path = "rollouts/canaries.rs"]
mod canaries;
#[path = "rollouts/configs.rs"]
mod configs;
#[path = "rollouts/freezes.rs"]
mod freezes;
#[path = "rollouts/gates.rs"]
mod gates;
#[path = "rollouts/history.rs"]
mod history;
#[path = "rollouts/holds.rs"]
mod holds;
#[path = "rollouts/house.rs"]
mod house;
#[path = "rollouts/older.rs"]
mod older;
#[path = "rollouts/plans.rs"]
mod plans;
#[path = "rollouts/prometheus.rs"]
mod prometheus;
#[path = "rollouts/region.rs"]
mod region;
#[path = "rollouts/webhooks.rs"]
mod webhooks;

use std::collections::BTreeSet;

use deployctl::model::fleet::Tally;
use deployctl::model::goal::{GoalVersion, bucket};
use deployctl::model::rollout::RolloutState::{
    Canceled, Failed, Paused, Pending, Reverted, Running, Succeeded, Superseded,
};
use deployctl::model::rollout::{PlanName, RolloutKind};
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::fleet::{Completions, Hosts, Regions, Status};
use deployctl::wire::v1::region::{EnvTally, Feed, FeedRequest};
use deployctl::wire::v1::rollout::{Releases, Rollout, RolloutRequest};
use serde_json::json;

use crate::house::{House, PATIENCE, artifact, commit, deploy, rollback};
use crate::region::FakeRegion;

/// A coordinator, two regions of four hosts, and r1 = b1 on all of them.
async fn settled() -> (House, FakeRegion, FakeRegion) {
    let house = House::open().await;
    for n in 1..=4 {
        house.build(n, "SUCCEEDED", "complete");
    }
    let (mut eu, mut us) = (house.region("eu", 4), house.region("us", 4));
    eu.live().await;
    us.live().await;
    let first = house.ask(&deploy("b1")).await.unwrap();
    assert_eq!(first.release.release.to_string(), "r1");
    house.until_state("r1", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    (house, eu, us)
}

fn runs(eu: &FakeRegion, us: &FakeRegion) -> BTreeSet<Option<deployctl::model::digest::Digest>> {
    eu.running().union(&us.running()).copied().collect()
}

fn only(n: u64) -> BTreeSet<Option<deployctl::model::digest::Digest>> {
    BTreeSet::from([Some(artifact(n))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_step_of_a_large_fleet_admits_a_twentieth_of_whom_can_be_reached() {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "complete");
    // Each report carries its hosts; together they are more than `WITHIN_MAX` in the coordinator.
    for name in ["eu", "us"] {
        let mut region = house.region(name, 1_200);
        region.hosts.iter_mut().take(200).for_each(|host| host.reachable = false);
        region.live().await;
    }
    let rollout = house.ask(&deploy("b1")).await.unwrap();
    assert_eq!(rollout.release.state, Running);
    let salt = rollout.release.version.unwrap().generation.to_string();
    let first = &rollout.steps[0];
    for name in ["eu", "us"] {
        let hosts = (200..1_200).map(|n| format!("{name}-{n}").parse().unwrap());
        let app = rollout.release.app.clone();
        let admitted = hosts.filter(|host| bucket(&salt, &app, host) < first.admit[name]).count();
        // A twentieth of a region's hosts that can be reached, and twins in the last bucket.
        assert!((50..55).contains(&admitted), "{admitted} of {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_goes_canary_first_and_ends_everywhere() {
    let (house, mut eu, mut us) = settled().await;
    let rollout = house.ask(&deploy(&commit(2)[..9])).await.unwrap();
    assert_eq!((rollout.release.state, rollout.joined), (Running, false));
    assert_eq!(rollout.steps[0].name, "canary eu");
    assert_eq!(rollout.base.unwrap().release.to_string(), "r1");
    eu.follow().await;
    us.follow().await;
    let moved = |region: &FakeRegion| {
        region.hosts.iter().filter(|h| h.running.unwrap().artifact == artifact(2)).count()
    };
    assert_eq!((moved(&eu), moved(&us)), (1, 0), "the canary is one host");
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    assert_eq!(done.waiting_on, "8 of 8 hosts on r2");
    assert_eq!(done.regions.values().map(|tally| tally.healthy).sum::<u32>(), 8);
    assert!(done.release.ended_at.is_some());
    let history: Releases =
        house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    let numbers: Vec<String> =
        history.releases.iter().map(|release| release.release.to_string()).collect();
    assert_eq!(numbers, ["r2", "r1"]);
    let status: Status = house.admin.get("/v1/status?app=api", PATIENCE).await.unwrap();
    assert_eq!(status.apps.len(), 2);
    assert_eq!(status.apps[0].current.as_ref().unwrap().release.to_string(), "r2");
    assert!(status.apps[0].rollout.is_none() && status.apps[1].current.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_reverts_itself_and_is_refused_afterwards() {
    let (house, mut eu, mut us) = settled().await;
    eu.broken.insert(artifact(2));
    us.broken.insert(artifact(2));
    house.ask(&deploy("b2")).await.unwrap();
    let ended = house.until_state("r2", &mut [&mut eu, &mut us], Reverted).await;
    assert_eq!(runs(&eu, &us), only(1));
    assert!(ended.release.bad);
    assert!(ended.waiting_on.contains("2 hosts failed: exited with code 3"), "{ended:?}");
    assert!(ended.waiting_on.contains("hosts are back on r1"));
    let refused = house.ask(&deploy("b2")).await.unwrap_err();
    assert_eq!(refused.code, Code::Blocked);
    assert!(refused.hints[0].contains("--allow-bad"));
    let status: Status = house.admin.get("/v1/status?app=api&env=prod", PATIENCE).await.unwrap();
    assert_eq!(status.apps[0].current.as_ref().unwrap().release.to_string(), "r1");
    let again = RolloutRequest { allow_bad: true, ..deploy("b2") };
    (eu.broken, us.broken) = (BTreeSet::new(), BTreeSet::new());
    house.ask(&again).await.unwrap();
    let ended = house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert!(!ended.release.bad);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_first_release_fails_since_nothing_ran_before() {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "complete");
    let mut eu = house.region("eu", 4);
    eu.broken.insert(artifact(1));
    eu.live().await;
    house.ask(&deploy("b1")).await.unwrap();
    let ended = house.until_state("r1", &mut [&mut eu], Failed).await;
    assert!(ended.waiting_on.contains("no release to go back to"), "{}", ended.waiting_on);
    eu.broken.clear();
    let retried = house.retry("r1").await.unwrap();
    assert_eq!(retried.release.state, Running);
    house.until_state("r1", &mut [&mut eu], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollbacks_go_further_back_each_time_and_never_toggle() {
    let (house, mut eu, mut us) = settled().await;
    for (n, release) in [(2, "r2"), (3, "r3")] {
        house.ask(&deploy(&format!("b{n}"))).await.unwrap();
        house.until_state(release, &mut [&mut eu, &mut us], Succeeded).await;
    }
    let back = house.ask(&rollback("")).await.unwrap();
    assert_eq!(back.release.kind, RolloutKind::Rollback);
    assert_eq!(back.release.same_as.unwrap().to_string(), "r2");
    let again = house.ask(&rollback("")).await.unwrap();
    assert!(again.joined && again.release.release == back.release.release);
    let refused = house.ask(&deploy("b4")).await.unwrap_err();
    assert_eq!((refused.code, refused.title.as_str()), (Code::Blocked, "a rollback is under way"));
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    assert!(house.show("r3").await.release.bad);
    let further = house.ask(&rollback("")).await.unwrap();
    assert_eq!(further.release.same_as.unwrap().to_string(), "r1");
    house.until_state("r5", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    let none = house.ask(&rollback("")).await.unwrap_err();
    assert_eq!(none.code, Code::NotFound);
    assert_eq!(none.title, "api has no known-good release before r5 in prod");
    assert_eq!(
        none.detail,
        "r2 ran before it, but was marked bad; known-good is a release whose rollout succeeded, \
         until it is marked bad"
    );
    assert_eq!(none.hints[0], "deployctl rollback r2 -a api -e prod --allow-bad -m WHY");
    assert!(!none.hints.iter().any(|hint| hint.contains("REF")), "{none:?}");
    let bad = house.ask(&rollback("r3")).await.unwrap_err();
    assert_eq!(bad.code, Code::Blocked);
    let there = house.ask(&rollback("r1")).await.unwrap();
    assert!(there.joined, "r1's bits are there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_cuts_a_deploy_short() {
    let (house, mut eu, mut us) = settled().await;
    us.hosts[0].idle = true;
    house.ask(&RolloutRequest { plan: PlanName::AllAtOnce, ..deploy("b2") }).await.unwrap();
    house
        .until("r2", &mut [&mut eu, &mut us], |rollout| {
            rollout.regions.values().map(|tally| tally.healthy).sum::<u32>() == 7
        })
        .await;
    let shown = house.show("r2").await;
    assert_eq!(shown.waiting_on, "7 of 8 hosts on r2; waiting for 1");
    let back = house.ask(&rollback("")).await.unwrap();
    assert_eq!(back.release.same_as.unwrap().to_string(), "r1");
    assert_eq!(house.show("r2").await.release.state, Superseded);
    us.hosts[0].idle = false;
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deploy_takes_the_place_of_an_open_one() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    eu.follow().await;
    let newer = house.ask(&deploy("b3")).await.unwrap();
    let old = house.show("r2").await;
    assert_eq!(old.release.state, Superseded);
    assert_eq!(old.waiting_on, "superseded by r3");
    assert!(newer.release.version.unwrap().generation > old.release.version.unwrap().generation);
    assert_eq!(newer.base.unwrap().release.to_string(), "r1");
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_requests_make_one_rollout() {
    let (house, mut eu, mut us) = settled().await;
    let (one, two) = (deploy("b2"), deploy("b2"));
    let (one, two) = tokio::join!(house.ask(&one), house.ask(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.release.release, two.release.release);
    assert!(one.joined != two.joined);
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let there = house.ask(&deploy("b2")).await.unwrap();
    assert!(there.joined && there.release.release.to_string() == "r2");

    let send = async |key: &str, target: &str| {
        let request = house
            .admin
            .request(reqwest::Method::POST, "/v1/apps/api/envs/prod/rollouts")
            .header("Idempotency-Key", key)
            .json(&deploy(target));
        house.admin.send::<Rollout>(request, PATIENCE).await
    };
    assert!(!send("k1", "b3").await.unwrap().joined);
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    house.ask(&deploy("b4")).await.unwrap();
    let repeated = send("k1", "b3").await.unwrap();
    assert!(repeated.joined && repeated.release.release.to_string() == "r3");
    assert_eq!(send("k1", "b1").await.unwrap_err().code(), Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_waits_for_its_build_only_when_asked_to() {
    let (house, mut eu, mut us) = settled().await;
    house.build(5, "SUCCEEDED", "partial");
    house.build(6, "QUEUED", "");
    house.build(7, "FAILED", "");
    let refused = house.ask(&deploy("b5")).await.unwrap_err();
    assert_eq!(refused.code, Code::NotDeployable);
    assert_eq!(refused.detail, "replicated to 0 of 2 regions; eu is at 0%, us is at 0%");
    assert!(refused.hints[0].ends_with("--when-ready"), "{refused:?}");
    assert_eq!(house.ask(&deploy("b6")).await.unwrap_err().detail, "b6 is queued");
    let waiting = |target| RolloutRequest { when_ready_s: Some(3600), ..deploy(target) };
    let failed = house.ask(&waiting("b7")).await.unwrap_err();
    assert_eq!(
        (failed.code, failed.detail.as_str()),
        (Code::NotDeployable, "b7 failed: exit code 2")
    );
    assert_eq!(house.ask(&deploy("abcdef0")).await.unwrap_err().code, Code::NotDeployable);
    let pending = house.ask(&waiting("b5")).await.unwrap();
    assert_eq!(pending.release.state, Pending);
    assert_eq!(pending.waiting_on, "replicated to 0 of 2 regions; eu is at 0%, us is at 0%");
    assert!(pending.due_at.is_some() && pending.release.version.is_none());
    house.replicated(5);
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(5));
    let expiring = RolloutRequest { when_ready_s: Some(0), ..deploy("b6") };
    house.ask(&expiring).await.unwrap();
    let state = deployctl::model::rollout::RolloutState::Expired;
    house.until_state("r3", &mut [&mut eu, &mut us], state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_half_way_go_back_when_what_took_their_rollouts_place_never_begins() {
    let (house, mut eu, mut us) = settled().await;
    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b2") };
    house.ask(&slow).await.unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in")).await;
    assert_ne!(runs(&eu, &us), only(1));
    house.build(5, "SUCCEEDED", "pending");
    let patient = RolloutRequest { when_ready_s: Some(3600), ..deploy("b5") };
    assert_eq!(house.ask(&patient).await.unwrap().release.state, Pending);
    assert_eq!(house.show("r2").await.release.state, Superseded);
    house.cancel("r3", false).await.unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |r| r.release.state == Superseded).await;
    assert_eq!(runs(&eu, &us), only(1));
    assert_eq!(house.show("r3").await.release.state, Canceled);
    house.ask(&deploy("b3")).await.unwrap();
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_goes_on() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |rollout| rollout.step >= 1).await;
    let house = house.restart().await;
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    let next = house.ask(&rollback("r1")).await.unwrap();
    assert!(next.release.version.unwrap() > eu.version());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_older_generations_count_for_nothing() {
    let (house, mut eu, mut us) = settled().await;
    let old = eu.version();
    house.ask(&deploy("b2")).await.unwrap();
    let all = |version: GoalVersion| EnvTally {
        app: "api".parse().unwrap(),
        env: "prod".parse().unwrap(),
        tally: Tally {
            version,
            hosts: 4,
            admitted: 4,
            healthy: 4,
            settled: 4,
            failed: 4,
            ..Tally::default()
        },
    };
    eu.lie = Some(all(GoalVersion { step: 99, ..old }));
    us.lie = Some(all(GoalVersion { step: 99, ..old }));
    eu.live().await;
    us.live().await;
    let mut stamp = house.show("r2").await.stamp;
    for _ in 0..3 {
        let path = format!("/v1/apps/api/envs/prod/rollouts/r2?since={stamp}&wait_ms=1100");
        let seen: Rollout = house.admin.get(&path, PATIENCE).await.unwrap();
        assert_eq!((seen.step, seen.release.state), (0, Running), "{seen:?}");
        stamp = seen.stamp;
    }
    (eu.lie, us.lie) = (None, None);
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_cancels_promotes_and_pauses() {
    let (house, mut eu, mut us) = settled().await;
    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b2") };
    house.ask(&slow).await.unwrap();
    let baking = house
        .until("r2", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in"))
        .await;
    assert_eq!(baking.step, 0);
    assert_eq!(house.promote("r2", false).await.unwrap().step, 1);
    house.until("r2", &mut [&mut eu, &mut us], |r| r.waiting_on.starts_with("bake ends in")).await;
    let canceled = house.cancel("r2", false).await.unwrap();
    assert!(!canceled.release.state.is_final());
    let ended = house.until_state("r2", &mut [&mut eu, &mut us], Canceled).await;
    assert_eq!(runs(&eu, &us), only(1));
    assert!(ended.waiting_on.starts_with("canceled by admin; hosts are back on r1"));
    assert_eq!(house.cancel("r2", false).await.unwrap_err().code, Code::Conflict);

    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b3") };
    house.ask(&slow).await.unwrap();
    let path = "/v1/apps/api/envs/prod/rollouts/r3";
    let post = async |what: &str| {
        let path = format!("{path}/{what}");
        house.admin.post::<Rollout>(&path, &json!({}), PATIENCE).await.unwrap().release.state
    };
    assert_eq!(post("pause").await, Paused);
    assert_eq!(post("resume").await, Running);
    house.promote("r3", true).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_sent_again_is_followed_once() {
    let (house, _eu, _us) = settled().await;
    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b2") };
    house.ask(&slow).await.unwrap();
    let send = async |verb: &str, key: &str, body: serde_json::Value| {
        let path = format!("/v1/apps/api/envs/prod/rollouts/r2/{verb}");
        let request = house.admin.request(reqwest::Method::POST, &path).json(&body);
        let request = request.header("idempotency-key", key);
        house.admin.send::<Rollout>(request, PATIENCE).await
    };
    for _ in 0..3 {
        assert_eq!(send("promote", "k1", json!({})).await.unwrap().step, 1);
    }
    let other = send("promote", "k1", json!({"full": true})).await.unwrap_err();
    assert_eq!(other.code(), Code::Conflict);
    for _ in 0..2 {
        assert!(send("cancel", "k2", json!({})).await.is_ok());
    }
    // Refused: nothing was done, so the key is still free.
    assert_eq!(send("pause", "k3", json!({})).await.unwrap_err().code(), Code::Conflict);
    assert!(send("cancel", "k3", json!({"keep": true})).await.is_ok());
    let path = "/v1/apps/api/envs/prod/rollouts";
    let again = house.admin.request(reqwest::Method::POST, path).json(&deploy("b3"));
    let again = again.header("idempotency-key", "k3");
    let again = house.admin.send::<Rollout>(again, PATIENCE).await.unwrap_err();
    assert_eq!(again.code(), Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_of_one_region_leaves_the_other_alone() {
    let (house, mut eu, mut us) = settled().await;
    let limited = |request| RolloutRequest { regions: vec!["us".parse().unwrap()], ..request };
    house.ask(&limited(deploy("b2"))).await.unwrap();
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert!(done.waiting_on.contains("mixed on purpose"));
    assert_eq!((eu.running(), us.running()), (only(1), only(2)));
    house.ask(&limited(rollback("r1"))).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((eu.running(), us.running()), (only(1), only(1)));
    assert!(!house.show("r2").await.release.bad);
    house.ask(&deploy("b3")).await.unwrap();
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_hosts_pause_and_a_dark_region_is_skipped() {
    let (house, mut eu, mut us) = settled().await;
    for host in &mut us.hosts {
        host.reachable = false;
    }
    us.live().await;
    house.ask(&deploy("b2")).await.unwrap();
    let done = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert!(done.waiting_on.contains("us was skipped"), "{}", done.waiting_on);
    for host in &mut us.hosts {
        host.reachable = true;
    }
    us.live().await;
    assert_eq!(runs(&eu, &us), only(2), "it converges when it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_counts_the_hosts_of_a_region_that_it_did_not_reach() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let there = us.hosts.len() as u32;
    for host in &mut us.hosts {
        host.reachable = false;
    }
    us.live().await;
    house.ask(&rollback("")).await.unwrap();
    // The region itself takes no goal any more: it is only its last report that is known.
    let done = house.until_state("r3", &mut [&mut eu], Succeeded).await;
    assert!(done.waiting_on.contains("us was skipped"), "{}", done.waiting_on);
    let left = &done.regions[&"us".parse().unwrap()];
    assert_eq!((left.hosts, left.unreachable), (there, there));
    for host in &mut us.hosts {
        host.reachable = true;
    }
    us.live().await;
    assert_eq!(runs(&eu, &us), only(1), "it goes back when it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_env_without_hosts_takes_a_deploy_and_says_so() {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "complete");
    house.ask(&deploy("@latest")).await.unwrap();
    let done = house.until_state("r1", &mut [], Succeeded).await;
    assert_eq!(done.waiting_on, "no hosts yet; hosts take it when they come");
    let mut eu = house.region("eu", 2);
    eu.live().await;
    assert_eq!(eu.running(), only(1));
    let promoted = house.ask_in("staging", &deploy("prod:@")).await.unwrap();
    assert_eq!(promoted.release.artifact, Some(artifact(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_name_nothing_get_one_clear_problem() {
    let (house, _eu, _us) = settled().await;
    let code = |answer: Result<Rollout, Problem>| answer.unwrap_err().code;
    let ask = async |request: RolloutRequest| {
        let answer = house.ask(&request).await;
        let problem = answer.unwrap_err();
        assert!(!problem.title.is_empty(), "{problem:?}");
        problem
    };
    assert_eq!(code(house.ask_in("qa", &deploy("b1")).await), Code::NotFound);
    assert_eq!(ask(deploy("")).await.code, Code::Usage);
    assert_eq!(ask(deploy("main")).await.code, Code::Usage);
    assert_eq!(ask(deploy("@~x")).await.code, Code::Usage);
    assert_eq!(ask(deploy("b99")).await.code, Code::NotFound);
    assert_eq!(ask(deploy("r99")).await.code, Code::NotFound);
    assert_eq!(ask(deploy("qa:@")).await.code, Code::NotFound);
    assert_eq!(ask(deploy("staging:@")).await.code, Code::NotFound);
    assert_eq!(ask(deploy("@~")).await.code, Code::NotFound);
    let elsewhere = RolloutRequest { regions: vec!["mars".parse().unwrap()], ..deploy("b2") };
    let problem = ask(elsewhere).await;
    assert_eq!((problem.code, problem.detail.as_str()), (Code::NotFound, "there are eu, us"));
    let stale = RolloutRequest { expect_generation: Some(99), ..deploy("b2") };
    assert_eq!(ask(stale).await.code, Code::Conflict);
    let dry = RolloutRequest { dry_run: true, ..deploy("b2") };
    let shown = house.ask(&dry).await.unwrap();
    assert_eq!(shown.steps.len(), 5);
    let history: Releases =
        house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    assert_eq!(history.releases.len(), 1, "a dry run leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_tells_each_change_once_and_everything_to_a_stranger() {
    let (house, mut eu, us) = settled().await;
    assert_eq!(eu.wanted.len(), 4);
    let quiet = eu.feed(eu.revision, 0).await;
    assert!(!quiet.full && quiet.goals.is_empty() && quiet.artifacts.is_empty());
    let all = eu.feed(0, 0).await;
    assert!(all.full && all.goals.len() == 1 && all.artifacts.len() == 4);
    let stranger = eu.feed(all.revision + 1000, 0).await;
    assert!(stranger.full && stranger.revision == all.revision);
    let request = deploy("b2");
    let (news, _) = tokio::join!(eu.feed(eu.revision, 50_000), house.ask(&request));
    assert_eq!(news.goals.len(), 1);
    eu.live().await;
    let token = json!({ "name": "h", "role": "agent", "region": "us" });
    let _: serde_json::Value = house.admin.post("/v1/tokens", &token, PATIENCE).await.unwrap();
    assert!(eu.feed(eu.revision, 0).await.verifiers.is_none(), "not a token of this region");
    assert_eq!(us.feed(us.revision, 0).await.verifiers.unwrap().tokens.len(), 2);
    let request = FeedRequest { region: us.name.clone(), since: 0, wait_ms: 0 };
    let forged = house.region("eu", 0).post::<Feed>("/v1/region/feed", &request).await;
    assert_eq!(forged.unwrap_err().code(), Code::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_regions_are_listed_and_completed() {
    let (house, _eu, _us) = settled().await;
    let get = async |path: &str| house.admin.get::<Hosts>(path, PATIENCE).await;
    let hosts = get("/v1/hosts?app=api&env=prod&region=us&limit=3").await.unwrap();
    assert_eq!((hosts.hosts.len(), hosts.total), (3, 4));
    assert_eq!(get("/v1/hosts?host=eu-2").await.unwrap().total, 1);
    assert_eq!(get("/v1/hosts?host=eu_2").await.unwrap().total, 0);
    assert_eq!(get("/v1/hosts?region=mars").await.unwrap_err().code(), Code::NotFound);
    let regions: Regions = house.admin.get("/v1/regions", PATIENCE).await.unwrap();
    let counts: Vec<(u64, u64)> =
        regions.regions.iter().map(|region| (region.hosts, region.owed)).collect();
    assert_eq!(counts, [(4, 4), (4, 4)]);
    let complete = async |query: &str| {
        let path = format!("/v1/complete?{query}");
        let names: Completions = house.admin.get(&path, PATIENCE).await.unwrap();
        names.names.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(complete("kind=app&prefix=a").await, ["api"]);
    assert_eq!(complete("kind=env&app=api").await, ["prod", "staging"]);
    assert_eq!(complete("kind=region").await, ["eu", "us"]);
    assert_eq!(complete("kind=release&app=api&env=prod").await, ["r1"]);
    assert_eq!(complete("kind=build&app=api&prefix=b4").await, ["b4"]);
    assert_eq!(complete("kind=host&prefix=us-3").await, ["us-3"]);
}
