//! Freezes: `GET` and `POST /v1/freezes`, `POST /v1/freezes/{fN}/end`.

use serde::{Deserialize, Serialize};

pub use crate::model::freeze::Freeze;
use crate::model::id::{AppName, EnvName};

/// `POST /v1/freezes`. Times are spans, for clocks differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// Only this app; `None`: every app.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Only this env; `None`: every env.
    #[serde(default)]
    pub env: Option<EnvName>,
    /// Why, 1 to 2,000 bytes.
    pub reason: String,
    /// Begins after so many seconds, at most 90 days.
    #[serde(default)]
    pub starts_in_s: u32,
    /// Lasts so many seconds, 1 to 30 days.
    pub lasts_s: u32,
}

/// `GET /v1/freezes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freezes {
    /// Those that are not over, by their beginning.
    pub freezes: Vec<Freeze>,
}
