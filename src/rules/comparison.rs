//! Counts, in a region, how hosts with a new release fare beside those without it.
//!
//! Time is cut where the groups change and wherever somebody looks. Within such a stretch
//! both groups see the same world, so an outage that strikes all of them counts for
//! neither: for each event of the control group as many are expected of the other as its
//! size would give. Sums over stretches stay true while hosts move from one to the other,
//! which ratios of sums do not.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::comparison::{Comparison, Side, Span};
use crate::model::goal::GoalVersion;
use crate::model::id::HostId;

/// For how long a host counts as struck.
const RECENT: Duration = Duration::from_secs(600);
/// How far back the time before a goal is remembered.
const HOUR: Duration = Duration::from_secs(3600);
/// What is remembered is cut into such parts.
const PART: Duration = Duration::from_secs(60);
/// A longer stretch counts as this long, and what happened in it for nothing: nobody looked,
/// so nobody knows which groups there were then.
const STRETCH_MAX: Duration = Duration::from_secs(30);
/// Numbers without events are brought up to date so often: each change is a write upward.
const SHOWN_EVERY: Duration = Duration::from_secs(10);

/// A group that a host belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// May run the new release, and does.
    Next,
    /// May not have it yet, and runs what it should.
    Control,
}

/// A host on which something happened, how often, and its group.
pub type Strike<'a> = (&'a HostId, u32, Arm);

/// The groups from now on.
pub struct Groups<'a> {
    /// The goal that makes them.
    pub version: GoalVersion,
    /// Hosts with the release.
    pub next: u32,
    /// Hosts without it.
    pub control: u32,
    /// Whether a rollout admits hosts, or is paused: what hosts with its release go through
    /// is no measure for the next one.
    pub under_way: bool,
    /// A host's group.
    pub arm: &'a dyn Fn(&HostId) -> Option<Arm>,
}

/// The count of one app and env. Its clock is any that only runs forward.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What it is told apart by from others, and from what it counted before it began anew.
    id: u32,
    under_way: bool,
    /// Epoch and generation that it counts under.
    of: Option<(u64, u64)>,
    /// Until when it has counted.
    at: Option<Duration>,
    next: Sum,
    control: Sum,
    alone: Sum,
    /// Millionths: a thousandth of few among many would be nothing in each stretch.
    expected_micro: u64,
    before: Span,
    past: VecDeque<(Duration, Sum)>,
    shown: Option<(Duration, Comparison)>,
}

/// Hosts of a group now, and what was counted of it. Milliseconds: stretches are short.
#[derive(Debug, Default, Clone)]
struct Sum {
    hosts: u32,
    host_ms: u64,
    events: u64,
    struck: BTreeMap<HostId, Duration>,
}

impl Sum {
    fn add(&mut self, hosts: u32, length: Duration, events: u64) {
        self.host_ms += u64::from(hosts) * u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.events += events;
    }

    fn span(&self) -> Span {
        Span { host_s: self.host_ms / 1000, events: self.events }
    }

