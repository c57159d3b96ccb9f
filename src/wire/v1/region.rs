//! A region's two calls to the coordinator: `POST /v1/region/feed` brings goals,
//! wanted artifacts and token verifiers down; `POST /v1/region/report` brings
//! counts, failures and replication progress up. The region dials; only other
//! regions dial a region, for pieces, at the address that the coordinator names.

use serde::{Deserialize, Serialize};

use super::fleet::HostRow;
use super::goal_store::ReportedStores;
use super::patch::Between;
use super::token::Verifier;
use crate::model::digest::ArtifactId;
use crate::model::fleet::Tally;
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::pieces::PieceSet;
use crate::wire::seal::{PublicKey, Sealed};

/// Waits until something newer than `since` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedRequest {
    /// Who asks; must be the token's region.
    pub region: RegionName,
    /// The feed revision that the region has; 0: none, send everything.
    pub since: u64,
    /// How long to wait at most, milliseconds, at most 55,000.
    pub wait_ms: u64,
}

/// Everything that changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The revision to ask from next.
    pub revision: u64,
    /// Whether this is everything (`since` was 0 or not known any more).
    pub full: bool,
    /// Goals that changed.
    pub goals: Vec<Sealed>,
    /// Artifacts that the region must hold, or need not any more.
    pub artifacts: Vec<Wanted>,
    /// Tokens that the region's own listener accepts; `None`: unchanged.
    pub verifiers: Option<Verifiers>,
    /// Whose signatures the region and its agents believe; `None`: unchanged.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// Every region, the asking one too; `None`: unchanged.
    #[serde(default)]
    pub siblings: Option<Vec<Sibling>>,
}

/// A region as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// Its name.
    pub region: RegionName,
    /// Where it serves other regions, by the coordinator's configuration; `None`: nowhere.
    #[serde(default)]
    pub url: Option<String>,
    /// What the asking region shows it; made for these two alone.
    #[serde(default)]
    pub ticket: Option<String>,
    /// Its store replicates itself from the main one: it neither writes nor deletes there.
    #[serde(default)]
    pub replicated_by_store: bool,
}

/// `POST /v1/region/pieces`, from one region to another: what it can serve of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PiecesRequest {
    /// Which artifact.
    pub artifact: ArtifactId,
    /// How many pieces the asking region knows of; answered when there are others.
    pub since: u32,
    /// How long to wait at most, milliseconds, at most 25,000.
    pub wait_ms: u64,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PiecesReply {
    /// Whether the manifest can be had.
    pub known: bool,
    /// Verified pieces that can be read.
    pub have: PieceSet,
}

/// The goals that a region mirrors, or the one that was put into it by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goals {
    /// As they were signed.
    pub goals: Vec<Sealed>,
}

/// The public keys of this installation; also the coordinator's `trust.json` and
/// the answer of a region's `GET /v1/agent/trust`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Keys that sign goals.
    pub goal_keys: Vec<PublicKey>,
    /// Keys that sign manifests.
    pub build_keys: Vec<PublicKey>,
}

/// An artifact that every region must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its identity.
    pub artifact: ArtifactId,
    /// Whether it is to be dropped instead.
    #[serde(default)]
    pub gone: bool,
    /// Between which artifacts it leads, if it is a patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Between>,
}

/// The region's share of the token table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifiers {
    /// Hex of the region's own verification key (32 bytes), derived from the
    /// coordinator's; see `net::auth`.
    pub key: String,
    /// Agent tokens of this region.
    pub tokens: Vec<Verifier>,
}

/// What a region says upward, at once on a change (at most twice a second), else each 5 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReport {
    /// Who reports; must be the token's region.
    pub region: RegionName,
    /// The feed revision that it mirrors.
    pub revision: u64,
    /// Every app and env with a goal.
    pub tallies: Vec<EnvTally>,
    /// Hosts that changed since the last report that was answered, at most 2,000.
    pub hosts: Vec<HostRow>,
    /// Hosts known in all.
    pub host_count: u64,
    /// Of those, unreachable.
    pub unreachable: u64,
    /// Artifacts whose replication changed since the last report that was answered.
    pub replicas: Vec<ReplicaReport>,
    /// Hosts that it has forgotten, as it was told to, at most 2,000.
    #[serde(default)]
    pub forgot: Vec<HostId>,
    /// Which of the region's processes reports; empty: it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// How the etcds are that it uses.
    #[serde(default, skip_serializing_if = "ReportedStores::is_none")]
    pub goal_stores: ReportedStores,
}

/// One app and env's hosts in the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvTally {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The counts.
    pub tally: Tally,
}

/// How far the region's copy of an artifact is, by its own word; the
/// synchronizer looks for itself before it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The artifact.
    pub artifact: ArtifactId,
    /// Bytes of the pack that are verified.
    pub bytes: u64,
    /// Whether manifest and pack are durable in the regional store.
    pub complete: bool,
    /// What stops it, if something does.
    #[serde(default)]
    pub error: String,
}

/// The answer to a region's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReportReply {
    /// Artifacts that the synchronizer found missing or damaged in the region's
    /// store: fetch them again.
    #[serde(default)]
    pub heal: Vec<ArtifactId>,
    /// Hosts that are gone for good: forget those that can't be reached.
    #[serde(default)]
    pub forget: Vec<HostId>,
    /// The process whose counts and hosts are taken, of several; `None`: whoever reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teller: Option<String>,
    /// Rollouts that are under way: how hosts fare is wanted of these apps and envs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Compared>,
}

/// An app and env whose hosts are compared, with a new release and without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
}
