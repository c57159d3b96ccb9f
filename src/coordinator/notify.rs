//! Tells webhooks what happened: from the events, through the outbox, until each was
//! taken or given up. At least once, and never in the way of what it tells about.
//!
//! Safe in many coordinators: an attempt is claimed in one transaction and counted, and
//! what a coordinator claimed and did not finish is due again a little later.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::webhooks::signing_key;
use crate::host::clock;
use crate::model::rng::Rng;
use crate::net::auth::{random_seed, read_token};
use crate::net::body;
use crate::net::outward;
use crate::rules::delivery::retry_after;
use crate::store::db::webhooks::{self, Due, Secret};
use crate::store::db::{DbError, Topic, Tx};
use crate::wire::v1::event::Event;
use crate::wire::v1::webhook::{Told, WebhookFormat, signature};

/// The poll under every wake-up.
const EVERY: Duration = Duration::from_secs(5);
/// The shortest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Deliveries made at once.
const BATCH: u32 = 16;
/// A claimed attempt is due again after this: longer than any attempt takes.
const CLAIMED: Duration = Duration::from_secs(60);
/// Events older than this are not told any more.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Largest answer of GitHub that is read, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Runs until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    let client = outward::client(shared.config.webhooks.allow_private);
    let mut changes = shared.db.watch(Topic::Events);
    let mut stop = shared.stop.clone();
    loop {
        changes.borrow_and_update();
        let pause = match deliver(&shared, &client).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "webhooks could not be looked at; tries again");
                EVERY
            }
        };
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Makes every attempt that is due; returns when the next is.
async fn deliver(shared: &Shared, client: &reqwest::Client) -> Result<Duration, DbError> {
    loop {
        let now = shared.steady_now();
        if shared.db.read(webhooks::lag).await? {
            let fill = move |tx: &mut Tx| webhooks::fill(tx, (now, now - STALE), is_own);
            shared.db.write(fill).await?;
        }
        let next = shared.db.read(webhooks::next_due).await?;
        let Some(next) = next else { return Ok(EVERY) };
        if next > now {
            return Ok(next.since(now).clamp(PAUSE_MIN, EVERY));
        }
        let claim = move |tx: &mut Tx| webhooks::claim(tx, (now, now + CLAIMED), BATCH);
        let due = shared.db.write(claim).await?;
        join_all(due.into_iter().map(|due| attempt(shared, client, due))).await;
    }
}

/// What is said of webhooks is not told to webhooks: a failing one would feed itself.
fn is_own(kind: &str) -> bool {
    kind.starts_with("webhook.")
}

async fn attempt(shared: &Shared, client: &reqwest::Client, due: Due) {
    let told = Told { event: due.event.clone(), commit: due.commit.clone() };
    let sent = tokio::select! {
        sent = send(shared, client, &due.to, &told) => sent,
        // Claimed is claimed: another coordinator, or the next start, takes it up.
        () = stopped(shared) => return,
    };
    let (name, seq) = (&due.to.webhook.name, due.event.seq);
    let draw = Rng::new(random_seed()).below(1000);
    let again = retry_after(due.attempt, draw).map(|wait| shared.steady_now() + wait);
    if let Err(error) = &sent {
        let gave_up = again.is_none();
        tracing::warn!(webhook = %name, seq, attempt = due.attempt, gave_up, error, "not told");
    }
    let wrote = shared.db.write(move |tx: &mut Tx| match sent {
        Ok(()) => webhooks::taken(tx, &due),
        Err(error) => webhooks::failed(tx, &due, &error, again),
    });
    if let Err(error) = wrote.await {
        tracing::warn!(%error, "how a webhook's delivery went could not be written");
    }
}

