//! Permissions, refusals, logs, the document, and the stop.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use deployctl::model::job::BuildFailure;
use deployctl::net::client::Client;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::build::BuildLog;
use reqwest::Method;
use serde_json::{Value, json};

use crate::process::{Coordinator, PATIENCE, refusal};

const SLOW: &str = "beat_ms = 60000";

async fn status(client: &Client, method: &str, path: &str) -> u16 {
    let path = path
        .replace("{app}", "nope")
        .replace("{env}", "prod")
        .replace("{build}", "b999")
        .replace("{release}", "r999")
        .replace("{id}", "0123");
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    // A long poll that does not answer by itself has at least passed the guard.
    let sent = client.request(method, &path).timeout(Duration::from_secs(3)).send().await;
    match sent {
        Ok(reply) => reply.status().as_u16(),
        Err(error) if error.is_timeout() => 200,
        Err(error) => panic!("{path}: {error}"),
    }
}

#[tokio::test]
async fn every_route_is_open_to_its_roles_and_to_nobody_else() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let mut clients = vec![];
    for role in ["admin", "deployer", "viewer", "worker", "region"] {
        let region = (role == "region").then_some("eu");
        let body = json!({"name": role, "role": role, "region": region});
        let made: Value = admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
        let token = made["token"].as_str().unwrap().to_owned();
        clients.push((role, Client::new(&coordinator.server, Some(token))));
    }
    let nobody = Client::new(&coordinator.server, None);
    let agent = coordinator.client("agent-eu");
    let document: Value = admin.get("/v1/openapi.json", PATIENCE).await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut routes = 0;
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            routes += 1;
            assert_eq!(status(&nobody, method, path).await, 401, "{method} {path}");
            assert_eq!(status(&agent, method, path).await, 401, "{method} {path} as agent");
            let allowed: Vec<_> = operation["x-roles"].as_array().unwrap().iter().collect();
            for (role, client) in &clients {
                let status = status(client, method, path).await;
                let open = allowed.iter().any(|allowed| **allowed == **role);
                assert_eq!(status != 403, open, "{method} {path} as {role}: {status}");
                assert!(status != 401 && status < 500, "{method} {path} as {role}: {status}");
            }
        }
    }
    assert!(routes >= 20, "only {routes} routes");
}

#[tokio::test]
async fn nothing_answers_without_a_token_but_healthz() {
    let coordinator = Coordinator::new(SLOW).await;
    let nobody = Client::new(&coordinator.server, None);
    assert_eq!(status(&nobody, "get", "/healthz").await, 200);
    for path in ["/", "/v1", "/v1/nowhere", "/healthz/x", "/v1/apps/"] {
        assert_eq!(status(&nobody, "get", path).await, 401, "{path}");
    }
    let admin = coordinator.admin();
    assert_eq!(status(&admin, "get", "/v1/nowhere").await, 404);
    assert_eq!(status(&admin, "delete", "/v1/apps").await, 404);
    let wrong = coordinator.token("admin").replace(&['a', 'b', 'c'][..], "0");
    assert_eq!(
        status(&Client::new(&coordinator.server, Some(wrong)), "get", "/v1/apps").await,
        401
    );
}

#[tokio::test]
async fn a_withdrawn_token_is_refused_at_once() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let body = json!({"name": "ann", "role": "viewer"});
    let made: Value = admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
    let ann = Client::new(&coordinator.server, Some(made["token"].as_str().unwrap().into()));
    assert_eq!(status(&ann, "get", "/v1/apps").await, 200);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    admin.send::<Value>(admin.request(Method::DELETE, &path), PATIENCE).await.unwrap();
    assert_eq!(status(&ann, "get", "/v1/apps").await, 401);
    let again = admin.send::<Value>(admin.request(Method::DELETE, &path), PATIENCE).await;
    assert_eq!(refusal(again).code, Code::NotFound);
    let listed = admin.get::<Value>("/v1/tokens", PATIENCE).await.unwrap().to_string();
    assert!(!listed.contains("mac") && !listed.contains(&coordinator.token("admin")[21..]));
}

