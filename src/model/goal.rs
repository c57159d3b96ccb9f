//! The goal document: which release each host of an app and env should run.
//!
//! One small document per app and env, copied to every region. A host's desired
//! release is one pure function of the document and the host ([`Goal::desired`]),
//! shared by agent, region and coordinator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Bits;
use super::digest::{ArtifactId, ConfigId, Digest};
use super::id::{AppName, EnvName, HostId, RegionName, ReleaseNo};
use super::selector::{Labels, Selector};
use super::time::UnixMillis;

/// Buckets that hosts fall into; `admit` counts in these: 100 = 1 %.
pub const BUCKETS: u32 = 10_000;
/// How far ahead a goal that is made by hand is, generations.
const BY_HAND: u64 = 1_000;

/// The order of goal documents: an agent never accepts a lower one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct GoalVersion {
    /// Raised when the coordinator's history was restored or fenced.
    pub epoch: u64,
    /// Raised by each new rollout or rollback.
    pub generation: u64,
    /// Raised by each step of a rollout; within a generation `admit` only grows.
    pub step: u32,
}

/// A release and what it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The release's number.
    pub release: ReleaseNo,
    /// The artifact's identity.
    pub artifact: ArtifactId,
    /// The configuration beside it. Left out where there is none, so that goals without
    /// one are written, and signed, as they always were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
}

impl Target {
    /// What it consists of, whatever its number: what a host runs is compared by it.
    #[must_use]
    pub fn bits(&self) -> Bits {
        Bits { artifact: self.artifact, config: self.config }
    }
}

/// Whether the goal moves forward or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalKind {
    /// A new release is tried.
    Deploy,
    /// A known-good release is restored: no permits, no pacing, flat out.
    Rollback,
}

/// The desired state of one app in one env.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// Format version, 1.
    pub v: u32,
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// Where this document stands in the order of all.
    pub version: GoalVersion,
    /// Forward or back.
    pub kind: GoalKind,
    /// The release whose rollout wrote it.
    pub rollout: ReleaseNo,
    /// What hosts run that are not admitted; `None` on an app's first deploy.
    pub base: Option<Target>,
    /// What admitted hosts run.
    pub next: Target,
    /// Artifacts that a host may go on running, without a configuration, until it is
    /// admitted.
    #[serde(default)]
    pub tolerate: Vec<ArtifactId>,
    /// The same, of artifacts that have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerate_configured: Vec<Bits>,
    /// Bases that differ by region (a rollback of one region).
    #[serde(default)]
    pub region_base: BTreeMap<RegionName, Target>,
    /// Buckets admitted per region, 0 to [`BUCKETS`]; `*` for all others.
    pub admit: BTreeMap<String, u32>,
    /// Makes each generation draw its early hosts anew.
    pub salt: String,
    /// Labels of hosts that go first, with any step; empty: none.
    #[serde(default)]
    pub canary: Selector,
    /// The hosts that run the app at all.
    #[serde(default)]
    pub hosts: Selector,
    /// Hosts and regions that a person keeps where they are, whatever the rest says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// Whether hosts that are not admitted yet fetch `next` ahead.
    pub stage: bool,
    /// Hosts start activating spread over this time, milliseconds.
    pub spread_ms: u64,
    /// Hosts take about this time to fetch, milliseconds, from when they accepted the goal;
    /// 0: no longer than they must.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub pace_ms: u64,
    /// Grows when a person asks failed hosts to try again.
    pub retry: u32,
    /// When it was written.
    pub issued_at: UnixMillis,
}

/// A host or a region that a person keeps where it is, or a host of a canary that a person
/// named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// This host; `None`: every host of `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// This region; beside a host: only the host of that name that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// What it runs meanwhile; `None`: what it runs already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Target>,
    /// Whether the rollout named it and not a person: the host is admitted by name, counts and
    /// is judged. Who is too old to know this obeys the pin all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
}

impl Pin {
    /// Whether it keeps `host` of `region`.
    #[must_use]
    pub fn keeps(&self, host: &HostId, region: &RegionName) -> bool {
        match (&self.host, &self.region) {
            (Some(own), there) => own == host && there.as_ref().is_none_or(|there| there == region),
            (None, Some(own)) => own == region,
            (None, None) => false,
        }
    }
}

/// What the desired release depends on, of one host.
#[derive(Debug, Clone, Copy)]
pub struct HostView<'a> {
    /// The host.
    pub host: &'a HostId,
    /// Its region.
    pub region: &'a RegionName,
    /// Its labels.
    pub labels: &'a Labels,
    /// What it runs now.
    pub running: Option<Bits>,
}

