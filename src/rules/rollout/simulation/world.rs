//! A little fleet that the rules steer: hosts fail, vanish and report late.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use crate::model::config::Bits;
use crate::model::digest::Digest;
use crate::model::fleet::Tally;
use crate::model::goal::{Goal, GoalVersion, HostView, Target, bucket};
use crate::model::id::{HostId, RegionName, ReleaseNo};
use crate::model::rng::Rng;
use crate::model::rollout::RolloutState;
use crate::model::selector::Labels;
use crate::model::time::UnixMillis;
use crate::rules::comparison::Ledger;
use crate::rules::rollout::plan::{Fleet, waves};
use crate::rules::rollout::simulation::restarts::span;
use crate::rules::rollout::{Action, Admission, Facts, RegionFacts, Rollout};

pub(super) const TICK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Health {
    Healthy,
    ReleaseFault,
    HostFault,
    TransportFault,
}

pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) region: RegionName,
    pub(super) reachable: bool,
    pub(super) running: Option<Bits>,
    pub(super) health: Health,
    /// The goal that `health` was found under.
    pub(super) version: GoalVersion,
    pub(super) retry: u32,
    /// Whether it could be reached when its region spoke last.
    seen: bool,
    /// Whether it was let in while it could not be reached.
    excused: bool,
    /// Whether it was lost once, and in how many ticks it comes back; `None`: never.
    lost: Option<Option<u64>>,
}

impl Host {
    fn view<'a>(&'a self, labels: &'a Labels) -> HostView<'a> {
        HostView { host: &self.id, region: &self.region, labels, running: self.running }
    }
}

/// What the fleet is like, in percent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Hosts on which the new release fails.
    pub(super) broken: u64,
    /// Hosts that fail by themselves, per attempt.
    pub(super) sick: u64,
    /// Hosts that are away from the start.
    pub(super) away: u64,
    /// Hosts that come or go, per tick.
    pub(super) churn: u64,
    /// Reports and goals that come a tick late.
    pub(super) late: u64,
    /// Hosts that are lost on their way, per tick: half of them for ever.
    pub(super) lost: u64,
    /// Hosts that come back from where they were since the start, per tick.
    pub(super) back: u64,
    /// Hosts that share a bucket with their neighbour.
    pub(super) twins: u64,
    /// Hosts with the new release, and others, that restart and get over it, per tick and
    /// in thousandths; and ticks in which all of them do.
    pub(super) restarts: (u64, u64),
    pub(super) outages: u64,
}

/// Nothing happens, and at once.
pub(super) const CALM: Weather = Weather {
    broken: 0,
    sick: 0,
    away: 0,
    churn: 0,
    late: 0,
    lost: 0,
    back: 0,
    twins: 0,
    restarts: (0, 0),
    outages: 0,
};

/// Longest time that a lost host is away before it comes back, ticks: far below the time
/// after which it would be written off.
const BACK_WITHIN: u64 = 6;

/// Names of hosts that share a bucket in the first generation of a [`World`].
static PAIRS: LazyLock<Vec<[HostId; 2]>> = LazyLock::new(|| {
    let (app, salt) = ("api".parse().unwrap(), (GENERATION + 1).to_string());
    let mut alone: BTreeMap<u32, HostId> = BTreeMap::new();
    let mut pairs = Vec::new();
    for n in 0..3000 {
        let id: HostId = format!("twin-{n}").parse().unwrap();
        let drawn = bucket(&salt, &app, &id);
        match alone.remove(&drawn) {
            Some(other) => pairs.push([other, id]),
            None => drop(alone.insert(drawn, id)),
        }
    }
    pairs
});

/// The generation before the first.
const GENERATION: u64 = 7;

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: UnixMillis,
    pub(super) weather: Weather,
    pub(super) hosts: Vec<Host>,
    pub(super) regions: Vec<RegionName>,
    /// The goal that each region mirrors.
    pub(super) mirrored: BTreeMap<RegionName, Goal>,
    pub(super) facts: Facts,
    pub(super) rollout: Rollout,
    pub(super) goal: Option<Goal>,
    pub(super) goals: Vec<Goal>,
    pub(super) generation: u64,
    pub(super) bad: bool,
    /// Whether no region is heard.
    pub(super) cut_off: bool,
    /// How each region's hosts fare; nothing where no agent tells.
    pub(super) ledgers: BTreeMap<RegionName, Ledger>,
}