#[tokio::test]
async fn a_change_that_is_sent_again_is_made_once() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let send = async |method: Method, path: &str, key: &str, body: Value| {
        let request = admin.request(method, path).json(&body).header("idempotency-key", key);
        admin.send::<Value>(request, PATIENCE).await
    };
    let ann = json!({"name": "ann", "role": "viewer"});
    let made = send(Method::POST, "/v1/tokens", "k1", ann.clone()).await.unwrap();
    let again = send(Method::POST, "/v1/tokens", "k1", ann.clone()).await.unwrap();
    assert_eq!(made, again);
    let other = send(Method::POST, "/v1/tokens", "k2", ann.clone()).await.unwrap();
    assert_ne!(made["token"], other["token"]);
    let bob = json!({"name": "bob", "role": "viewer"});
    let reused = send(Method::POST, "/v1/tokens", "k1", bob).await;
    assert_eq!(refusal(reused).code, Code::Conflict);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        send(Method::DELETE, &path, "k3", json!({})).await.unwrap();
    }
    // A withdrawn token does not come back by the key that made it.
    let back = send(Method::POST, "/v1/tokens", "k1", ann).await;
    assert_eq!(refusal(back).code, Code::Conflict);
    let build = coordinator.queue(1).await.build;
    coordinator.act(build, "cancel").await.unwrap();
    let path = format!("/v1/builds/{build}/retry");
    for _ in 0..2 {
        let retried = send(Method::POST, &path, "k4", json!({})).await.unwrap();
        assert_eq!(retried["state"], "QUEUED");
    }
    let without_key = coordinator.act(build, "retry").await;
    assert_eq!(refusal(without_key).code, Code::Conflict);
}

#[tokio::test]
async fn a_token_is_withdrawn_also_when_the_caller_hangs_up() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    for _ in 0..5 {
        let body = json!({"name": "ann", "role": "viewer"});
        let made: Value = admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
        let ann = Client::new(&coordinator.server, Some(made["token"].as_str().unwrap().into()));
        let mut line =
            TcpStream::connect(coordinator.server.trim_start_matches("http://")).unwrap();
        let (id, token) = (made["id"].as_str().unwrap(), coordinator.token("admin"));
        let head = format!("DELETE /v1/tokens/{id} HTTP/1.1\r\nhost: x\r\n");
        write!(line, "{head}authorization: Bearer {token}\r\n\r\n").unwrap();
        let deadline = Instant::now() + PATIENCE;
        let listed = async || admin.get::<Value>("/v1/tokens", PATIENCE).await.unwrap();
        while listed().await.to_string().contains(id) {
            assert!(Instant::now() < deadline, "never withdrawn");
        }
        drop(line);
        while status(&ann, "get", "/v1/apps").await != 401 {
            assert!(Instant::now() < deadline, "withdrawn, and still let in");
        }
    }
}

async fn problem(client: &Client, path: &str, body: impl Into<reqwest::Body>) -> Problem {
    let request = client.request(Method::POST, path).body(body);
    let problem = refusal(client.send::<Value>(request, PATIENCE).await);
    assert!(!problem.request_id.is_empty(), "{problem}");
    problem
}

#[tokio::test]
async fn bad_input_is_refused_with_a_reason() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let builds = "/v1/apps/web/builds";
    let commit = "a".repeat(40);
    for (path, body, code) in [
        (builds, "{".to_owned(), Code::Usage),
        (builds, json!({"commit": "main"}).to_string(), Code::Usage),
        (builds, json!({"commit": "a".repeat(39)}).to_string(), Code::Usage),
        (builds, json!({"commit": commit, "comit": 1}).to_string(), Code::Usage),
        ("/v1/apps/nope/builds", json!({"commit": commit}).to_string(), Code::NotFound),
        ("/v1/apps/..%2f/builds", json!({"commit": commit}).to_string(), Code::Usage),
        ("/v1/builds/b99/cancel", String::new(), Code::NotFound),
        ("/v1/builds/x/cancel", String::new(), Code::Usage),
        ("/v1/apps", json!({"name": "x", "repo": "ext::sh"}).to_string(), Code::Usage),
        ("/v1/apps", json!({"name": "web", "repo": "file:///else"}).to_string(), Code::Conflict),
        ("/v1/apps", json!({"name": "x", "repo": "https://u:p@h/x"}).to_string(), Code::Usage),
        ("/v1/tokens", json!({"name": "", "role": "viewer"}).to_string(), Code::Usage),
        ("/v1/tokens", json!({"name": "x", "role": "agent"}).to_string(), Code::Usage),
        (
            "/v1/tokens",
            json!({"name": "x", "role": "agent", "region": "mars"}).to_string(),
            Code::NotFound,
        ),
        ("/v1/apps", "[".repeat(100_000), Code::Usage),
    ] {
        let problem = problem(&admin, path, body.clone()).await;
        assert_eq!(problem.code, code, "{path} {:.80}: {problem}", body);
    }
    let huge = vec![b' '; deployctl::net::server::BODY_BYTES_MAX + 1];
    assert_eq!(problem(&admin, builds, huge).await.code, Code::TooLarge);
    let get = async |path: &str| refusal(admin.get::<Value>(path, PATIENCE).await).code;
    assert_eq!(get("/v1/builds?commit=XYZ").await, Code::Usage);
    assert_eq!(get("/v1/builds?app=nope").await, Code::NotFound);
    assert_eq!(get("/v1/builds?limit=-1").await, Code::Usage);
    assert_eq!(get("/v1/events?since=x").await, Code::Usage);
}

