//! The next step, case by case, and a host in miniature that must converge.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::id::{HostId, RegionName, ReleaseNo};
use crate::model::selector::Labels;
use crate::rules::retention::good_after;

/// Releases 1 and 2 are the same code, and so are 3 and 4: even ones have a configuration.
fn target(n: u64) -> Target {
    let artifact = Digest::of(&n.div_ceil(2).to_be_bytes());
    let config = n.is_multiple_of(2).then(|| Digest::of(&n.to_be_bytes()));
    Target { release: ReleaseNo(n), artifact, config }
}

fn goal(generation: u64, next: u64, base: Option<u64>) -> Goal {
    Goal {
        version: GoalVersion { epoch: 1, generation, step: 1 },
        rollout: ReleaseNo(next),
        base: base.map(target),
        next: target(next),
        admit: BTreeMap::from([("*".into(), 10_000)]),
        ..Goal::sample()
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure { class, reason: "x".into(), log: vec![] }
}

/// Everything that facts borrow.
struct World {
    host: HostId,
    region: RegionName,
    labels: Labels,
    goal: Option<Goal>,
    hold: Option<Hold>,
    running: Option<Target>,
    up: Up,
    good: Vec<Target>,
    held: Vec<ArtifactId>,
    configs: Vec<ConfigId>,
    failed: Option<Failed>,
    tries: Option<Tries>,
}

impl World {
    fn new(goal: Goal) -> Self {
        Self {
            host: "h1".parse().unwrap(),
            region: "eu".parse().unwrap(),
            labels: Labels::new(),
            goal: Some(goal),
            hold: None,
            running: None,
            up: Up::Fine,
            good: vec![],
            held: vec![],
            configs: vec![],
            failed: None,
            tries: None,
        }
    }

    /// A host on which release 1 runs well, under `goal`.
    fn runs_first(goal: Goal) -> Self {
        let first = target(1);
        let (good, held) = (vec![first], vec![first.artifact]);
        Self { running: Some(first), good, held, ..Self::new(goal) }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            view: HostView {
                host: &self.host,
                region: &self.region,
                labels: &self.labels,
                running: None,
            },
            goal: self.goal.as_ref(),
            accepted_at: UnixMillis(1000),
            hold: self.hold.as_ref(),
            running: self.running,
            up: self.up,
            good: &self.good,
            held: &self.held,
            configs: &self.configs,
            failed: self.failed.as_ref(),
            tries: self.tries.as_ref(),
        }
    }

    /// All of it is on disk.
    fn keep(&mut self, bits: Bits) {
        self.held.push(bits.artifact);
        self.configs.extend(bits.config);
    }

    /// The release with these bits failed under the goal and was taken back.
    fn fails(&mut self, bits: Bits) {
        self.failed = Some(Failed {
            version: self.goal.as_ref().unwrap().version,
            retry: 0,
            artifact: bits.artifact,
            config: bits.config,
            reverted: true,
            failure: failure(FailureClass::Release),
        });
    }

    fn step(&self) -> Step {
        self.facts().next_step(UnixMillis(2000))
    }
}

#[test]
fn a_release_is_fetched_then_activated_with_a_way_back() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    assert_eq!(world.step(), Step::Stage { bits: target(2).bits(), urgent: true });
    world.keep(target(2).bits());
    let step = Step::Activate { to: target(2), fallback: Fallback::Back(target(1)) };
    assert_eq!(world.step(), step);
    assert_eq!(world.facts().standing(), Phase::Staged);
    world.running = Some(target(2));
    assert_eq!(world.step(), Step::Nothing);
    assert_eq!(world.facts().standing(), Phase::Healthy);
}

#[test]
fn a_first_release_has_no_way_back_and_a_rollback_needs_none() {
    let mut world = World::new(goal(1, 1, None));
    world.keep(target(1).bits());
    assert_eq!(world.step(), Step::Activate { to: target(1), fallback: Fallback::Remove });
    let mut world = World::runs_first(goal(3, 2, Some(1)));
    world.keep(target(2).bits());
    world.goal.as_mut().unwrap().kind = GoalKind::Rollback;
    assert_eq!(world.step(), Step::Activate { to: target(2), fallback: Fallback::Keep });
}

#[test]
fn a_host_that_is_not_admitted_only_fetches_ahead() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    world.goal.as_mut().unwrap().admit = BTreeMap::from([("*".into(), 0)]);
    assert_eq!(world.step(), Step::Stage { bits: target(2).bits(), urgent: false });
    world.keep(target(2).bits());
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Healthy));
    world.goal.as_mut().unwrap().stage = false;
    world.held.pop();
    assert_eq!(world.step(), Step::Nothing);
    // An app that is not this host's any more keeps what it runs.
    world.goal.as_mut().unwrap().hosts = "role=web".parse().unwrap();
    world.goal.as_mut().unwrap().stage = true;
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Healthy));
}

