//! Webhooks: who is told of which events, and in which form.

use serde::{Deserialize, Serialize};

use super::id::{AppName, EnvName, WebhookName};
use super::time::UnixMillis;

/// How a webhook is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// CloudEvents 1.0 as JSON, signed as Standard Webhooks says.
    #[default]
    Cloudevents,
    /// A message for an incoming webhook of Slack.
    Slack,
    /// Deployments and their statuses in a repository on GitHub.
    Github,
}

impl WebhookFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Cloudevents, Self::Slack, Self::Github];

    /// The word on the command line, in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cloudevents => "cloudevents",
            Self::Slack => "slack",
            Self::Github => "github",
        }
    }

    /// Reads [`WebhookFormat::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}

/// Which events a webhook is told of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookScope {
    /// Kinds such as `rollout.failed`, or all of a family: `rollout.*`; empty: all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Only of this app; `None`: every app.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Only of this env; `None`: every env.
    #[serde(default)]
    pub env: Option<EnvName>,
}

impl WebhookScope {
    /// Whether an event of `kind` about `app` and `env` is told.
    #[must_use]
    pub fn covers(&self, kind: &str, app: Option<&AppName>, env: Option<&EnvName>) -> bool {
        let named = |pattern: &String| match pattern.strip_suffix('*') {
            Some(family) => kind.starts_with(family),
            None => kind == pattern,
        };
        (self.kinds.is_empty() || self.kinds.iter().any(named))
            && (self.app.is_none() || self.app.as_ref() == app)
            && (self.env.is_none() || self.env.as_ref() == env)
    }
}

/// A webhook, without what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its name.
    pub name: WebhookName,
    /// Scheme and host of its URL; the rest may be a secret.
    pub origin: String,
    /// How it is told.
    pub format: WebhookFormat,
    /// What it is told.
    #[serde(flatten)]
    pub scope: WebhookScope,
    /// Who made it.
    pub actor: String,
    /// When.
    pub created_at: UnixMillis,
    /// Events that it took.
    pub delivered: u64,
    /// Events that wait for it, or are tried again.
    pub waiting: u64,
    /// Events that were given up.
    pub dropped: u64,
    /// Why the last delivery failed; empty once one succeeds.
    pub last_error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_whole_or_families_and_a_scope_is_a_fence() {
        let scope = |kinds: &[&str], app: Option<&str>| WebhookScope {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            app: app.map(|app| app.parse().unwrap()),
            env: None,
        };
        let (api, web): (AppName, AppName) = ("api".parse().unwrap(), "web".parse().unwrap());
        assert!(scope(&[], None).covers("token.made", None, None));
        assert!(scope(&["rollout.*"], None).covers("rollout.failed", Some(&api), None));
        assert!(!scope(&["rollout.*"], None).covers("build.failed", Some(&api), None));
        assert!(!scope(&["rollout.failed"], None).covers("rollout.failed2", Some(&api), None));
        assert!(scope(&[], Some("api")).covers("build.failed", Some(&api), None));
        assert!(!scope(&[], Some("api")).covers("build.failed", Some(&web), None));
        assert!(!scope(&[], Some("api")).covers("token.made", None, None));
    }
}
