//! Plans beside the standard one: where they hold, and what goes on from there.

use deployctl::model::rollout::PlanName;
use deployctl::model::rollout::RolloutState::{Failed, Paused, Succeeded};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::RolloutRequest;

use crate::house::{artifact, deploy, rollback};
use crate::{only, runs, settled};

fn careful(target: &str) -> RolloutRequest {
    RolloutRequest { plan: PlanName::Careful, ..deploy(target) }
}

#[tokio::test(flavor = "multi_thread")]
async fn careful_holds_after_the_first_wave_until_a_person_goes_on() {
    let (house, mut eu, mut us) = settled().await;
    for (target, release, verb) in [("b2", "r2", "resume"), ("b3", "r3", "promote")] {
        let n = target[1..].parse().unwrap();
        house.ask(&careful(target)).await.unwrap();
        let regions = &mut [&mut eu, &mut us];
        let held = house.until(release, regions, |r| r.release.state == Paused).await;
        assert!(held.release.reason.contains("the plan holds here"), "{held:?}");
        assert_eq!(eu.running(), only(n), "the first wave is done");
        assert!(!us.running().contains(&Some(artifact(n))), "and nothing else began");
        house.act(release, verb).await.unwrap();
        house.until_state(release, &mut [&mut eu, &mut us], Succeeded).await;
        assert_eq!(runs(&eu, &us), only(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promote_to_the_end_skips_the_hold() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&careful("b2")).await.unwrap();
    house.promote("r2", true).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_left_out_keeps_what_it_runs() {
    let (house, mut eu, mut us) = settled().await;
    let but = |names: &[&str]| {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        RolloutRequest { exclude_regions: names, ..deploy("b2") }
    };
    let started = house.ask(&but(&["us"])).await.unwrap();
    assert_eq!(started.release.regions, ["eu".parse().unwrap()]);
    assert!(house.ask(&but(&["us"])).await.unwrap().joined, "the same again is the same rollout");
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!((eu.running(), us.running()), (only(2), only(1)));

    let both = RolloutRequest { regions: vec!["eu".parse().unwrap()], ..but(&["us"]) };
    for (request, code, said) in [
        (but(&["mars"]), Code::NotFound, "there is no region mars"),
        (but(&["eu", "us"]), Code::Usage, "no region is left"),
        (both, Code::Usage, "not both"),
    ] {
        let refused = house.ask(&request).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.title.contains(said), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_release_that_was_told_to_stay_goes_nowhere_until_a_person_says() {
    let (house, mut eu, mut us) = settled().await;
    eu.broken.insert(artifact(2));
    us.broken.insert(artifact(2));
    house.ask(&RolloutRequest { no_auto_revert: true, ..deploy("b2") }).await.unwrap();
    let failed = house.until_state("r2", &mut [&mut eu, &mut us], Failed).await;
    assert!(failed.release.no_auto_revert && failed.release.bad, "{failed:?}");
    assert!(failed.release.reason.ends_with("hosts stay as they are: --no-auto-rollback"));
    let goal = eu.goals.values().next().unwrap();
    assert_eq!(goal.next.artifact, artifact(2), "no way back was published");
    assert_eq!(Some(goal.version.generation), failed.release.version.map(|v| v.generation));
    house.ask(&rollback("")).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(1));
    let stays = RolloutRequest { no_auto_revert: true, ..rollback("") };
    assert_eq!(house.ask(&stays).await.unwrap_err().code, Code::Usage);
}
