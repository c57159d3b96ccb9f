//! How two commits of one repository stand to each other.

use serde::{Deserialize, Serialize};

use super::commit::CommitId;

/// What one commit is to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The other contains it.
    Ancestor,
    /// It contains the other.
    Descendant,
    /// Neither contains the other.
    Apart,
}

impl Relation {
    /// The word in the database.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ancestor => "ancestor",
            Self::Descendant => "descendant",
            Self::Apart => "apart",
        }
    }

    /// Reads [`Relation::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Ancestor, Self::Descendant, Self::Apart].into_iter().find(|r| r.word() == word)
    }
}

/// A commit, and what it is to the one that is spoken of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Relative {
    /// The other commit.
    pub commit: CommitId,
    /// What it is.
    pub is: Relation,
}
