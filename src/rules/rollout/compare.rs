//! Compares hosts with the release and hosts without it, of one region in the same
//! minutes [orchestration 6.6 b]: for what host health does not see, since each host gets
//! over it by itself.
//!
//! It only takes part where the bake and the hosts can give enough data; elsewhere host
//! health alone decides, and the record says why. With nobody left to compare with it takes
//! the region's hour before the rollout.

use std::collections::BTreeMap;

use crate::model::comparison::{Comparison, Span};
use crate::model::fleet::Tally;
use crate::model::id::RegionName;
use crate::model::judged::{Against, Compared, GateWord};
use crate::model::rollout::Stage;
use crate::model::time::UnixMillis;
use crate::rules::rollout::{RegionFacts, Rollout};

/// Data that each side must have, host-seconds: 20 host-minutes [orchestration 6.6].
const ENOUGH_S: u64 = 20 * 60;
/// What the bake must be good for, so that a moment's silence lacks nothing.
const HOPED_S: u64 = ENOUGH_S * 5 / 4;
/// Fewer events are chance [orchestration 6.6].
const EVENTS_MIN: u64 = 3;
/// Fewer hosts are sick hosts.
const STRUCK_MIN: u32 = 2;
/// So much more than the others' rate is the release [orchestration 6.6].
const TIMES: u64 = 3;
/// And no likelier by chance than one in a hundred: the natural logarithm of that.
const CHANCE: f64 = 4.6;

/// What the comparison of a region says of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fares {
    /// It takes no part, or has not found anything, or is pleased.
    Well(Compared),
    /// Hosts with the release fare worse.
    Worse(Compared),
    /// There is not enough data yet.
    Unknown(Compared),
}

impl Fares {
    pub(super) fn told(&self) -> &Compared {
        match self {
            Self::Well(told) | Self::Worse(told) | Self::Unknown(told) => told,
        }
    }
}

/// What comparisons say, by region.
pub(super) type Fared = BTreeMap<RegionName, Fares>;

/// Compares in one region, for the step under way.
fn compare(rollout: &Rollout, now: UnixMillis, name: &RegionName, tally: &Tally) -> Fares {
    let left_out = |why: &str| {
        let why = format!("{why}: host health alone decides");
        Fares::Well(Compared { why, ..Compared::new(GateWord::Pass, Against::Nobody) })
    };
    let Some(counted) = tally.comparison else {
        return left_out("its hosts do not tell how they fare");
    };
    let own = step(rollout, name, counted);
    let hope = Hope::of(rollout, now, name);
    let beside = || {
        let expected = own.expected_milli as f64 / 1000.0;
        let against = (Against::Control, own.next.struck);
        judge(rollout, name, against, (own.next.span, own.control.span), expected)
    };
    let (next, control) = (own.next.hosts, own.control.hosts);
    // Time runs for both groups while both have hosts, and else for those alone.
    let (paired, alone) = if control > 0 { (next, 0) } else { (0, next) };
    let with = hope.is_for(Against::Control, paired, own.next.span);
    let without = hope.is_for(Against::Control, control, own.control.span);
    let seen = match (with, without) {
        (true, true) => beside(),
        _ if hope.are_many(next) && hope.are_many(control) => {
            left_out("hosts came too late in the bake for a comparison")
        }
        _ if with || hope.are_many(next) => left_out("too few hosts to compare with"),
        _ => left_out("too few hosts with it for a comparison"),
    };
    let compares = with && without && control > 0;
    let before = own.before.host_s >= ENOUGH_S;
    if matches!(seen, Fares::Worse(_))
        || compares
        || !before
        || !hope.is_for(Against::HourBefore, alone, own.alone)
    {
        return seen;
    }
    let expected = own.before.events as f64 * own.alone.host_s as f64 / own.before.host_s as f64;
    let against = (Against::HourBefore, own.next.struck);
    judge(rollout, name, against, (own.alone, own.before), expected)
}

/// Whether a group can have enough data by the end of its bake.
struct Hope {
    /// The whole bake, seconds.
    bake: u64,
    /// What is left of it, seconds; prolongations are for silence alone.
    left: u64,
    /// What it was compared with in this bake before, which it is held to: data that does not
    /// come is no reason to go without.
    promised: Option<Against>,
    /// Whether it bakes; before that what hosts there will be is not known yet.
    bakes: bool,
}

impl Hope {
    fn of(rollout: &Rollout, now: UnixMillis, name: &RegionName) -> Self {
        let bakes = rollout.stage == Stage::Baking;
        let left = rollout.due_at.filter(|_| bakes && rollout.doubts == 0);
        Self {
            bake: u64::from(rollout.bake_s_now()),
            left: left.map_or(0, |due| due.since(now).as_secs()),
            promised: rollout.comparing.get(name).copied(),
            bakes,
        }
    }

    /// Of so many `hosts` now that `have` been watched so long. Hosts that come late in the
    /// bake can't have enough in what is left, and must not hold it up.
    fn is_for(&self, against: Against, hosts: u32, have: Span) -> bool {
        let held = !self.bakes || self.promised == Some(against);
        let comes = held || have.host_s + u64::from(hosts) * self.left >= HOPED_S;
        have.host_s >= ENOUGH_S || (self.are_many(hosts) && comes)
    }

