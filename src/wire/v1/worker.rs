//! A worker's calls: `POST /v1/worker/claims`, `POST /v1/worker/report`,
//! `POST /v1/worker/jobs/{b}/log`; older workers call `…/beat`, `…/finish`, `…/release` for
//! each job in place of reports. Every one but the claim carries the attempt, the fencing
//! token; a stale attempt gets 409 `fenced` and must kill its build.
//! What comes after the build is in [`super::patch`].

use serde::{Deserialize, Serialize};

use crate::model::ancestry::Relative;
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, JobNo, WorkerId};
use crate::model::job::Outcome;
use crate::model::recipe::{Recipe, Requirement};
use crate::wire::problem::Problem;

/// Waits for a job. 200 with a [`Claim`], or 204 when there was none in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// This start of this worker process.
    pub worker: WorkerId,
    /// The machine's name, for people, at most 128 bytes.
    pub machine: String,
    /// Slots in all and slots busy.
    pub slots: u32,
    /// Slots that run a job.
    pub busy: u32,
    /// How long to wait at most, milliseconds, at most 55,000.
    pub wait_ms: u64,
}

/// Waits for jobs for all free slots. 200 with [`Claims`], empty when there were none in
/// time. Older workers ask for one with [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimsRequest {
    /// This start of this worker process.
    pub worker: WorkerId,
    /// The machine's name, for people, at most 128 bytes.
    pub machine: String,
    /// Slots in all, at most 1024.
    pub slots: u32,
    /// Jobs wanted at most, 1 to `slots`; more than 64 are not given at once.
    pub want: u32,
    /// How long to wait at most, milliseconds, at most 55,000.
    pub wait_ms: u64,
}

/// Jobs of this worker from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Each with its lease.
    pub claims: Vec<Claim>,
}

/// A job and the lease on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub build: JobNo,
    /// The fencing token.
    pub attempt: u32,
    /// The app.
    pub app: AppName,
    /// Where to fetch from.
    pub repo: String,
    /// The branch that the commit must be on.
    pub trunk: String,
    /// The commit.
    pub commit: CommitId,
    /// Whether it may be off the trunk.
    pub allow_unmerged: bool,
    /// The app's stored recipe.
    pub recipe: Recipe,
    /// How often to beat, milliseconds.
    pub beat_ms: u64,
    /// How long after the last good beat the lease lapses, milliseconds. The worker
    /// kills its own build before.
    pub lease_ms: u64,
    /// Artifacts of the app's last deployed releases, newest first, at most 8: what the
    /// hosts of its next deploy have. All of them are in the main store.
    #[serde(default)]
    pub bases: Vec<ArtifactId>,
    /// Commits that the build's commit is to be compared with, at most 32.
    #[serde(default)]
    pub compare: Vec<CommitId>,
    /// How many artifacts of this commit were collected. What is built now must not come out
    /// under the name of one of them, so it is said in the manifest; 0: nothing is said.
    #[serde(default)]
    pub collected: u32,
}

/// `POST /v1/worker/report`: what this worker's attempts have to say at the same moment.
/// Each is taken or refused by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Who holds the jobs.
    pub worker: WorkerId,
    /// At most 1024.
    pub said: Vec<Said>,
}

/// What one attempt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The job.
    pub build: JobNo,
    /// The fencing token.
    pub attempt: u32,
    /// What.
    pub word: Word,
}

/// A word of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It goes on; renews the lease.
    Beat,
    /// As [`Finish`].
    Finish {
        /// As [`Finish::outcome`].
        outcome: Outcome,
        /// As [`Finish::learnt`].
        #[serde(flatten)]
        learnt: Learnt,
    },
    /// As [`HandBack`].
    Release,
}

/// What the coordinator answers to a [`Report`], in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// One for each that was said.
    pub heard: Vec<Heard>,
}

/// The answer to one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// It was taken down.
    Order(Order),
    /// It was not; as the call for this attempt alone would have been.
    Refused(Problem),
}

/// `POST …/beat`, for one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Who holds the job.
    pub worker: WorkerId,
    /// The fencing token.
    pub attempt: u32,
}

/// What the coordinator answers to a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatReply {
    /// What to do.
    pub order: Order,
}

/// An order that rides on a beat's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Go on.
    Continue,
    /// Kill the build and finish it as canceled.
    Cancel,
}

/// `POST …/log`: the next bytes of the log, in order from 0, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogChunk {
    /// The fencing token.
    pub attempt: u32,
    /// Where `text` starts in this attempt's log, bytes. A chunk that was had
    /// already is acknowledged and dropped.
    pub offset: u64,
    /// At most 64 KiB.
    pub text: String,
}

/// `POST …/finish`: idempotent for the same attempt and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// Who held the job.
    pub worker: WorkerId,
    /// The fencing token.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What was learnt on the way.
    #[serde(flatten)]
    pub learnt: Learnt,
}

/// What a worker learnt of the repository beside what it built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    /// What the commits of [`Claim::compare`] are to the one that was built; those that
    /// the worker's mirror lacks are left out. Later ones than 32 are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relatives: Vec<Relative>,
    /// What the commit needs of other apps. Later ones than 16 are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
}

/// `POST …/release`: hands the job back to the front of the queue, the attempt not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandBack {
    /// Who held the job.
    pub worker: WorkerId,
    /// The fencing token.
    pub attempt: u32,
}