/// Releases 1 and 2 are the same code: all that release 2 brings is a configuration.
pub(super) fn bits(n: u64) -> Bits {
    let config = n.is_multiple_of(2).then(|| Digest::of(&n.to_be_bytes()));
    Bits { artifact: Digest::of(&n.div_ceil(2).to_be_bytes()), config }
}

pub(super) fn target(n: u64) -> Target {
    let Bits { artifact, config } = bits(n);
    Target { release: ReleaseNo(n), artifact, config }
}

impl World {
    pub(super) fn new(seed: u64, sizes: &[usize], weather: Weather, admission: Admission) -> Self {
        let mut rng = Rng::new(seed);
        let regions: Vec<RegionName> =
            (0..sizes.len()).map(|n| format!("r{n}").parse().unwrap()).collect();
        let running = admission.stable.base.map(|base| base.bits());
        let mut hosts = Vec::new();
        for (region, size) in regions.iter().zip(sizes) {
            for n in 0..*size {
                hosts.push(Host {
                    id: format!("{region}-{n}-{seed}").parse().unwrap(),
                    region: region.clone(),
                    reachable: rng.below(100) >= weather.away,
                    running,
                    health: Health::Healthy,
                    version: GoalVersion::default(),
                    retry: 0,
                    seen: false,
                    excused: false,
                    lost: None,
                });
            }
        }
        let now = UnixMillis(1_000_000);
        let mut world = Self {
            rng,
            now,
            weather,
            hosts,
            regions,
            mirrored: BTreeMap::new(),
            facts: Facts::default(),
            rollout: Rollout::admitted(now, admission),
            goal: None,
            goals: vec![],
            generation: GENERATION,
            bad: false,
            cut_off: false,
            ledgers: BTreeMap::new(),
        };
        world.pair_up();
        // The coordinator knows every host when the rollout is asked for.
        world.weather.late = 0;
        world.observe();
        world.weather = weather;
        world
    }

    /// Neighbours get names that share a bucket.
    fn pair_up(&mut self) {
        let mut pairs = PAIRS.iter();
        for n in 1..self.hosts.len() {
            if self.hosts[n - 1].region == self.hosts[n].region
                && self.rng.below(100) < self.weather.twins
                && let Some([one, other]) = pairs.next()
            {
                (self.hosts[n - 1].id, self.hosts[n].id) = (one.clone(), other.clone());
            }
        }
    }

    pub(super) fn fresh(&self) -> GoalVersion {
        GoalVersion { epoch: 1, generation: self.generation + 1, step: 1 }
    }

    pub(super) fn begin(&mut self) {
        let fresh = self.fresh();
        let fleet = self.fleet(fresh);
        let actions = self.rollout.begin(self.now, bits(2).artifact, fresh, &fleet);
        self.follow(actions);
    }

    pub(super) fn fleet(&self, fresh: GoalVersion) -> Fleet {
        let salt = fresh.generation.to_string();
        let (mut buckets, mut named) = (BTreeMap::<RegionName, Vec<u32>>::new(), 0);
        let canary = self.rollout.canary.as_ref();
        for host in self.hosts.iter().filter(|host| host.reachable) {
            if canary.is_some_and(|canary| canary.has(&host.region, &host.id)) {
                named += 1;
                continue;
            }
            let drawn = bucket(&salt, &self.rollout.app, &host.id);
            buckets.entry(host.region.clone()).or_default().push(drawn);
        }
        let covered: Vec<RegionName> =
            self.regions.iter().filter(|r| self.rollout.covers(r)).cloned().collect();
        let everywhere = self.rollout.regions.is_empty();
        Fleet { waves: waves(&[], &covered), buckets, named, everywhere }
    }

