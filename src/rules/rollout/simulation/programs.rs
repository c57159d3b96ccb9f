//! Programs that judge bakes: whatever they say, and whenever.

use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{bits, deploy, target};
use crate::model::gate::{Bake, Record, Said};
use crate::model::id::GateName;
use crate::model::judged::GateWord;
use crate::model::rollout::{RolloutState, Stage};
use crate::rules::rollout::command::Command;
use crate::rules::rollout::programs::PASS_GOOD_FOR;
use crate::rules::rollout::simulation::world::{CALM, TICK, Weather, World};
use crate::rules::rollout::words::waiting_on;
use crate::rules::rollout::{DOUBT_PERIOD, DOUBTS_MAX};

fn gated(seed: u64, bake_s: u32) -> (World, GateName) {
    let mut world = World::new(seed, &[6, 4], CALM, deploy(Some(target(1)), bake_s));
    let name: GateName = "errors".parse().unwrap();
    world.rollout.gates = vec![name.clone()];
    world.begin();
    (world, name)
}

/// One whose first step bakes, and the bake.
fn baking(bake_s: u32) -> (World, GateName, Bake) {
    let (mut world, name) = gated(5, bake_s);
    while world.rollout.judged_bake().is_none() {
        world.tick();
    }
    let bake = world.rollout.judged_bake().unwrap();
    (world, name, bake)
}

impl World {
    /// A run ends, for `bake`.
    fn says(&mut self, name: &GateName, bake: Bake, verdict: GateWord) {
        let record = self.facts.gates.entry(name.clone()).or_default();
        if record.of != bake {
            *record = Record { of: bake, ..Record::default() };
        }
        record.add(Said { verdict, said: "so".into(), output: String::new(), at: self.now });
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn no_step_ends_before_the_gate_passed_in_its_own_bake(
        seed in any::<u64>(),
        bake_s in prop::sample::select(vec![0u32, 7, 60, 200]),
        words in prop::collection::vec((0u8..6, any::<bool>()), 1..200),
    ) {
        let (mut world, name) = gated(seed, bake_s);
        for (word, stale) in words {
            let before = (world.rollout.step, world.rollout.judged_bake());
            let said = match word {
                0 => Some(GateWord::Inconclusive),
                1..=3 => Some(GateWord::Pass),
                _ => None,
            };
            if let (Some(bake), Some(said)) = (before.1, said) {
                let old = Bake { since: bake.since + Duration::from_millis(1), ..bake };
                if stale {
                    // Of another bake, whatever it is: as if nothing had been said.
                    world.says(&name, old, GateWord::Fail);
                } else {
                    world.says(&name, bake, said);
                }
            }
            let heard = before.1.and_then(|bake| {
                world.facts.gates.get(&name).filter(|record| record.of == bake)?.last.clone()
            });
            world.tick();
            let on = world.rollout.step > before.0 || world.rollout.state == RolloutState::Succeeded;
            let passed = heard.is_some_and(|said| {
                said.verdict == GateWord::Pass && world.now.since(said.at) < PASS_GOOD_FOR
            });
            prop_assert!(!on || passed, "{before:?} ended without a pass");
            prop_assert!(!world.bad, "nothing failed: {}", world.rollout.reason);
            if !world.is_open() {
                break;
            }
        }
        prop_assert!(
            matches!(world.rollout.state, RolloutState::Running | RolloutState::Paused | RolloutState::Succeeded)
        );
    }

    #[test]
    fn a_failure_goes_back_and_silence_pauses_by_the_clock_alone(
        seed in any::<u64>(),
        late in 0u64..50,
        fails in any::<bool>(),
        full in any::<bool>(),
    ) {
        let (mut world, name) = gated(seed, 20);
        world.weather = Weather { late, ..CALM };
        let mut waited = 0;
        while world.is_open() {
            if let Some(bake) = world.rollout.judged_bake().filter(|_| fails) {
                world.says(&name, bake, GateWord::Fail);
            }
            prop_assert!(world.rollout.due_at.is_some());
            world.tick();
            waited += 1;
            prop_assert!(waited < 1000, "still {:?}", world.rollout);
        }
        if fails {
            prop_assert_eq!(world.rollout.state, RolloutState::Reverted);
            prop_assert!(world.hosts.iter().all(|host| host.running == Some(bits(1))));
            return Ok(());
        }
        prop_assert_eq!((world.rollout.state, world.rollout.stage), (RolloutState::Paused, Stage::Baking));
        prop_assert!(world.rollout.reason.contains("deployctl promote r2 -a api -e prod"));
        let facts = world.facts.clone();
        let actions = world.rollout.command(world.now, Command::Promote { full }, &facts);
        world.follow(actions.unwrap());
        while world.is_open() {
            world.tick();
        }
        let expected = if full { RolloutState::Succeeded } else { RolloutState::Paused };
        prop_assert_eq!(world.rollout.state, expected, "{}", world.rollout.reason);
    }
}

#[test]
fn three_that_can_not_tell_in_a_row_pause_and_one_that_passes_between_starts_over() {
    let (mut world, name, bake) = baking(600);
    for verdict in [GateWord::Inconclusive, GateWord::Inconclusive, GateWord::Pass] {
        world.says(&name, bake, verdict);
        world.tick();
        assert!(world.is_open());
    }
    for _ in 0..3 {
        assert!(world.is_open());
        world.says(&name, bake, GateWord::Inconclusive);
        world.tick();
    }
    assert_eq!(world.rollout.state, RolloutState::Paused);
    assert!(world.rollout.reason.contains("3 times in a row: so"), "{}", world.rollout.reason);
}

#[test]
fn a_pass_that_grew_old_ends_no_bake_and_a_fresh_one_does_at_once() {
    for (age, ends) in [(PASS_GOOD_FOR - TICK, true), (PASS_GOOD_FOR, false)] {
        let (mut world, name, bake) = baking(600);
        let due = bake.since + Duration::from_secs(600);
        while world.now + age < due {
            world.tick();
        }
        world.says(&name, bake, GateWord::Pass);
        while world.now < due {
            assert_eq!(world.rollout.step, 0);
            world.tick();
        }
        assert_eq!(world.rollout.step > 0, ends, "{age:?}");
        if ends {
            continue;
        }
        let told = waiting_on(&world.rollout, world.now, &world.facts);
        assert!(
            told.starts_with("the bake is over; ") && told.contains("nothing for 90 s"),
            "{told}"
        );
        world.tick();
        world.says(&name, bake, GateWord::Pass);
        world.tick();
        assert_eq!(world.rollout.step, 1, "it is not waited for the end of the prolonged bake");
    }
}

#[test]
fn who_was_away_at_the_bakes_end_asks_again_before_it_pauses() {
    // In the bake itself, or in one of the times by which it is prolonged.
    for prolonged in 0..=DOUBTS_MAX {
        for says in [true, false] {
            let (mut world, name, bake) = baking(60);
            while world.rollout.doubts < prolonged {
                world.tick();
            }
            world.now = world.now + Duration::from_secs(3600);
            let since = world.now;
            world.tick();
            assert!(world.is_open(), "paused by the clock alone after {prolonged}");
            if says {
                world.says(&name, bake, GateWord::Pass);
                world.tick();
                assert_eq!(world.rollout.step, 1);
                continue;
            }
            while world.is_open() {
                world.tick();
            }
            let left = DOUBTS_MAX.saturating_sub(prolonged).max(1) * DOUBT_PERIOD;
            assert_eq!(world.now.since(since + TICK), left, "after {prolonged}");
            assert_eq!(world.rollout.state, RolloutState::Paused);
        }
    }
}
