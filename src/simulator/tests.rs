//! The rules' promises as a whole, in small networks with everything that can go
//! wrong in them.

use std::time::Duration;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{Faults, Outcome, Setting, Span};

fn setting(hosts: u32, pieces: usize, seed: u64) -> Setting {
    Setting {
        hosts,
        wire: vec![1 << 20; pieces].into(),
        up: 12.5e6,
        down: 12.5e6,
        store: 12.5e6,
        rack: 8,
        zones: 3,
        overhead: 1.046,
        round_trip: Duration::from_micros(500),
        news: Duration::from_millis(20),
        spread: Duration::from_millis(50),
        call_cost: Duration::from_micros(50),
        pace: None,
        faults: Faults::default(),
        limit: Duration::from_secs(7200),
        seed,
    }
}

fn run(setting: &Setting) -> Outcome {
    super::run(setting, &false.into())
}

fn last(outcome: &Outcome) -> Duration {
    outcome.took.iter().max().copied().unwrap_or_default()
}

#[test]
fn a_clean_swarm_reads_the_store_once_and_ends_near_the_bound() {
    for hosts in [8, 24] {
        let setting = setting(hosts, 256, 11);
        let outcome = run(&setting);
        assert_eq!(outcome.unfinished, 0);
        assert_eq!(outcome.egress, setting.size());
        let ratio = last(&outcome).as_secs_f64() / setting.bound().as_secs_f64();
        assert!(ratio < 1.2, "{hosts} hosts: {ratio}");
    }
}

#[test]
fn two_pieces_a_second_keep_a_link_as_busy_as_many() {
    let mut setting = setting(60, 100, 7);
    setting.wire = vec![6 << 20; 100].into();
    let ratio = last(&run(&setting)).as_secs_f64() / setting.bound().as_secs_f64();
    // With two in flight instead of a sender's four slots: 1.78.
    assert!(ratio < 1.4, "{ratio}");
}

#[test]
fn the_same_seed_gives_the_same_swarm() {
    let told = |seed| {
        let outcome = run(&setting(30, 20, seed));
        (outcome.took, outcome.events, outcome.calls)
    };
    assert_eq!(told(5), told(5));
    assert_ne!(told(5), told(6));
}

#[test]
fn without_a_tracker_custodians_bring_what_nobody_has() {
    let mut setting = setting(60, 100, 3);
    let gone = Span { from: Duration::from_secs(3), length: Duration::from_secs(4000) };
    setting.faults.tracker_gone = Some(gone);
    let outcome = run(&setting);
    assert_eq!(outcome.unfinished, 0);
    let copies = outcome.egress / setting.size();
    assert!(copies > 1.0 && copies < 6.0, "{copies}");
}

#[test]
fn a_paced_download_takes_its_time_and_no_more() {
    // One alone reads the store only.
    for hosts in [1, 8] {
        let mut setting = setting(hosts, 400, 3);
        (setting.up, setting.down, setting.store) = (1e9, 1e9, 1e9);
        let deadline = crate::rules::swarm::micros(Duration::from_secs(60));
        setting.pace = Some(crate::rules::swarm::Pace { deadline, cap: 1 << 40 });
        let last = last(&run(&setting));
        assert!(last > Duration::from_secs(15) && last < Duration::from_secs(60), "{last:?}");
    }
}

fn faults() -> impl Strategy<Value = Faults> {
    let share = || prop_oneof![Just(0.0), Just(0.1), Just(0.3)];
    let span = || {
        proptest::option::of((0u64..20, 1u64..60).prop_map(|(from, length)| Span {
            from: Duration::from_secs(from),
            length: Duration::from_secs(length),
        }))
    };
    let shares = (share(), share(), share(), share(), share(), share());
    let restart = proptest::option::of((0u64..20).prop_map(Duration::from_secs));
    (shares, restart, span(), span(), span()).prop_map(|(shares, restart, gone, refuses, part)| {
        let (churn, slow, slow_disk, poison, late, disk_full) = shares;
        Faults {
            churn,
            slow,
            slow_disk,
            poison: poison.min(0.1),
            late,
            disk_full,
            tracker_restart: restart,
            tracker_gone: gone,
            store_refuses: refuses,
            partition: part,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_live_host_finishes_within_the_budget_whatever_happens(
        seed: u64, hosts in 1u32..40, pieces in 1usize..80, faults in faults(),
    ) {
        let mut setting = setting(hosts, pieces, seed);
        setting.faults = faults;
        let outcome = run(&setting);
        prop_assert_eq!(outcome.unfinished, 0);
        prop_assert_eq!(outcome.took.len() as u32 + outcome.failed, hosts);
        // Twice the size and what refills, for each start of the tracker.
        let starts = 1.0 + f64::from(u8::from(faults.tracker_restart.is_some()));
        let refilled = last(&outcome).as_secs_f64() * 1.1 * f64::from(1 << 20);
        let most = starts * 2.0 * setting.size() + refilled + 2e6;
        prop_assert!(outcome.egress <= most, "{} of {most}", outcome.egress);
        prop_assert_eq!(outcome.bad.1, 0);
    }
}
