//! Tokens: `POST /v1/tokens`, `GET /v1/tokens`, `DELETE /v1/tokens/{id}` (role admin).

use serde::{Deserialize, Serialize};

use crate::model::id::{HostId, RegionName};
use crate::model::time::UnixMillis;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Builds, deploys, reads.
    Deployer,
    /// Reads.
    Viewer,
    /// A worker's calls.
    Worker,
    /// One region's calls.
    Region,
    /// A host's calls, to its region only.
    Agent,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Admin, Self::Deployer, Self::Viewer, Self::Worker, Self::Region, Self::Agent];

    /// The word in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Deployer => "deployer",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
            Self::Region => "region",
            Self::Agent => "agent",
        }
    }

    /// Reads [`Role::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}

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