#[tokio::test]
async fn only_an_admin_builds_off_the_trunk() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let body = json!({"name": "dan", "role": "deployer"});
    let made: Value = admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
    let dan = Client::new(&coordinator.server, Some(made["token"].as_str().unwrap().into()));
    let body = json!({"commit": "a".repeat(40), "allow_unmerged": true}).to_string();
    assert_eq!(problem(&dan, "/v1/apps/web/builds", body.clone()).await.code, Code::Forbidden);
    let plain = json!({"commit": "a".repeat(40)});
    dan.post::<Value>("/v1/apps/web/builds", &plain, PATIENCE).await.unwrap();
    admin
        .send::<Value>(admin.request(Method::POST, "/v1/apps/web/builds").body(body), PATIENCE)
        .await
        .unwrap();
    let claim = coordinator.worker("a").claim(5000).await.unwrap();
    assert!(claim.allow_unmerged, "asked for before the job began");
}

#[tokio::test]
async fn a_log_is_kept_in_order_without_what_could_fool_a_terminal() {
    let coordinator = Coordinator::new(SLOW).await;
    let job = coordinator.queue(1).await.build;
    let worker = coordinator.worker("a");
    let claim = worker.claim(5000).await.unwrap();
    let admin = coordinator.admin();
    let read = async |from: u64, wait_ms: u64| {
        let path = format!("/v1/builds/{job}/log?from={from}&wait_ms={wait_ms}");
        admin.get::<BuildLog>(&path, PATIENCE).await.unwrap()
    };
    let (waited, _) = tokio::join!(read(0, 30_000), worker.log(&claim, 0, "one\n\x1b[3"));
    assert_eq!((waited.text.as_str(), waited.ended), ("one\n", false));
    worker.log(&claim, 0, "one\n\x1b[3").await.expect("had already");
    worker.log(&claim, 4, "\x1b[31mtwo\x07\n").await.expect("overlaps");
    assert_eq!(refusal(worker.log(&claim, 99, "gap").await).code, Code::Conflict);
    assert_eq!(refusal(worker.log(&claim, 13, &"x".repeat(65_537)).await).code, Code::TooLarge);
    assert_eq!(read(waited.next, 0).await.text, "two\n");
    worker.fail(&claim, BuildFailure::BuildFailed).await.unwrap();
    let whole = read(0, 0).await;
    assert_eq!((whole.text.as_str(), whole.next, whole.ended), ("one\ntwo\n", 8, true));
    assert!(read(whole.next, 30_000).await.ended, "a finished log does not wait");
    coordinator.act(job, "retry").await.unwrap();
    let claim = worker.claim(5000).await.unwrap();
    worker.log(&claim, 0, "again\n").await.unwrap();
    let rest = read(8, 0).await;
    assert_eq!((rest.text.as_str(), rest.ended), ("=== attempt 2 on m-a ===\nagain\n", false));
}

#[tokio::test]
async fn events_are_resumable_and_waited_for() {
    let coordinator = Coordinator::new(SLOW).await;
    let admin = coordinator.admin();
    let end: Value = admin.get("/v1/events", PATIENCE).await.unwrap();
    let since = end["next"].as_u64().unwrap();
    let path = format!("/v1/events?since={since}&wait_ms=30000&app=web");
    let (events, job) = tokio::join!(admin.get::<Value>(&path, PATIENCE), coordinator.queue(7));
    let events = events.unwrap();
    assert_eq!(events["events"][0]["kind"], "build.queued");
    assert_eq!(events["events"][0]["build"], job.build.to_string());
    assert_eq!(events["next"].as_u64().unwrap(), since + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_graceful_with_requests_waiting() {
    let mut coordinator = Coordinator::new(SLOW).await;
    let worker = coordinator.worker("a");
    let waiting = tokio::spawn(async move { worker.claim(50_000).await.is_none() });
    let listed =
        async |c: &Coordinator| -> Value { c.admin().get("/v1/workers", PATIENCE).await.unwrap() };
    while listed(&coordinator).await["workers"].as_array().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::task::block_in_place(|| coordinator.stop());
    assert!(waiting.await.unwrap());
}
