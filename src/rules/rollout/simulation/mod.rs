//! The invariants of orchestration 6.14, checked at every tick of a little fleet.

mod canary;
mod programs;
mod restarts;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::TestCaseError;

use crate::model::fleet::Tally;
use crate::model::goal::{Goal, GoalVersion, HostView, Target};
use crate::model::id::{RegionName, ReleaseNo};
use crate::model::judged::GateWord;
use crate::model::rollout::{
    Approval, PlanName, RolloutKind, RolloutState, Stable, Stage, Unavailable,
};
use crate::model::selector::{Labels, Selector};
use crate::model::time::UnixMillis;
use crate::rules::rollout::command::Command;
use crate::rules::rollout::permits::LOST_AFTER;
use crate::rules::rollout::simulation::world::{CALM, Host, Weather, World, bits, target};
use crate::rules::rollout::words::waiting_on;
use crate::rules::rollout::{Action, Admission, Rollout};

fn deploy(base: Option<Target>, bake_s: u32) -> Admission {
    Admission {
        no_auto_revert: false,
        through_freeze: false,
        allow_older: false,
        allow_unmet: false,
        app: "api".parse().unwrap(),
        env: "prod".parse().unwrap(),
        release: ReleaseNo(2),
        kind: RolloutKind::Deploy,
        plan: PlanName::Standard,
        plan_file: None,
        canary: None,
        regions: vec![],
        hosts: Selector::default(),
        bake_s: Some(bake_s),
        stable: Stable { base, region_base: BTreeMap::new() },
        config: bits(2).config,
        tolerate: vec![],
        approvals: 0,
        spread_s: 0,
        pace_s: 0,
        max_unavailable: None,
        start_by: UnixMillis(i64::MAX),
    }
}

/// Versions only grow, and `admit` never shrinks within a generation.
fn check_documents(goals: &[Goal], regions: &[RegionName]) -> Result<(), TestCaseError> {
    let stranger: RegionName = "unheard-of".parse().unwrap();
    for pair in goals.windows(2) {
        prop_assert!(pair[1].version > pair[0].version);
        if pair[0].version.generation != pair[1].version.generation {
            continue;
        }
        for region in regions.iter().chain([&stranger]) {
            let of = |goal: &Goal| {
                goal.admit.get(region.as_str()).or(goal.admit.get("*")).copied().unwrap_or(0)
            };
            prop_assert!(of(&pair[1]) >= of(&pair[0]), "{region} shrank");
        }
    }
    Ok(())
}