    /// Whether so many have enough data in a whole bake.
    fn are_many(&self, hosts: u32) -> bool {
        u64::from(hosts) * self.bake >= HOPED_S
    }
}

fn judge(
    rollout: &Rollout,
    name: &RegionName,
    (against, struck): (Against, u32),
    (with, without): (Span, Span),
    expected: f64,
) -> Fares {
    let mut told = Compared {
        events: with.events,
        host_minutes: with.host_s / 60,
        other_events: without.events,
        other_host_minutes: without.host_s / 60,
        expected_milli: (expected * 1000.0).round() as u64,
        ..Compared::new(GateWord::Pass, against)
    };
    if with.host_s.min(without.host_s) < ENOUGH_S {
        told.verdict = GateWord::Waiting;
        told.why = format!(
            "{} and {} host-minutes in {name} with {} and without it, of 20 that it takes",
            told.host_minutes, told.other_host_minutes, rollout.release
        );
        return Fares::Unknown(told);
    }
    let many = with.events >= EVENTS_MIN && struck >= STRUCK_MIN;
    let worse = with.events as f64 > expected * TIMES as f64;
    if !many || !worse || is_chance((with, without), expected) {
        return Fares::Well(told);
    }
    told.verdict = GateWord::Fail;
    let others = match against {
        Against::HourBefore => "the hour before",
        Against::Control | Against::Nobody => "hosts without it meanwhile",
    };
    told.why = format!(
        "{} restarts or failed probes on hosts with {} in {name}, {expected:.1} expected by {others}",
        with.events, rollout.release
    );
    Fares::Worse(told)
}

/// Whether as many events may be chance, were both alike. Hoeffding's bound of the binomial
/// tail, which is never below the truth.
fn is_chance((with, without): (Span, Span), expected: f64) -> bool {
    let (ours, theirs) = (with.events as f64, without.events as f64);
    // Of the time together, weighed as the expectation is.
    let weight = match without.events {
        0 => with.host_s as f64 / without.host_s as f64,
        _ => expected / theirs,
    };
    let share = weight / (1.0 + weight);
    let found = ours / (ours + theirs);
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let distance = part(found, share) + part(1.0 - found, 1.0 - share);
    (ours + theirs) * distance < CHANCE
}

/// Whether hosts without the release have as much trouble as hosts fail with it: then it
/// is not the release, or not alone, and going back would not help. In a sentence.
pub(super) fn shared_trouble(
    rollout: &Rollout,
    name: &RegionName,
    (failed, of): (u32, u32),
    tally: &Tally,
) -> Option<String> {
    let control = tally.comparison?.control;
    let (struck, hosts) = (u64::from(control.struck), u64::from(control.hosts));
    let alike = u64::from(failed) * hosts <= TIMES * struck * u64::from(of);
    (control.struck >= STRUCK_MIN && hosts > 0 && alike).then(|| {
        format!(
            "{struck} of {hosts} hosts without {} in {name} restarted or failed their probe \
             meanwhile, so going back may not help",
            rollout.release
        )
    })
}

/// What was counted since the step began.
fn step(rollout: &Rollout, name: &RegionName, now: Comparison) -> Comparison {
    let from = rollout.compared_from.as_ref().and_then(|all| *all.get(name)?).unwrap_or_default();
    now.since(&from)
}

impl Rollout {
    /// Notes what was counted before the step began, or went on: of a region that has not
    /// spoken under this generation nothing was, of one that has not told numbers it is what
    /// it tells first. Another process's count is of other times: it counts from here on.
    pub(super) fn mark_comparison(&mut self, regions: &BTreeMap<RegionName, RegionFacts>) {
        let Some(version) = self.version else { return };
        let fresh = self.compared_from.is_none();
        let marks = self.compared_from.get_or_insert_default();
        for (name, region) in regions.iter().filter(|(_, region)| region.speaks_of(version)) {
            let now = region.tally.comparison;
            match (marks.get_mut(name), now) {
                (None, now) if fresh => drop(marks.insert(name.clone(), now)),
                (None, Some(now)) => {
                    let nothing = Comparison { ledger: now.ledger, ..Comparison::default() };
                    marks.insert(name.clone(), Some(nothing));
                }
                (Some(mark), Some(now)) if mark.is_none_or(|mark| mark.ledger != now.ledger) => {
                    *mark = Some(now);
                }
                _ => {}
            }
        }
    }

    /// What comparisons say now, of each region that has spoken under this goal.
    pub(super) fn compare(
        &self,
        now: UnixMillis,
        regions: &BTreeMap<RegionName, RegionFacts>,
    ) -> Fared {
        let Some(version) = self.version else { return Fared::new() };
        let known = regions.iter().filter(|(_, region)| region.speaks_of(version));
        known.map(|(name, own)| (name.clone(), compare(self, now, name, &own.tally))).collect()
    }

    /// Notes which regions compare hosts in the bake under way, and with whom. What they are
    /// compared with now stays what they are compared with.
    pub(super) fn promise_comparison(&mut self, fared: &Fared) {
        if self.stage != Stage::Baking {
            return;
        }
        for (name, fares) in fared {
            let against = fares.told().against;
            if against != Against::Nobody {
                self.comparing.insert(name.clone(), against);
            }
        }
    }
}
