//! What a rollout waits for, and how it ended: always one true sentence.

use crate::model::judged::{GateWord, ProgramSaid};
use crate::model::rollout::{RolloutKind, RolloutState, Stage, Unavailable};
use crate::model::time::UnixMillis;
use crate::rules::rollout::gate::{is_old, knows_step, taking_part};
use crate::rules::rollout::programs::{PASS_GOOD_FOR, is_stale};
use crate::rules::rollout::{Facts, Rollout};

/// Hosts of the regions that the present step admits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    admitted: u32,
    healthy: u32,
    /// Run the release, and their health check has not settled.
    probing: u32,
    failed: u32,
    unreachable: u32,
    /// Kept where they are by a person.
    pinned: u32,
    /// Regions that have not said anything under this goal.
    mute: u32,
}

/// What it waits for now, or why it ended.
#[must_use]
pub fn waiting_on(rollout: &Rollout, now: UnixMillis, facts: &Facts) -> String {
    let left = |what: &str| match rollout.due_at {
        Some(due) => format!("{what} {}", span(due.since(now).as_millis().div_ceil(1000))),
        None => String::new(),
    };
    match (rollout.state, rollout.stage) {
        (RolloutState::Pending, _) => {
            format!("its build to be replicated; {}", left("expires in"))
        }
        (RolloutState::Running, Stage::Baking) => {
            let hosts = count(rollout, facts).hosts_on(rollout);
            let bake = match rollout.has_baked(now) {
                true => "the bake is over".to_owned(),
                false => left("bake ends in"),
            };
            let old = uncounted(rollout, now, facts);
            format!("{bake}; {hosts}{old}{}", asked(rollout, now, facts))
        }
        (RolloutState::Running, _) if rollout.kind == RolloutKind::Deploy => {
            count(rollout, facts).sentence(rollout) + &pace(rollout)
        }
        (RolloutState::Running | RolloutState::Reverting, _) => {
            let way = rollout.way(facts);
            let back = way.count();
            if rollout.state == RolloutState::Reverting {
                format!("{back}; reverts because {}", rollout.reason)
            } else {
                back
            }
        }
        (RolloutState::Paused, _) if rollout.held && rollout.is_at_canary() => {
            rollout.canary_waits()
        }
        (RolloutState::Paused, _) => format!("a person: {}", rollout.reason),
        _ => rollout.reason.clone(),
    }
}

/// "; eu is to count its hosts again", of each region whose counts are too old for the bake's
/// end.
fn uncounted(rollout: &Rollout, now: UnixMillis, facts: &Facts) -> String {
    let open = taking_part(rollout, facts).filter(|_| rollout.has_baked(now));
    let old = open.filter(|(_, region)| !region.silent && is_old(now, region));
    old.map(|(name, _)| format!("; {name} is to count its hosts again")).collect()
}

/// "; the gate errors has said nothing yet", of each that has not passed, or too long ago.
fn asked(rollout: &Rollout, now: UnixMillis, facts: &Facts) -> String {
    let stale = |said: &ProgramSaid| said.at.is_some_and(|at| is_stale(now, at));
    let programs = rollout.programs(facts).into_iter();
    let open = programs.filter(|said| said.verdict != GateWord::Pass || stale(said));
    let told = |said: ProgramSaid| match said.verdict {
        GateWord::Waiting => format!("; the gate {} has said nothing yet", said.name),
        GateWord::Pass => format!(
            "; the gate {} passed, and said nothing for {} s",
            said.name,
            PASS_GOOD_FOR.as_secs()
        ),
        _ => format!("; the gate {} says {}: {}", said.name, said.verdict.word(), said.said),
    };
    open.map(told).collect()
}

/// "; at most 10% of a region at once; each begins within 10 min; fetched within 5 min", if it
/// was told so.
fn pace(rollout: &Rollout) -> String {
    let most = rollout.permits.most.map(|most| match most {
        Unavailable::Hosts(1) => "; one host of a region at a time".to_owned(),
        Unavailable::Hosts(hosts) => format!("; at most {hosts} hosts of a region at once"),
        Unavailable::Percent(percent) => format!("; at most {percent}% of a region at once"),
    });
    let spread = match rollout.spread_s {
        0 => String::new(),
        seconds => format!("; each begins within {}", span(u128::from(seconds))),
    };
    let pace = match rollout.pace_s {
        0 => String::new(),
        seconds => format!("; fetched within {}", span(u128::from(seconds))),
    };
    most.unwrap_or_default() + &spread + &pace
}

