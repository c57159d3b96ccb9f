//! Why an attempt has no artifact: a class, which decides on retries, and a
//! sentence for the person who asked for the build.

use crate::model::job::BuildFailure;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// The kind.
    pub class: BuildFailure,
    /// One sentence.
    pub reason: String,
}

/// Longest reason, bytes: it is shown in one row of a table.
const REASON_BYTES_MAX: usize = 1000;

impl Failure {
    fn new(class: BuildFailure, reason: impl ToString) -> Self {
        let mut reason = reason.to_string();
        if reason.len() > REASON_BYTES_MAX {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            reason.push('…');
        }
        Self { class, reason }
    }

    /// The commit or its recipe can't be built; never retried by itself.
    pub fn refused(reason: impl ToString) -> Self {
        Self::new(BuildFailure::Refused, reason)
    }

    /// The command, or what it made, is at fault; never retried by itself.
    pub fn build(reason: impl ToString) -> Self {
        Self::new(BuildFailure::BuildFailed, reason)
    }

    /// The command took too long.
    pub fn timeout(reason: impl ToString) -> Self {
        Self::new(BuildFailure::Timeout, reason)
    }

    /// The network, the disk or the store is at fault; tried again.
    pub fn infra(reason: impl ToString) -> Self {
        Self::new(BuildFailure::Infra, reason)
    }

    /// A person ended it.
    #[must_use]
    pub fn canceled() -> Self {
        Self::new(BuildFailure::Canceled, "canceled")
    }
}
