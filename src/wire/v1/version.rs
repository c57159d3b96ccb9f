//! The coordinator's version, and who asks: `GET /v1/version`.

use serde::{Deserialize, Serialize};

use crate::model::role::Role;
use crate::model::time::UnixMillis;

/// What a client needs to know before it trusts what it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The coordinator's version.
    pub version: String,
    /// The API's: `v1`.
    pub api: String,
    /// The coordinator's clock.
    pub now: UnixMillis,
    /// Who holds the token that asks.
    pub name: String,
    /// What it may do.
    pub role: Role,
}
