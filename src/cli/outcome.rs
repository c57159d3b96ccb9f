//! What a rollout or a build says for itself: lines, causes, exit codes.
//!
//! Pure: from wire structs to text and codes. The same mapping serves every command
//! that waits, also when the thing ended before anybody looked.

use super::failure::{ExitCode, Failure};
use super::table::count;
use crate::model::fleet::FailureGroup;
use crate::model::job::BuildFailure;
use crate::model::rollout::{Release, RolloutState};
use crate::wire::v1::build::Build;
use crate::wire::v1::rollout::Rollout;
pub use crate::wire::words::{
    build_tone, merged_failures, progress_of, replication_tone, rollout_tone, stage_word,
    step_name, sum,
};
use crate::wire::words::{is_held_at_canary, waits};

/// Causes that are spelled out of one failure.
const GROUPS_SHOWN: usize = 4;
/// Log lines that are shown with a failed host.
const LOG_LINES_SHOWN: usize = 12;

/// The exit code of a rollout that a command waited for; `None` while it is open.
#[must_use]
pub fn rollout_code(state: RolloutState) -> Option<ExitCode> {
    Some(match state {
        RolloutState::Pending | RolloutState::Running | RolloutState::Reverting => return None,
        RolloutState::Paused => ExitCode::Paused,
        RolloutState::Succeeded => ExitCode::Ok,
        RolloutState::Reverted => ExitCode::Reverted,
        RolloutState::Failed => ExitCode::Failed,
        RolloutState::Superseded => ExitCode::Superseded,
        RolloutState::Canceled => ExitCode::Canceled,
        RolloutState::Expired => ExitCode::NotDeployable,
    })
}

/// The exit code of a release: as [`rollout_code`], but what never began because a rule
/// stood in its way was blocked.
#[must_use]
pub fn release_code(release: &Release) -> Option<ExitCode> {
    match release.state {
        RolloutState::Expired if release.blocked => Some(ExitCode::Blocked),
        state => rollout_code(state),
    }
}

/// One line of where a rollout stands, and what makes the line new.
#[must_use]
pub fn rollout_line(rollout: &Rollout) -> (String, String) {
    let all = sum(rollout.regions.values());
    let name = rollout.release.release;
    let word = stage_word(rollout);
    let step = step_name(rollout);
    let faults = all.faults();
    let mut line = format!("{name} {word}");
    if !step.is_empty() {
        line.push_str(&format!(" {step:?}"));
    }
    match rollout.release.state {
        // On its way back those are counted who are, and it waits for the rest.
        RolloutState::Pending | RolloutState::Reverting => {}
        _ => line.push_str(&format!(" {}/{}", all.healthy, all.admitted)),
    }
    if rollout.release.state != RolloutState::Pending {
        line.push_str(&format!(" failed={faults} unreachable={}", all.unreachable));
    }
    if !rollout.waiting_on.is_empty() {
        let said = if rollout.held { waits(rollout) } else { rollout.waiting_on.clone() };
        line.push_str(&format!("; {said}"));
    }
    // A health check may take half a minute: the wait for it is a change worth a line.
    let switched = all.admitted > 0 && all.on_next >= all.admitted;
    (format!("{word} {step} {faults} {switched}"), line)
}

/// Why a rollout that ended (or paused) is not a success.
#[must_use]
pub fn rollout_failure(rollout: &Rollout, code: ExitCode) -> Failure {
    let release = &rollout.release;
    let name = release.release;
    let scope = format!("-a {} -e {}", release.app, release.env);
    if release.state == RolloutState::Paused && rollout.held {
        return held(rollout, code);
    }
    let title = match release.state {
        RolloutState::Reverted => format!("{name} failed and was rolled back"),
        RolloutState::Failed => left_on(rollout),
        RolloutState::Superseded => format!("{name} was superseded"),
        RolloutState::Canceled => format!("{name} was canceled"),
        RolloutState::Expired => format!("{name} never started"),
        RolloutState::Paused => format!("{name} is paused and waits for a person"),
        state => format!("{name} is {}", state.word()),
    };
    let mut failure = Failure::new(code, title);
    failure.causes = causes(&release.reason, &sum(rollout.regions.values()).failures);
    failure.hints = match release.state {
        // Every host that failed went back, and has no failure any more.
        RolloutState::Reverted => {
            vec![format!("deployctl logs {name} {scope}"), format!("deployctl history {scope}")]
        }
        RolloutState::Failed => vec![
            format!("deployctl logs {name} {scope}"),
            format!("deployctl hosts --failed {scope}"),
        ],
        RolloutState::Paused => vec![
            format!("deployctl promote {name} {scope}"),
            format!("deployctl cancel {name} {scope}"),
        ],
        RolloutState::Expired if release.blocked => {
            vec![format!("deployctl deploy {} {scope}", release.build)]
        }
        RolloutState::Expired => {
            vec![format!("deployctl builds -a {}", release.app)]
        }
        _ => vec![format!("deployctl status {} -e {}", release.app, release.env)],
    };
    if release.state == RolloutState::Failed && rollout.base.is_some() {
        failure.hints.push(format!("deployctl rollback {scope}"));
    }
    failure
}

