//! The fleet: agents report to their region (`POST /v1/agent/poll`,
//! `POST /v1/agent/report`), people read `GET /v1/hosts` and `GET /v1/regions`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::fleet::AppStatus;
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::selector::Labels;
use crate::model::time::UnixMillis;
use crate::wire::seal::Sealed;

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// The host.
    pub host: HostId,
    /// The env it serves.
    pub env: EnvName,
    /// Its labels, at most 32.
    #[serde(default)]
    pub labels: Labels,
    /// Its rack; empty: not known.
    #[serde(default)]
    pub rack: String,
    /// Its zone; empty: not known.
    #[serde(default)]
    pub zone: String,
    /// The port where it serves pieces to peers; the address is the connection's own.
    pub peer_port: u16,
    /// The agent's version.
    pub agent_version: String,
}

/// `POST /v1/agent/poll`: waits until there are other goals than `since` names. It is also the
/// sign of life of a host where nothing changes: one connection is enough for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollRequest {
    /// Who asks.
    pub info: HostInfo,
    /// [`PollReply::revision`] of the goals that the agent has; 0: none.
    pub since: u64,
    /// How long to wait at most, milliseconds, at most 55,000.
    pub wait_ms: u64,
    /// [`Report::said`] of what the agent would report now.
    #[serde(default)]
    pub said: u64,
}

/// The goals of the host's env, all of them, whenever one changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollReply {
    /// What the region calls these goals: another number, other goals. Not a count.
    pub revision: u64,
    /// The region's name.
    pub region: RegionName,
    /// Goals that cover the host's labels; `None`: nothing newer than `since`.
    pub goals: Option<Vec<Sealed>>,
    /// How often to be heard of when nothing changes, milliseconds.
    pub report_ms: u64,
    /// The last report that the region has is not what the poll spoke of: send it again.
    #[serde(default)]
    pub report: bool,
    /// The region's processes that live, by address, when it has several: each host calls the
    /// one that is first for it ([`crate::rules::rendezvous`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<String>,
}

/// `POST /v1/agent/report`: at once on a change, and when a poll's answer asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub info: HostInfo,
    /// Every app on the host, at most 256.
    pub apps: Vec<AppStatus>,
    /// A number that stands for `apps`, progress apart: equal for equal ones; 0: none is given.
    #[serde(default)]
    pub said: u64,
}

/// The answer to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// How often to be heard of when nothing changes, milliseconds.
    pub report_ms: u64,
}

/// A host as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Who it is.
    pub info: HostInfo,
    /// Its region.
    pub region: RegionName,
    /// Its address as the region sees it.
    pub address: String,
    /// Whether it was heard of within three report intervals.
    pub reachable: bool,
    /// When it was last heard of.
    pub seen_at: UnixMillis,
    /// Its apps.
    pub apps: Vec<AppStatus>,
}

/// `GET /v1/hosts?app=&env=&region=&host=&limit=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// By region and id, at most `limit` (default 1,000, at most 20,000).
    pub hosts: Vec<HostRow>,
    /// How many there are without the limit.
    pub total: u64,
}

/// `POST /v1/hosts/{host}/forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The host.
    pub host: HostId,
    /// Where it was known; none: it is not known anywhere.
    pub regions: Vec<RegionName>,
}

/// A region that said nothing for so long is silent: six of its reports.
pub const REGION_SILENT: Duration = Duration::from_secs(30);

/// A region as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub region: RegionName,
    /// Its blob store's URL.
    pub blobs: String,
    /// When it last reported; `None`: never.
    pub seen_at: Option<UnixMillis>,
    /// Hosts that it knows.
    pub hosts: u64,
    /// Of those, not heard of.
    pub unreachable: u64,
    /// Artifacts that it holds, checked.
    pub artifacts: u64,
    /// Artifacts that it still owes.
    pub owed: u64,
    /// The newest goal revision that it mirrors.
    pub goals_revision: u64,
    /// Why the coordinator could not look into its blob store last time; empty: it could.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_trouble: String,
    /// When its blob store was last compared with what it should hold; `None`: never yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_checked_at: Option<UnixMillis>,
}

/// `GET /v1/regions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// By name.
    pub regions: Vec<Region>,
    /// Why the coordinator could not reach the main blob store last time; empty: it could.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub main_store_trouble: String,
    /// Why nothing is collected from the main store, when it is not this installation's; empty:
    /// it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub main_store_not_owned: String,
    /// The line that helps when that is not about whose it is, but about what the database's
    /// role may not ask.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub main_store_grant: String,
    /// Whether another installation, or a copy of this one, may delete what lies there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub main_store_anothers: bool,
    /// Why nothing is collected for its age, when the coordinator's clock jumped ahead; empty: it
    /// did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub clock_doubted: String,
}

/// `GET /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// By name.
    pub workers: Vec<WorkerRow>,
    /// What they have to do, and how many are wanted; `None`: an older coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueScale>,
}

/// `GET /v1/queue/scale?drain_s=`: how many workers are wanted. Every field is a number, so
/// that an autoscaler can take any of them by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueScale {
    /// Jobs that wait.
    pub queued: u64,
    /// How long the oldest of them has waited, seconds.
    pub oldest_wait_s: u64,
    /// Jobs that run.
    pub running: u64,
    /// Workers that were heard of in the last three beats and run a job, without those that are
    /// drained, as in all that follows.
    pub busy_workers: u64,
    /// Those that run none.
    pub idle_workers: u64,
    /// Slots of both.
    pub slots: u64,
    /// Jobs that were asked for in the last hour, by the rate of the last 15 minutes.
    pub arrivals_per_hour: u64,
    /// How long the last 100 attempts took on average, milliseconds.
    pub service_ms: u64,
    /// Within how long the queue is to be empty, seconds.
    pub drain_s: u64,
    /// Slots that are wanted for that.
    pub wanted_slots: u64,
    /// Workers of as many slots as those known have, beside any that are drained.
    pub wanted_workers: u64,
}

/// A worker as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its id: random per start.
    pub worker: String,
    /// The machine's name.
    pub machine: String,
    /// Slots that it has.
    pub slots: u32,
    /// Jobs that it runs.
    pub running: u32,
    /// When it was last heard of.
    pub seen_at: UnixMillis,
    /// Whether it is given nothing new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// `POST /v1/workers/{name}/drain`: a machine or one worker is given nothing new, or again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// It is given jobs again.
    #[serde(default)]
    pub end: bool,
    /// Why, at most 2,000 bytes.
    #[serde(default)]
    pub message: String,
}

/// Names for completion: `GET /v1/complete?kind=app|env|region|release|build|host&app=&env=&prefix=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completions {
    /// At most 50 names with a short help text each.
    pub names: Vec<(String, String)>,
}

/// `GET /v1/status?app=&env=`: one row per app and env.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// By app and env.
    pub apps: Vec<super::rollout::EnvStatus>,
}

/// Which app and env a query is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Only this app.
    pub app: Option<AppName>,
    /// Only this env.
    pub env: Option<EnvName>,
}