impl Goal {
    /// The bucket of `host`, 0 to [`BUCKETS`] - 1.
    #[must_use]
    pub fn bucket(&self, host: &HostId) -> u32 {
        bucket(&self.salt, &self.app, host)
    }

    /// Whether `host` runs this app at all.
    #[must_use]
    pub fn covers(&self, labels: &Labels) -> bool {
        self.hosts.selects(labels)
    }

    /// What keeps the host where it is; its own pin goes before its region's.
    #[must_use]
    pub fn pin(&self, host: &HostId, region: &RegionName) -> Option<&Pin> {
        let mut keep = self.pins.iter().filter(|pin| pin.keeps(host, region));
        let first = keep.next()?;
        if first.host.is_some() {
            Some(first)
        } else {
            keep.find(|p| p.host.is_some()).or(Some(first))
        }
    }

    /// Whether a person keeps the host where it is.
    #[must_use]
    pub fn keeps(&self, host: &HostId, region: &RegionName) -> bool {
        self.pin(host, region).is_some_and(|pin| !pin.canary)
    }

    /// Puts `kept`, which persons asked for, before the canary: whom a person keeps is not
    /// admitted by name either.
    pub fn keep(&mut self, kept: Vec<Pin>) {
        let asked = |pin: &Pin| match (&pin.host, &pin.region) {
            (Some(host), Some(region)) => kept.iter().any(|kept| kept.keeps(host, region)),
            _ => false,
        };
        self.pins.retain(|pin| pin.canary && !asked(pin));
        self.pins.splice(0..0, kept);
    }

    /// Whether `view`'s host should run [`Goal::next`] by now; one that a person pinned is
    /// not asked.
    #[must_use]
    pub fn admits(&self, view: &HostView<'_>) -> bool {
        if let Some(pin) = self.pin(view.host, view.region) {
            return pin.canary;
        }
        let admitted = self.admit.get(view.region.as_str()).or_else(|| self.admit.get("*"));
        let admitted = admitted.copied().unwrap_or(0);
        let canary = !self.canary.0.is_empty() && self.canary.selects(view.labels);
        self.bucket(view.host) < admitted || (canary && admitted > 0)
    }

    /// The document that leads every host to `target` at once, made by hand while no
    /// coordinator lives; pins end with it, for nobody could take them away. Its generation is far ahead: no rollout of a coordinator that
    /// comes back may take these hosts' reports for its own.
    #[must_use]
    pub fn back_to(&self, target: Target, now: UnixMillis) -> Self {
        let generation = self.version.generation.saturating_add(BY_HAND);
        Self {
            version: GoalVersion { epoch: self.version.epoch, generation, step: 1 },
            kind: GoalKind::Rollback,
            rollout: target.release,
            base: Some(target),
            next: target,
            tolerate: vec![],
            tolerate_configured: vec![],
            region_base: BTreeMap::new(),
            admit: BTreeMap::from([("*".to_owned(), BUCKETS)]),
            pins: vec![],
            salt: generation.to_string(),
            stage: false,
            spread_ms: 0,
            pace_ms: 0,
            issued_at: now,
            ..self.clone()
        }
    }

    /// The release that the host should run; `None`: whatever it has, or nothing.
    #[must_use]
    pub fn desired(&self, view: &HostView<'_>) -> Option<Target> {
        if !self.covers(view.labels) {
            return None;
        }
        if let Some(pin) = self.pin(view.host, view.region) {
            return pin.at;
        }
        if self.admits(view) {
            return Some(self.next);
        }
        let base = self.region_base.get(view.region).copied().or(self.base);
        match view.running {
            Some(running) if self.tolerates(&running) => None,
            _ => base,
        }
    }

    /// Whether a host that is not admitted yet may go on running `bits`.
    #[must_use]
    pub fn tolerates(&self, bits: &Bits) -> bool {
        match bits.config {
            None => self.tolerate.contains(&bits.artifact),
            Some(_) => self.tolerate_configured.contains(bits),
        }
    }

    /// Everything that the document names: none of it may be collected.
    pub fn named(&self) -> impl Iterator<Item = Bits> + '_ {
        let pinned = self.pins.iter().filter_map(|pin| pin.at.as_ref());
        let targets = self.base.iter().chain(self.region_base.values()).chain([&self.next]);
        let bare = self.tolerate.iter().copied().map(Bits::from);
        let tolerated = bare.chain(self.tolerate_configured.iter().copied());
        targets.chain(pinned).map(Target::bits).chain(tolerated)
    }

    /// Every artifact that the document names.
    pub fn artifacts(&self) -> impl Iterator<Item = ArtifactId> + '_ {
        self.named().map(|bits| bits.artifact)
    }

    /// Every configuration that the document names.
    pub fn configs(&self) -> impl Iterator<Item = ConfigId> + '_ {
        self.named().filter_map(|bits| bits.config)
    }
}

