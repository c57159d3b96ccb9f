//! What a token may do.

use serde::{Deserialize, Serialize};

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
