//! How far an artifact's copies are.

use serde::{Deserialize, Serialize};

/// Where one region's copy of an artifact stands, or all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicationStatus {
    /// No region holds it.
    #[default]
    Pending,
    /// Some regions hold it, or parts of it.
    Partial,
    /// Every region holds it, checked by the synchronizer. Only now deployable.
    Complete,
    /// It was complete, and a region lost it; it is healed from the main store.
    Lost,
}

impl ReplicationStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Partial, Self::Complete, Self::Lost];

    /// The word in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Partial => "partial",
            Self::Complete => "complete",
            Self::Lost => "lost",
        }
    }

    /// Reads [`ReplicationStatus::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    /// Whether a build in this state may be deployed.
    #[must_use]
    pub fn is_deployable(self) -> bool {
        self == Self::Complete
    }
}
