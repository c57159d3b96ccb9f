//! What people choose: which commit is built, by any name it has, and how a deploy goes.

use std::time::Duration;

use deployctl::model::rollout::RolloutState;
use deployctl::net::client::Client;
use deployctl::wire::v1::commits::{Commits, Question};
use deployctl::wire::v1::hold::Holds;
use deployctl::wire::v1::rollout::{Releases, Rollout};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::browser::{Browser, DESK, PATIENCE};
use crate::house::{House, commit, deploy};
use crate::seen::settled;
use crate::used::{sign_in, until_at};

/// A worker that answers as a repository with two commits on main would have it.
fn worker(client: Client) -> JoinHandle<()> {
    let [newest, before] = [commit(9), commit(8)].map(|id| id.to_string());
    let line = |commit: &str, subject: &str| json!({ "commit": commit, "subject": subject, "author": "Ann", "at": "2026-11-22T07:00:00.000Z" });
    let commits = json!([line(&newest, "the <b>newest</b>"), line(&before, "the one before")]);
    tokio::spawn(async move {
        loop {
            let ask = json!({ "worker": "w1", "wait_ms": 5000 });
            let asked: Option<Question> =
                client.post("/v1/worker/question", &ask, PATIENCE).await.unwrap();
            let Some(question) = asked else { continue };
            let named = question.revs.iter().map(|rev| match rev.as_str() {
                "main" => json!({ "rev": rev, "commit": newest, "subject": "the <b>newest</b>", "merged": true }),
                "side" => json!({ "rev": rev, "commit": commit(7), "merged": false }),
                _ => json!({ "rev": rev, "commit": null, "why": "no branch and no tag is called that" }),
            });
            let named: Vec<Value> = named.collect();
            let answer = json!({ "worker": "w1", "machine": "forge", "question": question,
                "commits": commits, "named": named });
            let _: Value = client.post("/v1/worker/answer", &answer, PATIENCE).await.unwrap();
        }
    })
}

