//! Plans beside the standard one: where they hold, and what goes on from there.

use deployctl::model::plan::PlanFile;
use deployctl::model::rollout::RolloutState::{Expired, Failed, Paused, Succeeded};
use deployctl::model::rollout::{PlanName, RolloutKind};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::rollout::{Releases, RolloutRequest};

use crate::house::{House, PATIENCE, artifact, deploy, rollback};
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

/// A plan of waves, as its JSON says.
fn own(waves: &str) -> PlanFile {
    serde_json::from_str(&format!("{{\"name\": \"my.toml\", \"waves\": [{waves}]}}")).unwrap()
}

fn by(waves: &str, target: &str) -> RolloutRequest {
    RolloutRequest { plan_file: Some(own(waves)), bake_s: None, ..deploy(target) }
}

/// The second region first, half of it held for a person.
const US_FIRST: &str = r#"
    {"regions": ["us"], "steps": [{"hosts": 1, "bake_s": 1}, {"percent": 50, "hold": true}, {"percent": 100}]},
    {"regions": ["*"], "steps": [{"percent": 100, "bake_s": 1}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_ones_own_is_gone_by_and_outlives_a_restart() {
    let (house, mut eu, mut us) = settled().await;
    let said = house.ask(&RolloutRequest { dry_run: true, ..by(US_FIRST, "b2") }).await.unwrap();
    let names: Vec<&str> = said.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["us 1 host", "us 50%", "us 100%", "eu 100%"]);
    house.ask(&by(US_FIRST, "b2")).await.unwrap();
    let renamed = PlanFile::new("other.toml", own(US_FIRST).waves().to_vec()).unwrap();
    let same = RolloutRequest { plan_file: Some(renamed), ..by(US_FIRST, "b2") };
    assert!(house.ask(&same).await.unwrap().joined, "what it does counts, not its name");
    let held = house.until("r2", &mut [&mut eu, &mut us], |r| r.release.state == Paused).await;
    assert!(held.release.reason.contains("us 50% is done; the plan holds here"), "{held:?}");
    assert_eq!(eu.running(), only(1), "the first wave is us");

    let house = house.restart().await;
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    let shown = house.show("r2").await;
    assert_eq!(shown.plan_waves, own(US_FIRST).waves());
    let file = shown.release.plan_file.clone().unwrap();
    assert_eq!((file.name.as_str(), file.digest), ("my.toml", own(US_FIRST).digest()));
    assert_eq!(shown.release.plan, PlanName::Standard, "a word that older readers know");
    house.act("r2", "promote").await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    let history: Releases =
        house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    assert_eq!(history.releases[0].plan_file, Some(file));
    assert_eq!(history.releases[1].plan_file, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_does_not_fit_the_fleet_changes_nothing() {
    let (house, _eu, _us) = settled().await;
    let all = r#"{"regions": ["*"], "steps": [{"percent": 100, "bake_s": 9}]}"#;
    let mars =
        r#"{"regions": ["mars", "*"], "steps": [{"hosts": 1, "bake_s": 9}, {"percent": 100}]}"#;
    let eu_only = r#"{"regions": ["eu"], "steps": [{"hosts": 1, "bake_s": 9}, {"percent": 100}]}"#;
    let named = RolloutRequest { plan: PlanName::Fast, ..by(US_FIRST, "b2") };
    let back = RolloutRequest { kind: RolloutKind::Rollback, ..by(US_FIRST, "b1") };
    for (request, code, said) in [
        (by(all, "b2"), Code::Usage, "step 1 of my.toml, \"eu, us 100%\", would have 8 of 8 hosts"),
        (by(mars, "b2"), Code::NotFound, "there is no region mars"),
        (by(eu_only, "b2"), Code::Usage, "us is in no wave of my.toml"),
        (
            RolloutRequest { bake_s: Some(0), ..by(US_FIRST, "b2") },
            Code::Usage,
            "step 2 of my.toml",
        ),
        (named, Code::Usage, "not both"),
        (back, Code::Usage, "a way back has no plan"),
    ] {
        let refused = house.ask(&request).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
        let told = format!("{} {}", refused.title, refused.detail).contains(said);
        assert!(told, "{refused:?}");
    }
    let history: Releases =
        house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    assert_eq!(history.releases.len(), 1, "no number was used up by an open rollout");
    let limited = RolloutRequest { regions: vec!["eu".parse().unwrap()], ..by(eu_only, "b2") };
    let planned = house.ask(&RolloutRequest { dry_run: true, ..limited }).await.unwrap();
    assert_eq!(planned.steps.len(), 2, "where it goes every region is in a wave");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_waits_until_every_coordinator_knows_of_plans() {
    let (house, mut eu, mut us) = settled().await;
    let floor = "SELECT coalesce(max(value), '') FROM meta WHERE key = 'schema_floor'";
    let floor = || house.db().query_row(floor, [], |row| row.get::<_, String>(0)).unwrap();
    let older = "INSERT INTO coordinators (id, version, url, started_at, seen_at, features)
                 VALUES ('old', '0.0.9', 'http://old:7878', 1, ?1, 'configs no-auto-revert')";
    house.db().execute(older, [i64::MAX]).unwrap();
    for dry_run in [true, false] {
        let asked = RolloutRequest { dry_run, ..by(US_FIRST, "b2") };
        let refused = house.ask(&asked).await.unwrap_err();
        assert_eq!(refused.code, Code::Blocked, "{refused:?}");
        assert!(refused.detail.contains("http://old:7878"), "{refused:?}");
    }
    assert_eq!(floor(), "", "the way back to an older release is open");
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    house.db().execute("DELETE FROM coordinators", []).unwrap();
    house.ask(&by(US_FIRST, "b3")).await.unwrap();
    assert_eq!(floor(), "23");
    house.promote("r3", true).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_shrank_while_it_waited_is_not_overrun() {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "pending");
    let mut eu = house.region("eu", 20);
    eu.live().await;
    let two = r#"{"regions": ["*"], "steps": [{"hosts": 2, "bake_s": 1}, {"percent": 100}]}"#;
    house.ask(&RolloutRequest { when_ready_s: Some(60), ..by(two, "b1") }).await.unwrap();
    eu.hosts[0].reachable = false;
    eu.live().await;
    house.replicated(1);
    let over = house.until_state("r1", &mut [&mut eu], Expired).await;
    assert!(over.release.blocked && over.release.reason.contains("2 of 19 hosts"), "{over:?}");
    assert_eq!(eu.running(), std::collections::BTreeSet::from([None]), "nobody was reached");
}
