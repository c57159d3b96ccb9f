//! Judges a step by what hosts say of themselves [orchestration 6.6].
//!
//! Only release faults fail a rollout. Host faults, unreachable hosts and missing
//! data pause it. Per region: `T` admitted, `U` unreachable of them, `R = T - U`,
//! `H` healthy on the new release, `F` release faults, `X` host faults.

use std::time::Duration;

use crate::model::fleet::{FailureClass, Tally};
use crate::model::goal::GoalVersion;
use crate::model::id::RegionName;
use crate::model::time::UnixMillis;
use crate::rules::rollout::compare::{Fared, Fares, shared_trouble};
use crate::rules::rollout::{Facts, RegionFacts, Rollout, THIN_GRACE};
use crate::rules::rollout::{named, programs};

/// Below this many hosts one failure is over 2 %, yet no proof: a second host must agree.
const FEW_HOSTS: u32 = 50;
/// How long the others may take to fail like the one that did; at most the step's bake.
const AGREE_MAX: Duration = Duration::from_secs(300);
/// Release faults in a region that fail a step, at most, hosts.
const FAULTS_MAX: u32 = 50;
/// Release faults in all regions together that fail a rollout, hosts.
const FAULTS_TOTAL_MAX: u32 = 200;
/// Host faults that are never too many, hosts.
const HOST_FAULTS_MIN: u32 = 3;
/// How long counts are good for the end of a bake: three of a region's reports, which come
/// each 5 s at the latest. What was counted before a coordinator was away says nothing of the
/// time since, and hosts are only known to have stayed healthy once they are counted again.
const COUNTS_GOOD_FOR: Duration = Duration::from_secs(15);
/// Unreachable hosts that are never too many, hosts: one dead machine blocks nobody.
const UNREACHABLE_MIN: u32 = 1;

/// What is to be made of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// The release is at fault.
    Failed(String),
    /// Something else is; a person must look.
    Stuck(String),
    /// There is not enough data; a person must look if that lasts.
    Thin(String),
    /// The only early host fails; another must be asked.
    Suspect,
    /// Every region has what it should.
    Converged,
    /// The same, and a gate beside host health can't tell yet whether that is all.
    Undecided(String),
    /// Hosts are on their way.
    Waiting {
        /// Whether a release fault was seen.
        failed: bool,
    },
}

/// A step's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be made of it.
    pub opinion: Opinion,
    /// Grows as hosts get further; only compared with itself.
    pub progress: u64,
    /// Regions where no host can be reached.
    pub skipped: Vec<RegionName>,
}

/// Judges the step under way, of which comparisons say what `fared` says.
#[must_use]
pub(super) fn judge(rollout: &Rollout, now: UnixMillis, facts: &Facts, fared: &Fared) -> Verdict {
    let mut verdict = Verdict { opinion: Opinion::Converged, progress: 0, skipped: Vec::new() };
    let Some(version) = rollout.version else { return verdict };
    let (mut judged, mut faults) = (0, 0);
    let mut worst = Opinion::Converged;
    for (name, region) in taking_part(rollout, facts) {
        if region.speaks_of(version) {
            verdict.progress += progress(&region.tally);
            if shared(rollout, name, &region.tally).is_none() {
                faults += unexcused(rollout, name, &region.tally);
            }
        }
        match judge_region(rollout, now, name, region) {
            None => verdict.skipped.push(name.clone()),
            Some(opinion) => {
                judged += 1;
                let fares = fared.get(name);
                let opinion = beside_others(rollout, now, (name, region, fares), opinion);
                worst = graver(worst, counted_lately(rollout, now, (name, region), opinion));
            }
        }
    }
    if let Some(gone) = named::region_without_hosts(rollout, facts) {
        worst = graver(worst, Opinion::Thin(format!("no host of the canary is left in {gone}")));
    }
    if faults > FAULTS_TOTAL_MAX && now >= rollout.judge_from {
        worst = Opinion::Failed(format!("{faults} hosts failed"));
    }
    if judged == 0 && !verdict.skipped.is_empty() && !others_reachable(rollout, version, facts) {
        worst = Opinion::Thin("no host can be reached".into());
    }
    if let Some(opinion) = programs::ask(rollout, now, facts) {
        worst = graver(worst, opinion);
    }
    verdict.opinion = worst;
    verdict
}

/// What other hosts of the region say of an `opinion` that was made of those with the
/// release alone.
fn beside_others(
    rollout: &Rollout,
    now: UnixMillis,
    (name, region, fares): (&RegionName, &RegionFacts, Option<&Fares>),
    opinion: Opinion,
) -> Opinion {
    match opinion {
        Opinion::Failed(why) => match shared(rollout, name, &region.tally) {
            Some(others) => Opinion::Stuck(format!("{why}; {others}")),
            None => Opinion::Failed(why),
        },
        Opinion::Converged | Opinion::Waiting { .. } if now >= rollout.judge_from => match fares {
            Some(Fares::Worse(told)) => Opinion::Failed(told.why.clone()),
            Some(Fares::Unknown(told)) if opinion == Opinion::Converged => {
                Opinion::Undecided(told.why.clone())
            }
            Some(Fares::Unknown(_) | Fares::Well(_)) | None => opinion,
        },
        other => other,
    }
}

