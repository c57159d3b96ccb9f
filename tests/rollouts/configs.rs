//! A config beside the code: a release of its own, in every way.

use std::collections::BTreeSet;

use deployctl::model::config::CONFIG_BYTES_MAX;
use deployctl::model::digest::{ConfigId, Digest};
use deployctl::model::rollout::RolloutState::{Reverted, Running, Succeeded, Superseded};
use deployctl::net::client::CallError;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::config::{Config, ConfigWish};
use deployctl::wire::v1::rollout::RolloutRequest;

use crate::house::{House, PATIENCE, artifact, deploy, rollback};
use crate::region::FakeRegion;
use crate::settled;

fn with(target: &str, text: &str) -> RolloutRequest {
    RolloutRequest { config: Some(ConfigWish::Text(text.into())), ..deploy(target) }
}

fn id(text: &str) -> Option<ConfigId> {
    Some(Digest::of(text.as_bytes()))
}

fn configs(regions: [&FakeRegion; 2]) -> BTreeSet<Option<ConfigId>> {
    let hosts = regions.into_iter().flat_map(|region| &region.hosts);
    hosts.map(|host| host.running.unwrap().config).collect()
}

/// `request` until it succeeded, as `release`.
async fn done(
    house: &House,
    (eu, us): (&mut FakeRegion, &mut FakeRegion),
    request: &RolloutRequest,
    release: &str,
) {
    let asked = house.ask(request).await.unwrap();
    assert_eq!((asked.release.release.to_string().as_str(), asked.joined), (release, false));
    house.until_state(release, &mut [eu, us], Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_config_is_deployed_beside_a_coordinator_that_would_drop_it() {
    let (house, _eu, _us) = settled().await;
    let db = rusqlite::Connection::open(house.folder.path().join("data/coordinator.db")).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    // As an older release says that it works, an hour ahead of its last word.
    let said = "INSERT INTO coordinators (id, version, url, started_at, seen_at)
                VALUES ('old', '0.0.9', 'http://old:7878', 1, 1000 * (unixepoch() + 3600))";
    db.execute(said, []).unwrap();
    let blocked = house.ask(&with("@", "a = 1")).await.unwrap_err();
    assert_eq!(blocked.code, Code::Blocked);
    assert!(blocked.to_string().contains("http://old:7878, of release 0.0.9"), "{blocked}");
    let floor = "SELECT count(*) FROM meta WHERE key = 'schema_floor'";
    let floor = || db.query_row(floor, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(floor(), 0);
    db.execute("DELETE FROM coordinators WHERE id = 'old'", []).unwrap();
    assert_eq!(house.ask(&with("@", "a = 1")).await.unwrap().release.config, id("a = 1"));
    assert_eq!(floor(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_alone_goes_canary_first_and_is_kept_by_the_next_deploy() {
    let (house, mut eu, mut us) = settled().await;
    let asked = house.ask(&with("@", "a = 1")).await.unwrap();
    assert_eq!((asked.release.config, asked.release.artifact), (id("a = 1"), Some(artifact(1))));
    assert_eq!((asked.base.unwrap().config, asked.steps[0].name.as_str()), (None, "canary eu"));
    eu.follow().await;
    us.follow().await;
    let moved = |region: &FakeRegion| {
        region.hosts.iter().filter(|host| host.running.unwrap().config.is_some()).count()
    };
    assert_eq!((moved(&eu), moved(&us)), (1, 0), "the canary is one host");
    // The same again is the same rollout, another config is another.
    assert!(house.ask(&with("@", "a = 1")).await.unwrap().joined);
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(configs([&eu, &us]), BTreeSet::from([id("a = 1")]));
    assert!(house.ask(&with("@", "a = 1")).await.unwrap().joined, "it runs that already");
    done(&house, (&mut eu, &mut us), &deploy("b2"), "r3").await;
    assert_eq!(house.show("r3").await.release.config, id("a = 1"), "kept");
    let dropped = RolloutRequest { config: Some(ConfigWish::None), ..deploy("@") };
    done(&house, (&mut eu, &mut us), &dropped, "r4").await;
    assert_eq!(configs([&eu, &us]), BTreeSet::from([None]));
    let path = format!("/v1/apps/api/configs/{}", Digest::of(b"a = 1"));
    let kept: Config = house.admin.get(&path, PATIENCE).await.unwrap();
    assert_eq!((kept.text.as_str(), kept.actor.as_str()), ("a = 1", "admin"));
    let token = house.client("region-eu");
    let path = format!("/v1/region/configs/{}", Digest::of(b"a = 1"));
    assert_eq!(token.get::<Config>(&path, PATIENCE).await.unwrap(), kept);
    let none = format!("/v1/region/configs/{}", Digest::of(b"b"));
    let refused = token.get::<Config>(&none, PATIENCE).await;
    assert!(matches!(refused, Err(CallError::Refused(problem)) if problem.code == Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_reverts_itself_and_does_not_make_the_code_bad() {
    let (house, mut eu, mut us) = settled().await;
    done(&house, (&mut eu, &mut us), &with("@", "good"), "r2").await;
    for region in [&mut eu, &mut us] {
        region.broken.insert(Digest::of(b"bad"));
    }
    house.ask(&with("@", "bad")).await.unwrap();
    let ended = house.until_state("r3", &mut [&mut eu, &mut us], Reverted).await;
    assert!(ended.release.bad && !house.show("r2").await.release.bad);
    assert_eq!(configs([&eu, &us]), BTreeSet::from([id("good")]));
    // What is bad is this code with this config, and it is refused as bad code is.
    let refused = house.ask(&with("@", "bad")).await.unwrap_err();
    assert_eq!(refused.code, Code::Blocked);
    assert!(refused.hints[0].contains("--allow-bad"), "{refused:?}");
    done(&house, (&mut eu, &mut us), &with("b2", "good"), "r4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_code_and_config_back_and_never_toggles() {
    let (house, mut eu, mut us) = settled().await;
    done(&house, (&mut eu, &mut us), &with("@", "one"), "r2").await;
    done(&house, (&mut eu, &mut us), &with("@", "two"), "r3").await;
    done(&house, (&mut eu, &mut us), &deploy("b2"), "r4").await;
    for (release, code, config) in [("r5", 1, id("two")), ("r6", 1, id("one")), ("r7", 1, None)] {
        let back = house.ask(&rollback("")).await.unwrap();
        assert_eq!((back.release.artifact, back.release.config), (Some(artifact(code)), config));
        assert!(house.ask(&rollback("")).await.unwrap().joined, "the same, asked again");
        house.until_state(release, &mut [&mut eu, &mut us], Succeeded).await;
        assert_eq!(configs([&eu, &us]), BTreeSet::from([config]));
    }
    assert_eq!(house.ask(&rollback("")).await.unwrap_err().code, Code::NotFound);
    // A release that is named comes back whole.
    let again = RolloutRequest { allow_bad: true, ..deploy("r3") };
    done(&house, (&mut eu, &mut us), &again, "r8").await;
    assert_eq!(configs([&eu, &us]), BTreeSet::from([id("two")]));
    let own = RolloutRequest { config: Some(ConfigWish::None), ..rollback("r2") };
    assert_eq!(house.ask(&own).await.unwrap_err().code, Code::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_on_a_config_whose_rollout_is_replaced_wait_where_they_are() {
    let (house, mut eu, mut us) = settled().await;
    let slow = RolloutRequest { bake_s: Some(3600), ..with("@", "one") };
    house.ask(&slow).await.unwrap();
    house
        .until("r2", &mut [&mut eu, &mut us], |rollout| {
            rollout.regions.values().map(|tally| tally.healthy).sum::<u32>() == 1
        })
        .await;
    let slow = RolloutRequest { bake_s: Some(3600), ..with("@", "two") };
    assert_eq!(house.ask(&slow).await.unwrap().release.state, Running);
    assert_eq!(house.show("r2").await.release.state, Superseded);
    eu.follow().await;
    us.follow().await;
    let seen = configs([&eu, &us]);
    assert!(seen.contains(&None) && seen.contains(&id("two")), "{seen:?}");
    let goal = eu.goals.values().next().unwrap();
    assert_eq!((goal.tolerate.len(), goal.tolerate_configured.len()), (0, 1));
    assert!(goal.configs().any(|config| Some(config) == id("one")), "nobody may collect it");
    // A new commit goes on with the config that is on its way.
    let next = house.ask(&deploy("b2")).await.unwrap();
    assert_eq!(next.release.config, id("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_config_is_refused() {
    let (house, _eu, _us) = settled().await;
    let large = "x".repeat(CONFIG_BYTES_MAX + 1);
    for text in [large.as_str(), "a\0b"] {
        let refused = house.ask(&with("@", text)).await.unwrap_err();
        assert_eq!((refused.code, refused.title.as_str()), (Code::Usage, "that is no config"));
    }
    let dry = RolloutRequest { dry_run: true, ..with("@", "a") };
    assert_eq!(house.ask(&dry).await.unwrap().release.config, id("a"));
    let path = format!("/v1/apps/api/configs/{}", Digest::of(b"a"));
    let refused = house.admin.get::<Config>(&path, PATIENCE).await;
    assert!(refused.is_err(), "a dry run leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_brings_the_code_and_each_env_keeps_its_own_config() {
    let (house, mut eu, mut us) = settled().await;
    done(&house, (&mut eu, &mut us), &with("@", "of prod"), "r2").await;
    let staged = house.ask_in("staging", &with("b3", "of staging")).await.unwrap();
    assert_eq!(staged.release.config, id("of staging"));
    let dry = RolloutRequest { dry_run: true, ..deploy("staging:r1") };
    let promoted = house.ask(&dry).await.unwrap().release;
    assert_eq!((promoted.artifact, promoted.config), (Some(artifact(3)), id("of prod")));
}
