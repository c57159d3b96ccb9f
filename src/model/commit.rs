//! A commit's id: full, never abbreviated, never a branch or a tag.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::from_hex;
use super::id::InvalidId;

/// A git commit: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

impl CommitId {
    /// All digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first ten digits, as people see commits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl FromStr for CommitId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if matches!(text.len(), 40 | 64) && from_hex(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidId::new("commit id", text, "40 or 64 lower-case hexadecimal digits"))
    }
}

impl TryFrom<String> for CommitId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<CommitId> for String {
    fn from(commit: CommitId) -> String {
        commit.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_lower_case_ids_are_commits() {
        assert!("a".repeat(40).parse::<CommitId>().is_ok());
        assert!("0".repeat(64).parse::<CommitId>().is_ok());
        for bad in ["main", "--upload-pack=x", &"a".repeat(39), &"A".repeat(40), &"g".repeat(40)] {
            assert!(bad.parse::<CommitId>().is_err());
        }
    }
}
