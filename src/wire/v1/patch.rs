//! Patches: a worker tells what it made (`POST /v1/worker/patches`), the feed tells
//! regions which artifact is a patch, and an agent asks its region
//! (`GET /v1/agent/artifacts/{to}/patches?from=`).

use serde::{Deserialize, Serialize};

use crate::model::digest::ArtifactId;

/// Between which releases a patch leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Between {
    /// What a host has.
    pub from: ArtifactId,
    /// What it makes of it.
    pub to: ArtifactId,
}

/// `POST /v1/worker/patches`: what became of a patch; idempotent. One that was made
/// stays made, whatever is said later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchReport {
    /// Between which artifacts.
    #[serde(flatten)]
    pub between: Between,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: PatchOutcome,
}

/// What became of a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PatchOutcome {
    /// A worker is about to make it.
    Making,
    /// It is in the main store as an artifact.
    Made {
        /// The artifact.
        patch: ArtifactId,
        /// Bytes of its pack.
        wire_bytes: u64,
    },
    /// There will be none.
    None {
        /// Why, one line, cut to 200 bytes.
        reason: String,
    },
}

/// The query of [`Patches`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchesQuery {
    /// Artifacts that the host has complete, separated by commas, at most 16.
    #[serde(default)]
    pub from: String,
}

/// Patches to one artifact that are complete in the region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patches {
    /// In no order; fields may be added.
    pub patches: Vec<PatchOffer>,
}

/// One patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchOffer {
    /// What it starts from.
    pub from: ArtifactId,
    /// The artifact that holds it.
    pub patch: ArtifactId,
    /// Bytes of its pack.
    pub wire_bytes: u64,
}
