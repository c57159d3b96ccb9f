//! A rollout's states, and the words of its plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::canary::Canary;
use super::commit::CommitId;
use super::digest::{ArtifactId, ConfigId};
use super::goal::{GoalVersion, Target};
use super::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use super::plan::PlanRef;
use super::time::UnixMillis;

/// What a deploy does when another rollout of the app and env is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It is refused.
    Fail,
    /// It takes the open rollout's place.
    Supersede,
}

/// Where a rollout stands [orchestration 6.2].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Admitted; waits for its build to be replicated.
    Pending,
    /// Converging or baking.
    Running,
    /// Waits for a person; blocks nobody.
    Paused,
    /// Going back to the release before.
    Reverting,
    /// Every wave converged and baked.
    Succeeded,
    /// Failed, and the fleet is back on the release before.
    Reverted,
    /// Failed, and not reverted.
    Failed,
    /// A newer rollout or a rollback took its place.
    Superseded,
    /// A person stopped it.
    Canceled,
    /// It waited too long to start.
    Expired,
}

impl RolloutState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Reverting,
        Self::Succeeded,
        Self::Reverted,
        Self::Failed,
        Self::Superseded,
        Self::Canceled,
        Self::Expired,
    ];

    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Paused | Self::Reverting)
    }

    /// The word in the database, in JSON and in tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Reverting => "reverting",
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }

    /// Reads [`RolloutState::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// What a rollout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutKind {
    /// Tries a new release.
    Deploy,
    /// Restores a known-good one.
    Rollback,
}

impl RolloutKind {
    /// The word in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
        }
    }

    /// Reads [`RolloutKind::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Deploy, Self::Rollback].into_iter().find(|kind| kind.word() == word)
    }
}

/// The named plans of this release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanName {
    /// A twentieth everywhere, a short bake, then everybody.
    Fast,
    /// Canary, then region by region, with bakes and gates.
    #[default]
    Standard,
    /// As standard, with bakes six times as long, and a person says when to leave the first wave.
    Careful,
    /// Every host at once; no gate before the last host.
    AllAtOnce,
}

impl PlanName {
    /// The word on the command line, in the database and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Standard => "standard",
            Self::Careful => "careful",
            Self::AllAtOnce => "all-at-once",
        }
    }

    /// Reads [`PlanName::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Fast, Self::Standard, Self::Careful, Self::AllAtOnce]
            .into_iter()
            .find(|plan| plan.word() == word)
    }
}

/// What a running step does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not started, or over.
    #[default]
    Idle,
    /// Hosts move to the new release.
    Converging,
    /// All converged; watched for a while.
    Baking,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its wave, from 0: canary, then waves of regions.
    pub wave: u32,
    /// For people: "canary eu", "eu 25%".
    pub name: String,
    /// Buckets admitted per region once it began; `*` is all others.
    pub admit: BTreeMap<String, u32>,
    /// Bake after it converged, seconds.
    pub bake_s: u32,
    /// Whether a person says when the next step begins.
    #[serde(default)]
    pub hold: bool,
}

impl Step {
    /// Buckets that the step admits in `region`.
    #[must_use]
    pub fn admits(&self, region: &RegionName) -> u32 {
        let own = self.admit.get(region.as_str()).or_else(|| self.admit.get("*"));
        own.copied().unwrap_or(0)
    }
}

/// How many hosts of a region may be between two releases at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Unavailable {
    /// So many, 1 to a million.
    Hosts(u32),
    /// So many percent of those that can be reached, 1 to 100, and at least one host.
    Percent(u32),
}

impl Unavailable {
    /// Hosts, of `reachable` ones.
    #[must_use]
    pub fn of(self, reachable: u32) -> u32 {
        match self {
            Self::Hosts(hosts) => hosts,
            Self::Percent(percent) => {
                let part = u64::from(reachable) * u64::from(percent) / 100;
                u32::try_from(part).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl std::str::FromStr for Unavailable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, most) = match text.strip_suffix('%') {
            Some(digits) => (digits, 100),
            None => (text, 1_000_000),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|n| plain && (1..=most).contains(n));
        let number = number.ok_or("a number of hosts from 1, or 1% to 100%")?;
        Ok(if most == 100 { Self::Percent(number) } else { Self::Hosts(number) })
    }
}

impl TryFrom<String> for Unavailable {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Unavailable> for String {
    fn from(most: Unavailable) -> Self {
        most.to_string()
    }
}

/// That somebody else has looked at a deploy and wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// When.
    pub at: UnixMillis,
    /// What they said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Approval {
    /// How many more people must approve, of those who are `wanted`.
    #[must_use]
    pub fn lacking(wanted: u32, given: &[Self]) -> u32 {
        wanted.saturating_sub(u32::try_from(given.len()).unwrap_or(u32::MAX))
    }
}

/// What an env runs when no rollout is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stable {
    /// In every region that is not named below; `None`: nothing yet.
    pub base: Option<Target>,
    /// Where a region differs on purpose.
    #[serde(default)]
    pub region_base: BTreeMap<RegionName, Target>,
}

