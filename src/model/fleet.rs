//! What hosts say of themselves, and what a region makes of it.

use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use super::digest::ArtifactId;
use super::goal::{GoalVersion, Target};
use super::id::{AppName, EnvName, HostId};

/// Most log lines that travel with a failure [orchestration 3.G].
pub const FAILURE_LOG_LINES: usize = 64;
/// Most bytes of those lines together.
pub const FAILURE_LOG_BYTES: usize = 8 * 1024;

/// What an app on a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Has nothing and wants nothing.
    Idle,
    /// Fetches pieces.
    Fetching,
    /// Has the next release complete and verified, and waits to be admitted.
    Staged,
    /// Stops, switches, starts.
    Activating,
    /// Started; the probe has not settled.
    Probing,
    /// Runs what it should, and the probe passed.
    Healthy,
    /// Failed, and runs nothing or the failed release still.
    Failed,
    /// Failed, and went back to the release before.
    Reverted,
}

/// Whose fault a failure is; decides between revert and pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The release's: it exits, loops, or its probe fails. Unknown counts as this.
    Release,
    /// The host's: disk full, I/O error, permission.
    Host,
    /// The network's or a store's: pieces can't be fetched or verified.
    Transport,
}

/// A failure with what a person needs to see first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub class: FailureClass,
    /// One line, at most 300 bytes.
    pub reason: String,
    /// The app's last lines, at most [`FAILURE_LOG_LINES`].
    #[serde(default)]
    pub log: Vec<String>,
}

/// Where an artifact's bytes came from, wire bytes but for `local`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// From other hosts.
    pub peer: u64,
    /// From the regional blob store.
    pub store: u64,
    /// Already on this host (raw bytes).
    pub local: u64,
}

impl std::ops::AddAssign for Sources {
    fn add_assign(&mut self, other: Self) {
        self.peer += other.peer;
        self.store += other.store;
        self.local += other.local;
    }
}

/// One app on one host, as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The goal that this was decided under; results of older ones count for nothing.
    pub version: GoalVersion,
    /// What `current` points to.
    pub running: Option<Target>,
    /// What the host should run by that goal.
    pub desired: Option<Target>,
    /// What it is doing.
    pub phase: Phase,
    /// Artifacts complete on disk, newest first, at most 16.
    #[serde(default)]
    pub held: Vec<ArtifactId>,
    /// Pieces verified and pieces in all, of the artifact being fetched.
    #[serde(default)]
    pub pieces: (u32, u32),
    /// Where the bytes of `running` (or of the one being fetched) came from.
    #[serde(default)]
    pub sources: Sources,
    /// What went wrong last, under this goal.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Times the supervised process was restarted since it was activated.
    #[serde(default)]
    pub restarts: u32,
    /// Times since the agent began that the app ended unasked and was started again, or its
    /// probe failed after it had passed, whatever ran; `None`: an agent that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
}

impl AppStatus {
    /// The same but for how far a fetch is, which changes all the time.
    #[must_use]
    pub fn without_progress(&self) -> Self {
        Self { pieces: (0, 0), sources: Sources::default(), ..self.clone() }
    }
}

/// Equal failures of many hosts, as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// Whose fault.
    pub class: FailureClass,
    /// The reason they share.
    pub reason: String,
    /// How many hosts.
    pub hosts: u32,
    /// The first of them.
    pub first: HostId,
    /// That host's log lines.
    #[serde(default)]
    pub log: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_none(hosts: &u32) -> bool {
    *hosts == 0
}

/// One region's hosts under one goal: all counts are hosts.
///
/// A host counts in `next`, `healthy`, `failed` and the faults only by a report
/// made under the tally's own `version`'s generation (or newer step).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The goal counted under.
    pub version: GoalVersion,
    /// Covered by the goal's selector.
    pub hosts: u32,
    /// Of those: should run `next` by now.
    pub admitted: u32,
    /// Of `hosts` that are not unreachable: kept where they are by a person. They are
    /// never admitted, and count in nothing that follows but `staged` and `on_next`.
    #[serde(default, skip_serializing_if = "is_none")]
    pub pinned: u32,
    /// Of `hosts`: not heard of for three report intervals.
    pub unreachable: u32,
    /// Of `admitted`: unreachable.
    pub admitted_unreachable: u32,
    /// Of `hosts`: hold `next` complete on disk.
    pub staged: u32,
    /// Of `admitted`: run `next`, and the probe passed.
    pub healthy: u32,
    /// Of `hosts`: run what they should (`next` or their base), and it is healthy.
    pub settled: u32,
    /// Of `admitted`: a release fault under this generation.
    pub failed: u32,
    /// Of `failed`: unreachable.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failed_unreachable: u32,
    /// Of `admitted`: a host fault.
    pub host_faults: u32,
    /// Of `admitted`: a transport fault.
    pub transport_faults: u32,
    /// Of `hosts` that are not unreachable: run `next`'s artifact.
    pub on_next: u32,
    /// Mean progress of fetching, in thousandths.
    pub fetched_permille: u32,
    /// Bytes of `next` by where they came from, summed.
    pub sources: Sources,
    /// Distinct failures, most hosts first, at most 16.
    #[serde(default)]
    pub failures: Vec<FailureGroup>,
    /// How hosts with `next` fare beside those without it. `None`: nobody asked, or no
    /// agent there tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

impl Tally {
    /// Of `admitted`: a fault, whoever's it is.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.failed + self.host_faults + self.transport_faults
    }
}
