//! Apps: `POST /v1/apps`, `GET /v1/apps`, `GET /v1/apps/{app}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::id::{AppName, EnvName};
use crate::model::recipe::Recipe;
use crate::model::selector::Selector;
use crate::model::time::UnixMillis;

/// An app as it is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Its name.
    pub name: AppName,
    /// Where workers fetch commits: `https://`, `http://`, `git://`, `ssh://` or `file://`,
    /// at most 2048 bytes, without a password in it.
    pub repo: String,
    /// The branch that commits must be merged to.
    #[serde(default = "default_trunk")]
    pub trunk: String,
    /// Used where the repository's own `deployctl.toml` is silent.
    #[serde(default)]
    pub recipe: Recipe,
    /// The hosts that run it; empty: every host of the env.
    #[serde(default)]
    pub hosts: Selector,
    /// Its envs, 1 to 32.
    #[serde(default = "default_envs")]
    pub envs: Vec<EnvName>,
    /// How many people beside who asked must approve a deploy to an env before it begins,
    /// 1 to 5; an env that is not named needs nobody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub approvals: BTreeMap<EnvName, u32>,
    /// Regions in rollout order, wave by wave; `*` is all others. Empty: by name, one
    /// region first, then all others.
    #[serde(default)]
    pub waves: Vec<Vec<String>>,
}

fn default_trunk() -> String {
    "main".into()
}

fn default_envs() -> Vec<EnvName> {
    vec!["prod".parse().expect("prod is a label")]
}

/// An app as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// As it was registered.
    #[serde(flatten)]
    pub spec: AppSpec,
    /// When.
    pub created_at: UnixMillis,
}

/// `GET /v1/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apps {
    /// By name.
    pub apps: Vec<App>,
}
