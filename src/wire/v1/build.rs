//! Builds: `POST /v1/apps/{app}/builds`, `GET /v1/builds`, `GET /v1/builds/{b}`,
//! `GET /v1/builds/{b}/log`, `POST /v1/builds/{b}/cancel`, `POST /v1/builds/{b}/retry`.

use serde::{Deserialize, Serialize};

use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, JobNo, RegionName};
use crate::model::job::{BuildFailure, JobState};
pub use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;

/// Asks for a build; the same app and commit yields the same job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildRequest {
    /// The commit, in full.
    pub commit: CommitId,
    /// Its subject, for people; cut to 200 bytes.
    #[serde(default)]
    pub subject: String,
    /// Build it though it is not on the trunk; needs the role admin.
    #[serde(default)]
    pub allow_unmerged: bool,
}

/// A job and, once it succeeded, its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its number.
    pub build: JobNo,
    /// The app.
    pub app: AppName,
    /// The commit.
    pub commit: CommitId,
    /// The commit's subject.
    pub subject: String,
    /// Where the job stands.
    pub state: JobState,
    /// Attempts so far.
    pub attempt: u32,
    /// Attempts at most.
    pub max_attempts: u32,
    /// Jobs queued before it; `None` unless QUEUED.
    pub queue_position: Option<u32>,
    /// Who runs or ran it last.
    pub worker: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// When it was asked for.
    pub queued_at: UnixMillis,
    /// When the last attempt began.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// Why it failed.
    pub failure: Option<BuildFailed>,
    /// What it made.
    pub artifact: Option<ArtifactView>,
    /// Where that stands.
    pub replication: Replication,
    /// Whether it may be deployed now.
    pub deployable: bool,
    /// Whether what it made was collected since: it must be built again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub collected: bool,
}

/// A failure's class and sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailed {
    /// The kind.
    pub class: BuildFailure,
    /// One sentence.
    pub reason: String,
}

/// An artifact, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactView {
    /// Its identity.
    pub artifact: ArtifactId,
    /// Raw bytes.
    pub size: u64,
    /// Bytes of its pack.
    pub wire_size: u64,
    /// Pieces.
    pub pieces: u32,
    /// Paths.
    pub entries: u32,
}

/// Where an artifact stands, region by region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// In all.
    pub status: ReplicationStatus,
    /// By name.
    pub regions: Vec<RegionReplica>,
}

/// One region's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReplica {
    /// The region.
    pub region: RegionName,
    /// Where it stands there.
    pub status: ReplicationStatus,
    /// Bytes of the pack that the region says it has.
    pub bytes: u64,
    /// When the synchronizer last looked.
    pub checked_at: Option<UnixMillis>,
    /// What is wrong, if something is.
    #[serde(default)]
    pub reason: String,
}

/// `GET /v1/builds?app=&commit=&state=&before=&limit=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builds {
    /// Newest first, at most `limit` (default 50, at most 500).
    pub builds: Vec<Build>,
}

/// `GET /v1/builds/{b}/log?from=N&wait_ms=M`: bytes from `from` on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLog {
    /// The next bytes as text (at most 1 MiB).
    pub text: String,
    /// Where to go on.
    pub next: u64,
    /// Whether there will never be more.
    pub ended: bool,
}
