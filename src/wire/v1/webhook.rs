//! Webhooks: `GET|POST /v1/webhooks`, `DELETE /v1/webhooks/{name}`, `POST …/{name}/test`; and
//! the bodies that receivers get.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::model::id::WebhookName;
pub use crate::model::webhook::{Webhook, WebhookFormat, WebhookScope};
use crate::wire::v1::event::Event;

/// What a secret begins with [Standard Webhooks].
const SECRET_PREFIX: &str = "whsec_";

/// `POST /v1/webhooks`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookRequest {
    /// Its name.
    pub name: WebhookName,
    /// Where to send, at most 2,000 bytes: `https://`, or `http://` on the coordinator's own
    /// machine. For `github`: `https://api.github.com/repos/OWNER/REPO`.
    pub url: String,
    /// How it is told.
    #[serde(default)]
    pub format: WebhookFormat,
    /// What it is told.
    #[serde(default)]
    pub scope: WebhookScope,
}

/// A new webhook.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewWebhook {
    /// As it is listed.
    pub webhook: Webhook,
    /// What its deliveries are signed with; shown this once.
    pub secret: String,
}

/// `GET /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhooks {
    /// By name.
    pub webhooks: Vec<Webhook>,
}

/// `POST /v1/webhooks/{name}/test`: how one delivery went, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookTest {
    /// Whether it was taken.
    pub delivered: bool,
    /// Why not; empty when it was.
    pub error: String,
}

/// A secret as its receiver keeps it: `whsec_` and the key in base64.
#[must_use]
pub fn secret_text(key: &[u8; 32]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(key))
}

/// The value of `webhook-signature` [Standard Webhooks]: HMAC-SHA256 over
/// `id.timestamp.body`, in base64; `timestamp` in Unix seconds.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// What happened, with the commit that it is about where there is one.
#[derive(Debug, Clone)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// The commit of its build or release.
    pub commit: Option<String>,
}

impl Told {
    /// The id of all deliveries of this event; a receiver that has seen it does nothing.
    #[must_use]
    pub fn id(&self) -> String {
        format!("evt_{}", self.event.seq)
    }

    /// A CloudEvent 1.0 in its JSON form. `data` is the event as `GET /v1/events` gives it,
    /// and `commit`.
    #[must_use]
    pub fn cloudevent(&self) -> Value {
        let event = &self.event;
        let mut data = serde_json::to_value(event).unwrap_or_default();
        if let Some(commit) = &self.commit {
            data["commit"] = json!(commit);
        }
        let mut source = String::from("/deployctl");
        if let Some(app) = &event.app {
            source.push_str(&format!("/apps/{app}"));
            if let Some(env) = &event.env {
                source.push_str(&format!("/envs/{env}"));
            }
        }
        let subject = event.release.map(|r| r.to_string()).or(event.build.map(|b| b.to_string()));
        let mut told = json!({
            "specversion": "1.0",
            "id": self.id(),
            "source": source,
            "type": format!("deployctl.{}", event.kind),
            "time": event.at,
            "sequence": event.seq.to_string(),
            "datacontenttype": "application/json",
            "data": data,
        });
        if let Some(subject) = subject {
            told["subject"] = json!(subject);
        }
        told
    }

    /// A message for people. What Slack reads as markup is taken apart.
    #[must_use]
    pub fn slack(&self) -> Value {
        let event = &self.event;
        let plain =
            |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let mark = match event.kind.rsplit('.').next() {
            Some("succeeded") => ":white_check_mark:",
            Some("failed" | "reverted" | "dropped") => ":red_circle:",
            Some("paused" | "reverting" | "broken" | "expired") => ":warning:",
            _ => ":information_source:",
        };
        let app = event.app.as_ref().map_or(String::new(), |app| format!("*{app}* "));
        let (message, actor) = (plain(&event.message), plain(&event.actor));
        json!({ "text": format!("{mark} {app}{message} ({actor})") })
    }

    /// The state of a deployment on GitHub; `None`: the event changes none.
    #[must_use]
    pub fn github_state(&self) -> Option<&'static str> {
        Some(match self.event.kind.as_str() {
            "rollout.started" | "rollout.resumed" | "rollout.step" | "rollout.reverting" => {
                "in_progress"
            }
            "rollout.paused" => "pending",
            "rollout.succeeded" => "success",
            "rollout.reverted" | "rollout.failed" | "rollout.expired" => "failure",
            "rollout.superseded" | "rollout.canceled" => "inactive",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::UnixMillis;

    fn told() -> Told {
        let event = Event {
            seq: 7,
            at: UnixMillis(1_763_737_211_000),
            kind: "rollout.reverted".into(),
            app: Some("api".parse().unwrap()),
            env: Some("prod".parse().unwrap()),
            build: Some("b3".parse().unwrap()),
            release: Some("r2".parse().unwrap()),
            region: None,
            actor: "deployctl".into(),
            message: "r2 in prod: <!channel> & more".into(),
        };
        Told { event, commit: Some("ab".repeat(20)) }
    }

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The vector that the libraries of Standard Webhooks test themselves with.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature(&key, id, 1_614_265_330, body), expected);
        let key = [7u8; 32];
        assert_eq!(STANDARD.decode(&secret_text(&key)[6..]).unwrap(), key);
    }

    #[test]
    fn a_cloudevent_has_its_four_attributes_and_the_commit() {
        let body = told().cloudevent();
        assert_eq!(body["specversion"], "1.0");
        assert_eq!(body["id"], "evt_7");
        assert_eq!(body["source"], "/deployctl/apps/api/envs/prod");
        assert_eq!(body["type"], "deployctl.rollout.reverted");
        assert_eq!(body["subject"], "r2");
        assert_eq!(body["data"]["commit"], "ab".repeat(20));
        assert_eq!(body["time"], body["data"]["at"]);
    }

    #[test]
    fn slack_is_told_words_and_never_markup() {
        let text = told().slack()["text"].as_str().unwrap().to_owned();
        assert_eq!(text, ":red_circle: *api* r2 in prod: &lt;!channel&gt; &amp; more (deployctl)");
        assert_eq!(told().github_state(), Some("failure"));
    }
}