fn run(world: &mut World, ticks: usize) -> Result<(), TestCaseError> {
    world.begin();
    let reachable = world.reachable();
    let allowed = (reachable.len() / 10).clamp(1, 50) + 1;
    for _ in 0..ticks {
        let first = world.rollout.step == 0
            && world.rollout.steps.len() > 1
            && world.rollout.state == RolloutState::Running;
        if first {
            let exposed = world.exposed(&reachable);
            let allowed = allowed + world.twins();
            prop_assert!(exposed <= allowed, "{exposed} exposed, {allowed} allowed");
        }
        if !world.is_open() {
            break;
        }
        prop_assert!(world.rollout.due_at.is_some(), "no due time in {:?}", world.rollout.state);
        world.tick();
        let mut again = world.rollout.clone();
        let repeated = again.step(world.now, &world.facts);
        prop_assert!(
            repeated.is_empty()
                || again.step != world.rollout.step
                || again.stage != world.rollout.stage
                || again.state != world.rollout.state,
        );
    }
    check_documents(&world.goals, &world.regions)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 192, ..Default::default() })]

    #[test]
    fn a_rollout_ends_and_a_revert_leaves_no_host_behind(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0usize..14, 1..4),
        broken in prop::sample::select(vec![0u64, 0, 30, 100]),
        sick in prop::sample::select(vec![0u64, 0, 20]),
        away in prop::sample::select(vec![0u64, 0, 10, 40]),
        late in prop::sample::select(vec![0u64, 30, 80]),
        based in any::<bool>(),
        stays in any::<bool>(),
    ) {
        let weather = Weather { broken, sick, away, late, ..CALM };
        let base = based.then(|| target(1));
        let admission = Admission { no_auto_revert: stays, ..deploy(base, 20) };
        let mut world = World::new(seed, &sizes, weather, admission);
        run(&mut world, 20_000)?;
        prop_assert!(!world.is_open(), "still {:?}", world.rollout.state);
        match world.rollout.state {
            RolloutState::Reverted => {
                prop_assert!(based && world.bad && !stays);
                for host in world.hosts.iter().filter(|host| host.reachable) {
                    prop_assert_eq!(host.running, Some(bits(1)), "{} was left", host.id);
                }
            }
            RolloutState::Succeeded => {
                for host in world.hosts.iter().filter(|host| host.reachable) {
                    prop_assert_eq!(host.running, Some(bits(2)), "{} was left", host.id);
                }
            }
            RolloutState::Failed => prop_assert!(world.bad),
            RolloutState::Paused => {}
            other => prop_assert!(false, "ended {other:?}"),
        }
        prop_assert!(!world.rollout.reason.is_empty());
        if broken == 0 && sick == 0 && away == 0 {
            prop_assert_eq!(world.rollout.state, RolloutState::Succeeded);
        }
        if broken == 100 && sick == 0 && away == 0 && sizes.iter().sum::<usize>() > 0 {
            let back = based && !stays;
            let expected = if back { RolloutState::Reverted } else { RolloutState::Failed };
            prop_assert_eq!(world.rollout.state, expected);
            let generation = |goal: &Goal| goal.version.generation;
            let kept = world.goals.iter().all(|goal| generation(goal) == generation(&world.goals[0]));
            prop_assert!(kept || back, "hosts were told to go elsewhere");
        }
    }

    #[test]
    fn unreachable_and_sick_hosts_never_revert_a_release(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0usize..14, 1..4),
        sick in 0u64..60,
        away in 0u64..100,
        churn in 0u64..10,
        late in 0u64..80,
    ) {
        let weather = Weather { sick, away, churn, late, ..CALM };
        let mut world = World::new(seed, &sizes, weather, deploy(Some(target(1)), 20));
        run(&mut world, 20_000)?;
        prop_assert!(!world.bad);
        prop_assert!(
            matches!(world.rollout.state, RolloutState::Succeeded | RolloutState::Paused),
            "{:?}: {}", world.rollout.state, world.rollout.reason
        );
    }

    #[test]
    fn the_clock_alone_ends_every_state_but_paused(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0usize..14, 1..4),
        broken in prop::sample::select(vec![0u64, 30, 100]),
        freeze_after in 0usize..40,
        kind in prop::sample::select(vec![RolloutKind::Deploy, RolloutKind::Rollback]),
        silent in any::<bool>(),
    ) {
        let weather = Weather { broken, sick: 5, away: 5, churn: 2, late: 50, ..CALM };
        let admission = Admission { kind, ..deploy(Some(target(1)), 20) };
        let mut world = World::new(seed, &sizes, weather, admission);
        run(&mut world, freeze_after)?;
        for region in world.facts.regions.values_mut() {
            region.silent |= silent;
        }
        // Every step's cap and bake, and the revert's.
        let bound = (world.rollout.steps.len() as u32 + 1) * Duration::from_secs(64 * 60);
        let until = world.now + bound;
        while world.is_open() && world.now < until {
            world.now = world.now + Duration::from_secs(10);
            let actions = world.rollout.step(world.now, &world.facts);
            world.follow(actions);
        }
        prop_assert!(!world.is_open(), "still {:?}", world.rollout);
        check_documents(&world.goals, &world.regions)?;
    }

    #[test]
    fn no_bake_ends_on_counts_from_before_an_outage(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..10, 1..4),
        bake_s in prop::sample::select(vec![7u32, 60, 200]),
        hours in prop::collection::vec((0u8..8, 0u64..900), 1..120),
    ) {
        let mut world = World::new(seed, &sizes, CALM, deploy(Some(target(1)), bake_s));
        world.begin();
        for (what, away_s) in hours {
            match what {
                // Regions are heard again only some time after the coordinator looks again.
                0 => {
                    world.now = world.now + Duration::from_secs(away_s);
                    world.cut_off = true;
                }
                1 => world.cut_off = true,
                _ => world.cut_off = false,
            }
            let (step, stage) = (world.rollout.step, world.rollout.stage);
            world.tick();
            let on = world.rollout.step > step || world.rollout.state == RolloutState::Succeeded;
            if stage == Stage::Baking && on {
                for (name, region) in &world.facts.regions {
                    let age = world.now.since(region.told_at);
                    prop_assert!(age < Duration::from_secs(15), "{name} told {age:?} ago");
                }
            }
            if !world.is_open() {
                break;
            }
        }
        prop_assert!(
            matches!(world.rollout.state, RolloutState::Running | RolloutState::Paused | RolloutState::Succeeded)
        );
    }

    #[test]
    fn a_rollback_takes_every_reachable_host_back_and_never_reverts(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..14, 1..4),
        late in 0u64..80,
        away in prop::sample::select(vec![0u64, 30]),
    ) {
        let weather = Weather { away, late, ..CALM };
        let admission = Admission { kind: RolloutKind::Rollback, ..deploy(Some(target(1)), 20) };
        let mut world = World::new(seed, &sizes, weather, admission);
        run(&mut world, 2_000)?;
        prop_assert_eq!(world.rollout.steps.len(), 1);
        if world.hosts.iter().any(|host| host.reachable) {
            prop_assert_eq!(world.rollout.state, RolloutState::Succeeded);
        } else {
            prop_assert_eq!(world.rollout.state, RolloutState::Failed);
        }
        for host in world.hosts.iter().filter(|host| host.reachable) {
            prop_assert_eq!(host.running, Some(bits(2)));
        }
    }

    #[test]
    fn a_cancel_at_any_time_takes_hosts_back(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..14, 1..4),
        after in 0usize..30,
        late in 0u64..60,
    ) {
        let weather = Weather { late, ..CALM };
        let mut world = World::new(seed, &sizes, weather, deploy(Some(target(1)), 10));
        run(&mut world, after)?;
        let command = Command::Cancel { keep: false, why: "canceled by ann".into() };
        let canceled = world.rollout.command(world.now, command, &world.facts);
        let Ok(actions) = canceled else { return Ok(()) };
        world.follow(actions);
        while world.is_open() {
            world.tick();
        }
        prop_assert_eq!(world.rollout.state, RolloutState::Canceled);
        for host in &world.hosts {
            prop_assert_eq!(host.running, Some(bits(1)));
        }
        check_documents(&world.goals, &world.regions)?;
    }

    #[test]
    fn nothing_begins_before_others_than_the_author_approved_and_the_clock_ends_the_wait(
        needed in 0u32..4,
        said in prop::collection::vec((0u8..4, any::<bool>()), 0..8),
        waits in any::<bool>(),
    ) {
        let admission = Admission {
            approvals: needed,
            start_by: UnixMillis(1_000_000) + crate::rules::rollout::APPROVAL_LIMIT,
            ..deploy(Some(target(1)), 10)
        };
        let mut world = World::new(3, &[4], CALM, admission);
        let mut others = std::collections::BTreeSet::new();
        for (person, tries_to_begin) in said {
            let by = format!("p{person}");
            let by = Approval { by, at: world.now, message: String::new() };
            let command = Command::Approve { author: "p0".into(), by };
            let answer = world.rollout.command(world.now, command, &world.facts);
            let awaited = needed > 0 && world.rollout.state == RolloutState::Pending;
            prop_assert_eq!(answer.is_ok(), awaited && person != 0);
            if answer.is_ok() {
                others.insert(person);
            }
            if tries_to_begin {
                world.begin();
            }
            let may_begin = u32::try_from(others.len()).unwrap() >= needed;
            prop_assert!(may_begin || world.rollout.state == RolloutState::Pending);
            prop_assert_eq!(world.goals.is_empty(), world.rollout.state == RolloutState::Pending);
        }
        if waits && world.rollout.state == RolloutState::Pending {
            world.now = world.now + crate::rules::rollout::APPROVAL_LIMIT;
            let actions = world.rollout.step(world.now, &world.facts);
            world.follow(actions);
            prop_assert_eq!(world.rollout.state, RolloutState::Expired);
            prop_assert_eq!(world.rollout.blocked, world.rollout.lacks_approvals() > 0);
        }
    }

    #[test]
    fn no_more_hosts_than_permitted_are_between_releases_and_it_still_ends(
        seed in any::<u64>(),
        sizes in prop::collection::vec(1usize..24, 1..4),
        most in prop::sample::select(vec!["1", "2", "3", "10%", "25%"]),
        late in prop::sample::select(vec![0u64, 30, 60]),
        away in prop::sample::select(vec![0u64, 0, 20]),
        broken in prop::sample::select(vec![0u64, 0, 10]),
        lost in prop::sample::select(vec![0u64, 5, 20]),
        twins in prop::sample::select(vec![0u64, 50]),
        plan in prop::sample::select(vec![PlanName::Standard, PlanName::AllAtOnce]),
    ) {
        let most: Unavailable = most.parse().unwrap();
        let weather = Weather { broken, away, late, lost, back: away / 4, twins, ..CALM };
        let admission =
            Admission { max_unavailable: Some(most), plan, ..deploy(Some(target(1)), 10) };
        let mut world = World::new(seed, &sizes, weather, admission);
        world.begin();
        let (mut waited, mut peaks) = (0, BTreeMap::new());
        while world.is_open() && !world.rollout.went_back {
            for region in world.regions.clone() {
                let (moving, reachable) = world.between_releases(&region);
                let peak = peaks.entry(region.clone()).or_insert(reachable);
                *peak = reachable.max(*peak);
                let allowed = most.of(*peak).max(world.largest_bucket(&region));
                prop_assert!(moving <= allowed, "{region}: {moving} of {allowed} at once");
            }
            world.tick();
            waited += 1;
            prop_assert!(waited < 20_000, "still {:?}", world.rollout);
        }
        check_documents(&world.goals, &world.regions)?;
        if away == 0 && broken == 0 && lost == 0 {
            prop_assert_eq!(world.rollout.state, RolloutState::Succeeded);
            for host in &world.hosts {
                prop_assert_eq!(host.running, Some(bits(2)), "{} was left", host.id);
            }
        }
    }

    #[test]
    fn the_same_document_and_host_want_the_same_release_after_a_trip(
        seed in any::<u64>(),
        size in 1usize..14,
    ) {
        let mut world = World::new(seed, &[size], CALM, deploy(Some(target(1)), 10));
        world.begin();
        let goal = world.goal.clone().unwrap();
        let copy: Goal = serde_json::from_str(&serde_json::to_string(&goal).unwrap()).unwrap();
        let labels = Labels::new();
        for host in &world.hosts {
            let view = HostView {
                host: &host.id, region: &host.region, labels: &labels, running: host.running,
            };
            prop_assert_eq!(goal.desired(&view), copy.desired(&view));
        }
        let row = serde_json::to_string(&world.rollout).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rollout>(&row).unwrap(), world.rollout);
    }
}

