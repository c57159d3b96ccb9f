//! What is in an app's repository, as a worker saw it: the trunk's newest commits, and
//! what a branch, a tag or the first digits of a commit name.
//!
//! `GET /v1/apps/{app}/commits` tells what is known, `POST` asks for a look. Workers
//! wait at `POST /v1/worker/question` and answer at `POST /v1/worker/answer`.

use serde::{Deserialize, Serialize};

use crate::model::commit::CommitId;
use crate::model::id::{AppName, WorkerId};
use crate::model::time::UnixMillis;

/// Newest commits of the trunk that are told.
pub const NEWEST_MAX: usize = 20;
/// Names that one question asks about.
pub const REVS_MAX: usize = 8;
/// Longest name of a branch or tag, bytes: git's own limit is a file name's.
pub const REV_BYTES_MAX: usize = 255;
/// Longest subject, author or sentence, bytes.
pub const TEXT_BYTES_MAX: usize = 200;

/// A commit, as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitLine {
    /// Which.
    pub commit: CommitId,
    /// Its first line, at most 200 bytes.
    pub subject: String,
    /// Its author's name, at most 200 bytes.
    pub author: String,
    /// When it was committed.
    pub at: UnixMillis,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name that was asked about.
    pub rev: String,
    /// The commit; `None`: there is none, and `why` says so.
    pub commit: Option<CommitId>,
    /// The commit's first line; empty when it is not on the trunk.
    #[serde(default)]
    pub subject: String,
    /// Whether the trunk contains it: only then it is built without more ado.
    #[serde(default)]
    pub merged: bool,
    /// Why there is no commit.
    #[serde(default)]
    pub why: String,
}

/// `GET` and `POST /v1/apps/{app}/commits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commits {
    /// The trunk's newest commits, newest first, at most 20.
    pub commits: Vec<CommitLine>,
    /// When a worker looked last; `None`: none has.
    pub looked_at: Option<UnixMillis>,
    /// The worker's machine.
    #[serde(default)]
    pub looked_by: String,
    /// Why the last look brought nothing; empty: it did.
    #[serde(default)]
    pub trouble: String,
    /// What the name that was asked about stands for; `None`: nobody answered in time, or
    /// no name was given.
    #[serde(default)]
    pub named: Option<Named>,
}

/// `POST /v1/apps/{app}/commits`: asks a worker to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookRequest {
    /// A branch, a tag, `HEAD` for the trunk, or the first digits of a commit of the
    /// trunk. Empty: only the newest commits, which are at most half a minute old.
    #[serde(default)]
    pub rev: String,
    /// How long to wait for the answer, milliseconds, at most 55,000.
    #[serde(default)]
    pub wait_ms: u64,
}

/// `POST /v1/worker/question`: waits for a question. 204 when there was none in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// How long to wait at most, milliseconds, at most 55,000.
    pub wait_ms: u64,
}

/// What a worker is asked to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The app.
    pub app: AppName,
    /// Its repository.
    pub repo: String,
    /// Its trunk.
    pub trunk: String,
    /// Names to resolve, at most 8.
    pub revs: Vec<String>,
}

/// `POST /v1/worker/answer`: what a worker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who looked.
    pub worker: WorkerId,
    /// Its machine's name, for people.
    pub machine: String,
    /// The question that is answered.
    pub question: Question,
    /// Why nothing could be found out; empty: it could.
    #[serde(default)]
    pub trouble: String,
    /// The trunk's newest commits.
    #[serde(default)]
    pub commits: Vec<CommitLine>,
    /// What the names stand for.
    #[serde(default)]
    pub named: Vec<Named>,
}