#[test]
fn a_release_that_failed_is_not_tried_until_a_retry_is_asked_for() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    world.keep(target(2).bits());
    world.fails(target(2).bits());
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Reverted));
    assert!(world.facts().failure().is_some());
    // A later step of the same generation changes nothing.
    world.goal.as_mut().unwrap().version.step = 9;
    assert_eq!(world.step(), Step::Nothing);
    let mut retried = world;
    retried.goal.as_mut().unwrap().retry = 1;
    assert!(matches!(retried.step(), Step::Activate { .. }));
    retried.goal = Some(goal(3, 2, Some(1)));
    assert!(matches!(retried.step(), Step::Activate { .. }));
    // The answer to the failure: back to the base, which runs and is well.
    retried.goal = Some(goal(4, 1, Some(1)));
    assert_eq!((retried.step(), retried.facts().standing()), (Step::Nothing, Phase::Healthy));
    assert_eq!(retried.facts().failure(), None);
}

#[test]
fn faults_of_the_host_wait_longer_each_time_and_are_reported_after_three() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    let (bits, mut now) = (target(2).bits(), UnixMillis(2000));
    let mut waits = vec![];
    for _ in 0..5 {
        let fault = failure(FailureClass::Transport);
        world.tries = Some(count_fault(world.tries.take(), bits, fault, now));
        let Step::Wait(until) = world.facts().next_step(now) else { panic!("no wait") };
        waits.push(until.since(now).as_secs());
        now = until;
        assert!(matches!(world.facts().next_step(now), Step::Stage { .. }));
    }
    assert_eq!(waits, [1, 4, 16, 60, 60]);
    assert_eq!(world.facts().standing(), Phase::Failed);
    assert_eq!(world.facts().failure().unwrap().class, FailureClass::Transport);
    world.tries.as_mut().unwrap().count = 2;
    assert_eq!(world.facts().failure(), None);
}

#[test]
fn what_should_run_and_does_not_is_started_whatever_else_is_wrong() {
    let keep = Step::Activate { to: target(1), fallback: Fallback::Keep };
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    world.up = Up::Down;
    // The goal's release is not here yet; the old one must not wait for it.
    assert_eq!(world.step(), keep);
    world.goal = None;
    assert_eq!(world.step(), keep);
    world.goal = Some(goal(2, 2, Some(1)));
    world.keep(target(2).bits());
    assert!(matches!(world.step(), Step::Activate { to, .. } if to == target(2)));
}

#[test]
fn a_hold_wins_over_the_goals_that_were_known_and_over_no_newer_one() {
    let mut world = World::runs_first(goal(5, 2, Some(1)));
    world.running = Some(target(2));
    world.keep(target(2).bits());
    world.good.insert(0, target(2));
    let over = world.goal.as_ref().unwrap().version;
    world.hold = Some(Hold { target: target(1), over });
    assert_eq!(world.step(), Step::Activate { to: target(1), fallback: Fallback::Keep });
    world.goal = Some(goal(6, 2, Some(1)));
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Healthy));
}

#[test]
fn only_what_is_new_may_take_its_time_and_only_until_then() {
    let mut goal = goal(2, 2, Some(1));
    let left = |goal: &Goal, n, after| {
        time_to_fetch(goal, target(n).bits(), Duration::from_secs(after)).map(|d| d.as_secs())
    };
    assert_eq!(left(&goal, 2, 0), None);
    goal.pace_ms = 60_000;
    assert_eq!([left(&goal, 2, 0), left(&goal, 2, 45)], [Some(60), Some(15)]);
    assert_eq!(left(&goal, 2, 90), Some(0), "who comes late hurries");
    assert_eq!(left(&goal, 1, 0), None, "the way back");
}

#[test]
fn hosts_are_spread_and_the_same_artifact_is_only_renamed() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    world.keep(target(2).bits());
    world.goal.as_mut().unwrap().spread_ms = 60_000;
    let goal = world.goal.clone().unwrap();
    let delays = (0..1000).map(|n| {
        let host: HostId = format!("h{n}").parse().unwrap();
        spread_delay_ms(&goal, &HostView { host: &host, ..world.facts().view })
    });
    let delays: Vec<u64> = delays.collect();
    assert!(delays.iter().all(|delay| *delay < 60_000));
    assert!((400..600).contains(&delays.iter().filter(|delay| **delay < 30_000).count()));
    let own = UnixMillis(1000) + Duration::from_millis(spread_delay_ms(&goal, &world.facts().view));
    assert_eq!(world.facts().next_step(UnixMillis(1000)), Step::Wait(own));
    assert!(matches!(world.facts().next_step(own), Step::Activate { .. }));

    let same = Target { release: ReleaseNo(7), ..target(1) };
    world.goal.as_mut().unwrap().next = same;
    assert_eq!(world.step(), Step::Adopt(same));
}

