//! What the commands about rollouts share: which one, starting it, seeing it through.

use std::time::Duration;

use crate::model::fleet::{Sources, Tally};
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::{Release, RolloutKind, RolloutState};
use crate::wire::v1::rollout::{EnvStatus, Rollout, RolloutRequest};

use super::api::{Api, RolloutId};
use super::args::WaitArgs;
use super::config_file;
use super::confirm::Consent;
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::outcome::{paused_lines, progress_of, release_code, rollout_failure, rollout_tone, sum};
use super::output::Tone;
use super::preview;
use super::prompt::pick_app;
use super::table::{Cell, Table, bytes, count, took};
use super::wait;
use crate::host::clock;

/// Where people find the configurations in the table of releases: after the commits.
const CONFIG_AT: usize = 3;

/// What the status says of the app and env that the command is about.
///
/// # Errors
/// Exit code 3 when the app has no such env.
async fn env_status(ctx: &Context, api: &Api) -> Result<EnvStatus, Failure> {
    let (app, env) = (pick_app(ctx, api).await?, ctx.env()?);
    let status = api.status(Some(&app), Some(&env)).await?;
    status.apps.into_iter().next().ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("no env {env} of {app}"))
            .hint(format!("deployctl apps show {app}"))
    })
}

/// The rollout that is meant: the one named, else the open one, else the last.
///
/// # Errors
/// Exit code 3 when there never was one.
pub async fn pick(
    ctx: &Context,
    api: &Api,
    named: Option<ReleaseNo>,
) -> Result<RolloutId, Failure> {
    if let Some(release) = named {
        let (app, env) = (pick_app(ctx, api).await?, ctx.env()?);
        return Ok(RolloutId { app, env, release });
    }
    let status = env_status(ctx, api).await?;
    let open = status.rollout.map(|rollout| rollout.release.release);
    let release = match open {
        Some(open) => open,
        None => newest(api, &status.app, &status.env).await?,
    };
    Ok(RolloutId { app: status.app, env: status.env, release })
}

/// As [`pick`], with how it stands; one that is over is refused, with the line that may be
/// meant: `back`, the way back if there is one, else the history.
///
/// # Errors
/// Exit code 3 when there never was one, 6 when it is over.
pub async fn pick_open(
    ctx: &Context,
    api: &Api,
    named: Option<ReleaseNo>,
    back: bool,
) -> Result<(RolloutId, Rollout), Failure> {
    let id = pick(ctx, api, named).await?;
    let now = api.rollout(&id, 0, Duration::ZERO).await?;
    if now.release.state.is_final() {
        let (state, scope) = (now.release.state.word(), Context::scope_flags(&id.app, &id.env));
        let way = if back { way_back(api, &id).await } else { None };
        let line = way.map_or("history".to_owned(), |to| format!("rollback {to}"));
        return Err(Failure::new(ExitCode::Conflict, format!("{} is over: {state}", id.release))
            .hint(format!("deployctl {line} {scope}")));
    }
    Ok((id, now))
}

/// The release that a rollback would go to; `None`: there is none that brings anything else.
async fn way_back(api: &Api, id: &RolloutId) -> Option<ReleaseNo> {
    let back = RolloutRequest::new(RolloutKind::Rollback, "");
    let asked = RolloutRequest { dry_run: true, ..back };
    let planned = api.start_rollout(&id.app, &id.env, &asked).await.ok()?;
    planned.release.same_as.filter(|_| !planned.joined)
}

async fn newest(api: &Api, app: &AppName, env: &EnvName) -> Result<ReleaseNo, Failure> {
    let releases = api.releases(app, env, 1).await?.releases;
    releases.first().map(|release| release.release).ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{app} was never deployed to {env}"))
            .hint(format!("deployctl deploy HEAD -a {app} -e {env}"))
    })
}