async fn type_in(browser: &Browser, house: &House, name: &str) {
    browser.go(&format!("{}/apps/api/prod", house.url)).await;
    browser.run(&format!("document.getElementById('commit').value = '{name}'")).await;
    browser.click("[data-testid=build]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_built_by_its_name() {
    let (house, ..) = settled().await;
    let works = worker(house.client("worker"));
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    browser.until_text("#builds", "main as forge saw it").await;
    browser.until_text("#builds", "the <b>newest</b>").await;

    // A commit of the trunk has a button of its own.
    browser.click("#builds form.ask button").await;
    browser.until_text("h1", "Build api").await;
    browser.until_text("form.card", "the <b>newest</b>").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/builds/b4").await;
    browser.until_text("#build", "the <b>newest</b>").await;

    // A name is resolved; the same commit is the same build.
    type_in(&browser, &house, "main").await;
    browser.until_text("form.card", "main is").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/builds/b4").await;
    type_in(&browser, &house, "side").await;
    browser.until_text("h1", "which is not on main").await;
    type_in(&browser, &house, "nope").await;
    browser.until_text("h1", "\"nope\" names no commit").await;
    browser.until_text(".cause", "no branch and no tag is called that").await;
    works.abort();
    let _ = works.await;

    // Without a worker that answers nobody pretends to know; what was built is known anyway.
    let ask = json!({ "rev": "v9", "wait_ms": 50 });
    let told: Commits =
        house.admin.post("/v1/apps/api/commits", &ask, Duration::from_secs(30)).await.unwrap();
    assert_eq!((told.named, told.commits.len()), (None, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_goes_as_it_was_chosen() {
    let (house, ..) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/do/deploy?app=api&env=prod&build=b2").await;
    browser.until_text(".options summary", "plan standard, all regions").await;
    browser.click(".options summary").await;
    browser.click("input[value=fast]").await;
    browser.click("input[value=eu]").await;
    browser.run("document.getElementById('bake_s').value = '7'").await;
    browser.click("[data-testid=replan]").await;
    browser.until_text(".options summary", "plan fast, bakes of 7 s, eu").await;
    browser.until_text(".change", "eu only").await;
    browser.until_text(".waves", "bake 7.0s").await;
    browser.until_text(".change", "at the latest").await;
    browser.run("document.getElementById('message').value = 'try eu'").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/apps/api/prod/r2").await;
    let list: Releases =
        house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    let release = serde_json::to_value(&list.releases[0]).unwrap();
    assert_eq!(
        (&release["plan"], &release["regions"], &release["message"]),
        (&json!("fast"), &json!(["eu"]), &json!("try eu"))
    );
    // A region that is none is refused, not ignored.
    browser.go(&format!("{}/do/deploy?app=api&env=prod&build=b2&regions=mars", house.url)).await;
    browser.until_text("h1", "Refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_begins_and_ends_on_the_page() {
    let (house, ..) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    let button = "[data-testid=deploy-prod-b2]";
    assert!(browser.is_enabled(button).await);
    browser.click("[data-testid=freeze-prod]").await;
    browser.until_text("h1", "Freeze api prod").await;
    browser.run("document.getElementById('message').value = 'the fair'").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/apps/api/prod").await;
    browser.until_text(".cause", "the fair").await;
    browser.until_text("#why-deploy-prod-b2", "frozen: the fair").await;
    assert!(!browser.is_enabled(button).await, "no deploy while it lasts");
    browser.click("[data-testid=unfreeze-f1]").await;
    until_at(&browser, &house, "/apps/api/prod").await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !browser.is_enabled(button).await {
        assert!(std::time::Instant::now() < deadline, "the button never wakes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_pinned_on_the_page() {
    let (house, eu, _us) = settled().await;
    let host = eu.hosts[0].id.to_string();
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, &format!("/hosts?host={host}")).await;
    browser.click(&format!("[data-testid=pin-{host}]")).await;
    browser.until_text("h1", &format!("Keep {host} where it is")).await;
    let fill = "document.getElementById('message').value = 'a core dump';
        document.getElementById('at').value = 'r1'";
    browser.run(fill).await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/hosts").await;
    let holds: Holds = house.admin.get("/v1/holds", PATIENCE).await.unwrap();
    let [pin] = &holds.holds[..] else { panic!("{holds:?}") };
    assert_eq!(pin.host.as_ref().map(ToString::to_string), Some(host));
    assert_eq!(pin.at.map(|at| at.release.0), Some(1));
    assert_eq!(pin.reason, "a core dump");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_begins_and_ends_and_a_second_person_approves_on_the_page() {
    let (house, mut eu, mut us) = settled().await;
    house.replicated(2);
    let browser = Browser::open(DESK).await;
    sign_in(&browser, &house, "/apps/api/prod").await;
    browser.click("[data-testid=hold-prod]").await;
    browser.until_text("h1", "Hold api prod").await;
    browser.run("document.getElementById('message').value = 'the audit'").await;
    browser.click("[data-testid=confirm]").await;
    until_at(&browser, &house, "/apps/api/prod").await;
    browser.until_text(".cause", "the audit").await;
    browser.click("[data-testid=unhold-h1]").await;
    until_at(&browser, &house, "/apps/api/prod").await;
    assert!(!browser.source().await.contains("the audit until"), "the banner went with it");

    let spec = json!({ "name": "api", "repo": "file:///srv/api", "envs": ["prod", "staging"],
        "approvals": { "prod": 1 } });
    let wants = house.admin.request(reqwest::Method::PUT, "/v1/apps/api").json(&spec);
    let _: Value = house.admin.send(wants, PATIENCE).await.unwrap();
    let ann = house.holder("ann", "deployer").await;
    let path = "/v1/apps/api/envs/prod/rollouts";
    let asked: Rollout = ann.post(path, &deploy("b2"), PATIENCE).await.unwrap();
    assert_eq!(asked.release.state, RolloutState::Pending);
    browser.go(&format!("{}/apps/api/prod/r2", house.url)).await;
    browser.click("[data-testid=approve-prod-r2]").await;
    let begun = |rollout: &Rollout| rollout.release.state == RolloutState::Running;
    let rollout = house.until("r2", &mut [&mut eu, &mut us], begun).await;
    assert_eq!(rollout.release.approved.len(), 1);
    assert_ne!(rollout.release.approved[0].by, "ann");
}
