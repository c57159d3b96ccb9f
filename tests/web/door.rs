//! Who gets in, under which name, and what a form from elsewhere can do.

use deployctl::model::digest::Digest;
use deployctl::model::rollout::RolloutState;
use deployctl::wire::v1::config::ConfigWish;
use deployctl::wire::v1::link::{Link, LinkRequest};
use deployctl::wire::v1::rollout::RolloutRequest;
use reqwest::header::{CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, StatusCode, redirect};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, deploy};

fn plain() -> Client {
    Client::builder().redirect(redirect::Policy::none()).no_proxy().build().unwrap()
}

fn cookie(reply: &Response) -> String {
    let set = reply.headers()[SET_COOKIE].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

async fn sign_in(house: &House, token: &str) -> Response {
    let form = format!("token={token}&page=%2Fhosts");
    let request = plain().post(format!("{}/signin", house.url));
    let kind = "application/x-www-form-urlencoded";
    request.header("content-type", kind).body(form).send().await.unwrap()
}

/// The session's proof, as the page at `path` carries it.
async fn csrf(house: &House, cookie: &str) -> String {
    let page = look(house, cookie, "/").await.text().await.unwrap();
    let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

async fn look(house: &House, cookie: &str, path: &str) -> Response {
    let request = plain().get(format!("{}{path}", house.url)).header(COOKIE, cookie);
    request.send().await.unwrap()
}

async fn press(house: &House, cookie: &str, path: &str, form: &str) -> Response {
    let request = plain().post(format!("{}{path}", house.url)).header(COOKIE, cookie);
    request.body(form.to_owned()).send().await.unwrap()
}

async fn of_role(house: &House, role: &str) -> (String, String) {
    let body = json!({ "name": role, "role": role });
    let made: Value = house.admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_seen_without_a_session_and_every_reply_is_guarded() {
    let house = House::open().await;
    for path in [
        "/",
        "/apps/api/prod",
        "/releases",
        "/builds/b1",
        "/hosts",
        "/events",
        "/live?page=/",
        "/do/deploy",
    ] {
        let reply = look(&house, "deployctl=nonsense", path).await;
        assert_eq!(reply.status(), StatusCode::UNAUTHORIZED, "{path}");
        let policy = reply.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"));
        assert_eq!(reply.headers()["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers()["cache-control"], "no-store");
        let text = reply.text().await.unwrap();
        assert!(text.contains("Sign in") && !text.contains("prod</"), "{path}: {text}");
    }
    for (host, served) in [
        ("evil.example", false),
        ("127.0.0.1.evil.example:80", false),
        ("localhost", true),
        ("10.1.2.3:9", true),
    ] {
        let reply =
            plain().get(format!("{}/signin", house.url)).header(HOST, host).send().await.unwrap();
        assert_eq!(reply.status() != StatusCode::MISDIRECTED_REQUEST, served, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_signs_in_and_its_end_ends_the_session() {
    let house = House::open().await;
    for wrong in ["dct_0123456789abcdef_00", "", "x"] {
        assert_eq!(sign_in(&house, wrong).await.status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let worker = house.token("worker");
    assert_eq!(
        sign_in(&house, &worker).await.status(),
        StatusCode::UNAUTHORIZED,
        "machines stay out"
    );
    let (id, token) = of_role(&house, "viewer").await;
    let reply = sign_in(&house, &token).await;
    assert_eq!(
        (reply.status(), &reply.headers()[LOCATION]),
        (StatusCode::SEE_OTHER, &"/hosts".parse().unwrap())
    );
    let set = reply.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains(&token[21..]), "the cookie is not the token");
    let own = cookie(&reply);
    assert_eq!(look(&house, &own, "/hosts").await.status(), StatusCode::OK);
    let path = format!("/v1/tokens/{id}");
    let request = house.admin.request(reqwest::Method::DELETE, &path);
    house.admin.send::<Value>(request, PATIENCE).await.unwrap();
    assert_eq!(look(&house, &own, "/hosts").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_needs_the_sessions_own_proof_and_its_role() {
    let house = House::open().await;
    house.build(1, "SUCCEEDED", "complete");
    let admin = cookie(&sign_in(&house, &house.token("admin")).await);
    let (_, token) = of_role(&house, "viewer").await;
    let viewer = cookie(&sign_in(&house, &token).await);
    let form = "app=api&env=prod&build=b1&generation=0&key=k1";
    let others = csrf(&house, &viewer).await;
    for forged in [form.to_owned(), format!("{form}&csrf="), format!("{form}&csrf={others}")] {
        let reply = press(&house, &admin, "/do/deploy", &forged).await;
        assert_eq!(reply.status(), StatusCode::FORBIDDEN, "{forged}");
    }
    let reply = press(&house, &viewer, "/do/deploy", &format!("{form}&csrf={others}")).await;
    assert_eq!(reply.status(), StatusCode::FORBIDDEN, "a viewer only looks");
    let page = look(&house, &viewer, "/apps/api/prod").await.text().await.unwrap();
    assert!(page.contains("disabled") && page.contains("a token of role viewer may only look"));
    let none: Value = house.admin.get("/v1/apps/api/envs/prod/releases", PATIENCE).await.unwrap();
    assert_eq!(none["releases"], json!([]), "nothing was started by any of these");

    // The synchronizer's first round may have looked before the build stood there as it should.
    house.replicated(1);
    let own = csrf(&house, &admin).await;
    for _ in 0..2 {
        let reply = press(&house, &admin, "/do/deploy", &format!("{form}&csrf={own}")).await;
        assert_eq!(reply.headers()[LOCATION], "/apps/api/prod/r1");
    }
    let signed_out = press(&house, &admin, "/signout", &format!("csrf={own}")).await;
    assert_eq!(signed_out.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        look(&house, &admin, "/").await.status(),
        StatusCode::UNAUTHORIZED,
        "the cookie is dead"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_signs_in_once() {
    let house = House::open().await;
    let request = LinkRequest { page: "/apps/api/prod".into() };
    let link: Link = house.admin.post("/v1/links", &request, PATIENCE).await.unwrap();
    for page in ["//evil.example", "https://evil.example", "nowhere"] {
        let request = LinkRequest { page: page.into() };
        assert!(
            house.admin.post::<Value>("/v1/links", &request, PATIENCE).await.is_err(),
            "{page}"
        );
    }
    // Looking at it, as a mail scanner does, does not use it up.
    for _ in 0..2 {
        let seen = look(&house, "", &link.path).await;
        assert!(seen.status() == StatusCode::OK && seen.headers().get(SET_COOKIE).is_none());
    }
    let (_, query) = link.path.split_once('?').unwrap();
    let foreign =
        plain().post(format!("{}/signin", house.url)).header("sec-fetch-site", "cross-site");
    assert_eq!(
        foreign.body(query.to_owned()).send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    let first = press(&house, "", "/signin", query).await;
    assert_eq!(first.headers()[LOCATION], "/apps/api/prod");
    assert_eq!(look(&house, &cookie(&first), "/").await.status(), StatusCode::OK);
    assert_eq!(press(&house, "", "/signin", query).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_name_the_config_of_a_release_and_what_a_deploy_keeps() {
    let house = House::open().await;
    let mut eu = house.region("eu", 2);
    eu.live().await;
    for n in 1..=2 {
        house.build(n, "SUCCEEDED", "complete");
    }
    let config = Some(ConfigWish::Text("level = 1".into()));
    house.ask(&RolloutRequest { config, ..deploy("b1") }).await.unwrap();
    house.until_state("r1", &mut [&mut eu], RolloutState::Succeeded).await;
    let config = Some(ConfigWish::Text("level = 2".into()));
    house.ask(&RolloutRequest { config, ..deploy("@") }).await.unwrap();
    house.until_state("r2", &mut [&mut eu], RolloutState::Succeeded).await;
    let own = cookie(&sign_in(&house, &house.token("admin")).await);
    let [one, two] = ["level = 1", "level = 2"].map(|text| Digest::of(text.as_bytes()).short());
    for (path, named) in [
        ("/apps/api/prod", vec![&one, &two]),
        ("/apps/api/prod/r1", vec![&one]),
        ("/do/deploy?app=api&env=prod&build=b2", vec![&two]),
        ("/do/rollback?app=api&env=prod", vec![&one, &two]),
    ] {
        let html = look(&house, &own, path).await.text().await.unwrap();
        for config in named {
            assert!(html.contains(&format!(">{config}</code>")), "{path} lacks {config}: {html}");
        }
    }
    // The code is the same, and yet there is something to go back to.
    let html = look(&house, &own, "/apps/api/prod").await.text().await.unwrap();
    assert!(html.contains("Roll back to it"), "{html}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_light() {
    let house = House::open().await;
    let mut eu = house.region("eu", 1000);
    eu.live().await;
    for n in 1..=30 {
        house.build(n, "SUCCEEDED", "complete");
    }
    house.ask(&deploy("b1")).await.unwrap();
    eu.live().await;
    let own = cookie(&sign_in(&house, &house.token("admin")).await);
    for path in [
        "/",
        "/releases",
        "/apps/api/prod",
        "/apps/api/prod/r1",
        "/builds",
        "/builds/b1",
        "/hosts",
        "/events",
    ] {
        let page = look(&house, &own, path).await;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        let html = page.text().await.unwrap();
        let mut weight = html.len();
        for part in html.split("/assets/").skip(1) {
            let name = part.split('"').next().unwrap();
            let file = look(&house, "", &format!("/assets/{name}")).await;
            assert!(file.headers()["cache-control"].to_str().unwrap().contains("immutable"));
            weight += file.bytes().await.unwrap().len();
        }
        assert!(weight <= 100 * 1024, "{path} weighs {weight} bytes");
        assert!(
            !html.contains("style=") && !html.contains("onclick"),
            "{path} has something inline"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_that_comes_late_is_brought_up_to_date_at_once() {
    let house = House::open().await;
    let own = cookie(&sign_in(&house, &house.token("admin")).await);
    let path = "/live?page=%2Fapps%2Fapi%2Fprod&seen=something-older";
    let mut tabs = vec![];
    // The second follows what the first has been shown, and nothing changes between.
    for _ in 0..2 {
        let mut tab = look(&house, &own, path).await;
        let mut told = String::new();
        while !told.contains("event: part") {
            let more = tokio::time::timeout(PATIENCE, tab.chunk()).await;
            let more = more.expect("a stream says what its tab does not show").unwrap().unwrap();
            told.push_str(std::str::from_utf8(&more).unwrap());
        }
        tabs.push(tab);
    }
}