/// One line of what a rollout changes, and how many hosts it reaches by which plan.
#[must_use]
pub fn headline(ctx: &Context, rollout: &Rollout) -> String {
    let mut line = change(ctx, rollout);
    let release = &rollout.release;
    // A log has nothing else that says which config runs from now on.
    if let Some(config) = release.config.filter(|_| keeps_config(rollout)) {
        line.push_str(&format!("   config {}, as it is", config.short()));
    }
    if release.kind == RolloutKind::Deploy {
        line.push_str(&format!("   plan {}", release.plan_said()));
        line.push_str(if release.no_auto_revert { ", stays where it fails" } else { "" });
    }
    let hosts = sum(rollout.regions.values()).hosts;
    if hosts > 0 {
        let with_hosts = rollout.regions.values().filter(|tally| tally.hosts > 0).count();
        let regions = count(with_hosts as u64, "region");
        line.push_str(&format!("   {} in {regions}", count(u64::from(hosts), "host")));
    }
    line
}

fn keeps_config(rollout: &Rollout) -> bool {
    let same = rollout.base.is_some_and(|base| base.config == rollout.release.config);
    same && !rollout.mixed_base
}

/// `web prod   r1 → r2 3f2a91c04d "Fix retry jitter"`.
fn change(ctx: &Context, rollout: &Rollout) -> String {
    let release = &rollout.release;
    let arrow = ctx.out.arrow();
    let base = rollout.base.map_or("nothing".to_owned(), |base| base.release.to_string());
    let mut line = format!(
        "{} {}   {base} {arrow} {} {}",
        release.app,
        release.env,
        release.release,
        release.commit.short()
    );
    if !release.subject.is_empty() {
        line.push_str(&format!(" {:?}", release.subject));
    }
    if !keeps_config(rollout)
        && let Some(config) = config_file::change(ctx, rollout)
    {
        line.push_str(&format!("   config {config}"));
    }
    line
}

/// Asks if it must be asked, starts the rollout and sees it through.
///
/// # Errors
/// As the rollout ends.
pub async fn start(
    ctx: &Context,
    api: &Api,
    (app, env): (&AppName, &EnvName),
    mut request: RolloutRequest,
    (consent, wait): (&Consent, &WaitArgs),
) -> Result<ExitCode, Failure> {
    consent.check(ctx, env, Some(app))?;
    if consent.must_ask(ctx, env) {
        if let Some(there) = preview(ctx, api, (app, env), &mut request).await? {
            return stay_with(ctx, api, there, wait).await;
        }
        consent.ask(ctx, env, app).await?;
        let started = api.start_rollout(app, env, &request).await?;
        return stay_with(ctx, api, started, wait).await;
    }
    let started = api.start_rollout(app, env, &request).await?;
    see_through(ctx, api, started, wait).await
}

/// Shows on one screen what `request` would change, and ties it to what was shown:
/// whatever changes before the answer, the coordinator refuses it (exit code 6). What is
/// there already is given back: there is nothing to be asked.
///
/// # Errors
/// As the coordinator would refuse the rollout.
pub async fn preview(
    ctx: &Context,
    api: &Api,
    (app, env): (&AppName, &EnvName),
    request: &mut RolloutRequest,
) -> Result<Option<Rollout>, Failure> {
    let status = api.status(Some(app), Some(env)).await.ok();
    let now = status.and_then(|status| status.apps.into_iter().next());
    let asked = RolloutRequest { dry_run: true, ..request.clone() };
    let planned = api.start_rollout(app, env, &asked).await?;
    if planned.joined {
        return Ok(Some(planned));
    }
    ctx.out.story(&change(ctx, &planned));
    preview::tell(ctx, api, (request, &planned), now.as_ref()).await;
    let seen = now.and_then(|now| now.version).map(|version| version.generation);
    request.expect_generation = request.expect_generation.or(seen);
    Ok(None)
}

/// Says what a rollout changes, waits for it (unless told not to) and gives its outcome.
///
/// # Errors
/// As [`stay_with`].
pub async fn see_through(
    ctx: &Context,
    api: &Api,
    started: Rollout,
    wait: &WaitArgs,
) -> Result<ExitCode, Failure> {
    if !started.joined {
        ctx.out.story(&headline(ctx, &started));
    }
    for lacks in &started.unmet {
        ctx.out.warning(&format!("{lacks}; not waited for"));
    }
    stay_with(ctx, api, started, wait).await
}