fn calm(sizes: &[usize], broken: u64) -> World {
    let weather = Weather { broken, ..CALM };
    World::new(5, sizes, weather, deploy(Some(target(1)), 20))
}

#[test]
fn a_bad_release_is_reverted_after_two_hosts_and_no_more() {
    let mut world = calm(&[4, 4], 100);
    let reachable = world.reachable();
    world.begin();
    assert_eq!(world.exposed(&reachable), 1);
    let mut most = 0;
    while world.is_open() {
        if !world.rollout.went_back {
            most = most.max(world.exposed(&reachable));
        }
        world.tick();
    }
    assert_eq!((most, world.rollout.state), (2, RolloutState::Reverted));
    let [judged] = &world.rollout.judged[..] else { panic!("{:?}", world.rollout.judged) };
    assert_eq!((judged.step, judged.verdict), (0, GateWord::Fail));
    let own = judged.regions.values().next().unwrap();
    assert_eq!((own.admitted, own.failed, own.failed_max), (2, 2, 1), "{own:?}");
    assert!(judged.why.contains("2 hosts failed"), "{}", judged.why);
    assert!(world.rollout.reason.contains("hosts are back on r1"), "{}", world.rollout.reason);
}

#[test]
fn one_sick_host_pauses_and_a_promotion_accepts_it() {
    let mut world = calm(&[4], 0);
    world.begin();
    while world.rollout.step == 0 {
        world.tick();
    }
    world.tick();
    let region = world.regions[0].clone();
    let facts = world.facts.regions.get_mut(&region).unwrap();
    facts.tally.version = world.rollout.version.unwrap();
    (facts.tally.admitted, facts.tally.healthy, facts.tally.failed) = (4, 3, 1);
    let facts = world.facts.clone();
    // The others get the time of the bake to fail as well.
    assert!(world.rollout.step(world.now, &facts).is_empty());
    world.now = world.now + Duration::from_secs(20);
    let actions = world.rollout.step(world.now, &facts);
    assert!(matches!(actions[..], [Action::Tell { kind: "rollout.paused", .. }]), "{actions:?}");
    let words: Vec<GateWord> = world.rollout.judged.iter().map(|judged| judged.verdict).collect();
    assert_eq!(words, [GateWord::Pass, GateWord::Inconclusive]);
    let promoted = world.rollout.command(world.now, Command::Promote { full: false }, &facts);
    assert!(promoted.is_ok());
    assert_eq!(world.rollout.state, RolloutState::Succeeded);
    assert!(world.rollout.reason.contains("3 of 4 hosts on r2, 1 failed"));
}

