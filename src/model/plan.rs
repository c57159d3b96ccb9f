//! A plan that a person wrote: waves of regions, and the steps of each.
//!
//! One form for the file (`deployctl-plan(5)`), the API and the database. What stands here
//! is sound by itself; whether it fits a fleet is said by [`crate::rules::rollout::written`].

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::id::{InvalidId, RegionName};

/// Most waves of a plan.
pub const WAVES_MAX: usize = 32;
/// Most steps of a plan, of all its waves: a person should be able to say where it stands.
pub const STEPS_MAX: usize = 64;
/// Most regions that a plan names.
pub const REGIONS_MAX: usize = 256;
/// Longest name of a plan, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest bake of a step, seconds: a day.
pub const BAKE_S_MAX: u32 = 86_400;
/// Most hosts that a step counts in a region.
const HOSTS_MAX: u32 = 1_000_000;

/// A plan that a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct PlanFile {
    name: String,
    waves: Vec<Wave>,
}

/// Regions that move together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WaveText", into = "WaveText")]
pub struct Wave {
    /// In order, each once in a plan, at least one.
    pub regions: Vec<Place>,
    /// In order; the last has all hosts.
    pub steps: Vec<Part>,
}

/// A region by name, or all that the plan does not name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// This one.
    Region(RegionName),
    /// `*`: those that no wave names.
    Rest,
}

/// One step: how much of each region of its wave has the release once it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PartText", into = "PartText")]
pub struct Part {
    /// Of each region.
    pub share: Share,
    /// Bake after it converged, seconds, at most [`BAKE_S_MAX`].
    pub bake_s: u32,
    /// Whether a person says when the next step begins.
    pub hold: bool,
}

/// Part of a region's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Hosts(u32),
    /// So many of a hundred.
    Percent(u32),
}

/// Which plan a release has, where it is none of the named ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    /// As the file was called.
    pub name: String,
    /// Of its waves and steps: comments, spaces and the name do not count.
    pub digest: Digest,
}

/// A plan in which something can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPlan(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    waves: Vec<Wave>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaveText {
    regions: Vec<Place>,
    steps: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hosts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    #[serde(default, skip_serializing_if = "super::is_zero")]
    bake_s: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hold: bool,
}

fn refuse(why: impl Into<String>) -> InvalidPlan {
    InvalidPlan(why.into())
}

impl PlanFile {
    /// A plan called `name`.
    ///
    /// # Errors
    /// When it has no wave or too many, a region twice, or a hold where nothing follows.
    pub fn new(name: &str, waves: Vec<Wave>) -> Result<Self, InvalidPlan> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let why = format!("a plan's name has 1 to {NAME_BYTES_MAX} visible bytes");
            return Err(refuse(why));
        }
        if waves.is_empty() || waves.len() > WAVES_MAX {
            return Err(refuse(format!("a plan has 1 to {WAVES_MAX} waves")));
        }
        let steps: usize = waves.iter().map(|wave| wave.steps.len()).sum();
        if steps > STEPS_MAX {
            return Err(refuse(format!("it has {steps} steps; {STEPS_MAX} at most")));
        }
        let mut seen = BTreeSet::new();
        for place in waves.iter().flat_map(|wave| &wave.regions) {
            if !seen.insert(place) {
                return Err(refuse(format!("{place} is named twice; each region moves once")));
            }
        }
        if seen.len() > REGIONS_MAX {
            return Err(refuse(format!("it names {} regions; {REGIONS_MAX} at most", seen.len())));
        }
        if waves.last().and_then(|wave| wave.steps.last()).is_some_and(|step| step.hold) {
            return Err(refuse("the last step holds, and nothing follows it"));
        }
        Ok(Self { name: name.to_owned(), waves })
    }

    /// As the file was called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In order, at least one.
    #[must_use]
    pub fn waves(&self) -> &[Wave] {
        &self.waves
    }

    /// The regions that it names.
    pub fn regions(&self) -> impl Iterator<Item = &RegionName> {
        self.waves.iter().flat_map(|wave| &wave.regions).filter_map(|place| match place {
            Place::Region(region) => Some(region),
            Place::Rest => None,
        })
    }

    /// Whether no step bakes before the last one has every host, when every bake is set to
    /// `bake_s`: then it is no better than all at once.
    #[must_use]
    pub fn is_all_at_once(&self, bake_s: Option<u32>) -> bool {
        let steps: Vec<&Part> = self.waves.iter().flat_map(|wave| &wave.steps).collect();
        let early = &steps[..steps.len().saturating_sub(1)];
        bake_s == Some(0) || early.iter().all(|step| step.bake_s == 0)
    }

    /// What it is called beside a release.
    #[must_use]
    pub fn reference(&self) -> PlanRef {
        PlanRef { name: self.name.clone(), digest: self.digest() }
    }

    /// The digest of all that it does.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut text = String::from("deployctl plan 1\n");
        for wave in &self.waves {
            let places: Vec<String> = wave.regions.iter().map(Place::to_string).collect();
            // A string takes whatever is written to it.
            let _ = writeln!(text, "wave {}", places.join(" "));
            for Part { share, bake_s, hold } in &wave.steps {
                let _ = writeln!(text, "{share} bake {bake_s} hold {hold}");
            }
        }
        Digest::of(text.as_bytes())
    }
}