/// As [`see_through`], for a person who has read the headline.
///
/// # Errors
/// Exit codes 8 and 10 to 14 as it ended, 124 when the time is up.
pub async fn stay_with(
    ctx: &Context,
    api: &Api,
    started: Rollout,
    wait: &WaitArgs,
) -> Result<ExitCode, Failure> {
    let id = RolloutId::of(&started);
    let name = id.release;
    let scope = Context::scope_flags(&id.app, &id.env);
    if started.joined {
        ctx.out.story(&there_already(&started));
        if started.release.state == RolloutState::Succeeded {
            if ctx.out.is_json() || !ctx.out.is_for_people() {
                ctx.out.outcome(document(&started), ExitCode::Ok, &table(&[&started.release]));
            }
            return Ok(ExitCode::Ok);
        }
    }
    let watch = format!("deployctl watch {name} {scope}");
    if wait.detach {
        ctx.out.outcome(document(&started), ExitCode::Ok, &table(&[&started.release]));
        ctx.out.hint(&watch);
        return Ok(ExitCode::Ok);
    }
    let left = |now: &Rollout| ctx.on_interrupt(left_behind(now));
    left(&started);
    let ended = wait::rollout(ctx, api, &id, wait, left).await?;
    ctx.on_interrupt([]);
    tell_end(ctx, &ended)
}

/// What is said to a person who goes away: that it goes on without, or that it waits, and the
/// lines to type.
fn left_behind(now: &Rollout) -> Vec<String> {
    let name = now.release.release;
    if let Some(lines) = paused_lines(now) {
        let word = if now.held { "held" } else { "paused" };
        let lines = lines.into_iter().map(|(_, line)| line);
        return [format!("detached; {name} stays {word}")].into_iter().chain(lines).collect();
    }
    let scope = Context::scope_flags(&now.release.app, &now.release.env);
    let lines = ["watch", "cancel"].map(|verb| format!("deployctl {verb} {name} {scope}"));
    [format!("detached; {name} continues")].into_iter().chain(lines).collect()
}

/// What there is already, when nothing new has to be started for what was asked.
#[must_use]
pub fn there_already(joined: &Rollout) -> String {
    let Release { app, env, release, commit, subject, .. } = &joined.release;
    let what = format!("{} {subject:?}", commit.short());
    if joined.release.state.is_final() {
        return format!("{app} {env}: {release} {what} is there already; nothing was started");
    }
    format!("{app} {env}: {release} {what} is under way already; nothing new was started")
}

/// Gives the outcome of a rollout that ended or paused.
///
/// # Errors
/// Every outcome but success.
fn tell_end(ctx: &Context, ended: &Rollout) -> Result<ExitCode, Failure> {
    let release = &ended.release;
    let code = release_code(release).unwrap_or(ExitCode::WaitTimeout);
    let undo = undo_line(ended);
    if code != ExitCode::Ok {
        if !ctx.out.is_json() && !ctx.out.is_for_people() {
            ctx.out.table(&table(&[release]));
        }
        let mut failure = rollout_failure(ended, code).with_document(document(ended));
        // What is held goes back by the cancel that is hinted already.
        let paused = release.state == RolloutState::Paused && !ended.held;
        failure.hints.extend(undo.filter(|_| paused).map(|(_, line)| line));
        return Err(failure);
    }
    let (done, reachable) = progress_of(ended);
    let all = sum(ended.regions.values());
    let took = release
        .ended_at
        .map_or(String::new(), |end| format!("  took {}", took(end.since(release.created_at))));
    let mark = ctx.out.mark_err(Tone::Good, &format!("{} succeeded", release.release));
    let hosts = count(reachable, "host");
    let mut line = format!("{mark}: {done} of {hosts}{took}");
    // What was on the hosts already moved nothing: how it came there once is no news.
    let base = ended.base.map(|base| base.artifact).filter(|_| !ended.mixed_base);
    if release.kind == RolloutKind::Deploy && (base.is_none() || base != release.artifact) {
        line.push_str(&moved(&all.sources));
    }
    ctx.out.story(&line);
    let dark = |tally: &Tally| tally.hosts > 0 && tally.unreachable == tally.hosts;
    let dark = ended.regions.iter().filter(|(_, tally)| dark(tally));
    let mut unreachable = all.unreachable;
    for (region, tally) in dark {
        unreachable -= tally.hosts;
        let hosts = count(u64::from(tally.hosts), "host");
        ctx.out.warning(&format!(
            "{region} was skipped: none of its {hosts} could be reached, and they follow once they \
             can be: deployctl regions"
        ));
    }
    if unreachable > 0 {
        let scope = Context::scope_flags(&release.app, &release.env);
        ctx.out.story(&format!(
            "  {unreachable} unreachable, and will follow: deployctl hosts --unreachable {scope}"
        ));
    }
    if all.pinned > 0 {
        let held = count(u64::from(all.pinned), "host");
        ctx.out.story(&format!("  {held} held or pinned, and not moved: deployctl hold list"));
    }
    if ctx.out.is_json() || !ctx.out.is_for_people() {
        ctx.out.outcome(document(ended), code, &table(&[release]));
    }
    let undo = undo.map(|(word, line)| format!("{word}: {line}"));
    ctx.out.story(&undo.unwrap_or_default());
    Ok(code)
}