impl Stable {
    /// What `region` runs.
    #[must_use]
    pub fn of(&self, region: &RegionName) -> Option<Target> {
        self.region_base.get(region).copied().or(self.base)
    }

    /// Whether one of `regions` (none named: any at all) runs other bits than `base`.
    #[must_use]
    pub fn is_mixed(&self, base: Option<Target>, regions: &[RegionName]) -> bool {
        let bits = |target: Option<Target>| target.map(|target| target.bits());
        let other = |runs: Option<Target>| bits(runs) != bits(base);
        if regions.is_empty() {
            return other(self.base) || self.region_base.values().any(|runs| other(Some(*runs)));
        }
        regions.iter().any(|region| other(self.of(region)))
    }

    /// After `next` took its place in `regions`; none named: everywhere.
    #[must_use]
    pub fn with(&self, next: Target, regions: &[RegionName]) -> Self {
        if regions.is_empty() {
            return Self { base: Some(next), region_base: BTreeMap::new() };
        }
        let mut changed = self.clone();
        changed.region_base.extend(regions.iter().map(|region| (region.clone(), next)));
        changed
    }
}

/// A release: an app and env's numbered intent, and the rollout that tries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// Its number; counts per app and env.
    pub release: ReleaseNo,
    /// Deploy or rollback.
    pub kind: RolloutKind,
    /// The release that a rollback restores, or whose bits a promotion took.
    #[serde(default)]
    pub same_as: Option<ReleaseNo>,
    /// The build that made its artifact.
    pub build: JobNo,
    /// The commit.
    pub commit: CommitId,
    /// The commit's subject, at most 200 bytes.
    #[serde(default)]
    pub subject: String,
    /// The artifact; `None` while the build is not done (`--when-ready`).
    pub artifact: Option<ArtifactId>,
    /// The configuration beside it; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
    /// The plan; `standard` beside a `plan_file`, so that older readers know the word.
    pub plan: PlanName,
    /// Which plan it is, when a person wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_file: Option<PlanRef>,
    /// The hosts that go first, before the plan, and are looked at by a person; `None`: as
    /// the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Only these regions; empty: all.
    #[serde(default)]
    pub regions: Vec<RegionName>,
    /// Whether hosts stay as they are when it fails, in place of going back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_auto_revert: bool,
    /// Where it stands.
    pub state: RolloutState,
    /// One sentence: what it waits for, or why it ended so.
    pub reason: String,
    /// How many hosts of a region may be between releases at once; `None`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Unavailable>,
    /// How many people beside who asked must approve it before it begins.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub approvals: u32,
    /// Who has, and what they said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<Approval>,
    /// Whether it expired because a rule stood in its way: an approval that was not
    /// given, a freeze, a hold, a newer commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
    /// Its goal's version; `None` before it started.
    pub version: Option<GoalVersion>,
    /// Marked bad by a rollback or a revert.
    #[serde(default)]
    pub bad: bool,
    /// Who asked.
    pub actor: String,
    /// Why, in the words of who asked.
    #[serde(default)]
    pub message: String,
    /// When it was admitted.
    pub created_at: UnixMillis,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
}

impl Release {
    /// The plan, for people: a named one, or the file's name and the start of its digest.
    #[must_use]
    pub fn plan_said(&self) -> String {
        let named = || self.plan.word().to_owned();
        let plan = self.plan_file.as_ref().map_or_else(named, PlanRef::to_string);
        match &self.canary {
            Some(canary) => format!("{plan} after a canary of {}", canary.names()),
            None => plan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    #[test]
    fn a_base_is_mixed_when_a_region_that_is_meant_runs_something_else() {
        let target = |n: u64| Target {
            release: ReleaseNo(n),
            artifact: Digest::of(&n.to_be_bytes()),
            config: None,
        };
        let [eu, us]: [RegionName; 2] = ["eu".parse().unwrap(), "us".parse().unwrap()];
        let stable =
            Stable { base: Some(target(1)), region_base: [(eu.clone(), target(2))].into() };
        for (base, regions, mixed) in [
            (1, &[][..], true),
            (1, std::slice::from_ref(&us), false),
            (2, std::slice::from_ref(&eu), false),
            (2, &[eu.clone(), us.clone()][..], true),
            (1, std::slice::from_ref(&eu), true),
        ] {
            assert_eq!(stable.is_mixed(Some(target(base)), regions), mixed, "{base} {regions:?}");
        }
        let settled = stable.with(target(3), &[]);
        assert!(!settled.is_mixed(Some(target(3)), &[]) && !Stable::default().is_mixed(None, &[]));
    }
}
