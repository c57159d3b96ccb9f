//! Configurations: `GET /v1/apps/{app}/configs/{digest}`, and for regions
//! `GET /v1/region/configs/{digest}`. They are given with a deploy
//! ([`RolloutRequest::config`](super::rollout::RolloutRequest)).

use serde::{Deserialize, Serialize};

use crate::model::digest::ConfigId;
use crate::model::id::AppName;
use crate::model::time::UnixMillis;

/// A configuration, as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The app.
    pub app: AppName,
    /// SHA-256 of `text`.
    pub config: ConfigId,
    /// The document, at most 64 KiB.
    pub text: String,
    /// Who brought it first.
    pub actor: String,
    /// When.
    pub created_at: UnixMillis,
}

/// What a deploy does to the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigWish {
    /// The release has none.
    None,
    /// The release has this one: UTF-8 without NUL, at most 64 KiB.
    Text(String),
}
