//! Webhooks, told by a real coordinator to receivers of a few lines.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use deployctl::model::rollout::RolloutState::Succeeded;
use deployctl::wire::problem::Code;
use deployctl::wire::v1::webhook::{NewWebhook, WebhookTest, Webhooks, signature};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, commit, deploy, refused};
use crate::settled;

/// A request as it came.
#[derive(Debug, Clone)]
struct Heard {
    line: String,
    id: String,
    at: String,
    signature: String,
    authorization: String,
    body: Bytes,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Clone, Default)]
struct Receiver {
    heard: Arc<Mutex<Vec<Heard>>>,
    /// How many requests are answered with 503 first.
    refuses: Arc<Mutex<u32>>,
    /// What a GET and a POST are answered with, by the end of their path.
    answers: Arc<Mutex<Vec<(&'static str, Value)>>>,
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(hear).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    async fn until(&self, wanted: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        // What a coordinator was telling when it stopped is its own for another minute.
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let heard = self.heard();
            if wanted(&heard) {
                return heard;
            }
            assert!(Instant::now() < deadline, "heard only {heard:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn hear(State(receiver): State<Receiver>, request: Request) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let line = format!("{} {}", parts.method, parts.uri);
    let (id, at, signature) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    let authorization = header("authorization");
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut refuses = receiver.refuses.lock().unwrap();
    if *refuses > 0 {
        *refuses -= 1;
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(Value::Null));
    }
    let answers = receiver.answers.lock().unwrap();
    let answer = answers.iter().find(|(part, _)| line.contains(part));
    let answer = answer.map_or(Value::Null, |(_, answer)| answer.clone());
    let heard = Heard { line, id, at, signature, authorization, body };
    receiver.heard.lock().unwrap().push(heard);
    (StatusCode::OK, axum::Json(answer))
}

async fn add(house: &House, body: Value) -> NewWebhook {
    house.admin.post("/v1/webhooks", &body, PATIENCE).await.unwrap()
}

fn key_of(secret: &str) -> [u8; 32] {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(&secret["whsec_".len()..]);
    bytes.unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_told_as_signed_cloudevents_through_failures_of_the_receiver() {
    let (house, mut eu, mut us) = settled().await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let made = add(
        &house,
        json!({"name": "ci", "url": format!("{url}/secret-path"), "scope": {"kinds": ["rollout.*"]}}),
    )
    .await;
    let key = key_of(&made.secret);
    *receiver.refuses.lock().unwrap() = 1;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let ended = |heard: &[Heard]| {
        let is = |heard: &Heard, kind: &str| heard.json()["type"] == kind;
        heard.iter().any(|heard| is(heard, "deployctl.rollout.succeeded"))
            && heard.iter().any(|heard| is(heard, "deployctl.rollout.started"))
    };
    // The one that was refused at first comes again after about 5 s.
    let heard = receiver.until(ended).await;
    for heard in &heard {
        let (at, body) = (heard.at.parse().unwrap(), heard.json());
        assert_eq!(heard.signature, signature(&key, &heard.id, at, &heard.body));
        assert_eq!(body["id"], heard.id);
        assert_eq!(body["source"], "/deployctl/apps/api/envs/prod");
        assert_eq!(body["data"]["commit"], commit(2));
        assert_eq!(heard.line, "POST /secret-path");
    }
    let mut ids: Vec<&str> = heard.iter().map(|heard| heard.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), heard.len(), "each event is told once when all goes well");

    let listed: Value = house.admin.get("/v1/webhooks", PATIENCE).await.unwrap();
    let text = listed.to_string();
    assert!(!text.contains("secret-path") && !text.contains(&made.secret), "{text}");
    let listed: Webhooks = serde_json::from_value(listed).unwrap();
    assert_eq!(listed.webhooks[0].dropped, 0);
    let events: Value = house.admin.get("/v1/events", PATIENCE).await.unwrap();
    assert!(!events.to_string().contains("secret-path"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_receiver_outlives_the_coordinator() {
    let (house, mut eu, mut us) = settled().await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    add(&house, json!({"name": "ci", "url": url, "scope": {"kinds": ["rollout.succeeded"]}})).await;
    *receiver.refuses.lock().unwrap() = 1;
    house.ask(&deploy("b2")).await.unwrap();
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    let house = house.restart().await;
    let heard = receiver.until(|heard| !heard.is_empty()).await;
    assert_eq!(heard[0].json()["type"], "deployctl.rollout.succeeded");
    drop(house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_must_not_lead_into_the_network() {
    let house = House::open().await;
    for url in ["http://10.0.0.1/x", "https://169.254.169.254/", "http://example.com/", "file:///x"]
    {
        let body = json!({"name": "x", "url": url});
        let answer = house.admin.post::<Value>("/v1/webhooks", &body, PATIENCE).await;
        assert_eq!(refused(answer).unwrap_err().code, Code::Usage, "{url}");
    }
    let deployer = house.holder("ann", "deployer").await;
    let body = json!({"name": "x", "url": "https://example.com/"});
    let answer = deployer.post::<Value>("/v1/webhooks", &body, PATIENCE).await;
    assert_eq!(refused(answer).unwrap_err().code, Code::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_how_it_went_and_a_removed_one_hears_nothing() {
    let house = House::open().await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    add(&house, json!({"name": "chat", "url": url, "format": "slack"})).await;
    let test = async || -> WebhookTest {
        house.admin.post("/v1/webhooks/chat/test", &json!({}), PATIENCE).await.unwrap()
    };
    assert!(test().await.delivered);
    let text = receiver.heard()[0].json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("tries the webhook chat"), "{text}");
    *receiver.refuses.lock().unwrap() = 1;
    let told = test().await;
    assert_eq!(
        (told.delivered, told.error.as_str()),
        (false, "it answered 503 Service Unavailable")
    );
    let again = json!({"name": "chat", "url": "https://example.com"});
    let answer = house.admin.post::<Value>("/v1/webhooks", &again, PATIENCE).await;
    assert_eq!(refused(answer).unwrap_err().code, Code::Conflict);
    let remove = house.admin.request(reqwest::Method::DELETE, "/v1/webhooks/chat");
    let _: Value = house.admin.send(remove.json(&json!({})), PATIENCE).await.unwrap();
    let left: Webhooks = house.admin.get("/v1/webhooks", PATIENCE).await.unwrap();
    assert!(left.webhooks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn github_gets_a_deployment_once_and_a_status_for_each_change() {
    let house = House::open().await;
    std::fs::write(house.folder.path().join("github.token"), "gh-token\n").unwrap();
    let config = house.folder.path().join("coordinator.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    let file = house.folder.path().join("github.token");
    text.push_str(&format!("[webhooks]\ngithub_token = {:?}\n", file.display().to_string()));
    std::fs::write(&config, text).unwrap();
    let house = house.restart().await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    *receiver.answers.lock().unwrap() =
        vec![("POST /repos/o/r/deployments", json!({"id": 41})), ("GET ", json!([]))];
    let body = json!({"name": "gh", "url": format!("{url}/repos/o/r"), "format": "github"});
    add(&house, body).await;
    house.build(1, "SUCCEEDED", "complete");
    let mut eu = house.region("eu", 2);
    eu.live().await;
    house.ask(&deploy("b1")).await.unwrap();
    house.until_state("r1", &mut [&mut eu], Succeeded).await;
    let success = |heard: &Heard| {
        heard.line == "POST /repos/o/r/deployments/41/statuses"
            && heard.json()["state"] == "success"
    };
    let heard = receiver.until(|heard| heard.iter().any(success)).await;
    let made = heard.iter().find(|heard| heard.line == "POST /repos/o/r/deployments").unwrap();
    assert_eq!(
        (&made.json()["ref"], &made.json()["environment"]),
        (&json!(commit(1)), &json!("prod"))
    );
    assert!(heard.iter().all(|heard| heard.authorization == "Bearer gh-token"));
}
