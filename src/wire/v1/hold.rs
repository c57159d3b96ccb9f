//! Holds and pins: `GET` and `POST /v1/holds`, `POST /v1/holds/{hN}/end`.

use serde::{Deserialize, Serialize};

pub use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, HostId, RegionName};

/// `POST /v1/holds`. Times are spans, for clocks differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Only this app; `None`: every app.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Only this env; `None`: every env or, with a host, the host's own.
    #[serde(default)]
    pub env: Option<EnvName>,
    /// Keep this host where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Keep the hosts of this region where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Pin the host or the region to this release of the app and env: `r411`, `@`, a
    /// commit that was deployed there. `None`: it stays on what it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Why, 1 to 2,000 bytes.
    pub reason: String,
    /// Lasts so many seconds, 1 to 30 days.
    pub lasts_s: u32,
}

/// `GET /v1/holds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// Those that are not over, by number.
    pub holds: Vec<Hold>,
}
