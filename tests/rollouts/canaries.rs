//! `deploy --hosts`: named hosts go first, and a person says when the rest follows.

use deployctl::model::rollout::RolloutState::{
    Canceled, Paused, Pending, Reverted, Reverting, Running, Succeeded, Superseded,
};
use deployctl::model::rollout::{PlanName, Unavailable};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::{Rollout, RolloutRequest};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, artifact, deploy, rollback};
use crate::region::FakeRegion;
use crate::{only, runs, settled};

fn first(hosts: &str, target: &str) -> RolloutRequest {
    RolloutRequest { hosts: Some(hosts.parse().unwrap()), ..deploy(target) }
}

/// Which hosts have the build.
fn with(n: u64, regions: [&FakeRegion; 2]) -> Vec<String> {
    let hosts = regions.into_iter().flat_map(|region| &region.hosts);
    let has = hosts.filter(|host| host.running.is_some_and(|runs| runs.artifact == artifact(n)));
    has.map(|host| host.id.to_string()).collect()
}

async fn held(house: &House, release: &str, eu: &mut FakeRegion, us: &mut FakeRegion) -> Rollout {
    let held = house.until(release, &mut [eu, us], |r| r.release.state == Paused).await;
    assert!(held.release.reason.starts_with("held after the canary us-2: promote"), "{held:?}");
    let waits = "a person to promote the rest or cancel; the canary us-2 is done";
    assert_eq!(held.waiting_on, waits);
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_host_gets_it_and_no_other_until_it_is_promoted() {
    let (house, mut eu, mut us) = settled().await;
    let started = house.ask(&first("us-2", "b2")).await.unwrap();
    let names: Vec<&str> = started.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names[0], "canary us-2");
    assert!(names.len() > 2 && names[1..].iter().all(|name| !name.starts_with("canary")));
    assert_eq!(started.release.canary.as_ref().unwrap().asked, "us-2");
    assert!(started.release.plan_said().ends_with("after a canary of us-2"));
    assert!(house.ask(&first("us-2", "b2")).await.unwrap().joined);
    let seen = held(&house, "r2", &mut eu, &mut us).await;
    assert_eq!(with(2, [&eu, &us]), ["us-2"]);
    let tally = &seen.regions[&us.name];
    assert_eq!((tally.admitted, tally.healthy, tally.pinned), (1, 1, 0), "it counts");

    // It outlives a restart, and who comes late waits.
    let house = house.restart().await;
    eu.moves(house.region("eu", 0));
    let more = house.region("us", 6);
    us.hosts.extend(more.hosts.into_iter().skip(4));
    us.moves(house.region("us", 0));
    for _ in 0..3 {
        eu.live().await;
        us.live().await;
    }
    assert_eq!(with(2, [&eu, &us]), ["us-2"], "a late one is not let in");
    assert_eq!(house.show("r2").await.release.state, Paused);

    house.promote("r2", false).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    assert!(us.goals.values().all(|goal| goal.pins.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_canary_goes_back_by_cancel_and_by_rollback_and_gives_way_to_a_newer() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&first("us-2", "b2")).await.unwrap();
    held(&house, "r2", &mut eu, &mut us).await;
    house.cancel("r2", false).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Canceled).await;
    assert_eq!(runs(&eu, &us), only(1));

    house.ask(&first("us-*2", "b2")).await.unwrap();
    held(&house, "r3", &mut eu, &mut us).await;
    house.ask(&rollback("")).await.unwrap();
    house.until_state("r4", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(house.show("r3").await.release.state, Superseded);
    assert_eq!(runs(&eu, &us), only(1));

    house.ask(&first("us-2", "b3")).await.unwrap();
    held(&house, "r5", &mut eu, &mut us).await;
    house.ask(&deploy("b4")).await.unwrap();
    house.until_state("r6", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bits_have_nothing_to_go_back_to_and_a_way_back_counts_who_was_named() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&first("us-2", "b2")).await.unwrap();
    held(&house, "r2", &mut eu, &mut us).await;
    house.cancel("r2", false).await.unwrap();
    let back = house.show("r2").await;
    assert_eq!(back.release.state, Reverting, "{back:?}");
    assert!(back.waiting_on.starts_with("0 of 1 host is back"), "{}", back.waiting_on);
    let over = house.until_state("r2", &mut [&mut eu, &mut us], Canceled).await;
    assert!(over.release.reason.contains("hosts are back on r1"), "{over:?}");

    // A host is left on the second build, and the first goes out once more, to it first.
    house.ask(&first("us-2", "b2")).await.unwrap();
    held(&house, "r3", &mut eu, &mut us).await;
    house.cancel("r3", true).await.unwrap();
    house.ask(&first("us-2", "b1")).await.unwrap();
    held(&house, "r4", &mut eu, &mut us).await;
    let refused = house.ask(&rollback("")).await.unwrap_err();
    assert_eq!(refused.title, "r4 brings what r1 brought: nothing to go back to", "{refused:?}");
    assert_eq!(refused.hints[0], "deployctl cancel r4 -a api -e prod");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_goes_back_and_one_that_is_pinned_meanwhile_proves_nothing() {
    let (house, mut eu, mut us) = settled().await;
    us.broken.insert(artifact(2));
    house.ask(&first("us-2", "b2")).await.unwrap();
    let back = house.until_state("r2", &mut [&mut eu, &mut us], Reverted).await;
    assert!(back.release.bad && back.release.reason.contains("first: us-2"), "{back:?}");
    assert_eq!(runs(&eu, &us), only(1));
    assert!(us.goals.values().all(|goal| goal.pins.is_empty()));

    let pin =
        json!({ "app": "api", "host": "us-2", "release": "r1", "reason": "mine", "lasts_s": 900 });
    let _: Value = house.admin.post("/v1/holds", &pin, PATIENCE).await.unwrap();
    let refused = house.ask(&first("us-2", "b3")).await.unwrap_err();
    assert_eq!((refused.code, refused.title.as_str()), (Code::Blocked, "us-2 can't go first"));
    let started = house.ask(&first("us-3", "b3")).await.unwrap();
    assert_eq!(started.release.state, Running);
    let pin =
        json!({ "app": "api", "host": "us-3", "release": "r1", "reason": "mine", "lasts_s": 900 });
    let _: Value = house.admin.post("/v1/holds", &pin, PATIENCE).await.unwrap();
    eu.live().await;
    us.live().await;
    assert_eq!(with(3, [&eu, &us]), [""; 0], "a person's pin goes first");
    let shown = house.show("r3").await;
    let last = shown.gates.last().unwrap();
    assert!(last.why.contains("no host of the canary counts in us"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_go_first_is_refused_and_nothing_begins() {
    let (house, mut eu, mut us) = settled().await;
    eu.broken.insert(artifact(3));
    house.ask(&RolloutRequest { regions: vec![eu.name.clone()], ..deploy("b3") }).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Reverted).await;
    eu.hosts[3].reachable = false;
    eu.live().await;
    assert_eq!(house.ask(&first("us-2", "b3")).await.unwrap_err().code, Code::Blocked, "it is bad");
    let in_eu = |hosts| RolloutRequest { regions: vec![eu.name.clone()], ..first(hosts, "b2") };
    let most = Some("1".parse::<Unavailable>().unwrap());
    for (request, code, said, also) in [
        (first("us-*", "b2"), Code::Usage, "a canary of us-* does not fit", "4 of 7 hosts, and 1"),
        (first("us-*", "b2"), Code::Usage, "does not fit", "did you mean: --hosts us-0"),
        (first("us-*", "b2"), Code::Usage, "does not fit", "hosts --hosts 'us-*' -a api -e prod"),
        // A name that is mistyped comes before what else stands in the way.
        (first("us-22", "b9"), Code::NotFound, "no host us-22", "there is us-0, us-1"),
        (first("us-22", "b3"), Code::NotFound, "no host us-22", "there is us-0, us-1"),
        // Which of the others was meant nobody can tell.
        (first("us-22", "b2"), Code::NotFound, "no host us-22", "there is us-0, us-1, us-2, us-3"),
        (first("sus-2", "b2"), Code::NotFound, "no host sus-2", "did you mean: --hosts us-2"),
        (first("mars", "b2"), Code::NotFound, "there is no host mars", "deployctl hosts"),
        (
            first("rack=9", "b2"),
            Code::NotFound,
            "no host of api in prod matches rack=9",
            "label rack",
        ),
        (
            first("x-*", "b2"),
            Code::NotFound,
            "matches x-*",
            "there is eu-0, eu-1, eu-2, eu-3, us-0",
        ),
        (first("rack=9", "b2"), Code::NotFound, "rack=9", "no host has a label rack; they have"),
        (first("region=su", "b2"), Code::NotFound, "region=su", "there is region=eu, us"),
        (first("eu-3", "b2"), Code::Blocked, "eu-3 can't go first", "does not hear of it"),
        (in_eu("us-2"), Code::NotFound, "no host us-2", "us-2 is in us, and this goes to eu only"),
        (in_eu("us-*"), Code::NotFound, "us-*", "is 4 hosts in us, and this goes to eu only"),
        (
            RolloutRequest { plan: PlanName::AllAtOnce, ..first("us-2", "b2") },
            Code::Usage,
            "can't be named here",
            "all-at-once",
        ),
        (
            RolloutRequest { max_unavailable: most, ..first("us-2", "b2") },
            Code::Usage,
            "can't be named here",
            "max_unavailable",
        ),
        (
            RolloutRequest { hosts: first("us-2", "").hosts, ..rollback("") },
            Code::Usage,
            "can't be named here",
            "a rollback",
        ),
    ] {
        let refused = house.ask(&request).await.unwrap_err();
        let all = format!("{refused:?}");
        assert_eq!(refused.code, code, "{all}");
        assert!(refused.title.contains(said) && all.contains(also), "{all}");
    }
    // A pattern passes over who is away; the region is as good as a label.
    let begun = house.ask(&first("*-3,region=us", "b2")).await.unwrap();
    assert_eq!(begun.release.canary.unwrap().names(), "us-3");
    assert_eq!(runs(&eu, &us), only(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_and_well_is_not_tried_again() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&first("us-2", "b2")).await.unwrap();
    let seen = held(&house, "r2", &mut eu, &mut us).await;
    let refused = house.retry("r2").await.unwrap_err();
    assert_eq!((refused.code, refused.title.as_str()), (Code::Conflict, "r2 can't do that now"));
    assert_eq!(refused.detail, "no host has failed, and it waits for a person to go on");
    let ways = ["promote r2 -a api -e prod", "cancel r2 -a api -e prod", "rollback -a api -e prod"];
    assert_eq!(refused.hints, ways.map(|way| format!("deployctl {way}")));
    let now = house.show("r2").await;
    assert_eq!(
        (now.release.state, now.held, now.release.version),
        (Paused, true, seen.release.version)
    );

    // A host that fails while it is held has something to try again.
    us.broken.insert(artifact(2));
    let failed = |rollout: &Rollout| rollout.regions[&"us".parse().unwrap()].failed == 1;
    house.until("r2", &mut [&mut eu, &mut us], failed).await;
    us.broken.clear();
    assert_eq!(house.retry("r2").await.unwrap().release.state, Running);
    held(&house, "r2", &mut eu, &mut us).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_asked_says_so_and_has_not_begun() {
    let (house, _eu, _us) = settled().await;
    let asked = |request| RolloutRequest { dry_run: true, ..request };
    for request in [first("us-2", "b2"), deploy("b2")] {
        let planned = house.ask(&asked(request)).await.unwrap();
        assert!(planned.dry_run && !planned.joined, "{planned:?}");
        assert_eq!((planned.release.state, planned.due_at), (Pending, None));
        assert_eq!(planned.waiting_on, "it would begin at once");
        assert!(
            planned.steps.len() > 1 && planned.release.version.is_some(),
            "its hosts are drawn"
        );
    }
    let there = house.ask(&asked(deploy("b1"))).await.unwrap();
    assert!(there.dry_run && there.joined, "{there:?}");
    assert_eq!(there.release.state, Succeeded, "that is how it stands");
    let begun = house.ask(&deploy("b2")).await.unwrap();
    assert_eq!((begun.release.state, begun.dry_run), (Running, false));
    let back = house.ask(&asked(rollback(""))).await.unwrap();
    assert_eq!((back.release.state, back.dry_run), (Pending, true));
    assert_eq!(house.show("r2").await.release.state, Running, "nothing took its place");
}
