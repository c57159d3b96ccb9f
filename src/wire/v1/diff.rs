//! `GET /v1/apps/{app}/envs/{env}/diff?from=REF&to=REF`: what a deploy of `to` would
//! move, region by region, and how it differs from `from`.

use serde::{Deserialize, Serialize};

use super::patch::PatchOutcome;
use crate::model::commit::CommitId;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};

/// The query of [`Diff`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffQuery {
    /// What is compared with, a ref.
    pub from: String,
    /// What would be deployed, a ref.
    pub to: String,
}

/// What a deploy would move. All bytes are bytes on the wire unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The app.
    pub app: AppName,
    /// The env whose hosts are counted.
    pub env: EnvName,
    /// What is compared with.
    pub from: DiffSide,
    /// What would be deployed.
    pub to: DiffSide,
    /// What became of the patch between the two.
    pub patch: PatchOutcome,
    /// Paths in numbers.
    pub paths: PathCounts,
    /// The largest paths that are not surely the same, at most 20.
    pub changes: Vec<DiffPath>,
    /// By name.
    pub regions: Vec<RegionDiff>,
    /// Of all regions.
    pub total: Moved,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffSide {
    /// The artifact.
    pub artifact: ArtifactId,
    /// The build.
    pub build: JobNo,
    /// Its commit.
    pub commit: CommitId,
    /// The release, when one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNo>,
    /// That release's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
    /// Raw bytes.
    pub size: u64,
    /// Bytes of its pack.
    pub wire_size: u64,
}

/// How many paths are what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCounts {
    /// Only in `to`.
    pub added: u64,
    /// Only in `from`.
    pub removed: u64,
    /// In both, and another.
    pub changed: u64,
    /// In both with the same size; the manifests do not tell whether they are the same.
    pub unclear: u64,
    /// In both, and the same.
    pub same: u64,
}

/// A path that is not surely the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffPath {
    /// Which.
    pub path: String,
    /// What became of it.
    pub change: PathChange,
    /// Bytes before.
    pub old_bytes: u64,
    /// Bytes after.
    pub new_bytes: u64,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    /// Only in `to`.
    Added,
    /// Only in `from`.
    Removed,
    /// In both, and another.
    Changed,
    /// In both with the same size; the manifests do not tell.
    Unclear,
}

/// Hosts and the bytes that would come to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Hosts.
    pub hosts: u64,
    /// Raw bytes made out of what the hosts have, by copies and patches.
    pub local_bytes: u64,
    /// Bytes of patches that come to hosts.
    pub patch_bytes: u64,
    /// Bytes of the full pack that come to hosts.
    pub full_bytes: u64,
    /// Bytes expected from regional stores: about one copy of each pack in each region.
    pub store_bytes: u64,
}

/// One region's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionDiff {
    /// The region.
    pub region: RegionName,
    /// Its hosts by what they start from, most first.
    pub groups: Vec<DiffGroup>,
    /// Of all groups.
    pub total: Moved,
}

/// Hosts that come by it the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffGroup {
    /// What they start from; `None`: they have nothing that helps.
    pub base: Option<ArtifactId>,
    /// The build that made it.
    pub build: Option<JobNo>,
    /// How they come by it.
    pub way: DiffWay,
    /// In all of them.
    #[serde(flatten)]
    pub moved: Moved,
}

/// How a host comes by an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiffWay {
    /// It has it.
    Here,
    /// By a patch.
    Patch,
    /// By the full pack, less the pieces that it has.
    Full,
}
