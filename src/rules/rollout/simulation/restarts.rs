//! Apps that end and are started again: what only a comparison with other hosts tells.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{bits, deploy, run, target};
use crate::model::comparison::{Comparison, Side, Span};
use crate::model::id::HostId;
use crate::model::judged::{Against, GateWord};
use crate::model::rollout::{RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::comparison::{Arm, Groups, Ledger};
use crate::rules::rollout::Admission;
use crate::rules::rollout::command::Command;
use crate::rules::rollout::simulation::world::{CALM, Health, Weather, World};

/// The ledgers' clock.
pub(super) fn span(now: UnixMillis) -> Duration {
    Duration::from_millis(now.0.unsigned_abs())
}

impl World {
    /// Every agent tells how its app fares.
    fn telling(mut self) -> Self {
        self.ledgers = self.regions.iter().map(|name| (name.clone(), Ledger::default())).collect();
        self
    }

    /// Some hosts restart, by the weather; regions count it.
    pub(super) fn restart_some(&mut self) {
        let all = self.rng.below(100) < self.weather.outages;
        let (with, without) = self.weather.restarts;
        if self.ledgers.is_empty() {
            return;
        }
        for region in self.regions.clone() {
            let Some(goal) = self.mirrored.get(&region).cloned() else { continue };
            let let_in: BTreeSet<HostId> = self.admitted_by(&goal).into_iter().collect();
            let arm_of = |host: &super::Host| {
                let there = host.region == region && host.reachable;
                let known = there && host.health == Health::Healthy;
                let admitted = let_in.contains(&host.id);
                match (known, admitted, host.running == Some(bits(2))) {
                    (true, true, true) => Some(Arm::Next),
                    (true, false, false) => Some(Arm::Control),
                    _ => None,
                }
            };
            let arms: Vec<(HostId, Arm)> = self
                .hosts
                .iter()
                .filter_map(|host| Some((host.id.clone(), arm_of(host)?)))
                .collect();
            let count = |arm| arms.iter().filter(|(_, own)| *own == arm).count() as u32;
            let (next, control) = (count(Arm::Next), count(Arm::Control));
            let struck: Vec<&(HostId, Arm)> = arms
                .iter()
                .filter(|(_, arm)| {
                    let chance = if *arm == Arm::Next { with } else { without };
                    all || self.rng.below(1000) < chance
                })
                .collect();
            let strikes: Vec<_> = struck.iter().map(|(host, arm)| (host, 1, *arm)).collect();
            let now = span(self.now);
            let arm = |host: &HostId| arms.iter().find(|(own, _)| own == host).map(|(_, arm)| *arm);
            let version = goal.version;
            let groups = Groups { version, next, control, under_way: true, arm: &arm };
            if let Some(ledger) = self.ledgers.get_mut(&region) {
                ledger.pass(now, &strikes, &groups);
            }
        }
    }
}

fn world(seed: u64, sizes: &[usize], weather: Weather, bake_s: u32) -> World {
    World::new(seed, sizes, weather, deploy(Some(target(1)), bake_s)).telling()
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 16, ..Default::default() })]

    #[test]
    fn a_release_that_restarts_on_many_hosts_goes_back(
        seed in any::<u64>(),
        sizes in prop::collection::vec(30usize..60, 1..3),
        often in 20u64..200,
        late in prop::sample::select(vec![0u64, 30]),
    ) {
        let weather = Weather { restarts: (often, 0), late, ..CALM };
        let mut world = world(seed, &sizes, weather, 300);
        run(&mut world, 20_000)?;
        prop_assert_eq!(world.rollout.state, RolloutState::Reverted, "{}", world.rollout.reason);
        prop_assert!(world.bad && world.rollout.reason.contains("restarts"));
        for host in &world.hosts {
            prop_assert_eq!(host.running, Some(bits(1)), "{} was left", host.id);
        }
        let judged = world.rollout.judged.last().unwrap();
        prop_assert_eq!(judged.verdict, GateWord::Fail);
        prop_assert!(judged.compared.values().any(|own| own.verdict == GateWord::Fail));
    }

    #[test]
    fn what_strikes_all_hosts_alike_is_no_releases_fault(
        seed in any::<u64>(),
        sizes in prop::collection::vec(30usize..60, 1..3),
        outages in 1u64..30,
        late in prop::sample::select(vec![0u64, 30]),
    ) {
        let weather = Weather { outages, late, ..CALM };
        let mut world = world(seed, &sizes, weather, 120);
        // With the last step begins the time without others to compare with.
        world.begin();
        while world.is_open() && (world.rollout.step as usize) + 2 < world.rollout.steps.len() {
            world.tick();
        }
        prop_assert!(world.is_open() && !world.bad, "{}", world.rollout.reason);
    }

    #[test]
    fn a_fleet_too_small_to_compare_is_left_to_host_health(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..10, 1..4),
        restarts in 0u64..500,
    ) {
        let weather = Weather { restarts: (restarts, 0), ..CALM };
        let mut world = world(seed, &sizes, weather, 60);
        run(&mut world, 20_000)?;
        prop_assert_eq!(world.rollout.state, RolloutState::Succeeded, "{}", world.rollout.reason);
        let compared = world.rollout.judged.iter().flat_map(|judged| judged.compared.values());
        for own in compared {
            prop_assert_eq!((own.verdict, own.against), (GateWord::Pass, Against::Nobody));
            prop_assert!(own.why.contains("host health alone"));
        }
    }

    #[test]
    fn numbers_that_stand_still_pause_and_the_clock_alone_does_it(
        seed in any::<u64>(),
        size in 30usize..60,
        full in any::<bool>(),
    ) {
        let mut world = world(seed, &[size], CALM, 600);
        world.begin();
        while world.is_open() && !(world.rollout.step == 1 && world.rollout.stage == Stage::Baking) {
            world.tick();
        }
        let since = world.now;
        while world.is_open() && world.now.since(since) < Duration::from_secs(900) {
            world.now = world.now + Duration::from_secs(5);
            let actions = world.rollout.step(world.now, &world.facts);
            world.follow(actions);
        }
        prop_assert_eq!(world.rollout.state, RolloutState::Paused);
        prop_assert!(world.rollout.reason.contains("host-minutes"), "{}", world.rollout.reason);
        let judged = world.rollout.judged.last().unwrap();
        prop_assert_eq!(judged.verdict, GateWord::Inconclusive);
        let facts = world.facts.clone();
        let promoted = world.rollout.command(world.now, Command::Promote { full }, &facts);
        world.follow(promoted.unwrap());
        while world.is_open() {
            world.tick();
        }
        prop_assert_eq!(world.rollout.state, RolloutState::Succeeded, "{}", world.rollout.reason);
    }
}