impl fmt::Display for PlanRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.digest.short())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => write!(f, "{region}"),
            Self::Rest => f.write_str("*"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(1) => f.write_str("1 host"),
            Self::Hosts(hosts) => write!(f, "{hosts} hosts"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Place {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "*" { Ok(Self::Rest) } else { text.parse().map(Self::Region) }
    }
}

impl TryFrom<String> for Place {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<Text> for PlanFile {
    type Error = InvalidPlan;
    fn try_from(text: Text) -> Result<Self, InvalidPlan> {
        Self::new(&text.name, text.waves)
    }
}

impl From<PlanFile> for Text {
    fn from(plan: PlanFile) -> Self {
        Self { name: plan.name, waves: plan.waves }
    }
}

impl TryFrom<WaveText> for Wave {
    type Error = InvalidPlan;
    fn try_from(WaveText { regions, steps }: WaveText) -> Result<Self, InvalidPlan> {
        if regions.is_empty() {
            return Err(refuse("a wave has at least one region; \"*\" is all that are not named"));
        }
        if steps.last().map(|step| step.share) != Some(Share::Percent(100)) {
            return Err(refuse("the last step of a wave has percent = 100"));
        }
        for pair in steps.windows(2) {
            let rises = match (pair[0].share, pair[1].share) {
                (Share::Hosts(before), Share::Hosts(after))
                | (Share::Percent(before), Share::Percent(after)) => before < after,
                (Share::Hosts(_), Share::Percent(_)) => true,
                (Share::Percent(_), Share::Hosts(_)) => {
                    return Err(refuse("hosts are counted before percents in a wave, not after"));
                }
            };
            if !rises {
                let (before, after) = (pair[0].share, pair[1].share);
                return Err(refuse(format!(
                    "the steps of a wave rise, and {after} follows {before}"
                )));
            }
        }
        Ok(Self { regions, steps })
    }
}

impl From<Wave> for WaveText {
    fn from(wave: Wave) -> Self {
        Self { regions: wave.regions, steps: wave.steps }
    }
}

impl TryFrom<PartText> for Part {
    type Error = InvalidPlan;
    fn try_from(text: PartText) -> Result<Self, InvalidPlan> {
        let share = match (text.hosts, text.percent) {
            (Some(hosts), None) if (1..=HOSTS_MAX).contains(&hosts) => Share::Hosts(hosts),
            (None, Some(percent)) if (1..=100).contains(&percent) => Share::Percent(percent),
            (Some(hosts), None) => {
                return Err(refuse(format!("hosts is 1 to {HOSTS_MAX}, not {hosts}")));
            }
            (None, Some(percent)) => {
                return Err(refuse(format!("percent is 1 to 100, not {percent}")));
            }
            (Some(_), Some(_)) => {
                return Err(refuse("a step has one of hosts and percent, not both"));
            }
            (None, None) => return Err(refuse("a step has one of hosts and percent")),
        };
        if text.bake_s > BAKE_S_MAX {
            return Err(refuse(format!("bake_s is at most {BAKE_S_MAX}, a day")));
        }
        Ok(Self { share, bake_s: text.bake_s, hold: text.hold })
    }
}

impl From<Part> for PartText {
    fn from(part: Part) -> Self {
        let (hosts, percent) = match part.share {
            Share::Hosts(hosts) => (Some(hosts), None),
            Share::Percent(percent) => (None, Some(percent)),
        };
        Self { hosts, percent, bake_s: part.bake_s, hold: part.hold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(waves: &str) -> Result<PlanFile, String> {
        let text = format!("{{\"name\": \"slow.toml\", \"waves\": {waves}}}");
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    const ALL: &str = r#"{"percent": 100}"#;

    #[test]
    fn what_is_written_is_read_back_and_is_the_same_plan() {
        let wave = r#"{"regions": ["eu", "*"], "steps":
            [{"hosts": 1, "bake_s": 60}, {"percent": 25, "hold": true}, {"percent": 100}]}"#;
        let plan = read(&format!("[{wave}]")).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<PlanFile>(&text).unwrap(), plan);
        let other = PlanFile { name: "other".into(), ..plan.clone() };
        assert_eq!(other.digest(), plan.digest(), "a name does not change what it does");
        let longer = read(&format!("[{}]", wave.replace("60", "61"))).unwrap();
        assert_ne!(longer.digest(), plan.digest());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_a_sentence() {
        let wave = |steps: &str| format!(r#"[{{"regions": ["eu"], "steps": [{steps}]}}]"#);
        for (waves, said) in [
            (wave(r#"{"percent": 0}, {"percent": 100}"#), "percent is 1 to 100"),
            (wave(r#"{"percent": 101}"#), "percent is 1 to 100"),
            (wave(r#"{"hosts": 0}"#), "hosts is 1 to 1000000"),
            (wave(r#"{"hosts": 1, "percent": 2}"#), "one of hosts and percent"),
            (wave(r#"{"bake_s": 2}"#), "one of hosts and percent"),
            (wave(r#"{"percent": 100, "bake": "2m"}"#), "unknown field `bake`"),
            (wave(r#"{"percent": 100, "bake_s": 86401}"#), "at most 86400"),
            (wave(r#"{"percent": 50}, {"percent": 50}, {"percent": 100}"#), "50% follows 50%"),
            (wave(r#"{"percent": 5}, {"hosts": 50}, {"percent": 100}"#), "before percents"),
            (wave(r#"{"percent": 50}"#), "the last step of a wave has percent = 100"),
            (wave(""), "the last step of a wave has percent = 100"),
            (wave(r#"{"percent": 100, "hold": true}"#), "the last step holds"),
            ("[]".into(), "1 to 32 waves"),
            (format!(r#"[{{"regions": [], "steps": [{ALL}]}}]"#), "at least one region"),
            (format!(r#"[{{"regions": ["EU"], "steps": [{ALL}]}}]"#), "not a valid region name"),
            (format!(r#"[{{"regions": ["*", "eu", "*"], "steps": [{ALL}]}}]"#), "* is named twice"),
            (
                format!(
                    "[{}]",
                    [r#"{"regions": ["eu"], "steps": [{"percent": 100}]}"#; 2].join(",")
                ),
                "eu is named twice",
            ),
        ] {
            let why = read(&waves).unwrap_err();
            assert!(why.contains(said), "{waves}: {why}");
        }
        let many: Vec<String> = (1..=65).map(|n| format!("{{\"hosts\": {n}}}")).collect();
        let why = read(&wave(&format!("{}, {ALL}", many.join(",")))).unwrap_err();
        assert!(why.contains("66 steps; 64 at most"), "{why}");
        assert!(PlanFile::new("a\nb", vec![]).unwrap_err().to_string().contains("visible"));
    }

    #[test]
    fn a_plan_without_a_bake_before_its_last_step_is_all_at_once() {
        let of =
            |steps: &str| read(&format!(r#"[{{"regions": ["*"], "steps": [{steps}]}}]"#)).unwrap();
        for (steps, bake_s, expected) in [
            (r#"{"percent": 100}"#, None, true),
            (r#"{"percent": 100, "bake_s": 600}"#, None, true),
            (r#"{"percent": 10}, {"percent": 100, "bake_s": 600}"#, None, true),
            (r#"{"percent": 10, "bake_s": 60}, {"percent": 100}"#, None, false),
            (r#"{"percent": 10, "bake_s": 60}, {"percent": 100}"#, Some(5), false),
            (r#"{"percent": 10, "bake_s": 60}, {"percent": 100}"#, Some(0), true),
        ] {
            assert_eq!(of(steps).is_all_at_once(bake_s), expected, "{steps} {bake_s:?}");
        }
    }
}
