//! What a deploy or a rollback would change, on one screen, before a person says yes.
//!
//! From the coordinator's plan, what it says of the bytes, and the local repository.
//! Whatever can't be had in time is left out; nothing here changes anything.

use std::time::Duration;

use super::api::{Api, with_query};
use super::config_file;
use super::context::Context;
use super::outcome::sum;
use super::rollouts::undo_line;
use super::table::{age, bytes, count};
use crate::host::clock;
use crate::host::repo::Repo;
use crate::model::commit::CommitId;
use crate::model::rollout::{PlanName, RolloutKind, RolloutState};
use crate::model::time::UnixMillis;
use crate::rules::rollout::STEP_CAP;
use crate::wire::v1::diff::Diff;
use crate::wire::v1::rollout::{EnvStatus, Rollout, RolloutRequest};
use crate::wire::words::stage_word;

/// Longest wait for the number of bytes: the question must not keep a person waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// Commits that are listed by their subjects.
const COMMITS_TOLD: usize = 8;
/// Regions and steps that are told by name.
const NAMES_TOLD: usize = 6;

/// Tells what `planned`, which `request` asks for, would change; `now` is what the env runs.
pub async fn tell(
    ctx: &Context,
    api: &Api,
    (request, planned): (&RolloutRequest, &Rollout),
    now: Option<&EnvStatus>,
) {
    let from = now.and_then(|now| now.current.as_ref());
    let mut rows: Vec<(&str, String)> = vec![];
    let open = now.and_then(|now| now.rollout.as_ref()).filter(|_| !planned.joined);
    // Beside another rollout the same commit is not what runs everywhere.
    let same = from.is_some_and(|from| from.commit == planned.release.commit);
    if let Some(from) = from.filter(|_| open.is_none() || !same) {
        rows.extend(commits(ctx, &from.commit, &planned.release.commit));
    }
    rows.extend(config_file::change(ctx, planned).map(|config| ("config", config)));
    rows.extend(planned.unmet.iter().map(|lacks| ("lacks", format!("{lacks}; not waited for"))));
    rows.extend(open.map(|open| ("ends", ends(open))));
    rows.push(("plan", plan(planned)));
    if planned.release.no_auto_revert {
        rows.push(("fails", "hosts stay as they are, and you decide: --no-auto-rollback".into()));
    }
    rows.push(("hosts", hosts(planned)));
    rows.extend(moves(api, planned).await.map(|moves| ("moves", moves)));
    rows.push(("time", time((request, planned), clock::now())));
    rows.extend(undo_line(planned));
    for (name, text) in rows {
        ctx.out.story(&format!("  {name:<8} {text}"));
    }
}

/// The rollout whose place it takes, and what becomes of its hosts.
#[must_use]
pub fn ends(open: &Rollout) -> String {
    let release = open.release.release;
    if open.release.state == RolloutState::Reverting {
        return format!("{release}, which is going back: this takes its place");
    }
    let hosts = count(u64::from(sum(open.regions.values()).on_next), "host");
    format!("{release}, which is {} with {hosts} on it: this takes its place", stage_word(open))
}

/// The commits between, newest first, as the local repository knows them.
fn commits(ctx: &Context, from: &CommitId, to: &CommitId) -> Option<(&'static str, String)> {
    if from == to {
        return Some(("commits", "none: it is the commit that runs".into()));
    }
    let between = Repo::discover(&ctx.dir).ok()?.between(from, to, COMMITS_TOLD).ok()?;
    let mut text = match (between.new, between.gone) {
        (0, gone) => format!("goes back by {}", count(gone, "commit")),
        (new, 0) => format!("{new} new"),
        (new, gone) => format!("{new} new, and {gone} of the running release are not in it"),
    };
    for commit in &between.commits {
        let sign = if between.new > 0 { '+' } else { '-' };
        text.push_str(&format!("\n           {sign} {} {}", commit.id.short(), commit.subject));
    }
    let untold = between.new.max(if between.new > 0 { 0 } else { between.gone });
    let untold = untold.saturating_sub(between.commits.len() as u64);
    if untold > 0 {
        text.push_str(&format!("\n           and {}", count(untold, "more commit")));
    }
    Some(("commits", text))
}

