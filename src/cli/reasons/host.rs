//! Why a host does not run what an app's env leads to.

use super::{Reasons, scope};
use crate::cli::table::{age, count};
use crate::model::fleet::{AppStatus, Phase};
use crate::model::goal::{BUCKETS, GoalVersion, Target, bucket};
use crate::model::hold::Hold;
use crate::model::rollout::{RolloutKind, RolloutState};
use crate::model::time::UnixMillis;
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::fleet::HostRow;
use crate::wire::v1::rollout::{EnvStatus, Rollout};
use crate::wire::words::{is_held_at_canary, waits};

/// Log lines of the app that are shown with its failure.
const LOG_LINES_SHOWN: usize = 12;

/// A host, and what its app and env should be.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The host as its region reports it.
    pub host: &'a HostRow,
    /// The app.
    pub app: &'a AppSpec,
    /// What the app's env leads to.
    pub env: &'a EnvStatus,
    /// Now.
    pub now: UnixMillis,
}

/// Why the host is where it is.
#[must_use]
pub fn of(seen: Seen<'_>) -> Reasons {
    let Seen { host, app, env, now } = seen;
    let name = &host.info.host;
    let status = host.apps.iter().find(|status| status.app == env.app && status.env == env.env);
    let wanted = wanted(env);
    let runs = status.and_then(|status| status.running);
    let headline = headline(host, env, runs, wanted);
    if host.info.env != env.env {
        let own = &host.info.env;
        return Reasons::new(headline)
            .because(format!("{name} serves {own}, not {}", env.env))
            .hint(format!("deployctl why {name} -e {own}"));
    }
    if !app.hosts.selects(&host.info.labels) {
        return Reasons::new(headline)
            .because(format!("{} runs on hosts with {}", app.name, app.hosts))
            .because(format!("{name} has the labels {}", labels(host)))
            .hint(format!("deployctl apps show {}", app.name));
    }
    let Some(wanted) = wanted else {
        return Reasons::new(headline)
            .settled()
            .because(format!("{} was never deployed to {}", app.name, env.env))
            .hint(format!("deployctl deploy HEAD -a {} -e {}", env.app, env.env));
    };
    if !host.reachable {
        return Reasons::new(headline)
            .because(format!("{name} was last heard of {} ago", age(now.since(host.seen_at))))
            .next("it converges by itself once its agent reaches the region again")
            .hint(format!("deployctl hosts {name} -A"))
            .hint(format!("if it is gone for good: deployctl hosts forget {name}"));
    }
    let Some(status) = status else {
        return Reasons::new(headline)
            .because("its agent has not reported anything of this app yet")
            .next("the agent reports as soon as it takes the goal");
    };
    let kept = pin_of(seen);
    if same(status.running, Some(wanted)) && status.phase == Phase::Healthy && kept.is_none() {
        return Reasons::new(headline).settled();
    }
    let mut reasons = Reasons::new(headline);
    if let Some(newest) = env.version.filter(|newest| status.version < *newest) {
        return not_taken(reasons, status.version, newest);
    }
    if let Some(hold) = kept {
        let how = hold.at.map_or("held".into(), |at| format!("pinned to {}", at.release));
        reasons = reasons.because(format!("it is {how}: {}", hold.sentence()));
        let there = hold.at.is_none_or(|at| same(status.running, Some(at)));
        if there && status.failure.is_none() {
            return Reasons { settled: status.phase == Phase::Healthy, ..reasons }
                .next(format!("it follows the rollouts again when {} ends", hold.hold))
                .hint(format!("deployctl hold end {hold}", hold = hold.hold));
        }
    }
    if is_too_old(status, wanted) {
        return reasons
            .because(format!("it runs the code of {} without its config", wanted.release))
            .because("its agent is of a release that does not know configs")
            .hint(format!("update deployctl-agent on {name}"));
    }
    match status.desired {
        Some(desired) if !same(status.running, Some(desired)) || status.failure.is_some() => {
            on_its_way(reasons, env, status, desired)
        }
        _ => stays(reasons, seen, status),
    }
}