proptest! {
    /// Whatever goals come, in whatever order, and whichever releases do not work:
    /// once they stop coming the host settles, on the newest goal's release or, when
    /// that does not work here, on one that does.
    #[test]
    fn a_host_settles_whatever_came_before(
        goals in proptest::collection::vec((1u64..5, 0usize..6, any::<bool>()), 1..12),
        broken in proptest::collection::btree_set(1u64..5, 0..3),
        reboots in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let mut world = World::new(goal(1, 1, None));
        let works = |target: Target| !broken.contains(&target.release.0);
        for (i, ((next, steps, rollback), reboot)) in goals.iter().zip(&reboots).enumerate() {
            let mut newest = goal(i as u64 + 2, *next, None);
            newest.kind = if *rollback { GoalKind::Rollback } else { GoalKind::Deploy };
            world.goal = Some(newest);
            if *reboot && world.running.is_some() && world.up == Up::Fine {
                world.up = Up::Down;
            }
            for _ in 0..*steps {
                act(&mut world, works);
            }
        }
        let settled = (0..50).any(|_| !act(&mut world, works));
        prop_assert!(settled, "never settles: {:?}", world.step());
        let want = world.goal.as_ref().unwrap().next;
        if works(want) {
            prop_assert_eq!(world.running, Some(want));
            prop_assert_eq!(world.facts().standing(), Phase::Healthy);
        } else {
            prop_assert!(matches!(world.facts().standing(), Phase::Failed | Phase::Reverted));
            prop_assert!(world.running.is_none_or(|running| works(running) || world.up == Up::Broken));
        }
    }
}

/// Does the next step as a host would; false when there is none.
fn act(world: &mut World, works: impl Fn(Target) -> bool) -> bool {
    match world.step() {
        Step::Nothing | Step::Wait(_) => return false,
        Step::Stage { bits, .. } => world.keep(bits),
        Step::Adopt(target) => world.running = Some(target),
        Step::Activate { to, fallback } if works(to) => {
            let back = fallback == Fallback::Keep;
            world.good = good_after(&world.good, to, back);
            if world.facts().desired().is_none_or(|want| want.bits() == to.bits()) {
                world.failed = None;
            }
            (world.running, world.up) = (Some(to), Up::Fine);
        }
        Step::Activate { to, fallback } => {
            world.good.retain(|known| known.bits() != to.bits());
            let goal = world.goal.as_ref().unwrap();
            world.failed = Some(Failed {
                version: goal.version,
                retry: goal.retry,
                artifact: to.artifact,
                config: to.config,
                reverted: matches!(fallback, Fallback::Back(_)),
                failure: failure(FailureClass::Release),
            });
            (world.running, world.up) = match fallback {
                Fallback::Back(back) => (Some(back), Up::Fine),
                Fallback::Remove => (None, Up::Fine),
                Fallback::Keep => (Some(to), Up::Broken),
            };
        }
    }
    true
}

#[test]
fn a_change_of_config_alone_is_a_change_of_release() {
    let mut world = World::runs_first(goal(2, 2, Some(1)));
    assert_eq!(world.step(), Step::Stage { bits: target(2).bits(), urgent: true });
    assert_eq!(world.facts().standing(), Phase::Idle, "the code alone is not the release");
    world.configs.extend(target(2).config);
    let step = Step::Activate { to: target(2), fallback: Fallback::Back(target(1)) };
    assert_eq!((world.step(), world.facts().standing()), (step, Phase::Staged));
    world.fails(target(2).bits());
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Reverted));
    // The same code with what it had before is not what failed.
    world.goal.as_mut().unwrap().next = target(1);
    assert_eq!((world.step(), world.facts().standing()), (Step::Nothing, Phase::Healthy));
}

#[test]
fn a_config_that_is_gone_comes_back_before_what_needs_it_is_started() {
    let mut world = World::runs_first(goal(3, 2, Some(1)));
    world.running = Some(target(2));
    world.good.insert(0, target(2));
    world.up = Up::Down;
    assert_eq!(world.step(), Step::Stage { bits: target(2).bits(), urgent: true });
    world.configs.extend(target(2).config);
    assert_eq!(world.step(), Step::Activate { to: target(2), fallback: Fallback::Keep });
}
