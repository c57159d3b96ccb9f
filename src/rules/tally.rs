//! Counts a region's hosts under one goal.
//!
//! A host's desired release is computed here from the goal, never taken from its
//! report. What a report says of the release counts only when it was made under
//! the goal's own epoch and generation (any step: `admit` only grows within one).
//! Health counts only while the host is reachable; faults stay counted, since a
//! bad release may be what silenced it.

use std::collections::HashMap;

use crate::model::comparison::Comparison;
use crate::model::config::Bits;
use crate::model::fleet::{AppStatus, Failure, FailureClass, FailureGroup, Phase, Tally};
use crate::model::goal::{Goal, HostView};
use crate::model::id::{HostId, RegionName};
use crate::model::selector::Labels;
use crate::rules::comparison::Arm;

/// Most groups of equal failures in a tally.
pub const FAILURE_GROUPS_MAX: usize = 16;

/// One host of the goal's env.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The host.
    pub host: &'a HostId,
    /// Its labels.
    pub labels: &'a Labels,
    /// Whether it was heard of within three report intervals.
    pub reachable: bool,
    /// What it said last of the goal's app; `None`: nothing yet.
    pub status: Option<&'a AppStatus>,
}

/// Counts `hosts`, all of the goal's env, in one region.
pub fn tally<'a>(
    goal: &Goal,
    region: &RegionName,
    hosts: impl IntoIterator<Item = Seen<'a>>,
) -> Tally {
    let mut count = Count::default();
    count.tally.version = goal.version;
    for seen in hosts {
        if goal.covers(seen.labels) {
            count.add(goal, region, &seen);
        }
    }
    count.finish()
}

/// The arm that a host is compared in; `None`: it is on its way, away, kept by a person,
/// or its agent does not tell.
#[must_use]
pub fn arm(goal: &Goal, region: &RegionName, seen: &Seen<'_>) -> Option<Arm> {
    if !goal.covers(seen.labels) || goal.keeps(seen.host, region) {
        return None;
    }
    let running = seen.status?.running.map(|target| target.bits());
    let view = HostView { host: seen.host, region, labels: seen.labels, running };
    let desired = goal.desired(&view).map(|target| target.bits());
    arm_of(seen, (running, desired, goal.next.bits()), goal.admits(&view))
}

/// The same of a host that nobody keeps, by what it runs, what it should and what is new.
fn arm_of(
    seen: &Seen<'_>,
    (running, desired, next): (Option<Bits>, Option<Bits>, Bits),
    admitted: bool,
) -> Option<Arm> {
    let status = seen.status.filter(|status| seen.reachable && status.events.is_some())?;
    let moves = matches!(status.phase, Phase::Idle | Phase::Activating | Phase::Failed);
    let on_next = running? == next;
    match admitted {
        _ if moves || (desired.is_some() && desired != running) => None,
        true if on_next => Some(Arm::Next),
        false if !on_next => Some(Arm::Control),
        _ => None,
    }
}

#[derive(Default)]
struct Count<'a> {
    tally: Tally,
    compared: Comparison,
    fetching_hosts: u64,
    fetched_permille: u64,
    groups: HashMap<(FailureClass, &'a str), Group<'a>>,
}

struct Group<'a> {
    hosts: u32,
    first: &'a HostId,
    failure: &'a Failure,
}

