//! What changed lately, whatever the app.

use deployctl::model::rollout::RolloutState::Succeeded;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::Releases;

use crate::house::{House, PATIENCE, deploy, refused};
use crate::settled;

async fn listed(house: &House, query: &str) -> Vec<String> {
    let path = format!("/v1/releases?{query}");
    let found: Releases = house.admin.get(&path, PATIENCE).await.unwrap();
    let place = |it: &deployctl::model::rollout::Release| format!("{} {}", it.env, it.release);
    found.releases.iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_of_every_env_are_listed_newest_first_and_by_the_coordinators_clock() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    house.ask_in("staging", &deploy("b2")).await.unwrap();
    let all = ["staging r1", "prod r2", "prod r1"];
    assert_eq!(listed(&house, "").await, all);
    assert_eq!(listed(&house, "app=api&within_s=3600").await, all);
    assert_eq!(listed(&house, "limit=2").await, all[..2]);
    assert_eq!(listed(&house, "env=prod").await, ["prod r2", "prod r1"]);
    let ages = "UPDATE releases SET created_at = created_at - 7200000 WHERE release = 1";
    house.db().execute(ages, []).unwrap();
    assert_eq!(listed(&house, "within_s=3600").await, ["prod r2"]);
    let aged = ["prod r2", "staging r1", "prod r1"];
    assert_eq!(listed(&house, "within_s=9000").await, aged);
    assert_eq!(listed(&house, "within_s=18446744073709551615").await, aged);
    let nobody = house.admin.get::<Releases>("/v1/releases?app=nobody", PATIENCE).await;
    assert_eq!(refused(nobody).unwrap_err().code, Code::NotFound);
    for query in ["env=nowhere", "app=api&env=nowhere"] {
        let none = house.admin.get::<Releases>(&format!("/v1/releases?{query}"), PATIENCE).await;
        let none = refused(none).unwrap_err();
        assert_eq!(none.code, Code::NotFound, "{none:?}");
        assert!(none.detail.contains("prod, staging"), "{none:?}");
    }
}