#[test]
fn two_alike_that_restart_now_and_then_are_seldom_taken_for_different() {
    let mut reverted = 0;
    for seed in 0..100 {
        // As often as once in an hour and host.
        let weather = Weather { restarts: (2, 2), ..CALM };
        let mut world = world(seed, &[60], weather, 300);
        world.begin();
        while world.is_open() && !world.bad {
            world.tick();
        }
        reverted += u32::from(world.bad);
    }
    assert!(reverted <= 3, "{reverted} of 100");
}

#[test]
fn a_release_that_fails_while_all_else_does_is_paused_and_not_reverted() {
    for (outage, ends) in [(true, RolloutState::Paused), (false, RolloutState::Reverted)] {
        let weather = Weather { broken: 60, ..CALM };
        let mut world = World::new(7, &[60], CALM, deploy(Some(target(1)), 120)).telling();
        world.begin();
        while world.rollout.stage != Stage::Baking {
            world.tick();
        }
        world.weather = Weather { outages: if outage { 100 } else { 0 }, ..weather };
        while world.is_open() {
            world.tick();
        }
        let reason = &world.rollout.reason;
        assert_eq!((world.rollout.state, world.bad), (ends, !outage), "{reason}");
        assert_eq!(reason.contains("without r2"), outage, "{reason}");
    }
}

#[test]
fn with_all_hosts_on_it_the_hour_before_tells() {
    for (often, ends) in [(0, RolloutState::Succeeded), (60, RolloutState::Reverted)] {
        let admission = Admission {
            plan: crate::model::rollout::PlanName::AllAtOnce,
            ..deploy(Some(target(1)), 600)
        };
        let mut world = World::new(3, &[30], CALM, admission).telling();
        // An hour of the release before, by a goal before.
        let mut before = world.rollout.clone();
        let fleet = world.fleet(world.fresh());
        let fresh = crate::model::goal::GoalVersion { generation: 1, ..world.fresh() };
        drop(before.begin(world.now, bits(1).artifact, fresh, &fleet));
        let region = world.regions[0].clone();
        for _ in 0..360 {
            let ledger = world.ledgers.get_mut(&region).unwrap();
            let (next, control, under_way) = (30, 0, false);
            let groups = Groups { version: fresh, next, control, under_way, arm: &|_| None };
            ledger.pass(span(world.now), &[], &groups);
            world.now = world.now + Duration::from_secs(10);
        }
        world.begin();
        world.weather.restarts = (often, 0);
        while world.is_open() {
            world.tick();
        }
        assert_eq!(world.rollout.state, ends, "{}", world.rollout.reason);
        let judged = world.rollout.judged.last().unwrap();
        assert_eq!(judged.compared[&region].against, Against::HourBefore, "{judged:?}");
    }
}