/// How a rollout that succeeded ended.
#[must_use]
pub(crate) fn outcome(rollout: &Rollout, facts: &Facts) -> String {
    let part = facts.regions.iter().filter(|(name, _)| rollout.covers(name));
    if part.clone().all(|(_, region)| region.hosts() == 0) {
        return "no hosts yet; hosts take it when they come".into();
    }
    let sum = count(rollout, facts);
    let mut text = sum.hosts_on(rollout);
    text.push_str(&kept(sum.pinned));
    for (name, region) in part.filter(|(_, region)| region.hosts() > 0) {
        let dark = rollout.version.is_some_and(|version| region.reachable(version) == 0);
        let left_out = rollout.skipped.contains(name) || rollout.kind == RolloutKind::Rollback;
        if dark && left_out {
            text.push_str(&format!("; {name} was skipped: no host there could be reached"));
        }
    }
    if !rollout.regions.is_empty() {
        text.push_str("; other regions keep what they run (mixed on purpose)");
    }
    text
}

/// "; 2 held or pinned hosts stay where they are", if there are any.
#[must_use]
pub(crate) fn kept(hosts: u32) -> String {
    match hosts {
        0 => String::new(),
        1 => "; 1 held or pinned host stays where it is".into(),
        _ => format!("; {hosts} held or pinned hosts stay where they are"),
    }
}

/// "the fleet is back on r1".
#[must_use]
pub(crate) fn went_back_to(rollout: &Rollout) -> String {
    let base = rollout
        .exposed()
        .iter()
        .find_map(|region| rollout.stable.of(region))
        .or(rollout.stable.base);
    match base {
        Some(target) => format!("hosts are back on {}", target.release),
        None => "hosts are back on what they ran".into(),
    }
}

fn count(rollout: &Rollout, facts: &Facts) -> Count {
    let mut sum = Count::default();
    let Some(version) = rollout.version else { return sum };
    for (name, region) in taking_part(rollout, facts) {
        let tally = &region.tally;
        if !region.speaks_of(version) || !knows_step(rollout, name, tally) {
            sum.mute += 1;
            continue;
        }
        sum.admitted += tally.admitted;
        sum.pinned += tally.pinned;
        sum.healthy += tally.healthy;
        sum.probing += tally.on_next.min(tally.admitted).saturating_sub(tally.healthy);
        sum.failed += tally.faults();
        sum.unreachable += tally.admitted_unreachable;
    }
    sum
}

impl Count {
    fn hosts_on(self, rollout: &Rollout) -> String {
        let noun = if self.admitted == 1 { "host" } else { "hosts" };
        let mut text =
            format!("{} of {} {noun} on {}", self.healthy, self.admitted, rollout.release);
        if self.failed > 0 {
            text.push_str(&format!(", {} failed", self.failed));
        }
        if self.unreachable > 0 {
            text.push_str(&format!(", {} unreachable", self.unreachable));
        }
        text
    }

    fn sentence(self, rollout: &Rollout) -> String {
        let noun = if self.mute == 1 { "region" } else { "regions" };
        if self.admitted == 0 && self.mute > 0 {
            return format!("{} {noun} to take the goal", self.mute);
        }
        let left = self
            .admitted
            .saturating_sub(self.healthy)
            .saturating_sub(self.failed)
            .saturating_sub(self.unreachable);
        let hosts = self.hosts_on(rollout);
        let probing = self.probing.min(left);
        match (left, self.mute) {
            (0, 0) => hosts,
            (0, mute) => format!("{hosts}; waiting for {mute} {noun} to take the goal"),
            (left, _) if probing == left => {
                format!("{hosts}; {left} switched, and must stay healthy for a while")
            }
            (left, _) if probing > 0 => {
                format!(
                    "{hosts}; waiting for {left}, of which {probing} switched and must stay healthy for a while"
                )
            }
            (left, _) => format!("{hosts}; waiting for {left}"),
        }
    }
}

/// "20 s", "4 min".
fn span(seconds: u128) -> String {
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds / 60) }
}