impl<'a> Count<'a> {
    fn add(&mut self, goal: &Goal, region: &RegionName, seen: &Seen<'a>) {
        let running = seen.status.and_then(|status| status.running).map(|target| target.bits());
        let view = HostView { host: seen.host, region, labels: seen.labels, running };
        let admitted = goal.admits(&view);
        let desired = goal.desired(&view).map(|target| target.bits());
        let next = goal.next.bits();
        self.tally.hosts += 1;
        self.tally.admitted += u32::from(admitted);
        let kept = goal.keeps(seen.host, region);
        match arm_of(seen, (running, desired, next), admitted).filter(|_| !kept) {
            Some(Arm::Next) => self.compared.next.hosts += 1,
            Some(Arm::Control) => self.compared.control.hosts += 1,
            None => {}
        }
        self.tally.pinned += u32::from(kept && seen.reachable);
        self.tally.unreachable += u32::from(!seen.reachable);
        self.tally.admitted_unreachable += u32::from(admitted && !seen.reachable);
        let staged = seen.status.is_some_and(|status| status.held.contains(&next.artifact));
        self.tally.staged += u32::from(staged);

        let fresh = seen.status.filter(|status| {
            (status.version.epoch, status.version.generation)
                == (goal.version.epoch, goal.version.generation)
        });
        if seen.reachable && (admitted || goal.stage) {
            self.fetching_hosts += 1;
            self.fetched_permille +=
                if staged { 1000 } else { fresh.map_or(0, |status| permille(status.pieces)) };
        }
        let Some(status) = fresh else { return };
        let on_next = running == Some(next);
        let healthy = admitted && on_next && status.phase == Phase::Healthy;
        self.tally.healthy += u32::from(healthy && seen.reachable);
        self.tally.on_next += u32::from(on_next && seen.reachable);
        let quiet = matches!(
            (status.phase, admitted),
            (Phase::Healthy, _) | (Phase::Idle | Phase::Fetching | Phase::Staged, false)
        );
        let as_it_should = desired.is_none() || running == desired;
        self.tally.settled += u32::from(seen.reachable && quiet && as_it_should && !kept);
        let toward_next = matches!(
            status.phase,
            Phase::Fetching | Phase::Staged | Phase::Activating | Phase::Probing
        );
        if on_next || toward_next {
            self.tally.sources += status.sources;
        }
        if let (Some(failure), true, false) = (&status.failure, admitted, healthy) {
            self.fault(seen, failure);
        }
    }

    fn fault(&mut self, seen: &Seen<'a>, failure: &'a Failure) {
        let host = seen.host;
        match failure.class {
            FailureClass::Release => {
                self.tally.failed += 1;
                self.tally.failed_unreachable += u32::from(!seen.reachable);
            }
            FailureClass::Host => self.tally.host_faults += 1,
            FailureClass::Transport => self.tally.transport_faults += 1,
        }
        let key = (failure.class, failure.reason.as_str());
        let group = self.groups.entry(key).or_insert(Group { hosts: 0, first: host, failure });
        group.hosts += 1;
        if host < group.first {
            (group.first, group.failure) = (host, failure);
        }
    }

    fn finish(self) -> Tally {
        let mut groups: Vec<_> = self.groups.into_values().collect();
        groups.sort_by(|a, b| b.hosts.cmp(&a.hosts).then_with(|| a.first.cmp(b.first)));
        let failures = groups.into_iter().take(FAILURE_GROUPS_MAX).map(|group| FailureGroup {
            class: group.failure.class,
            reason: group.failure.reason.clone(),
            hosts: group.hosts,
            first: group.first.clone(),
            log: group.failure.log.clone(),
        });
        let mean = self.fetched_permille.checked_div(self.fetching_hosts).unwrap_or(0);
        let told = self.compared.next.hosts + self.compared.control.hosts > 0;
        Tally {
            failures: failures.collect(),
            fetched_permille: mean as u32,
            comparison: told.then_some(self.compared),
            ..self.tally
        }
    }
}