/// Whether the agent was told of a config and did not understand.
fn is_too_old(status: &AppStatus, wanted: Target) -> bool {
    let told = status.desired.is_some_and(|desired| desired.release == wanted.release);
    told && wanted.config.is_some() && status.desired.is_some_and(|told| told.config.is_none())
}

/// What keeps the host where it is: its own hold goes before its region's.
fn pin_of(seen: Seen<'_>) -> Option<&Hold> {
    let Seen { host, env, .. } = seen;
    let own = env.pins.iter().find(|hold| hold.host.as_ref() == Some(&host.info.host));
    let wide = |hold: &&Hold| hold.host.is_none() && hold.region.as_ref() == Some(&host.region);
    own.or_else(|| env.pins.iter().find(wide))
}

/// What the env leads to: the open rollout's release, else what runs.
fn wanted(env: &EnvStatus) -> Option<Target> {
    let back = |rollout: &Rollout| rollout.release.state == RolloutState::Reverting;
    let of = |release: &crate::model::rollout::Release| {
        let artifact = release.artifact?;
        Some(Target { release: release.release, artifact, config: release.config })
    };
    match &env.rollout {
        Some(open) if back(open) => open.base,
        Some(open) => of(&open.release).or_else(|| env.current.as_ref().and_then(of)),
        None => env.current.as_ref().and_then(of),
    }
}

/// The same bits, whatever number they were deployed under.
fn same(one: Option<Target>, other: Option<Target>) -> bool {
    one.is_some() && one.map(|target| target.bits()) == other.map(|target| target.bits())
}

fn headline(
    host: &HostRow,
    env: &EnvStatus,
    runs: Option<Target>,
    wanted: Option<Target>,
) -> String {
    let word = |target: Option<Target>| target.map(|t| t.release.to_string());
    let (name, region, app) = (&host.info.host, &host.region, &env.app);
    match (word(runs), word(wanted)) {
        (_, Some(should)) if same(runs, wanted) => {
            format!("{name} ({region}) runs {app} {should}, as it should")
        }
        (runs, wanted) => format!(
            "{name} ({region}) runs {}; {} leads to {}",
            runs.map_or(format!("no {app}"), |runs| format!("{app} {runs}")),
            env.env,
            wanted.unwrap_or_else(|| "nothing yet".into())
        ),
    }
}

fn labels(host: &HostRow) -> String {
    let pairs: Vec<String> = host.info.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "none".into() } else { pairs.join(",") }
}

fn not_taken(reasons: Reasons, has: GoalVersion, newest: GoalVersion) -> Reasons {
    let word = |v: GoalVersion| format!("{}.{}.{}", v.epoch, v.generation, v.step);
    reasons
        .because(format!("it acts under goal {}, and {} is the newest", word(has), word(newest)))
        .because("the newer goal has not come through its region, or its report not back")
        .next("the agent takes it with its next poll, within a minute")
        .hint("deployctl regions")
}

/// It should run something else, and knows it.
fn on_its_way(reasons: Reasons, env: &EnvStatus, status: &AppStatus, desired: Target) -> Reasons {
    let release = desired.release;
    let scope = scope(&env.app, &env.env);
    if let Some(failure) = &status.failure {
        let mut why = format!("{release} failed there: {}", failure.reason);
        let skip = failure.log.len().saturating_sub(LOG_LINES_SHOWN);
        for line in failure.log.iter().skip(skip) {
            why.push_str(&format!("\n| {line}"));
        }
        let back = match (status.phase, status.running) {
            (Phase::Reverted, Some(running)) => format!("it went back to {}", running.release),
            _ => String::new(),
        };
        return reasons
            .because(why)
            .because(back)
            .next("it is not tried there again until a person or a new deploy asks")
            .hint(format!("deployctl retry {scope}"))
            .hint(format!("deployctl rollback {scope}"));
    }
    let (have, all) = status.pieces;
    let why = match status.phase {
        Phase::Fetching => format!("it fetches {release}: {have} of {all} pieces so far"),
        Phase::Staged => format!("it holds {release} and is about to switch"),
        Phase::Activating => format!("it stops the old and starts {release} now"),
        Phase::Probing if status.restarts > 0 => {
            let times = count(u64::from(status.restarts), "time");
            format!(
                "{release} was started again {times}, and has not been up for long enough since"
            )
        }
        Phase::Probing => format!("{release} was started, and its probe has not settled"),
        Phase::Idle | Phase::Healthy | Phase::Failed | Phase::Reverted => {
            format!("it has just been told to run {release}")
        }
    };
    reasons.because(why).next("it goes on by itself").hint(format!("deployctl watch {scope}"))
}