fn plan(planned: &Rollout) -> String {
    if planned.release.kind == RolloutKind::Rollback {
        return "every host at once: no gate, no bake".into();
    }
    let word = planned.release.plan_said();
    if planned.release.plan == PlanName::AllAtOnce {
        return format!("{word}: no gate before the last host");
    }
    if planned.steps.is_empty() {
        return format!("{word}: its steps are counted when it begins");
    }
    let names: Vec<&str> = planned.steps.iter().map(|step| step.name.as_str()).collect();
    let shown = &names[..names.len().min(NAMES_TOLD)];
    let more = names.len() - shown.len();
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{word}: {}{more}", shown.join(", "))
}

fn hosts(planned: &Rollout) -> String {
    let all = sum(planned.regions.values());
    let with_hosts: Vec<_> = planned.regions.iter().filter(|(_, tally)| tally.hosts > 0).collect();
    let mut text = match with_hosts.len() {
        0 => return "none was heard of yet; hosts take it when they come".into(),
        1..=NAMES_TOLD => {
            let parts = with_hosts.iter().map(|(name, tally)| format!("{} in {name}", tally.hosts));
            parts.collect::<Vec<_>>().join(", ")
        }
        regions => format!("{} in {regions} regions", all.hosts),
    };
    if all.unreachable > 0 {
        text.push_str(&format!("; {} unreachable", all.unreachable));
    }
    text
}

/// The bytes, where the coordinator can tell.
async fn moves(api: &Api, planned: &Rollout) -> Option<String> {
    if planned.release.kind == RolloutKind::Rollback {
        return Some("nothing where it still lies on disk".into());
    }
    let base = planned.base?.release.to_string();
    let build = planned.release.build.to_string();
    let release = &planned.release;
    let path = format!("/v1/apps/{}/envs/{}/diff", release.app, release.env);
    let query = [("from", Some(base.as_str())), ("to", Some(build.as_str()))];
    let path = with_query(&path, query);
    let diff: Diff = tokio::time::timeout(PATIENCE, api.get(&path)).await.ok()?.ok()?;
    let moved = diff.total;
    let wire = moved.patch_bytes + moved.full_bytes;
    let mut text = format!("{} to {}", bytes(wire), count(moved.hosts, "host"));
    if moved.patch_bytes > 0 {
        text.push_str(&format!(", {} of it patches", bytes(moved.patch_bytes)));
    }
    text.push_str(&format!("; {} from regional stores", bytes(moved.store_bytes)));
    if moved.local_bytes > 0 {
        text.push_str(&format!("; {} are there", bytes(moved.local_bytes)));
    }
    Some(text)
}

/// How long it bakes, and when it ends at the latest.
fn time((request, planned): (&RolloutRequest, &Rollout), now: UnixMillis) -> String {
    if planned.release.kind == RolloutKind::Rollback {
        return "flat out".into();
    }
    if planned.steps.is_empty() {
        return "counted when it begins".into();
    }
    let bakes: u64 = planned.steps.iter().map(|step| u64::from(step.bake_s)).sum();
    let bakes = Duration::from_secs(bakes);
    let steps = u32::try_from(planned.steps.len()).unwrap_or(u32::MAX);
    let slow = request.spread_s.unwrap_or(0).saturating_add(request.pace_s.unwrap_or(0));
    let step = STEP_CAP + Duration::from_secs(u64::from(slow));
    let end = now + bakes + step.saturating_mul(steps);
    let mut text = String::new();
    if let Some(pace) = request.pace_s {
        text.push_str(&format!("fetched within {}; ", age(Duration::from_secs(u64::from(pace)))));
    }
    if !bakes.is_zero() {
        text.push_str(&format!("bakes {}; ", age(bakes)));
    }
    if let Some(step) = planned.steps.iter().find(|step| step.hold) {
        text.push_str(&format!("after {:?} it waits for a person; ", step.name));
    }
    // `2026-11-21T16:20:00.000Z`: the day and the minute are enough.
    let end = end.to_string();
    text.push_str(&format!("at worst it ends {} {} UTC", &end[..10], &end[11..16]));
    text
}