/// How many bytes a deploy moved, and where from.
fn moved(sources: &Sources) -> String {
    let wire = sources.peer + sources.store;
    let Some(share) = (sources.peer * 100).checked_div(wire) else { return String::new() };
    let mut text = format!("  moved {}, {share}% from peers", bytes(wire));
    if sources.local > 0 {
        text.push_str(&format!("; {} were there", bytes(sources.local)));
    }
    text
}

/// The exact line that takes it back, and what that would be; `None`: it brings what ran before.
#[must_use]
pub fn undo_line(rollout: &Rollout) -> Option<(&'static str, String)> {
    let release = &rollout.release;
    let scope = Context::scope_flags(&release.app, &release.env);
    let before = rollout.base?;
    if (release.artifact, release.config) == (Some(before.artifact), before.config) {
        return None;
    }
    let base = before.release;
    Some(match release.kind {
        RolloutKind::Deploy => ("undo", format!("deployctl rollback {base} {scope}")),
        RolloutKind::Rollback => {
            ("redo", format!("deployctl deploy {base} --allow-bad {scope} -m WHY"))
        }
    })
}

fn document(rollout: &Rollout) -> serde_json::Value {
    serde_json::to_value(rollout).unwrap_or_default()
}

/// Releases as a table.
#[must_use]
pub fn table(releases: &[&Release]) -> Table {
    let columns = [
        "RELEASE", "KIND", "COMMIT", "STATE", "AGE", "ACTOR", "SUBJECT", "MESSAGE", "BUILD",
        "PLAN", "SAME AS", "ARTIFACT", "REASON", "CONFIG",
    ];
    let mut table = Table::new(&columns, 8, "never deployed");
    // Who has no config need not know of the word.
    if releases.iter().any(|release| release.config.is_some()) {
        table.show("CONFIG", CONFIG_AT);
    }
    for release in releases {
        let kind = match release.kind {
            RolloutKind::Deploy => "deploy",
            RolloutKind::Rollback => "rollback",
        };
        let word = release.state.word();
        let state = if release.bad && release.state == RolloutState::Succeeded {
            Cell::state("then bad", Tone::Look).in_full(format!("{word}, then bad"))
        } else {
            Cell::state(word, rollout_tone(release.state))
        };
        let name = release.release.to_string();
        // Which bits came again is plain where there is no room for more columns.
        let shown = release.same_as.map_or(name.clone(), |same| format!("{name} (={same})"));
        table.push([
            Cell::pair(shown, name),
            kind.into(),
            Cell::id(&release.commit),
            state,
            Cell::time(Some(release.created_at), clock::now()),
            release.actor.as_str().into(),
            release.subject.as_str().into(),
            release.message.as_str().into(),
            release.build.to_string().into(),
            release.plan_said().into(),
            Cell::maybe(release.same_as),
            release.artifact.map_or(Cell::maybe(None::<&str>), Cell::id),
            release.reason.as_str().into(),
            release.config.map_or(Cell::maybe(None::<&str>), Cell::id),
        ]);
    }
    table
}

/// Releases of several apps and envs: where, then as [`table`] has it.
#[must_use]
pub fn table_of_all(releases: &[&Release]) -> Table {
    let mut table = table(releases);
    let place = |release: &&Release| [release.app.as_str().into(), release.env.as_str().into()];
    table.lead(["APP", "ENV"], releases.iter().map(place));
    table
}