fn permille((have, all): (u32, u32)) -> u64 {
    (u64::from(have.min(all)) * 1000).checked_div(u64::from(all)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::digest::Digest;
    use crate::model::fleet::Sources;
    use crate::model::goal::{GoalVersion, Target};
    use crate::model::id::ReleaseNo;

    fn target(n: u64) -> Target {
        Target { release: ReleaseNo(n), artifact: Digest::of(&n.to_be_bytes()), config: None }
    }

    fn version(generation: u64, step: u32) -> GoalVersion {
        GoalVersion { epoch: 1, generation, step }
    }

    fn goal(admit: u32) -> Goal {
        Goal {
            version: version(5, 1),
            base: Some(target(1)),
            next: target(2),
            admit: BTreeMap::from([("*".into(), admit)]),
            ..Goal::sample()
        }
    }

    fn status(release: u64, phase: Phase, version: GoalVersion) -> AppStatus {
        AppStatus {
            app: "api".parse().unwrap(),
            env: "prod".parse().unwrap(),
            version,
            running: Some(target(release)),
            desired: None,
            phase,
            held: vec![],
            pieces: (0, 0),
            sources: Sources::default(),
            failure: None,
            restarts: 0,
            events: None,
        }
    }

    fn failed(reason: &str, class: FailureClass) -> AppStatus {
        let failure = Failure { class, reason: reason.into(), log: vec!["boom".into()] };
        AppStatus { failure: Some(failure), ..status(1, Phase::Reverted, version(5, 1)) }
    }

    fn count(goal: &Goal, hosts: &[(AppStatus, bool)]) -> Tally {
        let ids: Vec<HostId> =
            (0..hosts.len()).map(|n| format!("h{n:03}").parse().unwrap()).collect();
        let labels = Labels::new();
        let seen = ids.iter().zip(hosts).map(|(host, (status, reachable))| Seen {
            host,
            labels: &labels,
            reachable: *reachable,
            status: Some(status),
        });
        tally(goal, &"eu".parse().unwrap(), seen)
    }

    #[test]
    fn only_this_generations_reports_count_as_healthy() {
        let all = goal(10_000);
        for (version, healthy) in
            [(version(5, 0), 1), (version(5, 1), 1), (version(4, 9), 0), (version(6, 0), 0)]
        {
            let tally = count(&all, &[(status(2, Phase::Healthy, version), true)]);
            assert_eq!((tally.healthy, tally.on_next, tally.settled), (healthy, healthy, healthy));
            assert_eq!((tally.hosts, tally.admitted), (1, 1));
        }
    }

    #[test]
    fn the_same_code_with_another_config_is_not_on_the_release() {
        let config = Some(Digest::of(b"c"));
        let next = Target { config, ..target(1) };
        let goal = Goal { next, ..goal(10_000) };
        let on = |config| {
            let running = Some(Target { config, ..target(1) });
            AppStatus { running, ..status(1, Phase::Healthy, version(5, 1)) }
        };
        let tally = count(&goal, &[(on(None), true), (on(config), true)]);
        assert_eq!((tally.healthy, tally.on_next, tally.settled), (1, 1, 1));
    }

    #[test]
    fn a_silent_host_is_not_healthy_but_its_fault_stays() {
        let silent = [
            (status(2, Phase::Healthy, version(5, 1)), false),
            (failed("exit 1", FailureClass::Release), false),
        ];
        let tally = count(&goal(10_000), &silent);
        assert_eq!((tally.unreachable, tally.admitted_unreachable), (2, 2));
        assert_eq!((tally.healthy, tally.settled, tally.failed), (0, 0, 1));
        assert_eq!(tally.failed_unreachable, 1);
        let heard = count(&goal(10_000), &[(failed("exit 1", FailureClass::Release), true)]);
        assert_eq!((heard.failed, heard.failed_unreachable), (1, 0));
    }

    #[test]
    fn a_host_not_admitted_is_settled_on_its_base_and_never_failed() {
        let hosts = [
            (status(1, Phase::Staged, version(5, 1)), true),
            (status(2, Phase::Healthy, version(5, 1)), true),
            (failed("exit 1", FailureClass::Release), true),
        ];
        let tally = count(&goal(0), &hosts);
        assert_eq!((tally.hosts, tally.admitted, tally.settled), (3, 0, 1));
        assert_eq!((tally.failed, tally.healthy, tally.on_next), (0, 0, 1));
    }

    #[test]
    fn a_pinned_host_is_asked_for_nothing() {
        let pin = |n: usize| crate::model::goal::Pin {
            host: Some(format!("h{n:03}").parse().unwrap()),
            region: None,
            at: None,
            canary: false,
        };
        let kept = Goal { pins: vec![pin(0), pin(1), pin(2)], ..goal(10_000) };
        let hosts = [
            (status(1, Phase::Healthy, version(5, 1)), true),
            (failed("exit 1", FailureClass::Release), true),
            (status(1, Phase::Healthy, version(5, 1)), false),
            (status(2, Phase::Healthy, version(5, 1)), true),
        ];
        let tally = count(&kept, &hosts);
        assert_eq!((tally.hosts, tally.pinned, tally.unreachable), (4, 2, 1));
        assert_eq!((tally.admitted, tally.healthy, tally.settled, tally.failed), (1, 1, 1, 0));
        let named =
            |n: usize| crate::model::goal::Pin { at: Some(target(2)), canary: true, ..pin(n) };
        let canary = Goal { pins: vec![named(1), named(3)], ..goal(0) };
        let tally = count(&canary, &hosts);
        assert_eq!((tally.hosts, tally.pinned, tally.admitted), (4, 0, 2));
        assert_eq!((tally.healthy, tally.failed), (1, 1), "whom the rollout named is judged");
    }

    #[test]
    fn equal_failures_are_one_group_and_groups_are_bounded() {
        let mut hosts = vec![(failed("exit 7", FailureClass::Release), true); 5];
        hosts.extend((0..40).map(|n| (failed(&format!("disk {n}"), FailureClass::Host), true)));
        let tally = count(&goal(10_000), &hosts);
        assert_eq!((tally.failed, tally.host_faults), (5, 40));
        assert_eq!(tally.failures.len(), FAILURE_GROUPS_MAX);
        let first = &tally.failures[0];
        assert_eq!((first.reason.as_str(), first.hosts), ("exit 7", 5));
        assert_eq!((first.first.as_str(), first.log.len()), ("h000", 1));
    }

    #[test]
    fn fetching_is_a_mean_over_hosts() {
        let mut half = status(1, Phase::Fetching, version(5, 1));
        half.pieces = (5, 10);
        half.sources.peer = 7;
        let mut held = status(1, Phase::Staged, version(5, 1));
        held.held = vec![target(2).artifact];
        let tally = count(&goal(10_000), &[(half, true), (held, true)]);
        assert_eq!((tally.fetched_permille, tally.staged, tally.sources.peer), (750, 1, 7));
    }

    #[test]
    fn only_hosts_that_are_where_they_should_be_and_tell_are_compared() {
        let telling =
            |release, phase| AppStatus { events: Some(0), ..status(release, phase, version(5, 1)) };
        let hosts = [
            (telling(1, Phase::Healthy), true),
            (telling(1, Phase::Fetching), true),
            (telling(1, Phase::Activating), true),
            (telling(2, Phase::Healthy), true),
            (telling(1, Phase::Healthy), false),
            (status(1, Phase::Healthy, version(5, 1)), true),
        ];
        let sides = |goal: &Goal| {
            let compared = count(goal, &hosts).comparison.unwrap();
            (compared.next.hosts, compared.control.hosts)
        };
        assert_eq!(sides(&goal(0)), (0, 2));
        assert_eq!(sides(&goal(10_000)), (1, 0));
        assert_eq!(count(&goal(0), &hosts[5..]).comparison, None);
    }

    fn any_host() -> impl Strategy<Value = (AppStatus, bool)> {
        let phases = prop::sample::select(vec![
            Phase::Idle,
            Phase::Fetching,
            Phase::Staged,
            Phase::Activating,
            Phase::Probing,
            Phase::Healthy,
            Phase::Failed,
            Phase::Reverted,
        ]);
        let class = prop::sample::select(vec![
            FailureClass::Release,
            FailureClass::Host,
            FailureClass::Transport,
        ]);
        (1u64..4, phases, 4u64..7, prop::option::of(class), any::<bool>()).prop_map(
            |(release, phase, generation, class, reachable)| {
                let mut host = status(release, phase, version(generation, 0));
                let failure = |class| Failure { class, reason: "x".into(), log: vec![] };
                host.failure = class.map(failure);
                (host, reachable)
            },
        )
    }

    proptest! {
        #[test]
        fn counts_never_exceed_what_they_are_counted_of(
            hosts in prop::collection::vec(any_host(), 0..50),
            admit in 0u32..=10_000,
        ) {
            let t = count(&goal(admit), &hosts);
            prop_assert_eq!(t.hosts as usize, hosts.len());
            let reachable = t.admitted - t.admitted_unreachable;
            prop_assert!(t.healthy <= reachable && t.settled <= t.hosts - t.unreachable);
            prop_assert!(t.healthy <= t.on_next && t.healthy <= t.settled);
            let faults = t.faults();
            prop_assert!(t.healthy + faults <= t.admitted);
            prop_assert!(t.failed_unreachable <= t.failed.min(t.admitted_unreachable));
            prop_assert_eq!(t.failures.iter().map(|group| group.hosts).sum::<u32>(), faults);
            prop_assert!(t.fetched_permille <= 1000);
        }
    }
}
