//! Why a rollout is not further.

use super::{Reasons, scope};
use crate::cli::outcome::{causes, held_lines, stage_word, step_name, sum};
use crate::cli::table::age;
use crate::model::rollout::{RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::{REGION_SILENT, Region};
use crate::wire::v1::rollout::{ProgramSaid, Rollout};
use crate::wire::words::{is_held_at_canary, quoted, waits};

/// Why `rollout` is where it is, as of `now`.
#[must_use]
pub fn of(rollout: &Rollout, regions: &[Region], now: UnixMillis) -> Reasons {
    let release = &rollout.release;
    let name = release.release;
    let what = match release.kind {
        RolloutKind::Deploy => format!("{name} of {} in {}", release.app, release.env),
        RolloutKind::Rollback => {
            format!("{name} of {} in {}, a rollback,", release.app, release.env)
        }
    };
    let mut reasons = Reasons::new(format!("{what} is {}{}", stage_word(rollout), place(rollout)));
    reasons.settled = release.state == RolloutState::Succeeded;
    let why = match release.state {
        // What it waits for is the first thing to know; why it ended is all there is.
        _ if needs_another(rollout) => rollout.waiting_on.clone(),
        state if !state.is_final() => format!("it {}", waits(rollout)),
        _ => release.reason.clone(),
    };
    let failed = causes(&why, &sum(rollout.regions.values()).failures);
    for line in failed.into_iter().chain(gates(rollout)) {
        reasons = reasons.because(line);
    }
    if !release.state.is_final() {
        for line in silent(rollout, regions, now) {
            reasons = reasons.because(line);
        }
    }
    if let Some(canary) = &release.canary {
        let (asked, names) = (&canary.asked, canary.names());
        let who = if *asked == names { String::new() } else { format!(": {names}") };
        reasons = reasons.because(format!("--hosts {asked} goes first{who}"));
    }
    if let Some(file) = &release.plan_file {
        reasons = reasons.because(format!("it goes by the plan {file}"));
    }
    if release.no_auto_revert && !release.state.is_final() {
        reasons = reasons.because("should it fail, hosts stay as they are: --no-auto-rollback");
    }
    with_next(reasons, rollout, now)
}

/// What judges the step beside host health: programs, and hosts without the release.
fn gates(rollout: &Rollout) -> Vec<String> {
    let bakes = rollout.stage == Stage::Baking || rollout.release.state != RolloutState::Running;
    let last = rollout.gates.last().filter(|last| bakes && last.step == rollout.step);
    let Some(judged) = last else { return vec![] };
    let mut beside: Vec<(String, String)> = Vec::new();
    for (region, own) in &judged.compared {
        let told = own.sentence();
        match beside.iter_mut().find(|(_, other)| *other == told) {
            Some((names, _)) => names.push_str(&format!(", {region}")),
            None => beside.push((region.to_string(), told)),
        }
    }
    let beside =
        beside.into_iter().map(|(names, told)| format!("beside others in {names}: {told}"));
    let program = |program: &ProgramSaid| {
        let (name, word) = (&program.name, program.verdict.word());
        match program.runs {
            0 => format!("gate {name}: it has said nothing yet"),
            runs => format!("gate {name}: {word}: {} (run {runs})", program.said),
        }
    };
    judged.programs.iter().map(program).chain(beside).collect()
}

/// Regions that it waits for and that are not heard of.
fn silent(rollout: &Rollout, regions: &[Region], now: UnixMillis) -> Vec<String> {
    let covered = |region: &&Region| {
        let only = &rollout.release.regions;
        region.hosts > 0 && (only.is_empty() || only.contains(&region.region))
    };
    regions.iter().filter(covered).filter_map(|region| silence(region, now)).collect()
}

/// That a region says nothing, if it does not.
#[must_use]
pub fn silence(region: &Region, now: UnixMillis) -> Option<String> {
    match region.seen_at {
        Some(seen) if now.since(seen) <= REGION_SILENT => None,
        Some(seen) => {
            Some(format!("{} has not reported for {}", region.region, age(now.since(seen))))
        }
        None => Some(format!("{} has never reported", region.region)),
    }
}

/// `, step 2 of 5 "eu 25%"`, while there is a step under way.
fn place(rollout: &Rollout) -> String {
    match step_name(rollout) {
        "" => String::new(),
        step => format!(", step {} of {} {step:?}", rollout.step + 1, rollout.steps.len()),
    }
}

/// Whether it waits for another app, as the coordinator puts it.
fn needs_another(rollout: &Rollout) -> bool {
    rollout.release.state == RolloutState::Pending && rollout.waiting_on.starts_with("it needs ")
}

/// The line that lists the hosts of the canary, which are worth a look before a decision.
fn look_at_canary(rollout: &Rollout) -> Option<String> {
    let asked = &rollout.release.canary.as_ref()?.asked;
    let scope = scope(&rollout.release.app, &rollout.release.env);
    Some(format!("deployctl hosts --hosts {} {scope}", quoted(asked)))
}

fn with_next(reasons: Reasons, rollout: &Rollout, now: UnixMillis) -> Reasons {
    let release = &rollout.release;
    let (name, scope) = (release.release, scope(&release.app, &release.env));
    let left = rollout.due_at.map(|due| age(due.since(now)));
    let left = left.as_deref().unwrap_or("a while");
    let after = usize::try_from(rollout.step).ok().and_then(|i| rollout.steps.get(i + 1));
    let holds = rollout.steps.get(rollout.step as usize).is_some_and(|step| step.hold);
    let then = match after {
        Some(_) if holds => "it is held until a person goes on".to_owned(),
        Some(step) => format!("step {:?} begins", step.name),
        None => "it has succeeded".to_owned(),
    };
    match (release.state, rollout.stage) {
        (RolloutState::Pending, _) if needs_another(rollout) => reasons
            .next(format!("it starts when that runs there; expires in {left}"))
            .hint(format!("deployctl status -e {}", release.env))
            .hint(format!("deployctl cancel {name} {scope}")),
        (RolloutState::Pending, _) => reasons
            .next(format!("it starts when every region holds its build; expires in {left}"))
            .hint(format!("deployctl why {}", release.build))
            .hint(format!("deployctl cancel {name} {scope}")),
        (RolloutState::Running, Stage::Baking) if rollout.baked => reasons
            .next(format!("{then} once all is well; it pauses if that lasts"))
            .hint(format!("deployctl promote {name} {scope}")),
        // To promote now would leave out the rest of the bake and the hold.
        (RolloutState::Running, Stage::Baking) if holds => reasons
            .next(format!("in {left} {then}, if hosts stay healthy"))
            .hint(format!("deployctl watch {name} {scope}")),
        (RolloutState::Running, Stage::Baking) => reasons
            .next(format!("in {left} {then}, if hosts stay healthy"))
            .hint(format!("deployctl promote {name} {scope}")),
        (RolloutState::Running, _) if release.kind == RolloutKind::Deploy => reasons
            .next(format!("{then} once the hosts converged; without progress it stops in {left}"))
            .hint(format!("deployctl watch {name} {scope}"))
            .hint(format!("deployctl hosts --behind {scope}")),
        (RolloutState::Running | RolloutState::Reverting, _) => reasons
            .next(format!("it ends when 99 % of the hosts are back, in {left} at the latest"))
            .hint(format!("deployctl watch {name} {scope}"))
            .hint(format!("deployctl hosts --behind {scope}")),
        (RolloutState::Paused, _) if is_held_at_canary(rollout) => reasons
            .next("nothing until a person decides: the rest, or back")
            .hints(held_lines(rollout).map(|(_, line)| line))
            .hints(look_at_canary(rollout)),
        (RolloutState::Paused, _) if rollout.held => reasons
            .next("nothing until a person decides: the plan holds here")
            .hints(held_lines(rollout).map(|(_, line)| line)),
        (RolloutState::Paused, _) => reasons
            .next("nothing until a person decides")
            .hint(format!("deployctl resume {name} {scope}"))
            .hint(format!("deployctl cancel {name} {scope}"))
            .hint(format!("deployctl hosts --failed {scope}")),
        (RolloutState::Failed, _) if release.no_auto_revert => reasons
            .next("nothing until a person decides: hosts stay as they are")
            .hint(format!("deployctl rollback {scope}"))
            .hint(format!("deployctl retry {name} {scope}"))
            .hint(format!("deployctl logs {name} {scope}")),
        // Every host that failed went back, and has no failure any more.
        (RolloutState::Reverted, _) => reasons
            .next("nothing: fix it and deploy the fix")
            .hint(format!("deployctl logs {name} {scope}"))
            .hint(format!("deployctl history {scope}")),
        (RolloutState::Failed, _) => reasons
            .hint(format!("deployctl logs {name} {scope}"))
            .hint(format!("deployctl hosts --failed {scope}")),
        _ => reasons.hint(format!("deployctl history {scope}")),
    }
}