/// That a rollout stands where it was asked to, and what a person may say now.
fn held(rollout: &Rollout, code: ExitCode) -> Failure {
    let mut failure = Failure::new(code, held_where(rollout));
    failure.by_design = true;
    failure.causes.push(ways_on(rollout));
    failure.hints = held_lines(rollout).into_iter().map(|(_, line)| line).collect();
    failure
}

/// "r2 is held after the canary web-1: 1 of 1 host healthy".
#[must_use]
pub fn held_where(rollout: &Rollout) -> String {
    let (name, all) = (rollout.release.release, sum(rollout.regions.values()));
    let hosts = count(u64::from(all.admitted), "host");
    let well = format!("{} of {hosts} healthy", all.healthy.min(all.admitted));
    match rollout.release.canary.as_ref().filter(|_| is_held_at_canary(rollout)) {
        Some(canary) => format!("{name} is held after the canary {}: {well}", canary.names()),
        None => format!("{name} is held after {:?}, as its plan says: {well}", step_name(rollout)),
    }
}

/// Where it is: "r2 is held after the canary web-1: 1 of 1 host healthy", "r2 is converging
/// eu 25%".
#[must_use]
pub fn stands(now: &Rollout) -> String {
    if now.release.state == RolloutState::Paused && now.held {
        return held_where(now);
    }
    let text = format!("{} is {} {}", now.release.release, stage_word(now), step_name(now));
    text.trim_end().to_owned()
}

/// What the lines of [`held_lines`] lead to, as one sentence.
fn ways_on(rollout: &Rollout) -> String {
    let own = (rollout.release.artifact, rollout.release.config);
    let back = match rollout.base {
        // A rollback goes to what is something else.
        Some(base) if own == (Some(base.artifact), base.config) => {
            format!("cancel goes back to {}, which brought the same", base.release)
        }
        Some(base) => format!("cancel (or rollback) goes back to {}", base.release),
        None => "cancel --keep ends it, and hosts stay as they are".to_owned(),
    };
    format!("promote goes on with the rest by the plan, {back}")
}

