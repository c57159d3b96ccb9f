//! What people press: by mouse, by keyboard, without JavaScript, twice, too late.

use std::time::Instant;

use deployctl::wire::v1::event::Events;
use deployctl::wire::v1::link::{Link, LinkRequest};
use deployctl::wire::v1::rollout::Releases;
use serde_json::json;

use crate::browser::{Browser, DESK, PATIENCE, Setup};
use crate::house::{House, deploy};
use crate::seen::settled;

/// Signs the browser in by a link, and ends at `page`.
pub(crate) async fn sign_in(browser: &Browser, house: &House, page: &str) {
    let request = LinkRequest { page: page.into() };
    let link: Link = house.admin.post("/v1/links", &request, PATIENCE).await.unwrap();
    browser.go(&format!("{}{}", house.url, link.path)).await;
    until_at(browser, house, page).await;
}

pub(crate) async fn until_at(browser: &Browser, house: &House, page: &str) {
    let deadline = Instant::now() + PATIENCE;
    let wanted = format!("{}{page}", house.url);
    while browser.url().await != wanted {
        assert!(Instant::now() < deadline, "at {}, never at {wanted}", browser.url().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn releases(house: &House) -> Vec<String> {
    let path = "/v1/apps/api/envs/prod/releases";
    let list: Releases = house.admin.get(path, PATIENCE).await.unwrap();
    list.releases.iter().map(|release| release.release.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_makes_one_rollout() {
    let (house, ..) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    browser.click("[data-testid=deploy-prod-b2]").await;
    browser.until_text("h1", "Deploy to api prod").await;
    // Two presses before any answer: the form is sent twice, for real.
    let sent = browser
        .run_async(
            "const form = document.querySelector('form.card[method=post]'); const send = () => fetch(form.action, \
             { method: 'POST', body: new URLSearchParams(new FormData(form)) }); \
             Promise.all([send(), send()]).then(all => done(all.map(r => [r.status, r.url])))",
        )
        .await;
    let place = format!("{}/apps/api/prod/r2", house.url);
    assert_eq!(sent, json!([[200, place], [200, place]]));
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/apps/api/prod/r2").await;
    assert_eq!(releases(&house).await, ["r2", "r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_that_is_out_of_date_is_refused() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/do/deploy?app=api&env=prod&build=b2").await;
    house.build(4, "SUCCEEDED", "complete");
    house.ask(&deploy("b4")).await.unwrap();
    browser.click("[data-testid=confirm]").await;
    browser.until_text("h1", "Refused: something else was deployed in between").await;
    assert_eq!(releases(&house).await, ["r2", "r1"], "only the other one was started");
    // What was built before is not put over what is newer without a word.
    browser.click("[data-testid=deploy-prod-b2]").await;
    browser.until_text("h1", "is older than r2 in prod").await;
    browser.click("form.ask button").await;
    browser.until_text("main", "It may be older than what runs").await;
    browser.until_text("main", "Takes the place of").await;

    // A promotion looks at the step that was seen.
    sign_in(&browser, &house, "/do/promote?app=api&env=prod&release=r2").await;
    house.until("r2", &mut [&mut eu, &mut us], |rollout| rollout.step > 0).await;
    browser.click("[data-testid=confirm]").await;
    browser.until_text("h1", "Refused: r2").await;
    browser.until_text(".cause", "canary eu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_javascript() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let browser = Browser::open(Setup { script: false, ..DESK }).await;
    let request = LinkRequest { page: "/apps/api/prod".into() };
    let link: Link = house.admin.post("/v1/links", &request, PATIENCE).await.unwrap();
    browser.go(&format!("{}{}", house.url, link.path)).await;
    browser.click("main button").await;
    until_at(&browser, &house, "/apps/api/prod").await;
    browser.click("[data-testid=deploy-prod-b2]").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/apps/api/prod/r2").await;
    eu.follow().await;
    us.follow().await;
    browser.click("[data-testid=pause-prod-r2]").await;
    browser.until_text("[data-testid=waiting]", "paused by admin").await;
    browser.click("[data-testid=resume-prod-r2]").await;
    browser.until_text("main", "converging").await;
    browser.click("[data-testid=cancel-prod-r2]").await;
    browser.click("form.card [data-testid=confirm]").await;
    browser.until_text("main", "revert").await;
    let told: Events = house.admin.get("/v1/events?since=0", PATIENCE).await.unwrap();
    let kinds: Vec<&str> = told.events.iter().map(|event| event.kind.as_str()).collect();
    for kind in ["rollout.paused", "rollout.resumed", "rollout.reverting"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_needs_no_mouse() {
    let (house, ..) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    tab_to(&browser, "[data-testid=deploy-prod-b2]").await;
    let ring = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(ring, "solid", "the focus is seen");
    browser.press("\u{E007}").await;
    browser.until_text("h1", "Deploy to api prod").await;
    tab_to(&browser, "[data-testid=confirm]").await;
    browser.press("\u{E007}").await;
    until_at(&browser, &house, "/apps/api/prod/r2").await;
    assert_eq!(releases(&house).await, ["r2", "r1"]);
}

async fn tab_to(browser: &Browser, css: &str) {
    let there = format!("return document.activeElement.matches('{css}')");
    for _ in 0..100 {
        if browser.run(&there).await == true {
            return;
        }
        browser.press("\u{E004}").await;
    }
    panic!("Tab never comes to {css}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_asked_for_and_its_log_followed() {
    let house = House::open().await;
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    let commit = "ab".repeat(20);
    browser.run(&format!("document.getElementById('commit').value = '{commit}'")).await;
    browser.click("[data-testid=build]").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/builds/b1").await;
    browser.until_text("#build", "queued").await;
    let worker = house.client("worker");
    let claim = json!({ "worker": "w1", "machine": "m1", "slots": 1, "busy": 0, "wait_ms": 1000 });
    let claim: serde_json::Value = worker.post("/v1/worker/claim", &claim, PATIENCE).await.unwrap();
    browser.until_text("#build", "running").await;
    let text = "first <b>line</b>\n";
    let chunk = json!({ "attempt": claim["attempt"], "offset": 0, "text": text });
    let _: serde_json::Value =
        worker.post("/v1/worker/jobs/b1/log", &chunk, PATIENCE).await.unwrap();
    browser.until_text("#lines", "first <b>line</b>").await;
    let chunk = json!({ "attempt": claim["attempt"], "offset": text.len(), "text": "second\n" });
    let _: serde_json::Value =
        worker.post("/v1/worker/jobs/b1/log", &chunk, PATIENCE).await.unwrap();
    browser.until_text("#lines", "second").await;
    let shown = browser.run("return document.getElementById('lines').textContent").await;
    assert_eq!(shown, format!("{text}second\n"), "each byte once, in order");
    browser.click("[data-testid=build-cancel-b1]").await;
    let ended = json!({ "worker": "w1", "attempt": claim["attempt"] });
    let _: serde_json::Value =
        worker.post("/v1/worker/jobs/b1/beat", &ended, PATIENCE).await.unwrap();
}
