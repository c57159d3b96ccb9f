//! A build job: its states, and why it failed.

use serde::{Deserialize, Serialize};

use super::digest::ArtifactId;
use super::id::WorkerId;
use super::time::UnixMillis;

/// Where a job stands. SUCCEEDED and FAILED are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Its artifact is durable in the main blob store.
    Succeeded,
    /// It ended without an artifact; the failure says why.
    Failed,
}

impl JobState {
    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The word in the `jobs` table and in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    /// Reads [`JobState::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.word() == word)
    }
}

/// Why a build failed; decides whether it is tried again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildFailure {
    /// The build command ended with another code than 0. Not retried.
    BuildFailed,
    /// The build ran past its limit and was killed. Not retried.
    Timeout,
    /// The commit is not found, not on the trunk, or the recipe is missing. Not retried.
    Refused,
    /// A person cancelled it. Not retried.
    Canceled,
    /// Fetch, disk or upload trouble of the worker's own. Retried with backoff.
    Infra,
    /// The worker's lease lapsed. Requeued to the front at once.
    LostWorker,
}

impl BuildFailure {
    /// Every class, for tables and tests.
    pub const ALL: [Self; 6] = [
        Self::BuildFailed,
        Self::Timeout,
        Self::Refused,
        Self::Canceled,
        Self::Infra,
        Self::LostWorker,
    ];

    /// The word in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::BuildFailed => "build_failed",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Canceled => "canceled",
            Self::Infra => "infra",
            Self::LostWorker => "lost_worker",
        }
    }

    /// Reads [`BuildFailure::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }
}

/// How an attempt ended, as its worker says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The artifact is durable in the main blob store, read back and verified.
    Succeeded {
        /// The artifact's identity.
        artifact: ArtifactId,
    },
    /// There is no artifact.
    Failed {
        /// The kind of failure.
        class: BuildFailure,
        /// One sentence for a person.
        reason: String,
    },
}

/// The part of a job that the queue's rules decide on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Where it stands.
    pub state: JobState,
    /// How often it was claimed; the fencing token of the running attempt.
    pub attempt: u32,
    /// After this many attempts a lost or infra failure is final, 1 to 20.
    pub max_attempts: u32,
    /// Not claimed before.
    pub not_before: UnixMillis,
    /// Who runs it; `None` unless RUNNING.
    pub worker: Option<WorkerId>,
    /// When the lease lapses; `None` unless RUNNING.
    pub lease_until: Option<UnixMillis>,
    /// A person asked for its end.
    pub cancel_requested: bool,
    /// The artifact; `Some` exactly when SUCCEEDED.
    pub artifact: Option<ArtifactId>,
    /// The failure; `Some` exactly when FAILED.
    pub failure: Option<(BuildFailure, String)>,
}