#[test]
fn older_counts_never_pass_a_step() {
    let mut world = calm(&[4], 0);
    world.begin();
    let region = world.regions[0].clone();
    let old = Tally {
        version: GoalVersion { epoch: 1, generation: 3, step: 9 },
        hosts: 4,
        admitted: 4,
        healthy: 4,
        failed: 4,
        ..Tally::default()
    };
    world.facts.regions.get_mut(&region).unwrap().tally = old;
    assert!(world.rollout.step(world.now, &world.facts.clone()).is_empty());
    assert_eq!(world.rollout.stage, Stage::Converging);
}

#[test]
fn an_env_without_hosts_succeeds_and_says_so() {
    let mut world = calm(&[], 0);
    world.begin();
    world.tick();
    assert_eq!(world.rollout.state, RolloutState::Succeeded);
    assert!(world.rollout.reason.contains("no hosts yet"));
}

#[test]
fn a_region_without_reachable_hosts_is_skipped_with_a_note() {
    let mut world = calm(&[4, 4], 0);
    for host in world.hosts.iter_mut().filter(|host| host.region.as_str() == "r1") {
        host.reachable = false;
    }
    world.observe();
    world.begin();
    while world.is_open() {
        world.tick();
    }
    assert_eq!(world.rollout.state, RolloutState::Succeeded);
    assert!(world.rollout.reason.contains("r1 was skipped"), "{}", world.rollout.reason);
}