async fn stopped(shared: &Shared) {
    let mut stop = shared.stop.clone();
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Sends one event of kind `webhook.test`, now.
///
/// # Errors
/// Why it was not taken, as one sentence.
pub(super) async fn test(shared: &Coordinator, to: &Secret, actor: &str) -> Result<(), String> {
    let event = Event {
        seq: 0,
        at: clock::now(),
        kind: "webhook.test".into(),
        app: to.webhook.scope.app.clone(),
        env: to.webhook.scope.env.clone(),
        build: None,
        release: None,
        region: None,
        actor: actor.to_owned(),
        message: format!("{actor} tries the webhook {}", to.webhook.name),
    };
    let client = outward::client(shared.config.webhooks.allow_private);
    send(shared, &client, to, &Told { event, commit: None }).await
}

async fn send(
    shared: &Coordinator,
    client: &reqwest::Client,
    to: &Secret,
    told: &Told,
) -> Result<(), String> {
    // What was allowed when the webhook was made may not be now.
    outward::check_url(&to.url, shared.config.webhooks.allow_private).map_err(|e| e.to_string())?;
    match to.webhook.format {
        WebhookFormat::Github => Github { shared, client, to }.tell(told).await,
        WebhookFormat::Slack => {
            let request = client.post(&to.url).json(&told.slack());
            answer(request).await.map(drop)
        }
        WebhookFormat::Cloudevents => {
            let body = told.cloudevent().to_string().into_bytes();
            let (id, at) = (told.id(), clock::now().0 / 1000);
            let signed = signature(&signing_key(&shared.keys.token, to), &id, at, &body);
            let request = client
                .post(&to.url)
                .header("content-type", "application/cloudevents+json; charset=utf-8")
                .header("webhook-id", id)
                .header("webhook-timestamp", at.to_string())
                .header("webhook-signature", signed);
            answer(request.body(body)).await.map(drop)
        }
    }
}

/// Any 2xx takes the delivery. Errors never name the URL: it may hold a secret.
async fn answer(request: RequestBuilder) -> Result<Value, String> {
    let reply = request.send().await.map_err(|e| why(&e.without_url()))?;
    let status = reply.status();
    if !status.is_success() {
        return Err(match status.canonical_reason() {
            Some(words) => format!("it answered {} {words}", status.as_u16()),
            None => format!("it answered {}", status.as_u16()),
        });
    }
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    // It was taken; what it says of it may be of no use.
    let body = body::whole(reply, ANSWER_BYTES_MAX).await.unwrap_or_default();
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// The error with its causes, which say what is wrong.
fn why(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Deployments of a repository on GitHub. Nothing is remembered here: the deployment of a
/// commit and env is looked up each time, and made when there is none.
struct Github<'a> {
    shared: &'a Coordinator,
    client: &'a reqwest::Client,
    to: &'a Secret,
}

impl Github<'_> {
    async fn tell(&self, told: &Told) -> Result<(), String> {
        let event = &told.event;
        let is_test = event.kind == "webhook.test";
        if is_test {
            return self.call("GET", "/deployments?per_page=1", None).await.map(drop);
        }
        let (Some(state), Some(env), Some(commit)) =
            (told.github_state(), &event.env, &told.commit)
        else {
            return Ok(());
        };
        let found = format!("/deployments?sha={commit}&environment={env}&per_page=1");
        let found = self.call("GET", &found, None).await?;
        let id = match found[0]["id"].as_u64() {
            Some(id) => id,
            None => {
                let new = json!({
                    "ref": commit,
                    "environment": env,
                    "auto_merge": false,
                    "required_contexts": [],
                    "description": cut(&event.message),
                });
                let made = self.call("POST", "/deployments", Some(new)).await?;
                made["id"].as_u64().ok_or("GitHub made a deployment without an id")?
            }
        };
        let status = json!({ "state": state, "description": cut(&event.message) });
        self.call("POST", &format!("/deployments/{id}/statuses"), Some(status)).await.map(drop)
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let file = self.shared.config.webhooks.github_token.as_ref();
        let file = file.ok_or("the coordinator has no token for GitHub")?;
        let token = read_token(file).map_err(|e| format!("the token for GitHub: {e}"))?;
        let url = format!("{}{path}", self.to.url.trim_end_matches('/'));
        let request = match method {
            "GET" => self.client.get(url),
            _ => self.client.post(url),
        };
        let request = request
            .bearer_auth(token)
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28");
        answer(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }
}

/// GitHub takes descriptions of at most 140 characters.
fn cut(text: &str) -> String {
    text.chars().take(140).collect()
}