/// The bucket of a host: the first 8 bytes of SHA-256(salt ‖ 0 ‖ app ‖ 0 ‖ host)
/// as a big-endian number, modulo [`BUCKETS`].
#[must_use]
pub fn bucket(salt: &str, app: &AppName, host: &HostId) -> u32 {
    let digest = Digest::of(format!("{salt}\0{app}\0{host}").as_bytes());
    let head: [u8; 8] = digest.0[..8].try_into().expect("a digest has 32 bytes");
    (u64::from_be_bytes(head) % u64::from(BUCKETS)) as u32
}

#[cfg(test)]
impl Goal {
    /// A deploy of `api` to `prod` that admits nobody, for tests to vary.
    pub(crate) fn sample() -> Self {
        let next = Target { release: ReleaseNo(2), artifact: Digest::of(b"2"), config: None };
        Self {
            v: 1,
            app: "api".parse().expect("a label"),
            env: "prod".parse().expect("a label"),
            version: GoalVersion { epoch: 1, generation: 5, step: 1 },
            kind: GoalKind::Deploy,
            rollout: next.release,
            base: None,
            next,
            tolerate: vec![],
            tolerate_configured: vec![],
            region_base: BTreeMap::new(),
            admit: BTreeMap::new(),
            salt: "5".into(),
            canary: Selector::default(),
            hosts: Selector::default(),
            pins: vec![],
            stage: true,
            spread_ms: 0,
            pace_ms: 0,
            retry: 0,
            issued_at: UnixMillis(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(n: u64) -> Target {
        Target { release: ReleaseNo(n), artifact: Digest::of(&n.to_be_bytes()), config: None }
    }

    fn goal() -> Goal {
        Goal {
            base: Some(target(1)),
            next: target(2),
            admit: BTreeMap::from([("eu".into(), 1000), ("*".into(), 0)]),
            ..Goal::sample()
        }
    }

    fn view<'a>(host: &'a HostId, region: &'a RegionName, labels: &'a Labels) -> HostView<'a> {
        HostView { host, region, labels, running: None }
    }

    #[test]
    fn a_tenth_of_a_region_is_admitted_and_nothing_elsewhere() {
        let (goal, labels) = (goal(), Labels::new());
        let count = |region: &str| {
            let region: RegionName = region.parse().unwrap();
            let hosts = (0..10_000).map(|n| format!("h{n}").parse::<HostId>().unwrap());
            hosts
                .filter(|host| goal.desired(&view(host, &region, &labels)) == Some(target(2)))
                .count()
        };
        assert!((850..1150).contains(&count("eu")), "{}", count("eu"));
        assert_eq!(count("us"), 0);
    }

    #[test]
    fn a_goal_by_hand_is_newer_and_leads_everybody_to_its_target() {
        let (host, region, labels) = ("h1".parse().unwrap(), "us".parse().unwrap(), Labels::new());
        let mut before = goal();
        before.region_base.insert("us".parse().unwrap(), target(9));
        let own = Some("h1".parse().unwrap());
        before.pins = vec![Pin { host: own, region: None, at: None, canary: false }];
        let back = before.back_to(target(1), UnixMillis(7));
        assert!(back.version > before.version && back.version.epoch == before.version.epoch);
        for running in [None, Some(target(2).bits()), Some(target(9).bits())] {
            let view = HostView { running, ..view(&host, &region, &labels) };
            assert_eq!(back.desired(&view), Some(target(1)));
        }
    }

    #[test]
    fn tolerated_hosts_stay_and_uncovered_hosts_are_left_alone() {
        let host: HostId = "h1".parse().unwrap();
        let region: RegionName = "us".parse().unwrap();
        let labels = Labels::new();
        let mut goal = goal();
        goal.tolerate = vec![target(9).artifact];
        let mut seen = view(&host, &region, &labels);
        assert_eq!(goal.desired(&seen), Some(target(1)));
        seen.running = Some(target(9).bits());
        assert_eq!(goal.desired(&seen), None);
        let configured = Bits { config: Some(Digest::of(b"c")), ..target(9).bits() };
        seen.running = Some(configured);
        assert_eq!(goal.desired(&seen), Some(target(1)), "another config is another release");
        goal.tolerate_configured = vec![configured];
        assert_eq!(goal.desired(&seen), None);
        assert!(goal.configs().eq([Digest::of(b"c")]));
        goal.hosts = "role=web".parse().unwrap();
        seen.running = None;
        assert_eq!(goal.desired(&seen), None);
    }

    #[test]
    fn a_goal_without_pins_and_configs_is_written_as_it_always_was() {
        let text = serde_json::to_string(&goal()).unwrap();
        assert!(!text.contains("pins") && !text.contains("config"), "{text}");
        assert_eq!(serde_json::from_str::<Goal>(&text).unwrap(), goal());
    }

    /// Releases 1 and 2 are the same code, and so are 3 and 4: even ones have a config.
    fn paired(n: u64) -> Target {
        let config = n.is_multiple_of(2).then(|| Digest::of(&n.to_be_bytes()));
        Target { release: ReleaseNo(n), config, ..target(n.div_ceil(2)) }
    }

    fn any_pin() -> impl Strategy<Value = Pin> {
        let at = prop::option::of((1u64..5).prop_map(paired));
        (prop::option::of(0u8..6), any::<bool>(), at).prop_map(|(host, eu, at)| Pin {
            host: host.map(|n| format!("h{n}").parse().unwrap()),
            region: (host.is_none()).then(|| if eu { "eu" } else { "us" }.parse().unwrap()),
            at,
            canary: false,
        })
    }

    #[test]
    fn a_canary_is_admitted_by_name_unless_a_person_keeps_it() {
        let (eu, us): (RegionName, RegionName) = ("eu".parse().unwrap(), "us".parse().unwrap());
        let hosts: Vec<HostId> = ["h1", "h2"].iter().map(|name| name.parse().unwrap()).collect();
        let pin = |host: &HostId| Pin {
            host: Some(host.clone()),
            region: Some(eu.clone()),
            at: Some(target(2)),
            canary: true,
        };
        let nobody = BTreeMap::from([("*".into(), 0)]);
        let mut goal = Goal { admit: nobody, pins: hosts.iter().map(pin).collect(), ..goal() };
        let labels = Labels::new();
        let runs = |goal: &Goal, host: &HostId, region: &RegionName| {
            let view = view(host, region, &labels);
            (goal.desired(&view).unwrap().release.0, goal.admits(&view), goal.keeps(host, region))
        };
        for host in &hosts {
            assert_eq!(runs(&goal, host, &eu), (2, true, false), "{host}");
            assert_eq!(runs(&goal, host, &us), (1, false, false), "another of that name");
        }
        let own = Pin { region: None, at: Some(target(1)), canary: false, ..pin(&hosts[0]) };
        goal.keep(vec![own.clone()]);
        assert_eq!(runs(&goal, &hosts[0], &eu), (1, false, true));
        assert_eq!(runs(&goal, &hosts[1], &eu), (2, true, false));
        goal.keep(vec![Pin { host: None, region: Some(eu.clone()), ..own }]);
        assert_eq!(runs(&goal, &hosts[1], &eu), (1, false, true), "its region is kept");
        assert!(goal.pins.len() == 1 && serde_json::to_string(&goal.pins).unwrap().len() < 200);
    }

    proptest! {
        #[test]
        fn a_pin_moves_nobody_but_its_own_and_is_obeyed_whatever_the_goal_says(
            pins in prop::collection::vec(any_pin(), 0..5),
            admit in 0..=BUCKETS,
            running in prop::option::of((1u64..5).prop_map(paired)),
            tolerate in prop::collection::vec((1u64..5).prop_map(|n| target(n).artifact), 0..2),
        ) {
            let free = Goal {
                admit: BTreeMap::from([("*".into(), admit)]),
                tolerate,
                ..goal()
            };
            let goal = Goal { pins, ..free.clone() };
            let named: Vec<_> = goal.named().collect();
            for n in 0..8 {
                let host: HostId = format!("h{n}").parse().unwrap();
                let region: RegionName = if n % 2 == 0 { "eu" } else { "us" }.parse().unwrap();
                let labels = Labels::new();
                let running = running.map(|target| target.bits());
                let view = HostView { running, ..view(&host, &region, &labels) };
                let own = goal.pins.iter().find(|pin| pin.host.as_ref() == Some(&host));
                let wide = goal.pins.iter().find(|pin| pin.region.as_ref() == Some(&region));
                match own.or(wide) {
                    Some(pin) => {
                        prop_assert_eq!(goal.desired(&view), pin.at);
                        prop_assert!(!goal.admits(&view));
                        prop_assert!(pin.at.is_none_or(|at| named.contains(&at.bits())));
                    }
                    None => {
                        prop_assert_eq!(goal.desired(&view), free.desired(&view));
                        prop_assert_eq!(goal.admits(&view), free.admits(&view));
                    }
                }
            }
        }
    }

    #[test]
    fn the_bucket_is_pinned_for_ever() {
        let (app, host) = ("api".parse().unwrap(), "host-1".parse().unwrap());
        assert_eq!(bucket("418", &app, &host), bucket("418", &app, &host));
        assert_ne!(bucket("418", &app, &host), bucket("419", &app, &host));
    }
}
