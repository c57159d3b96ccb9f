//! What people see: it follows by itself, it fits, everybody can read it, and what a
//! stranger wrote is only ever text.

use std::time::Instant;

use deployctl::model::rollout::RolloutState::{Paused, Succeeded};
use deployctl::wire::v1::rollout::RolloutRequest;
use serde_json::{Value, json};

use crate::browser::{Browser, DESK, PATIENCE, Setup};
use crate::house::{House, artifact, commit, deploy};
use crate::region::FakeRegion;
use crate::used::sign_in;

const SCRIPT: &str =
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">";

/// Two regions of four hosts that run r1, and a second build.
pub(crate) async fn settled() -> (House, FakeRegion, FakeRegion) {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "complete");
    house.build(2, "SUCCEEDED", "partial");
    house.build(3, "FAILED", "");
    let (mut eu, mut us) = (house.region("eu", 4), house.region("us", 4));
    eu.live().await;
    us.live().await;
    // The synchronizer's first round may look before the build is there as it should be.
    house.replicated(1);
    house.ask(&deploy("b1")).await.unwrap();
    house.until_state("r1", &mut [&mut eu, &mut us], Succeeded).await;
    (house, eu, us)
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_becomes_possible_when_every_region_has_it_without_a_reload() {
    let (house, ..) = settled().await;
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    browser.run("window.loaded = 'once'").await;
    let button = "[data-testid=deploy-prod-b2]";
    assert!(!browser.is_enabled(button).await);
    browser.until_text("#why-deploy-prod-b2", "replicated to 0 of 2 regions").await;
    assert!(!browser.is_enabled("[data-testid=deploy-prod-b3]").await);
    browser.until_text("#why-deploy-prod-b3", "b3 failed: exit code 2").await;
    house.replicated(2);
    let deadline = Instant::now() + PATIENCE;
    while !browser.is_enabled(button).await {
        assert!(Instant::now() < deadline, "the button never wakes");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(browser.run("return window.loaded").await, "once", "the page was loaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn waves_move_and_go_on_after_a_restart_of_the_coordinator() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    house.ask(&deploy("b2")).await.unwrap();
    sign_in(&browser, &house, "/apps/api/prod/r2").await;
    browser.run("window.loaded = 'once'").await;
    browser.until_text("li[aria-current=step]", "canary eu").await;
    let healthy = "[data-testid=region-eu] .bar .good";
    assert!(browser.run(&format!("return document.querySelector('{healthy}')")).await.is_null());
    house.until("r2", &mut [&mut eu, &mut us], |rollout| rollout.step > 0).await;
    browser.until_text(".waves li:first-child", "done").await;
    browser.until_text("[data-testid=gate-0]", "pass").await;
    browser.until_text("[data-testid=gate-0]", "1 (at least 1)").await;
    let width = browser
        .run(&format!("return document.querySelector('{healthy}').getAttribute('width')"))
        .await;
    assert!(width.as_str().unwrap().parse::<u32>().unwrap() >= 250, "{width}");
    browser.until_text("#live", "live").await;

    let house = house.restart_in_place().await;
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    browser.until_text("[data-testid=waiting]", "8 of 8 hosts on r2").await;
    browser.until_text("[data-testid=curve]", "all 8 after").await;
    browser.until_text("#live", "live").await;
    assert_eq!(browser.run("return window.loaded").await, "once", "the page was loaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_stays_and_its_plan_are_said_where_it_is_shown() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let waves = json!({"name": "slow.toml", "waves": [{"regions": ["*"],
        "steps": [{"hosts": 1, "bake_s": 1, "hold": true}, {"percent": 100}]}]});
    let plan_file: deployctl::model::plan::PlanFile = serde_json::from_value(waves).unwrap();
    let one = RolloutRequest {
        no_auto_revert: true,
        regions: vec!["eu".parse().unwrap()],
        bake_s: None,
        plan_file: Some(plan_file.clone()),
        ..deploy("b2")
    };
    house.ask(&one).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Paused).await;
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod/r2").await;
    for page in ["/apps/api/prod/r2", "/apps/api/prod"] {
        browser.go(&format!("{}{page}", house.url)).await;
        browser.until_text("[data-testid=stays]", "hosts stay as they are").await;
    }
    browser.go(&format!("{}/apps/api/prod/r2", house.url)).await;
    browser.until_text("main", &format!("plan {}", plan_file.reference())).await;
    house.promote("r2", true).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    browser.until_text("[data-testid=waiting]", "other regions keep").await;
    let gone = "return document.querySelector('[data-testid=stays]')";
    assert!(browser.run(gone).await.is_null(), "what is over stays nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_workers_are_named_and_not_counted() {
    let (house, ..) = settled().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for (id, slots) in [("w1", 2), ("w2", 3)] {
        let sql = "INSERT INTO workers (id, machine, slots, token, seen_at) VALUES (?1, 'm-' || ?1, ?2, '', ?3)";
        let values = rusqlite::params![id, slots, now.as_millis() as i64 + 600_000];
        house.db().execute(sql, values).unwrap();
    }
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/builds").await;
    browser.until_text("main", "2 workers, 0 of 5 slots busy").await;
    let drain = async |body: Value| -> Value {
        house.admin.post("/v1/workers/m-w2/drain", &body, PATIENCE).await.unwrap()
    };
    drain(json!({})).await;
    browser.until_text("[data-testid=drained]", "m-w2 is drained").await;
    browser.until_text("main", "1 worker, 0 of 2 slots busy").await;
    drain(json!({"end": true})).await;
    browser.until_text("main", "2 workers, 0 of 5 slots busy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_wrote_is_only_text() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let mut request = deploy("b2");
    request.message = SCRIPT.into();
    house.ask(&request).await.unwrap();
    for table in ["jobs", "releases"] {
        house.db().execute(&format!("UPDATE {table} SET subject = ?1"), [SCRIPT]).unwrap();
    }
    let fails = "UPDATE jobs SET failure_reason = ?1 WHERE failure_reason IS NOT NULL";
    house.db().execute(fails, [SCRIPT]).unwrap();
    eu.broken.insert(artifact(2));
    house.until("r2", &mut [&mut eu, &mut us], |rollout| rollout.release.state.is_final()).await;
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/").await;
    let pages = [
        "/",
        "/apps/api/prod",
        "/apps/api/prod/r2",
        "/releases",
        "/builds",
        "/builds/b3",
        "/events",
        "/do/deploy?app=api&env=prod&build=b1&plan=all-at-once",
    ];
    for page in pages {
        browser.go(&format!("{}{page}", house.url)).await;
        let owned = browser.run("return [document.title, document.querySelectorAll('main img, main script').length]").await;
        assert!(owned[0] != "owned" && owned[1] == 0, "{page}: {owned}");
    }
    browser.go(&format!("{}/apps/api/prod/r2", house.url)).await;
    browser.until_text("main q", SCRIPT).await;
    browser.until_text("[data-testid=gate-0]", "fail").await;
    browser.until_text("[data-testid=gate-0]", "(at most 1)").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// What axe finds wrong with the page.
async fn axe(browser: &Browser) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/package/axe.min.js");
    let axe = std::fs::read_to_string(path).expect("scripts/test fetches axe-core");
    browser.run(&axe).await;
    let found = browser
        .run_async("axe.run({ resultTypes: ['violations'] }).then(r => done(r.violations.map(v => ({ id: v.id, nodes: v.nodes.slice(0, 3).map(n => [n.html, n.failureSummary]) }))))")
        .await;
    found.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_a_phone_and_everybody_can_read_it() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    house.ask(&deploy("b2")).await.unwrap();
    eu.broken.insert(artifact(2));
    eu.live().await;
    us.live().await;
    let long = format!("{}{}", "very-long-without-any-space".repeat(6), commit(9));
    house.db().execute("UPDATE jobs SET subject = ?1 WHERE id = 2", [long]).unwrap();
    let pages = [
        "/",
        "/apps/api/prod",
        "/apps/api/prod/r1",
        "/apps/api/prod/r2",
        "/releases",
        "/builds",
        "/builds/b2",
        "/builds/b3",
        "/hosts",
        "/hosts?host=eu",
        "/events",
        "/do/deploy?app=api&env=staging&build=b1",
        "/do/deploy?app=api&env=staging&build=b1&plan=careful&regions=eu",
        "/do/build?app=api&commit=abababababababababababababababababababab",
        "/do/freeze?app=api&env=prod",
        "/do/cancel?app=api&env=prod&release=r2",
        "/do/promote?app=api&env=prod&release=r2",
        "/apps/nope/prod",
    ];
    let mut all = vec![];
    for (width, dark) in [(375, false), (1280, true), (1280, false)] {
        let browser = Browser::open(Setup { width, dark, script: true }).await;
        sign_in(&browser, &house, "/").await;
        for page in pages {
            browser.go(&format!("{}{page}", house.url)).await;
            let wide = browser.run("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= u64::from(width), "{page} is {wide} wide at {width}");
            let wrong = axe(&browser).await;
            if !wrong.is_empty() {
                all.push(json!([page, width, dark, wrong]));
            }
        }
    }
    assert!(all.is_empty(), "{}", json!(all));
}
