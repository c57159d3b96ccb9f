//! `/`: what runs where, what moves, what waits and why; what needs a person first.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, Search, View};
use crate::coordinator::web::{bars, parts};
use crate::model::rollout::RolloutState;
use crate::wire::problem::Problem;
use crate::wire::v1::fleet::Status;
use crate::wire::v1::freeze::Freezes;
use crate::wire::v1::rollout::EnvStatus;
use crate::wire::words::{Tone, merged_failures, rollout_tone, stage_word, step_name, sum, waits};

/// The page.
///
/// # Errors
/// When the API refuses.
pub(super) async fn view(calls: &Calls, search: &Search) -> Result<View, Problem> {
    let status: Status = calls.get("/v1/status").await?;
    let freezes: Freezes = calls.get("/v1/freezes").await?;
    let now = calls.shared().steady_now();
    let begun = freezes.freezes.iter().filter(|freeze| freeze.from <= now && now < freeze.until);
    let mut rows: Vec<&EnvStatus> = status.apps.iter().collect();
    rows.retain(|row| row.app.as_str().contains(search.q.trim()));
    rows.sort_by_key(|row| urgency(row));
    let table = if status.apps.is_empty() { nothing() } else { table(&rows) };
    Ok(View {
        title: "Apps".into(),
        under: "/",
        parts: vec![
            Part::still(
                "head",
                html! { h1 { "Apps" } @if status.apps.len() > 10 { (filter(search)) } },
            ),
            Part::live("apps", html! { (parts::frozen(calls, begun)) (table) }),
        ],
        log: None,
    })
}

fn nothing() -> Markup {
    html! {
        p { "No app is registered yet. In a clone of its repository:" }
        pre tabindex="0" { "deployctl init\ndeployctl build HEAD && deployctl deploy HEAD" }
    }
}

fn filter(search: &Search) -> Markup {
    html! {
        form .filter method="get" role="search" {
            label for="q" { "Name" } " "
            input #q type="search" name="q" value=(search.q) maxlength="60";
            button type="submit" { "Show" }
        }
    }
}

/// What waits for a person, then what moves, then the rest.
fn urgency(row: &EnvStatus) -> u8 {
    let open = row.rollout.as_ref().map(|rollout| rollout.release.state);
    let current = row.current.as_ref().map(|release| release.state);
    let troubled = sum(row.regions.values()).failures.len();
    match (open, current) {
        (Some(RolloutState::Paused), _) => 0,
        (_, Some(RolloutState::Failed)) => 0,
        _ if troubled > 0 => 1,
        (Some(_), _) => 2,
        _ => 3,
    }
}

fn table(rows: &[&EnvStatus]) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" { "App" } th scope="col" { "Env" } th scope="col" { "Release" }
                th scope="col" { "State" } th scope="col" { "Hosts" } th scope="col" { "Since" }
                th scope="col" { "By" }
            } }
            @for row in rows { (entry(row)) }
            @if rows.is_empty() { tbody { tr { td colspan="7" { "No app has that in its name." } } } }
        }
    }
}

/// One env: a row, and under it what it waits for and what failed.
fn entry(row: &EnvStatus) -> Markup {
    let path = parts::env_path(&row.app, &row.env);
    let open = row.rollout.as_ref();
    let release = open.map(|rollout| &rollout.release).or(row.current.as_ref());
    let all = sum(row.regions.values());
    html! {
        tbody data-testid={ "env-" (row.app) "-" (row.env) } {
            tr {
                th scope="row" { a href=(path) { (row.app) } }
                td { (row.env) }
                td {
                    @if let Some(release) = release {
                        (parts::release_link(&row.app, &row.env, release.release)) " "
                        (parts::commit(&release.commit)) " "
                        span .subject { (release.subject) }
                        @if let (Some(_), Some(current)) = (open, &row.current) {
                            span .dim { " over " (current.release) }
                        }
                    }
                }
                td { (state(row)) }
                td .hosts { (hosts(row)) }
                td { @if let Some(release) = release { (parts::time(release.created_at)) } }
                td { @if let Some(release) = release { (release.actor) } }
            }
            @if let Some(open) = open.filter(|open| !open.waiting_on.is_empty()) {
                tr .more { td colspan="7" { (waits(open)) } }
            }
            @for group in merged_failures(&all.failures).iter().take(2) {
                tr .more { td colspan="7" {
                    strong .bad { (group.hosts) " failed: " } (group.reason)
                    span .dim { " (first: " code { (group.first) } ")" }
                } }
            }
        }
    }
}

fn state(row: &EnvStatus) -> Markup {
    match (&row.rollout, &row.current) {
        (Some(open), _) => {
            let step = step_name(open);
            html! {
                (parts::state(stage_word(open), rollout_tone(open.release.state)))
                @if !step.is_empty() { " " span .dim { (step) } }
            }
        }
        (None, Some(release)) => parts::release_state(release),
        (None, None) => parts::state("never deployed", Tone::Dim),
    }
}

/// Bar and numbers of an env.
pub(super) fn hosts(row: &EnvStatus) -> Markup {
    let all = sum(row.regions.values());
    let reverting =
        |open: &crate::wire::v1::rollout::Rollout| open.release.state == RolloutState::Reverting;
    let moving = row.rollout.as_ref().is_some_and(|open| !reverting(open));
    let done = if moving { all.on_next } else { all.settled };
    html! {
        @if all.hosts == 0 { span .dim { "no hosts" } } @else {
            (bars::hosts(&all, moving)) " " (done) "/" (all.hosts)
            @if all.unreachable > 0 { span .small { ", " (all.unreachable) " unreachable" } }
        }
    }
}