    pub(super) fn follow(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Publish => {
                    let goal = self.rollout.document(self.now).unwrap();
                    self.generation = self.generation.max(goal.version.generation);
                    self.let_in(&goal);
                    self.goals.push(goal.clone());
                    self.goal = Some(goal);
                }
                Action::MarkBad => self.bad = true,
                Action::Settle(_) | Action::Tell { .. } => {}
            }
        }
        self.facts.fresh = self.fresh();
    }

    /// Takes down who is let in without being there.
    fn let_in(&mut self, goal: &Goal) {
        let (before, labels) = (self.goal.take(), Labels::new());
        for host in &mut self.hosts {
            let view = host.view(&labels);
            let was = before.as_ref().is_some_and(|goal| goal.admits(&view));
            if goal.admits(&view) && !was {
                host.excused = !(host.seen && host.reachable);
            }
        }
    }

    /// In a region hosts are lost on their way, or others come back. One or the other,
    /// and not before the coordinator knows of the last time: counts can't tell one that
    /// came back while another was lost from one that stayed away.
    fn lose(&mut self, region: &RegionName) {
        let (Some(goal), labels) = (&self.goal, Labels::new()) else { return };
        let known = self.facts.regions[region].tally.version == goal.version;
        let here = |host: &&mut Host| host.region == *region;
        let calm =
            known && !self.hosts.iter().any(|h| h.region == *region && h.seen != h.reachable);
        let back = self.rng.below(2) == 0;
        for host in self.hosts.iter_mut().filter(here) {
            match host.lost {
                Some(Some(1)) => (host.reachable, host.lost) = (true, Some(Some(0))),
                Some(Some(left)) if left > 0 => host.lost = Some(Some(left - 1)),
                None if !calm => {}
                None if !host.reachable => {
                    host.reachable = back && self.rng.below(100) < self.weather.back;
                }
                None if !back
                    && goal.admits(&host.view(&labels))
                    && host.running != Some(goal.next.bits())
                    && self.rng.below(100) < self.weather.lost =>
                {
                    let returns = self.rng.below(2) == 0;
                    host.lost = Some(returns.then(|| 1 + self.rng.below(BACK_WITHIN)));
                    host.reachable = false;
                }
                _ => {}
            }
        }
    }

    /// Five seconds in the life of the fleet.
    pub(super) fn tick(&mut self) {
        self.now = self.now + TICK;
        for n in 0..self.hosts.len() {
            if self.rng.below(100) < self.weather.churn {
                self.hosts[n].reachable ^= true;
            }
        }
        for region in self.regions.clone() {
            let late = self.rng.below(100) < self.weather.late;
            if let (Some(goal), false) = (&self.goal, late) {
                self.mirrored.insert(region.clone(), goal.clone());
            }
            self.lose(&region);
            self.act(&region);
        }
        self.restart_some();
        self.observe();
        let actions = self.rollout.step(self.now, &self.facts);
        self.follow(actions);
    }

    pub(super) fn act(&mut self, region: &RegionName) {
        let Some(goal) = self.mirrored.get(region).cloned() else { return };
        let labels = Labels::new();
        for host in self.hosts.iter_mut().filter(|host| host.region == *region && host.reachable) {
            if self.rng.below(100) < self.weather.late {
                continue;
            }
            let view = host.view(&labels);
            let desired = goal.desired(&view).map(|target| target.bits());
            let failed_here = host.health == Health::ReleaseFault
                && host.version.generation == goal.version.generation
                && host.retry == goal.retry;
            host.version = goal.version;
            if desired.is_none() || desired == host.running {
                if !failed_here {
                    host.health = Health::Healthy;
                }
                continue;
            }
            if failed_here && desired == Some(goal.next.bits()) {
                continue;
            }
            host.retry = goal.retry;
            let draw = self.rng.below(100);
            let broken =
                u64::from(bucket("broken", &goal.app, &host.id)) < self.weather.broken * 100;
            if desired == Some(bits(2)) && broken {
                host.health = Health::ReleaseFault;
            } else if draw < self.weather.sick {
                host.health =
                    if draw.is_multiple_of(2) { Health::HostFault } else { Health::TransportFault };
            } else {
                host.running = desired;
                host.health = Health::Healthy;
            }
        }
    }

    pub(super) fn observe(&mut self) {
        self.facts.fresh = self.fresh();
        if self.cut_off {
            return;
        }
        for region in self.regions.clone() {
            if self.rng.below(100) < self.weather.late {
                // It has not heard its hosts yet, and says again what it said before.
                let before = self.facts.regions.get_mut(&region);
                before.into_iter().for_each(|before| before.told_at = self.now);
                continue;
            }
            for host in self.hosts.iter_mut().filter(|host| host.region == region) {
                host.seen = host.reachable;
            }
            let here = self.hosts.iter().filter(|host| host.region == region);
            let known = here.clone().count() as u32;
            let reachable = here.filter(|host| host.reachable).count() as u32;
            let tally = self.mirrored.get(&region).map(|goal| self.tally(goal, &region));
            let mut tally = tally.unwrap_or_default();
            tally.comparison = self.ledgers.get_mut(&region).and_then(|l| l.told(span(self.now)));
            let buckets = self.buckets(&region);
            let told_at = self.now;
            let facts = RegionFacts { tally, told_at, silent: false, known, reachable, buckets };
            self.facts.regions.insert(region, facts);
        }
    }

    fn buckets(&self, region: &RegionName) -> Option<Vec<(u32, bool)>> {
        let version = self.rollout.version?;
        let salt = version.generation.to_string();
        let here = self.hosts.iter().filter(|host| host.region == *region);
        let drawn = |host: &Host| (bucket(&salt, &self.rollout.app, &host.id), host.reachable);
        let mut buckets: Vec<(u32, bool)> = here.map(drawn).collect();
        buckets.sort_unstable();
        Some(buckets)
    }

    pub(super) fn tally(&self, goal: &Goal, region: &RegionName) -> Tally {
        let labels = Labels::new();
        let mut tally = Tally { version: goal.version, ..Tally::default() };
        for host in self.hosts.iter().filter(|host| host.region == *region) {
            let view = host.view(&labels);
            let admitted = goal.admits(&view);
            let current = host.version.generation == goal.version.generation;
            let on_next = host.running == Some(goal.next.bits());
            let desired = goal.desired(&view).map(|target| target.bits());
            tally.hosts += 1;
            tally.admitted += u32::from(admitted);
            if !host.reachable {
                tally.unreachable += 1;
                tally.admitted_unreachable += u32::from(admitted);
                // Its fault stays.
                let failed = current && admitted && host.health == Health::ReleaseFault;
                tally.failed += u32::from(failed);
                tally.failed_unreachable += u32::from(failed);
                continue;
            }
            let healthy = host.health == Health::Healthy && current;
            tally.healthy += u32::from(admitted && on_next && healthy);
            tally.settled += u32::from(healthy && desired.is_none_or(|d| Some(d) == host.running));
            if current && admitted {
                tally.failed += u32::from(host.health == Health::ReleaseFault);
                tally.host_faults += u32::from(host.health == Health::HostFault);
                tally.transport_faults += u32::from(host.health == Health::TransportFault);
            }
        }
        tally
    }

    pub(super) fn is_open(&self) -> bool {
        !self.rollout.state.is_final() && self.rollout.state != RolloutState::Paused
    }

    /// Hosts that the newest document admits, away or not.
    pub(super) fn exposed(&self, reachable: &[HostId]) -> usize {
        let admitted = self.admitted_by(self.goal.as_ref().unwrap());
        admitted.iter().filter(|id| reachable.contains(id)).count()
    }

    pub(super) fn admitted_by(&self, goal: &Goal) -> Vec<HostId> {
        let admitted = |host: &&Host| goal.admits(&host.view(&Labels::new()));
        self.hosts.iter().filter(admitted).map(|host| host.id.clone()).collect()
    }

    /// Hosts of a region that the newest document let in while they were there, and that
    /// neither run it yet nor failed, and all that are reachable there: those may be
    /// anywhere between the releases, and so may one that is away for a moment.
    pub(super) fn between_releases(&self, region: &RegionName) -> (u32, u32) {
        let (goal, labels) = (self.goal.as_ref().unwrap(), Labels::new());
        let here = self.hosts.iter().filter(|host| host.region == *region);
        let moving = |host: &&Host| {
            let view = host.view(&labels);
            let current = host.version.generation == goal.version.generation;
            let failed = current && host.health == Health::ReleaseFault;
            let there = host.reachable || host.lost.flatten().is_some();
            goal.admits(&view)
                && host.running != Some(goal.next.bits())
                && there
                && !failed
                && !host.excused
        };
        let reachable = here.clone().filter(|host| host.reachable).count();
        (here.filter(moving).count() as u32, reachable as u32)
    }

    /// Most hosts of a region that share a bucket: a threshold can't part them.
    pub(super) fn largest_bucket(&self, region: &RegionName) -> u32 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for (bucket, _) in self.buckets(region).unwrap_or_default() {
            *counts.entry(bucket).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// Reachable hosts that share a bucket with another of their region: a
    /// threshold can't part them, so a canary of one may admit its twins.
    pub(super) fn twins(&self) -> usize {
        let version = self.goal.as_ref().expect("a goal was published").version;
        let twins = |drawn: &Vec<u32>| {
            drawn.len() - drawn.iter().collect::<std::collections::BTreeSet<_>>().len()
        };
        self.fleet(version).buckets.values().map(twins).sum()
    }

    pub(super) fn reachable(&self) -> Vec<HostId> {
        self.hosts.iter().filter(|host| host.reachable).map(|host| host.id.clone()).collect()
    }
}