    fn side(&self, now: Duration) -> Side {
        let recent = |at: &&Duration| now.saturating_sub(**at) <= RECENT;
        let struck = self.struck.values().filter(recent).count();
        let struck = u32::try_from(struck).unwrap_or(u32::MAX).min(self.hosts);
        Side { hosts: self.hosts, struck, span: self.span() }
    }
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { id, ..Self::default() }
    }

    /// Ends a stretch at `now`, in which `strikes` happened; the next one begins with `groups`.
    pub fn pass(&mut self, now: Duration, strikes: &[Strike<'_>], groups: &Groups<'_>) {
        let length = self.at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        let strikes = if length > STRETCH_MAX { &[] } else { strikes };
        self.count(now, length.min(STRETCH_MAX), strikes, (groups.next, groups.control));
        self.at = Some(now);
        let of = (groups.version.epoch, groups.version.generation);
        if self.of != Some(of) {
            // What was noted of the count before is no beginning of this one.
            let id = if self.of.is_some() { self.id.wrapping_add(2) } else { self.id };
            let past = std::mem::take(&mut self.past);
            let before = past.iter().fold(Span::default(), |sum, (_, part)| sum.and(part.span()));
            *self = Self { id, of: Some(of), at: Some(now), before, past, ..Self::default() };
        }
        (self.next.hosts, self.control.hosts) = (groups.next, groups.control);
        self.under_way = groups.under_way;
        // Who has changed sides was struck as one of the others.
        self.next.struck.retain(|host, _| (groups.arm)(host) != Some(Arm::Control));
        self.control.struck.retain(|host, _| (groups.arm)(host) != Some(Arm::Next));
    }

    /// Time is that of the groups since the last look, `strikes` are on hosts of the groups that
    /// there are `now`: a host that changed sides in between must not be one of few that were.
    fn count(
        &mut self,
        now: Duration,
        length: Duration,
        strikes: &[Strike<'_>],
        (next_now, control_now): (u32, u32),
    ) {
        let (next, control) = (self.next.hosts, self.control.hosts);
        let events = |arm: Arm| -> u64 {
            let own = strikes.iter().filter(|strike| strike.2 == arm);
            own.map(|strike| u64::from(strike.1)).sum()
        };
        let (on_next, on_control) = (events(Arm::Next), events(Arm::Control));
        if next > 0 && control > 0 {
            self.next.add(next, length, 0);
            self.control.add(control, length, 0);
        } else if next > 0 {
            self.alone.add(next, length, 0);
        }
        if next_now > 0 && control_now > 0 {
            self.next.events += on_next;
            self.control.events += on_control;
            let expected = on_control * 1_000_000 * u64::from(next_now) / u64::from(control_now);
            self.expected_micro += expected;
        } else if next_now > 0 {
            self.alone.events += on_next;
        }
        for (host, _, arm) in strikes {
            let side = if *arm == Arm::Next { &mut self.next } else { &mut self.control };
            side.struck.insert((*host).clone(), now);
        }
        for side in [&mut self.next, &mut self.control] {
            side.struck.retain(|_, at| now.saturating_sub(*at) <= RECENT);
        }
        let usual = if self.under_way {
            (control, on_control)
        } else {
            (next + control, on_next + on_control)
        };
        self.remember(now, length, usual);
    }

    fn remember(&mut self, now: Duration, length: Duration, (hosts, events): (u32, u64)) {
        let full = |(began, _): &(Duration, Sum)| now.saturating_sub(*began) >= PART;
        if self.past.back().is_none_or(full) {
            self.past.push_back((now, Sum::default()));
        }
        if let Some((_, part)) = self.past.back_mut() {
            part.add(hosts, length, events);
        }
        while self.past.front().is_some_and(|(at, _)| now.saturating_sub(*at) > HOUR) {
            self.past.pop_front();
        }
    }

    /// What is told upward at `now`; `None`: no agent tells, and none did.
    pub fn told(&mut self, now: Duration) -> Option<Comparison> {
        let fresh = Comparison {
            ledger: self.id,
            next: self.next.side(now),
            control: self.control.side(now),
            expected_milli: self.expected_micro / 1000,
            alone: self.alone.span(),
            before: self.before,
        };
        if fresh == (Comparison { ledger: self.id, ..Comparison::default() }) {
            return None;
        }
        let numbers = |c: &Comparison| {
            let side = |side: Side| (side.hosts, side.struck, side.span.events);
            (side(c.next), side(c.control), c.alone.events, c.expected_milli, c.before)
        };
        match &self.shown {
            Some((at, shown))
                if now.saturating_sub(*at) < SHOWN_EVERY && numbers(shown) == numbers(&fresh) =>
            {
                Some(*shown)
            }
            _ => {
                self.shown = Some((now, fresh));
                Some(fresh)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(generation: u64) -> GoalVersion {
        GoalVersion { epoch: 1, generation, step: 1 }
    }

    fn host(n: usize) -> HostId {
        format!("h{n}").parse().unwrap()
    }

    /// Hosts from 100 on are without the release.
    fn arm(host: &HostId) -> Option<Arm> {
        let number: usize = host.as_str()[1..].parse().ok()?;
        Some(if number < 100 { Arm::Next } else { Arm::Control })
    }

    fn groups((next, control): (u32, u32)) -> Groups<'static> {
        Groups { version: version(2), next, control, under_way: true, arm: &arm }
    }

    /// As it is when no rollout is under way.
    fn settled(hosts: u32) -> Groups<'static> {
        Groups { version: version(1), under_way: false, ..groups((hosts, 0)) }
    }

    /// Ten seconds with these groups, and so many events on hosts of each.
    fn live(
        ledger: &mut Ledger,
        now: &mut Duration,
        hosts: (u32, u32),
        (ours, theirs): (usize, usize),
    ) {
        ledger.pass(*now, &[], &groups(hosts));
        *now += Duration::from_secs(10);
        let (ours, theirs): (Vec<_>, Vec<_>) =
            ((0..ours).map(host).collect(), (100..100 + theirs).map(host).collect());
        let mut strikes: Vec<Strike<'_>> = ours.iter().map(|h| (h, 1, Arm::Next)).collect();
        strikes.extend(theirs.iter().map(|h| (h, 1, Arm::Control)));
        ledger.pass(*now, &strikes, &groups(hosts));
    }

    #[test]
    fn an_outage_late_in_the_rollout_does_not_look_like_the_release() {
        let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
        for _ in 0..180 {
            live(&mut ledger, &mut now, (1, 99), (0, 0));
        }
        // Half of the hosts have it when everything restarts.
        live(&mut ledger, &mut now, (50, 50), (50, 50));
        let told = ledger.told(now).unwrap();
        assert_eq!((told.next.span.events, told.control.span.events), (50, 50));
        assert_eq!(told.expected_milli, 50_000, "as many as it has");
        assert_eq!((told.next.struck, told.control.struck), (50, 50));
        // What the sums alone would say.
        let rate = |side: Side| side.span.events as f64 / side.span.host_s as f64;
        assert!(rate(told.next) > 3.0 * rate(told.control));
    }

    #[test]
    fn an_outage_while_hosts_get_the_release_does_not_look_like_it() {
        let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
        live(&mut ledger, &mut now, (1, 99), (0, 0));
        // Forty more have it since the last look, and everything restarts.
        now += Duration::from_secs(5);
        let all: Vec<HostId> = (0..41).chain(100..159).map(host).collect();
        let strikes: Vec<Strike<'_>> = all.iter().map(|h| (h, 1, arm(h).unwrap())).collect();
        ledger.pass(now, &strikes, &groups((41, 59)));
        let told = ledger.told(now).unwrap();
        assert_eq!((told.next.span.events, told.control.span.events), (41, 59));
        assert_eq!(told.expected_milli, 41_000, "as many as it has");
        assert_eq!(told.next.span.host_s, 15, "only one of them was watched since then");
    }

    #[test]
    fn with_nobody_left_to_compare_with_the_hour_before_is_kept() {
        let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
        for minute in 0..120 {
            ledger.pass(now, &[], &settled(10));
            now += Duration::from_secs(30);
            let host = host(0);
            let strike = [(&host, 1, Arm::Next)];
            let strikes = if minute % 10 == 0 { &strike[..] } else { &[] };
            ledger.pass(now, strikes, &settled(10));
        }
        live(&mut ledger, &mut now, (10, 0), (2, 0));
        let told = ledger.told(now).unwrap();
        let minutes = told.before.host_s / 60;
        assert!((590..=620).contains(&minutes), "{told:?}");
        assert_eq!(told.before.events, 12);
        assert_eq!(told.alone, Span { host_s: 100, events: 2 });
        assert_eq!(told.next.span, Span::default());
    }

    #[test]
    fn what_a_rollout_went_through_is_no_measure_for_the_next() {
        let (mut ledger, mut now) = (Ledger::new(7), Duration::from_secs(5));
        for _ in 0..12 {
            live(&mut ledger, &mut now, (10, 0), (10, 0));
            live(&mut ledger, &mut now, (5, 5), (5, 1));
        }
        ledger.pass(now, &[], &settled(10));
        let told = ledger.told(now).unwrap();
        assert_eq!((told.ledger, told.before), (9, Span { host_s: 600, events: 12 }));
    }

    #[test]
    fn a_count_that_begins_anew_is_another_one() {
        let (mut ledger, mut now) = (Ledger::new(7), Duration::from_secs(5));
        live(&mut ledger, &mut now, (10, 10), (3, 3));
        let first = ledger.told(now).unwrap();
        assert_eq!((first.ledger, first.next.span.events), (7, 3));
        // The same generation, fenced.
        let version = GoalVersion { epoch: 2, ..version(2) };
        ledger.pass(now, &[], &Groups { version, ..groups((10, 10)) });
        let anew = ledger.told(now).unwrap();
        assert_eq!((anew.ledger, anew.next.span.events), (9, 0));
        ledger.pass(now, &[], &Groups { version, ..groups((10, 10)) });
        assert_eq!(ledger.told(now).unwrap().ledger, 9);
    }

    #[test]
    fn who_was_struck_without_the_release_is_none_of_those_when_it_has_it() {
        let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
        live(&mut ledger, &mut now, (5, 95), (0, 20));
        assert_eq!(ledger.told(now).unwrap().control.struck, 20);
        let moved = |host: &HostId| (host.as_str() != "h100").then_some(Arm::Next);
        ledger.pass(now, &[], &Groups { arm: &moved, ..groups((95, 5)) });
        assert_eq!(ledger.told(now).unwrap().control.struck, 1, "of which nobody knows");
    }

    #[test]
    fn a_stretch_that_nobody_looked_at_counts_for_little() {
        let (mut ledger, now) = (Ledger::default(), Duration::from_secs(5));
        ledger.pass(now, &[], &groups((10, 10)));
        let host = host(1);
        let strikes = [(&host, 1, Arm::Next)];
        ledger.pass(now + Duration::from_secs(7200), &strikes, &groups((10, 10)));
        let told = ledger.told(now + Duration::from_secs(7200)).unwrap();
        assert_eq!(told.next.span, Span { host_s: 300, events: 0 });
        assert_eq!(told.next.struck, 0);
    }

    #[test]
    fn numbers_change_at_once_with_an_event_and_else_seldom() {
        let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
        ledger.pass(now, &[], &groups((10, 10)));
        assert_eq!(Ledger::default().told(now), None);
        let first = ledger.told(now).unwrap();
        now += Duration::from_secs(5);
        ledger.pass(now, &[], &groups((10, 10)));
        assert_eq!(ledger.told(now), Some(first));
        now += Duration::from_secs(1);
        let host = host(101);
        ledger.pass(now, &[(&host, 1, Arm::Control)], &groups((10, 10)));
        assert_eq!(ledger.told(now).unwrap().control.span, Span { host_s: 60, events: 1 });
    }

    proptest! {
        #[test]
        fn equal_hosts_are_expected_to_fare_equally(
            rounds in prop::collection::vec((1u32..50, 1u32..50, any::<bool>()), 1..40),
        ) {
            let (mut ledger, mut now) = (Ledger::default(), Duration::from_secs(5));
            for (next, control, outage) in rounds {
                let all = (next as usize, control as usize);
                live(&mut ledger, &mut now, (next, control), if outage { all } else { (0, 0) });
            }
            let told = ledger.told(now).unwrap();
            prop_assert_eq!(told.expected_milli, told.next.span.events * 1000);
        }
    }
}
