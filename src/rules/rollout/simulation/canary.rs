//! A canary that a person named: it and no other, until the person says so.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{bits, check_documents, deploy, target};
use crate::model::canary::Canary;
use crate::model::id::HostId;
use crate::model::rollout::RolloutState;
use crate::rules::rollout::Admission;
use crate::rules::rollout::command::{Command, Refusal};
use crate::rules::rollout::simulation::world::{CALM, Weather, World};

const TICKS: usize = 20_000;

fn with_canary(seed: u64, sizes: &[usize], weather: Weather) -> (World, HostId) {
    let host: HostId = format!("r0-0-{seed}").parse().unwrap();
    let hosts = [("r0".parse().unwrap(), [host.clone()].into())].into();
    let canary = Some(Canary { asked: host.to_string(), hosts });
    let world =
        World::new(seed, sizes, weather, Admission { canary, ..deploy(Some(target(1)), 20) });
    (world, host)
}

impl World {
    fn until_closed(&mut self) {
        for _ in 0..TICKS {
            if !self.is_open() {
                return;
            }
            self.tick();
        }
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn only_the_named_host_has_it_until_a_person_goes_on(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..14, 1..4),
        broken in prop::sample::select(vec![0u64, 0, 30, 100]),
        sick in prop::sample::select(vec![0u64, 0, 20]),
        away in prop::sample::select(vec![0u64, 0, 10, 40]),
        late in prop::sample::select(vec![0u64, 30, 80]),
        cancels in any::<bool>(),
    ) {
        let weather = Weather { broken, sick, away, late, ..CALM };
        let (mut world, host) = with_canary(seed, &sizes, weather);
        world.begin();
        if world.goal.is_none() {
            prop_assert_eq!(world.rollout.state, RolloutState::Expired, "nobody to ask");
            return Ok(());
        }
        world.until_closed();
        for goal in &world.goals {
            let admitted = world.admitted_by(goal);
            let first = goal.version.generation == world.goals[0].version.generation;
            prop_assert!(!first || admitted == [host.clone()], "{admitted:?} were let in");
        }
        let has_it = |world: &World| -> Vec<HostId> {
            let new = world.hosts.iter().filter(|host| host.running == Some(bits(2)));
            new.map(|host| host.id.clone()).collect()
        };
        match world.rollout.state {
            RolloutState::Reverted => {
                prop_assert!(world.bad && has_it(&world).is_empty());
                return Ok(());
            }
            RolloutState::Paused => prop_assert!(has_it(&world).iter().all(|id| *id == host)),
            other => prop_assert!(false, "ended {other:?}"),
        }
        let held = world.rollout.reason.starts_with("held after the canary");
        prop_assert!(held || broken + sick + away > 0, "{}", world.rollout.reason);
        if !held {
            return Ok(());
        }
        prop_assert_eq!(has_it(&world), [host.clone()]);
        // Nobody failed, so nobody tries again: a person goes on, or goes back.
        let resumed = world.rollout.command(world.now, Command::Resume, &world.facts);
        prop_assert_eq!(resumed.unwrap_err(), Refusal::Held);
        let before = world.rollout.clone();
        let retried = world.rollout.command(world.now, Command::Retry, &world.facts);
        prop_assert_eq!(retried.unwrap_err(), Refusal::NoneFailed);
        prop_assert_eq!(&world.rollout, &before);
        // Where a host fails while it is held, its agents try again, and it is held again.
        let mut ill = world.rollout.clone();
        let mut facts = world.facts.clone();
        let (r0, version) = ("r0".parse().unwrap(), ill.version.unwrap());
        let tally = &mut facts.regions.get_mut(&r0).unwrap().tally;
        (tally.version, tally.failed) = (version, 1);
        prop_assert!(ill.command(world.now, Command::Retry, &facts).is_ok());
        prop_assert!(ill.state == RolloutState::Running && ill.steps[0].hold);
        let command = match cancels {
            true => Command::Cancel { keep: false, why: "no".into() },
            false => Command::Promote { full: false },
        };
        let actions = world.rollout.command(world.now, command, &world.facts).unwrap();
        world.follow(actions);
        world.until_closed();
        check_documents(&world.goals, &world.regions)?;
        if cancels && away == 0 {
            prop_assert_eq!(world.rollout.state, RolloutState::Canceled);
            prop_assert!(has_it(&world).is_empty());
        }
        if !cancels && broken + sick + away == 0 {
            prop_assert_eq!(world.rollout.state, RolloutState::Succeeded);
            prop_assert_eq!(has_it(&world).len(), world.hosts.len());
            prop_assert!(world.goals.last().unwrap().pins.is_empty(), "all are admitted alike");
        }
    }
}
