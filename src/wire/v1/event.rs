//! Events: `GET /v1/events?since=SEQ&wait_ms=M&app=A`, in order, for ever resumable.

use serde::{Deserialize, Serialize};

use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::model::time::UnixMillis;

/// Something that happened; written in the transaction of its effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order of all.
    pub seq: u64,
    /// When.
    pub at: UnixMillis,
    /// What, such as `rollout.started`, `build.succeeded`, `host.failed`.
    pub kind: String,
    /// The app it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The env.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<EnvName>,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<JobNo>,
    /// The release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNo>,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Who did it: a token's name, or `deployctl` itself.
    pub actor: String,
    /// One sentence.
    pub message: String,
}

/// Events after a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// In order, at most 500.
    pub events: Vec<Event>,
    /// The cursor to go on from.
    pub next: u64,
}
