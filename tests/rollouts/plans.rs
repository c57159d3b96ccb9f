//! Plans beside the standard one: where they hold, and what goes on from there.

use deployctl::model::rollout::PlanName;
use deployctl::model::rollout::RolloutState::{Paused, Succeeded};
use deployctl::wire::v1::rollout::RolloutRequest;

use crate::house::{artifact, deploy};
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
