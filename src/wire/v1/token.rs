//! Tokens: `POST /v1/tokens`, `GET /v1/tokens`, `DELETE /v1/tokens/{id}` (role admin).

use serde::{Deserialize, Serialize};

use crate::model::id::{HostId, RegionName};
pub use crate::model::role::Role;
use crate::model::time::UnixMillis;

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Who or what will hold it, for events and audit, 1 to 100 bytes.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The region of a region or agent token.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// The one host of an agent token; `None`: any host of the region.
    #[serde(default)]
    pub host: Option<HostId>,
}

/// A new token; its secret is shown this once.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// Its public id.
    pub id: String,
    /// The whole token: `dct_<id>_<secret>`.
    pub token: String,
}

/// What a verifier needs: never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifier {
    /// Public id.
    pub id: String,
    /// Who holds it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its region.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// Its one host.
    #[serde(default)]
    pub host: Option<HostId>,
    /// Hex of HMAC-SHA256(verification key, secret).
    pub mac: String,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Public id.
    pub id: String,
    /// Who holds it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its region.
    pub region: Option<RegionName>,
    /// Its one host.
    pub host: Option<HostId>,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// By creation.
    pub tokens: Vec<TokenRow>,
}