/// A bake does not end on counts of long ago: they are waited for like a gate's word.
fn counted_lately(
    rollout: &Rollout,
    now: UnixMillis,
    (name, region): (&RegionName, &RegionFacts),
    opinion: Opinion,
) -> Opinion {
    if opinion == Opinion::Converged && rollout.has_baked(now) && is_old(now, region) {
        let told = "has not counted its hosts since the coordinator was away, or for long";
        return Opinion::Undecided(format!("{name} {told}"));
    }
    opinion
}

/// Whether the region's counts are too old to end a bake on.
pub(super) fn is_old(now: UnixMillis, region: &RegionFacts) -> bool {
    now.since(region.told_at) >= COUNTS_GOOD_FOR
}

/// See [`shared_trouble`].
fn shared(rollout: &Rollout, name: &RegionName, tally: &Tally) -> Option<String> {
    let reachable = tally.admitted.saturating_sub(tally.admitted_unreachable);
    shared_trouble(rollout, name, (unexcused(rollout, name, tally), reachable), tally)
}

/// Regions that the step admits and that have hosts.
pub(super) fn taking_part<'a>(
    rollout: &'a Rollout,
    facts: &'a Facts,
) -> impl Iterator<Item = (&'a RegionName, &'a RegionFacts)> {
    facts.regions.iter().filter(|(name, region)| {
        rollout.reaches(name) && rollout.covers(name) && region.hosts() > 0
    })
}

fn others_reachable(rollout: &Rollout, version: GoalVersion, facts: &Facts) -> bool {
    let reachable = |(name, region): (&RegionName, &RegionFacts)| {
        rollout.covers(name) && region.reachable(version) > 0
    };
    facts.regions.iter().any(reachable)
}

/// Judges one region; `None`: nobody there can be asked, and it blocks nobody.
fn judge_region(
    rollout: &Rollout,
    now: UnixMillis,
    name: &RegionName,
    region: &RegionFacts,
) -> Option<Opinion> {
    let version = rollout.version?;
    let tally = &region.tally;
    let dark = region.reachable(version) == 0;
    // An early region that went dark proves nothing about the release; nor does one
    // that took the step and then fell silent.
    let may_skip = rollout.step > 0 || rollout.steps.len() == 1;
    let took_it = region.speaks_of(version) && advances(rollout, name);
    let doubtful = took_it && (region.silent || region.reachable > 0);
    if dark && (!may_skip || doubtful) {
        return Some(Opinion::Thin(format!("no word from the hosts in {name}")));
    }
    if dark {
        return None;
    }
    if !region.speaks_of(version) {
        return Some(Opinion::Waiting { failed: false });
    }
    Some(judge_tally(rollout, now, name, tally))
}

fn judge_tally(rollout: &Rollout, now: UnixMillis, name: &RegionName, tally: &Tally) -> Opinion {
    let asked = tally.admitted;
    let reachable = asked.saturating_sub(tally.admitted_unreachable);
    let blamed = unexcused(rollout, name, tally);
    let excused = tally.failed - blamed;
    if blamed > budget(reachable) && now >= rollout.judge_from {
        return Opinion::Failed(why(tally, FailureClass::Release, blamed));
    }
    if tally.host_faults > host_faults_max(reachable) {
        return Opinion::Stuck(why(tally, FailureClass::Host, tally.host_faults));
    }
    if !knows_step(rollout, name, tally) {
        return Opinion::Waiting { failed: blamed > 0 };
    }
    if blamed == 1 && reachable < FEW_HOSTS && now >= rollout.judge_from {
        return judge_one_fault(rollout, now, name, tally);
    }
    let enough = healthy_min(reachable);
    if tally.healthy + excused >= enough && reachable > 0 {
        return if tally.admitted_unreachable <= unreachable_max(asked) {
            Opinion::Converged
        } else {
            let percent = tally.admitted_unreachable * 100 / asked;
            Opinion::Thin(format!("{percent}% of the hosts in {name} can't be reached"))
        };
    }
    if reachable == 0 {
        // Reachable hosts exist, but none of those that were admitted.
        if asked == 0 && rollout.is_at_canary() {
            return Opinion::Thin(format!(
                "no host of the canary counts in {name}: they are pinned or gone since, or the \
                 region's processes are of an older release"
            ));
        }
        if rollout.has_named_only(name) {
            return Opinion::Converged;
        }
        let early = rollout.step == 0 && rollout.steps.len() > 1;
        let kept = tally.pinned > 0 && tally.pinned + tally.unreachable >= tally.hosts;
        return if asked == 0 && (!early || kept) {
            Opinion::Converged
        } else {
            Opinion::Thin(format!("no admitted host in {name} can be reached"))
        };
    }
    let settled = tally.healthy + tally.faults();
    if settled >= reachable && blamed == 0 && now >= rollout.progress_at + THIN_GRACE {
        return Opinion::Stuck(stuck(tally));
    }
    Opinion::Waiting { failed: blamed > 0 }
}