/// One region of 40 hosts whose second step bakes for ten minutes, with so many hosts left
/// without the release; the others are away.
fn baking_beside(stay: usize) -> (World, Vec<HostId>) {
    let mut world = world(5, &[40], CALM, 600);
    world.begin();
    while world.rollout.step == 0 {
        world.tick();
    }
    let admitted = world.admitted_by(world.goal.as_ref().unwrap());
    let others = world.hosts.iter_mut().filter(|host| !admitted.contains(&host.id));
    let away: Vec<HostId> = others
        .skip(stay)
        .map(|host| {
            host.reachable = false;
            host.id.clone()
        })
        .collect();
    while world.rollout.stage != Stage::Baking {
        world.tick();
    }
    (world, away)
}

impl World {
    /// Brings them back once no more than `left` of the bake is.
    fn return_late(&mut self, away: &[HostId], left: Duration) {
        let due = self.rollout.due_at.unwrap();
        while self.now + left < due {
            self.tick();
        }
        let hosts = self.hosts.iter_mut().filter(|host| away.contains(&host.id));
        hosts.for_each(|host| host.reachable = true);
    }
}

#[test]
fn hosts_that_come_late_in_a_bake_do_not_hold_it_up() {
    // Three hosts without the release give enough in a bake, one does not.
    let (mut world, away) = baking_beside(1);
    let due = world.rollout.due_at.unwrap();
    world.return_late(&away[..2], Duration::from_secs(30));
    while world.now < due {
        assert_eq!((world.rollout.step, world.rollout.state), (1, RolloutState::Running));
        world.tick();
    }
    assert_eq!(world.rollout.step, 2, "{}", world.rollout.reason);
    let told = &world.rollout.judged.last().unwrap().compared[&world.regions[0]];
    assert_eq!((told.against, told.verdict), (Against::Nobody, GateWord::Pass));
    assert!(told.why.starts_with("hosts came too late in the bake"), "{told:?}");
}

#[test]
fn hosts_that_come_in_time_are_compared_with() {
    for (often, ends) in [(0, false), (300, true)] {
        let (mut world, away) = baking_beside(1);
        world.weather.restarts = (often, 0);
        world.return_late(&away, Duration::from_secs(120));
        while world.is_open() && world.rollout.step == 1 && !world.bad {
            world.tick();
        }
        assert_eq!(world.bad, ends, "{}", world.rollout.reason);
        let told = &world.rollout.judged.last().unwrap().compared[&world.regions[0]];
        assert_eq!(told.against, Against::Control, "{told:?}");
    }
}

#[test]
fn few_that_were_there_from_the_beginning_and_tell_nothing_pause() {
    // Too few to make up for silence by the time that a bake is prolonged.
    let (mut world, _) = baking_beside(3);
    let region = world.regions[0].clone();
    let told = world.rollout.comparing.get(&region).copied();
    assert_eq!(told, Some(Against::Control));
    while world.is_open() {
        world.now = world.now + Duration::from_secs(5);
        let actions = world.rollout.step(world.now, &world.facts);
        world.follow(actions);
    }
    assert_eq!((world.rollout.state, world.rollout.step), (RolloutState::Paused, 1));
    assert!(world.rollout.reason.contains("host-minutes"), "{}", world.rollout.reason);
}

#[test]
fn a_late_host_without_the_release_hides_no_sick_ones_with_it() {
    let admission = Admission {
        plan: crate::model::rollout::PlanName::AllAtOnce,
        ..deploy(Some(target(1)), 600)
    };
    let mut world = World::new(3, &[30], CALM, admission).telling();
    world.begin();
    while world.rollout.stage != Stage::Baking {
        world.tick();
    }
    let side = |hosts, struck| Side { hosts, struck, span: Span::default() };
    let comparison = Comparison {
        next: side(30, 20),
        control: side(1, 0),
        alone: Span { host_s: 9_000, events: 60 },
        before: Span { host_s: 90_000, events: 0 },
        ..Comparison::default()
    };
    let region = world.regions[0].clone();
    world.facts.regions.get_mut(&region).unwrap().tally.comparison = Some(comparison);
    let actions = world.rollout.step(world.now, &world.facts.clone());
    world.follow(actions);
    assert_eq!(world.rollout.state, RolloutState::Reverting, "{:?}", world.rollout.comparing);
    assert!(world.rollout.reason.contains("expected by the hour before"));
}
