//! A fleet of 10,000 hosts that fail, vanish and report late, steered by the rules from
//! the first canary to the end. `CROWDS=N` sets how many fleets (`bench/rollouts`).

use std::collections::BTreeMap;
use std::time::Duration;

use deployctl::model::fleet::Tally;
use deployctl::model::goal::{Goal, GoalVersion, HostView, bucket};
use deployctl::model::id::{HostId, RegionName};
use deployctl::model::rng::Rng;
use deployctl::model::rollout::RolloutState;
use deployctl::model::selector::Labels;
use deployctl::model::time::UnixMillis;
use deployctl::rules::rollout::plan::{Fleet, waves};
use deployctl::rules::rollout::{Action, Facts, RegionFacts, Rollout};

use crate::{bits, deploy, target};

/// Fleets in a test run.
const CROWDS: u64 = 4;
const HOSTS: usize = 10_000;
const REGIONS: usize = 4;
/// One look: a report interval.
const TICK: Duration = Duration::from_secs(5);
/// A fleet that is not done by then never will be.
const TICKS_MAX: usize = 20_000;

#[derive(Clone, Copy, PartialEq)]
enum Health {
    Fine,
    Broken,
    Sick,
}

struct Host {
    id: HostId,
    region: usize,
    /// Drawn anew for each generation.
    bucket: u32,
    reachable: bool,
    on_next: bool,
    ever_next: bool,
    health: Health,
    generation: u64,
}

/// What a fleet is like, in percent of its hosts.
struct Nature {
    broken: u64,
    sick: u64,
    away: u64,
    late: u64,
}

struct Crowd {
    rng: Rng,
    nature: Nature,
    now: UnixMillis,
    hosts: Vec<Host>,
    regions: Vec<RegionName>,
    mirrored: Vec<Option<Goal>>,
    goal: Option<Goal>,
    facts: Facts,
    rollout: Rollout,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let of = |rng: &mut Rng, choices: &[u64]| choices[rng.below(choices.len() as u64) as usize];
        let nature = Nature {
            broken: of(&mut rng, &[0, 0, 5, 30, 100]),
            sick: of(&mut rng, &[0, 0, 1]),
            away: of(&mut rng, &[0, 1, 5]),
            late: of(&mut rng, &[0, 20, 60]),
        };
        let regions = (0..REGIONS).map(|n| format!("r{n}").parse().unwrap()).collect();
        let host = |n: usize, rng: &mut Rng| Host {
            id: format!("h{n}-{seed}").parse().unwrap(),
            // A large region, and smaller ones.
            region: (rng.below(10) as usize).saturating_sub(10 - REGIONS),
            bucket: 0,
            reachable: rng.below(100) >= nature.away,
            on_next: false,
            ever_next: false,
            health: Health::Fine,
            generation: 0,
        };
        let hosts = (0..HOSTS).map(|n| host(n, &mut rng)).collect();
        let now = UnixMillis(1_000_000);
        let rollout = Rollout::admitted(now, deploy(Some(target(1)), 20));
        let (mirrored, facts) = (vec![None; REGIONS], Facts::default());
        Self { rng, nature, now, hosts, regions, mirrored, goal: None, facts, rollout }
    }

    fn draw(&mut self, generation: u64) {
        let salt = generation.to_string();
        for host in &mut self.hosts {
            host.bucket = bucket(&salt, &self.rollout.app, &host.id);
        }
    }

    fn begin(&mut self) {
        self.observe(true);
        self.draw(1);
        let mut buckets: BTreeMap<RegionName, Vec<u32>> = BTreeMap::new();
        for host in self.hosts.iter().filter(|host| host.reachable) {
            buckets.entry(self.regions[host.region].clone()).or_default().push(host.bucket);
        }
        let fleet = Fleet { waves: waves(&[], &self.regions), buckets, named: 0, everywhere: true };
        let fresh = GoalVersion { epoch: 1, generation: 1, step: 1 };
        let actions = self.rollout.begin(self.now, bits(2).artifact, fresh, &fleet);
        self.follow(&actions);
    }

    fn follow(&mut self, actions: &[Action]) {
        if !actions.contains(&Action::Publish) {
            return;
        }
        let goal = self.rollout.document(self.now).expect("it began");
        let drawn = self.goal.as_ref().map(|goal| goal.version.generation);
        if drawn != Some(goal.version.generation) {
            self.draw(goal.version.generation);
        }
        // What is decided here by a number is what any host decides by the document.
        let labels = Labels::new();
        for _ in 0..64 {
            let host = &self.hosts[self.rng.below(HOSTS as u64) as usize];
            let region = &self.regions[host.region];
            let view = HostView { host: &host.id, region, labels: &labels, running: None };
            assert_eq!(goal.admits(&view), admitted(&goal, region, host.bucket));
        }
        self.goal = Some(goal);
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        for at in 0..REGIONS {
            if self.goal.is_some() && self.rng.below(100) >= self.nature.late {
                self.mirrored[at].clone_from(&self.goal);
            }
        }
        self.act();
        self.observe(false);
        let fresh = self.goal.as_ref().map_or(1, |goal| goal.version.generation + 1);
        self.facts.fresh = GoalVersion { epoch: 1, generation: fresh, step: 1 };
        let actions = self.rollout.step(self.now, &self.facts);
        self.follow(&actions);
    }

    fn act(&mut self) {
        let back = self.rollout.went_back;
        for host in &mut self.hosts {
            let Some(goal) = &self.mirrored[host.region] else { continue };
            // Buckets of an older generation are not drawn any more.
            let newest = self
                .goal
                .as_ref()
                .is_some_and(|newest| newest.version.generation == goal.version.generation);
            if !host.reachable || !newest || self.rng.below(100) < self.nature.late {
                continue;
            }
            if host.generation != goal.version.generation {
                (host.generation, host.health) = (goal.version.generation, Health::Fine);
            }
            let next = !back && admitted(goal, &self.regions[host.region], host.bucket);
            if next == host.on_next || (next && host.health != Health::Fine) {
                continue;
            }
            if !next {
                host.on_next = false;
                continue;
            }
            host.ever_next = true;
            let draw = self.rng.below(100);
            let broken =
                u64::from(bucket("broken", &goal.app, &host.id)) < self.nature.broken * 100;
            if broken {
                host.health = Health::Broken;
            } else if draw < self.nature.sick {
                host.health = Health::Sick;
            } else {
                host.on_next = true;
            }
        }
    }

    /// What each region counts, unless its report comes late.
    fn observe(&mut self, all: bool) {
        let mut tallies = vec![(Tally::default(), 0u32); REGIONS];
        for host in &self.hosts {
            let (tally, reachable) = &mut tallies[host.region];
            *reachable += u32::from(host.reachable);
            tally.hosts += 1;
            tally.unreachable += u32::from(!host.reachable);
            let Some(goal) = &self.mirrored[host.region] else { continue };
            let here = admitted(goal, &self.regions[host.region], host.bucket);
            let current = host.generation == goal.version.generation && host.reachable;
            let wanted = here && !self.rollout.went_back;
            tally.admitted += u32::from(here);
            tally.admitted_unreachable += u32::from(here && !host.reachable);
            let fine = current && host.health == Health::Fine;
            tally.healthy += u32::from(fine && here && host.on_next);
            tally.settled += u32::from(fine && host.on_next == wanted);
            tally.failed += u32::from(current && here && host.health == Health::Broken);
            tally.host_faults += u32::from(current && here && host.health == Health::Sick);
        }
        for (at, (tally, reachable)) in tallies.into_iter().enumerate() {
            if !all && self.rng.below(100) < self.nature.late {
                // The region has not heard its hosts yet, and says again what it said before.
                let before = self.facts.regions.get_mut(&self.regions[at]);
                before.into_iter().for_each(|before| before.told_at = self.now);
                continue;
            }
            let version = self.mirrored[at].as_ref().map_or_else(Default::default, |g| g.version);
            let known = tally.hosts;
            let tally = Tally { version, ..tally };
            let facts = RegionFacts {
                tally,
                told_at: self.now,
                known,
                reachable,
                ..RegionFacts::default()
            };
            self.facts.regions.insert(self.regions[at].clone(), facts);
        }
    }

    fn exposed(&self) -> usize {
        self.hosts.iter().filter(|host| host.ever_next).count()
    }
}