/// One failed host of few: alone it proves nothing unless there is nobody else to ask.
fn judge_one_fault(
    rollout: &Rollout,
    now: UnixMillis,
    name: &RegionName,
    tally: &Tally,
) -> Opinion {
    let reachable = tally.admitted.saturating_sub(tally.admitted_unreachable);
    if reachable <= 1 {
        let spare = rollout.spare.as_ref().is_some_and(|(region, _)| region == name);
        let can_ask = spare && tally.hosts.saturating_sub(tally.unreachable) > reachable;
        return if can_ask {
            Opinion::Suspect
        } else {
            Opinion::Failed(why(tally, FailureClass::Release, 1))
        };
    }
    if tally.healthy + tally.failed < reachable {
        return Opinion::Waiting { failed: true };
    }
    // A release that dies late looks just like a sick host: the others get the bake's time.
    let bake = Duration::from_secs(rollout.bake_s_now().into());
    if now < rollout.progress_at + bake.min(AGREE_MAX) {
        return Opinion::Waiting { failed: true };
    }
    // All others are healthy: a sick host or a flaky release; a person decides.
    let cause = why(tally, FailureClass::Release, 1);
    Opinion::Stuck(format!("{cause}; the other {} in {name} are healthy", tally.healthy))
}

/// Whether the step admits more of `name` than the one before.
fn advances(rollout: &Rollout, name: &RegionName) -> bool {
    let at = rollout.step as usize;
    let before = at.checked_sub(1).and_then(|at| rollout.steps.get(at));
    if rollout.is_at_canary() {
        return rollout.names_some_of(name);
    }
    let before = before.map_or(0, |step| step.admits(name));
    rollout.step_now().is_some_and(|step| step.admits(name) > before)
}

/// Whether counts of this generation know who is admitted by now: those of an older
/// step do only where this step admits nobody new.
pub(crate) fn knows_step(rollout: &Rollout, name: &RegionName, tally: &Tally) -> bool {
    let current = rollout.version.is_some_and(|version| tally.version.step >= version.step);
    current || !advances(rollout, name)
}

/// Release faults that are tolerated, hosts.
pub(super) fn budget(reachable: u32) -> u32 {
    reachable.div_ceil(100).clamp(1, FAULTS_MAX)
}

/// Hosts that must be healthy.
pub(super) fn healthy_min(reachable: u32) -> u32 {
    (reachable * 49).div_ceil(50)
}

/// Host faults that are tolerated, hosts.
pub(super) fn host_faults_max(reachable: u32) -> u32 {
    HOST_FAULTS_MIN.max(reachable / 50)
}

/// Unreachable hosts that are tolerated, of those that were admitted.
pub(super) fn unreachable_max(admitted: u32) -> u32 {
    UNREACHABLE_MIN.max(admitted / 10)
}

pub(super) fn unexcused(rollout: &Rollout, name: &RegionName, tally: &Tally) -> u32 {
    tally.failed.saturating_sub(rollout.excused.get(name).copied().unwrap_or(0))
}

/// Hosts weigh most, then complete downloads, then bytes.
fn progress(tally: &Tally) -> u64 {
    (u64::from(tally.healthy) * 1_000_000 + u64::from(tally.staged)) * 1001
        + u64::from(tally.fetched_permille)
}

/// The graver of the two; the first of equals.
pub(super) fn graver(a: Opinion, b: Opinion) -> Opinion {
    let rank = |opinion: &Opinion| match opinion {
        Opinion::Failed(_) => 7,
        Opinion::Stuck(_) => 6,
        Opinion::Suspect => 5,
        Opinion::Waiting { failed: true } => 4,
        Opinion::Waiting { failed: false } => 3,
        Opinion::Thin(_) => 2,
        Opinion::Undecided(_) => 1,
        Opinion::Converged => 0,
    };
    if rank(&b) > rank(&a) { b } else { a }
}

/// "2 hosts: probe failed (first: eu-1)".
pub(crate) fn why(tally: &Tally, class: FailureClass, hosts: u32) -> String {
    let noun = if hosts == 1 { "host" } else { "hosts" };
    match tally.failures.iter().find(|group| group.class == class) {
        Some(group) => format!("{hosts} {noun} failed: {} (first: {})", group.reason, group.first),
        None => format!("{hosts} {noun} failed"),
    }
}

fn stuck(tally: &Tally) -> String {
    if tally.host_faults > 0 {
        return why(tally, FailureClass::Host, tally.host_faults);
    }
    why(tally, FailureClass::Transport, tally.transport_faults)
}