/// It runs what it should by its own reckoning.
fn stays(reasons: Reasons, seen: Seen<'_>, status: &AppStatus) -> Reasons {
    let Seen { host, env, .. } = seen;
    let scope = scope(&env.app, &env.env);
    let Some(open) = &env.rollout else {
        return reasons
            .because("no rollout is open, and by its own reckoning it is where it should be")
            .because("somebody holds a release on the host (deployctl-agent rollback), or its region was rolled back alone")
            .next("the next deploy to every region takes it along")
            .hint(format!("deployctl history {scope}"));
    };
    let name = open.release.release;
    if !open.release.regions.is_empty() && !open.release.regions.contains(&host.region) {
        let only: Vec<&str> = open.release.regions.iter().map(|r| r.as_str()).collect();
        return reasons
            .because(format!("{name} goes to {} only", only.join(", ")))
            .next(format!("nothing: {} keeps what it runs", host.region));
    }
    let reasons = admission(reasons, host, open);
    let waits = format!("{name} {}", waits(open));
    let because_of = match open.release.state {
        RolloutState::Pending => format!("{name} has not begun"),
        // What it waits for is said below.
        RolloutState::Paused if is_held_at_canary(open) => String::new(),
        RolloutState::Paused => format!("{name} is paused: {}", open.release.reason),
        _ => String::new(),
    };
    let reasons = reasons.because(because_of).next(waits);
    let held = open.release.artifact.is_some_and(|artifact| status.held.contains(&artifact));
    let held =
        format!("it holds {name} already, and will only have to switch").repeat(usize::from(held));
    let reasons = reasons.because(held);
    match open.release.state {
        RolloutState::Paused if is_held_at_canary(open) => {
            reasons.hint(format!("deployctl promote {name} {scope}"))
        }
        RolloutState::Paused => reasons.hint(format!("deployctl resume {name} {scope}")),
        _ if open.release.kind == RolloutKind::Deploy => {
            reasons.hint(format!("deployctl promote {name} {scope}"))
        }
        _ => reasons.hint(format!("deployctl watch {name} {scope}")),
    }
}

/// Which step admits the host: a host's bucket is a pure function of the goal.
fn admission(reasons: Reasons, host: &HostRow, open: &Rollout) -> Reasons {
    let Some(version) = open.release.version else { return reasons };
    let own = bucket(&version.generation.to_string(), &open.release.app, &host.info.host);
    let admits = |index: usize| open.steps.get(index).map_or(0, |step| step.admits(&host.region));
    let now = usize::try_from(open.step).unwrap_or(usize::MAX);
    let canary = open.release.canary.as_ref();
    if canary.is_some_and(|canary| canary.has(&host.region, &host.info.host)) {
        return reasons
            .because("it goes first, by name, and its agent has not said yet that it knows");
    }
    if let (true, Some(most)) = (own < admits(now), open.release.max_unavailable) {
        return reasons.because(format!(
            "it waits for its turn: of {} at most {most} are between releases at once",
            host.region
        ));
    }
    if own < admits(now) {
        return reasons.because("it is admitted, and has not said yet that it knows");
    }
    let first = canary.filter(|_| now == 0);
    let reasons = reasons.because(match first {
        Some(canary) => format!("only the canary is admitted yet: {}", canary.names()),
        None => format!(
            "it is not admitted yet: its bucket is {own} of {BUCKETS}, and {} admits those below {}",
            host.region,
            admits(now)
        ),
    });
    match (now + 1..open.steps.len()).find(|index| own < admits(*index)) {
        Some(index) => reasons.because(format!(
            "{} is at step {} of {}, and step {} ({}) admits it",
            open.release.release,
            now + 1,
            open.steps.len(),
            index + 1,
            open.steps[index].name
        )),
        None => reasons,
    }
}