fn admitted(goal: &Goal, region: &RegionName, bucket: u32) -> bool {
    let open = goal.admit.get(region.as_str()).or_else(|| goal.admit.get("*"));
    bucket < open.copied().unwrap_or(0)
}

fn live(seed: u64) -> (&'static str, usize) {
    let mut crowd = Crowd::new(seed);
    crowd.begin();
    for _ in 0..TICKS_MAX {
        let state = crowd.rollout.state;
        if state.is_final() || state == RolloutState::Paused {
            break;
        }
        crowd.tick();
    }
    let (state, nature, exposed) = (crowd.rollout.state, &crowd.nature, crowd.exposed());
    let left = |next: bool| {
        crowd.hosts.iter().filter(|host| host.reachable && host.on_next != next).count()
    };
    let told =
        format!("seed {seed}, {} % broken: {state:?}, {}", nature.broken, crowd.rollout.reason);
    match state {
        // 99 in 100 of those that can be reached are back, and the others are on their way.
        RolloutState::Reverted => assert!(left(false) <= HOSTS / 100, "{told}"),
        RolloutState::Succeeded => assert!(left(true) <= HOSTS / 50, "{told}"),
        RolloutState::Paused => assert!(nature.sick + nature.away + nature.broken > 0, "{told}"),
        _ => panic!("{told}"),
    }
    match nature.broken {
        0 => assert_ne!(state, RolloutState::Reverted, "{told}"),
        100 => assert_eq!(state, RolloutState::Reverted, "{told}"),
        _ => assert_ne!(state, RolloutState::Succeeded, "{told}"),
    }
    if nature.broken >= 30 {
        // Hosts with equal buckets can't be parted: ten thousand buckets for that many
        // hosts leave a few twins in any canary.
        assert!(exposed <= HOSTS / 100 + 1 + 10, "{told}; {exposed} exposed");
    }
    (state.word(), exposed)
}

#[test]
fn ten_thousand_hosts_follow_a_good_release_and_survive_a_bad_one() {
    let wanted = std::env::var("CROWDS").ok().and_then(|text| text.parse().ok());
    let (crowds, began) = (wanted.unwrap_or(CROWDS), std::time::Instant::now());
    let mut ends: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for seed in 0..crowds {
        let (state, exposed) = live(seed);
        let end = ends.entry(state).or_default();
        (end.0, end.1) = (end.0 + 1, end.1.max(exposed));
    }
    println!("{crowds} fleets of {HOSTS} hosts in {:.1?}", began.elapsed());
    for (state, (fleets, exposed)) in ends {
        println!("  {state}: {fleets}, at most {exposed} hosts exposed");
    }
}