#[test]
fn a_rollout_of_some_regions_leaves_the_others_alone() {
    let mut world = calm(&[4, 4], 0);
    world.rollout.regions = vec![world.regions[1].clone()];
    world.begin();
    while world.is_open() {
        world.tick();
    }
    assert_eq!(world.rollout.state, RolloutState::Succeeded);
    for host in &world.hosts {
        let expected = if host.region == world.regions[1] { 2 } else { 1 };
        assert_eq!(host.running, Some(bits(expected)), "{}", host.id);
    }
}

#[test]
fn a_bake_that_was_over_in_an_outage_ends_once_hosts_are_counted_again() {
    for counted in [true, false] {
        let mut world = calm(&[6, 4], 0);
        world.begin();
        while world.rollout.stage != Stage::Baking {
            world.tick();
        }
        world.now = world.now + Duration::from_secs(600);
        // Nobody has told anything yet when the coordinator is back.
        world.cut_off = true;
        world.tick();
        assert_eq!((world.rollout.step, world.rollout.stage), (0, Stage::Baking));
        let told = waiting_on(&world.rollout, world.now, &world.facts);
        assert!(told.starts_with("the bake is over; "), "{told}");
        assert!(told.ends_with("; r0 is to count its hosts again"), "{told}");
        if counted {
            world.cut_off = false;
            world.tick();
            assert_eq!(world.rollout.step, 1, "it is not waited for longer than for the counts");
            continue;
        }
        while world.is_open() {
            world.tick();
        }
        assert_eq!(world.rollout.state, RolloutState::Paused);
        assert!(world.rollout.reason.contains("has not counted its hosts"));
    }
}

#[test]
fn a_host_lost_on_the_way_keeps_its_permit_for_a_while_and_stalls_nobody_for_good() {
    let admission = Admission {
        max_unavailable: Some("1".parse().unwrap()),
        plan: PlanName::AllAtOnce,
        ..deploy(Some(target(1)), 10)
    };
    let mut world = World::new(5, &[6], CALM, admission);
    world.begin();
    let reachable = world.reachable();
    let admitted = |world: &World| world.exposed(&reachable);
    while admitted(&world) < 2 {
        world.tick();
    }
    let second = world.goal.as_ref().map(|goal| world.admitted_by(goal)).unwrap();
    let moving = |host: &&mut Host| second.contains(&host.id) && host.running != Some(bits(2));
    world.hosts.iter_mut().filter(moving).for_each(|host| host.reachable = false);
    let since = world.now;
    // While it is paused nobody counts, and the time does not.
    while world.now.since(since) < LOST_AFTER / 2 {
        world.tick();
    }
    let facts = world.facts.clone();
    world.rollout.command(world.now, Command::Pause { why: "ann".into() }, &facts).unwrap();
    world.now = world.now + 2 * LOST_AFTER;
    world.rollout.command(world.now, Command::Resume, &facts).unwrap();
    let since = world.now;
    while world.is_open() && admitted(&world) == 2 {
        world.tick();
    }
    assert!(world.now.since(since) >= LOST_AFTER, "{:?}", world.now.since(since));
    while world.is_open() {
        world.tick();
    }
    assert_eq!(world.rollout.state, RolloutState::Succeeded, "{}", world.rollout.reason);
}