/// The lines that a person may type where a rollout is held or paused, and in a word what each
/// does.
#[must_use]
pub fn held_lines(rollout: &Rollout) -> [(&'static str, String); 2] {
    let release = &rollout.release;
    let (name, scope) = (release.release, format!("-a {} -e {}", release.app, release.env));
    let verb = if rollout.held { "promote" } else { "resume" };
    let on = ("go on", format!("deployctl {verb} {name} {scope}"));
    match rollout.base {
        Some(_) => [on, ("go back", format!("deployctl cancel {name} {scope}"))],
        None => [on, ("end it", format!("deployctl cancel {name} --keep {scope}"))],
    }
}

/// The same, and `None` for what is neither.
#[must_use]
pub fn paused_lines(rollout: &Rollout) -> Option<[(&'static str, String); 2]> {
    (rollout.release.state == RolloutState::Paused).then(|| held_lines(rollout))
}

/// What a rollout that failed left behind: how many hosts run what it brought.
fn left_on(rollout: &Rollout) -> String {
    let (all, name) = (sum(rollout.regions.values()), rollout.release.release);
    // On its way back those are counted who are.
    if rollout.went_back {
        let (back, asked) = progress_of(rollout);
        let away = u64::from(all.unreachable);
        return match asked.saturating_sub(back) {
            0 if away > 0 => {
                let hosts = count(away, "host");
                format!("{name} failed, and of {hosts} that can't be reached nobody knows")
            }
            left => format!("{name} failed, and {} did not come back in time", count(left, "host")),
        };
    }
    match all.on_next {
        0 => format!("{name} failed; no host runs it"),
        on_next => {
            format!(
                "{name} failed, and {on_next} of {} still run it",
                count(u64::from(all.hosts), "host")
            )
        }
    }
}

/// The reason of a whole, and what failed in it, each said once.
#[must_use]
pub fn causes(reason: &str, groups: &[FailureGroup]) -> Vec<String> {
    let mut causes: Vec<String> =
        (!reason.is_empty()).then(|| reason.to_owned()).into_iter().collect();
    for told in spelled_out(groups) {
        // The whole's own reason often is the first of them, and once is enough.
        match causes.first_mut().filter(|first| first.contains(&told.reason)) {
            Some(first) => first.push_str(&told.log),
            None => causes.push(told.sentence + &told.log),
        }
    }
    causes
}

/// Equal failures as one line each, most hosts first, with the last words under it.
#[must_use]
pub fn failure_lines(groups: &[FailureGroup]) -> Vec<String> {
    spelled_out(groups).into_iter().map(|told| told.sentence + &told.log).collect()
}

/// A failure of some hosts, as it is told.
struct Told {
    /// How many, why, and who was first.
    sentence: String,
    /// The reason alone.
    reason: String,
    /// Its last words, each on a line of its own.
    log: String,
}

fn spelled_out(groups: &[FailureGroup]) -> Vec<Told> {
    let told = |group: &FailureGroup| {
        let hosts = count(u64::from(group.hosts), "host");
        let sentence = format!("{hosts}: {} (first: {})", group.reason, group.first);
        let skip = group.log.len().saturating_sub(LOG_LINES_SHOWN);
        let log: String = group.log.iter().skip(skip).map(|line| format!("\n  | {line}")).collect();
        Told { sentence, reason: group.reason.clone(), log }
    };
    merged_failures(groups).iter().take(GROUPS_SHOWN).map(told).collect()
}

/// Why a build that ended is not a success.
#[must_use]
pub fn build_failure(build: &Build) -> Failure {
    let class = build.failure.as_ref().map(|failure| failure.class);
    let (code, words) = match class {
        Some(BuildFailure::Canceled) => (ExitCode::Canceled, "was canceled"),
        Some(BuildFailure::Timeout) => (ExitCode::BuildFailed, "ran over its time limit"),
        Some(BuildFailure::Refused) => (ExitCode::BuildFailed, "was refused"),
        Some(BuildFailure::Infra | BuildFailure::LostWorker) => {
            (ExitCode::BuildFailed, "failed for no fault of its own")
        }
        Some(BuildFailure::BuildFailed) | None => (ExitCode::BuildFailed, "failed"),
    };
    let number = build.build;
    let mut failure = Failure::new(code, format!("{number} of {} {words}", build.commit.short()));
    failure.causes.extend(build.failure.as_ref().map(|failure| failure.reason.clone()));
    failure.hints.push(format!("deployctl logs {number}"));
    failure.hints.push(match class {
        Some(BuildFailure::Refused) => format!("once that is put right: deployctl retry {number}"),
        _ => format!("deployctl retry {number}"),
    });
    failure
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fleet::FailureClass;

    #[test]
    fn every_final_state_has_a_code_and_only_success_is_zero() {
        for state in RolloutState::ALL {
            let code = rollout_code(state);
            assert!(code.is_some() || !state.is_final(), "{state:?}");
            assert_eq!(code == Some(ExitCode::Ok), state == RolloutState::Succeeded);
        }
    }

    #[test]
    fn equal_failures_of_two_regions_are_one_line() {
        let group = |reason: &str, hosts| FailureGroup {
            class: FailureClass::Release,
            reason: reason.into(),
            hosts,
            first: "h1".parse().unwrap(),
            log: vec!["last words".into()],
        };
        let lines = failure_lines(&[group("exit 1", 2), group("503", 3), group("exit 1", 2)]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("4 hosts: exit 1 (first: h1)\n  | last words"), "{lines:?}");
    }
}
