//! How a rollout's steps were judged: each gate's word, and the numbers it was made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::{GateName, RegionName};
use super::time::UnixMillis;

/// What a gate says of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateWord {
    /// Not decided yet: hosts are on their way, or the bake goes on.
    Waiting,
    /// As it should be.
    Pass,
    /// The release is at fault.
    Fail,
    /// Something else is, or data is missing: no pass, and no proof against the release.
    Inconclusive,
}

impl GateWord {
    /// The word for people and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What a step was judged by in one region, hosts. The bounds are those that held then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateNumbers {
    /// Whether the region has counted its hosts under this step's goal.
    pub known: bool,
    /// Hosts that may have the release by now.
    pub admitted: u32,
    /// Of those, healthy on it, and how many must be.
    pub healthy: u32,
    /// At least so many.
    pub healthy_min: u32,
    /// Failed by the release's fault, without those that a person accepted.
    pub failed: u32,
    /// At most so many.
    pub failed_max: u32,
    /// Failed by their own fault: disk, permission, clock.
    pub host_faults: u32,
    /// At most so many.
    pub host_faults_max: u32,
    /// Admitted and not reachable.
    pub unreachable: u32,
    /// At most so many.
    pub unreachable_max: u32,
}

/// What hosts with a release were compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// With nobody: the comparison took no part.
    Nobody,
    /// With hosts of the region that did not have it, in the same minutes.
    Control,
    /// With all hosts of the region in the hour before the rollout.
    HourBefore,
}

/// How hosts with the release fared in one region beside others. An event is a restart of
/// the app that nobody asked for, or a probe that failed after it had passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What was made of it; `waiting`: not enough data yet.
    pub verdict: GateWord,
    /// Beside whom.
    pub against: Against,
    /// Events on hosts with the release, since the step began.
    pub events: u64,
    /// In so many minutes, of all of them together.
    pub host_minutes: u64,
    /// Events on the others.
    pub other_events: u64,
    /// In so many minutes.
    pub other_host_minutes: u64,
    /// Events that hosts with the release would have had if they were like the others;
    /// thousandths.
    pub expected_milli: u64,
    /// One sentence; empty with a pass.
    #[serde(default)]
    pub why: String,
}

impl Compared {
    /// Without numbers.
    #[must_use]
    pub fn new(verdict: GateWord, against: Against) -> Self {
        let (events, host_minutes, other_events, other_host_minutes) = (0, 0, 0, 0);
        let (expected_milli, why) = (0, String::new());
        Self {
            verdict,
            against,
            events,
            host_minutes,
            other_events,
            other_host_minutes,
            expected_milli,
            why,
        }
    }

    /// What it found, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        if !self.why.is_empty() {
            return self.why.clone();
        }
        let beside = match self.against {
            Against::HourBefore => "the hour before",
            Against::Control | Against::Nobody => "hosts without it meanwhile",
        };
        let tenths = (self.expected_milli + 50) / 100;
        format!(
            "{} restarts or failed probes in {} host-minutes with it, {}.{} expected by {beside}",
            self.events,
            self.host_minutes,
            tenths / 10,
            tenths % 10
        )
    }
}

/// What a program of the operator said of a step, last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSaid {
    /// Which.
    pub name: GateName,
    /// Its verdict; `waiting`: it has said nothing yet.
    pub verdict: GateWord,
    /// How often it was run.
    pub runs: u32,
    /// One line of it.
    #[serde(default)]
    pub said: String,
    /// What it wrote, at most 2 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// When.
    #[serde(default)]
    pub at: Option<UnixMillis>,
}

/// How a step was judged, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Index of the step.
    pub step: u32,
    /// What was made of it.
    pub verdict: GateWord,
    /// One sentence; empty with a pass.
    pub why: String,
    /// When.
    pub at: UnixMillis,
    /// The numbers, of regions that the step admits.
    pub regions: BTreeMap<RegionName, GateNumbers>,
    /// How hosts with the release fared beside those without it, of the same regions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub compared: BTreeMap<RegionName, Compared>,
    /// What programs said of it, of those that the coordinator's configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramSaid>,
}
