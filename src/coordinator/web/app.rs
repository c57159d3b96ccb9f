//! `/apps/{app}/{env}`: what runs there, its commits and builds with Build and Deploy, its
//! releases.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::coordinator::readiness::{self, Readiness};
use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, View};
use crate::coordinator::web::session::Session;
use crate::coordinator::web::{Pages, bars, commits, frame, no_page, parts, rollout};
use crate::model::freeze::Freeze;
use crate::model::id::{AppName, EnvName, JobNo};
use crate::model::rollout::RolloutState;
use crate::rules::authorize::Class;
use crate::store::db::{DbError, Tx, deployables};
use crate::wire::problem::Problem;
use crate::wire::v1::app::App;
use crate::wire::v1::build::{Build, Builds};
use crate::wire::v1::fleet::Status;
use crate::wire::v1::freeze::Freezes;
use crate::wire::v1::rollout::{EnvStatus, Releases};
use crate::wire::words::sum;

/// Builds and releases of one page.
const SHOWN: u32 = 20;

/// `/apps/{app}`: its first env.
pub(super) async fn first_env(web: &Pages, session: &Session, app: &AppName) -> Response {
    let calls = Calls::new(web, session.who.clone());
    match calls.get::<App>(&format!("/v1/apps/{app}")).await {
        Ok(found) => {
            let path = found.spec.envs.first().map(|env| parts::env_path(app, env));
            let path = path.unwrap_or_else(|| "/".into());
            (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
        }
        Err(problem) => frame::refused(Some(session), &problem),
    }
}

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, app: &AppName, env: &EnvName) -> Result<View, Problem> {
    let known: App = calls.get(&format!("/v1/apps/{app}")).await?;
    let status: Status = calls.get(&format!("/v1/status?app={app}&env={env}")).await?;
    let row = status.apps.into_iter().next().ok_or_else(|| no_page(env.as_str()))?;
    let list: Builds = calls.get(&format!("/v1/builds?app={app}&limit={SHOWN}")).await?;
    let path = format!("/v1/apps/{app}/envs/{env}/releases?limit={SHOWN}");
    let releases: Releases = calls.get(&path).await?;
    let seen = commits::seen(calls, app).await?;
    let ready = readiness(calls, app).await?;
    let freezes: Freezes = calls.get("/v1/freezes").await?;
    let frozen = stopping(calls, &freezes, &row);
    let tabs = html! {
        h1 { (app) " " span .dim { (env) } }
        nav .tabs aria-label="Envs" {
            @for other in &known.spec.envs {
                a href=(parts::env_path(app, other))
                    aria-current=[(other == env).then_some("page")] { (other) }
            }
        }
    };
    let deploy = |build: &Build| deploy(calls, &row, build, (ready.get(&build.build), frozen));
    let commits = commits::table(calls, (&known, &row), (&seen, &list.builds), &deploy);
    Ok(View {
        title: format!("{app} {env}"),
        under: "/",
        parts: vec![
            Part::still("head", tabs),
            Part::live(
                "now",
                html! { (parts::frozen(calls, frozen)) (parts::held(calls, &row)) (now(calls, &row)) },
            ),
            Part::still(frame::FORM, build_form(calls, &known)),
            Part::live("builds", commits),
            Part::live("releases", history(calls, &row, &releases)),
            Part::live("freezes", freezes_of(calls, &row, &freezes)),
        ],
        log: None,
    })
}

/// Where each of the newest builds stands on its way to being deployable, in the very
/// words that a refused deploy is answered with.
pub(super) async fn readiness(
    calls: &Calls,
    app: &AppName,
) -> Result<BTreeMap<JobNo, Readiness>, Problem> {
    let (within, app) = (calls.shared().clone(), app.clone());
    let read = move |tx: &Tx| {
        let mut all = BTreeMap::new();
        for build in deployables::newest(tx, &app, SHOWN)? {
            all.insert(build.build, readiness::of(tx, &within, &build)?);
        }
        Ok::<_, DbError>(all)
    };
    Ok(calls.shared().db.read(read).await?)
}

/// The freeze that stops deploys to an env now.
pub(super) fn stopping<'a>(
    calls: &Calls,
    freezes: &'a Freezes,
    row: &EnvStatus,
) -> Option<&'a Freeze> {
    let now = calls.shared().steady_now();
    freezes.freezes.iter().find(|freeze| freeze.stops(&row.app, &row.env, now))
}

/// What runs, what moves, and where.
fn now(calls: &Calls, row: &EnvStatus) -> Markup {
    let all = sum(row.regions.values());
    html! {
        @if let Some(open) = &row.rollout { (rollout::panel(calls, open)) }
        section aria-labelledby="h-now" {
            h2 #h-now { "Now" }
            @match &row.current {
                Some(release) => {
                    p .lead {
                        (parts::release_link(&row.app, &row.env, release.release)) " "
                        (parts::commit(&release.commit)) " " span .subject { (release.subject) }
                        (parts::config(release.config)) " "
                        (parts::release_state(release))
                        span .dim { " by " (release.actor) ", " (parts::time(release.created_at)) }
                        @if row.rollout.is_some() { span .dim { " (before the rollout above)" } }
                    }
                }
                None => { p { "Never deployed to " (row.env) "." } }
            }
            @if row.rollout.is_none() && row.current.as_ref().is_some_and(|now| now.release.0 > 1) {
                div .buttons { (parts::ask("Roll back", "rollback", &[
                    ("app", row.app.to_string()), ("env", row.env.to_string()),
                ], calls.barred(Class::Deploy).as_deref())) }
            }
            @if row.rollout.is_none() { (parts::failures(&all.failures)) }
            @if row.rollout.is_none() && !row.regions.is_empty() { (regions(row)) }
        }
    }
}

fn regions(row: &EnvStatus) -> Markup {
    html! {
        table .regions {
            thead { tr {
                th scope="col" { "Region" } th scope="col" { "Hosts" }
                th scope="col" .n { "As they should be" }
                th scope="col" .n { "Failed" } th scope="col" .n { "Unreachable" }
                th scope="col" { "Bytes came from" }
            } }
            tbody { @for (region, tally) in &row.regions { tr {
                th scope="row" { (region) }
                td .hosts { (bars::hosts(tally, false)) }
                td .n data-label="as they should be" { (tally.settled) "/" (tally.hosts) }
                td .n .bad[tally.faults() > 0] data-label="failed" { (tally.faults()) }
                td .n .look[tally.unreachable > 0] data-label="unreachable" { (tally.unreachable) }
                td .from { (bars::sources(&tally.sources)) }
            } } }
        }
    }
}

fn build_form(calls: &Calls, app: &App) -> Markup {
    let barred = calls.barred(Class::Build);
    html! {
        h2 { "Commits and builds" }
        form .row method="get" action="/do/build" {
            input type="hidden" name="app" value=(app.spec.name);
            label for="commit" { "Branch, tag or commit" }
            input #commit name="commit" required maxlength="255" size="30" spellcheck="false"
                autocomplete="off" autocapitalize="none" placeholder=(app.spec.trunk);
            button type="submit" data-testid="build" disabled[barred.is_some()] { "Build" }
            @if let Some(why) = &barred { " " span .why { (why) } }
        }
    }
}

/// The way of a build to an env: a button, or the reason why there is none.
pub(super) fn deploy(
    calls: &Calls,
    row: &EnvStatus,
    build: &Build,
    (ready, frozen): (Option<&Readiness>, Option<&Freeze>),
) -> Markup {
    let place = |release| parts::release_link(&row.app, &row.env, release);
    if let Some(open) = row.rollout.as_ref().filter(|open| open.release.build == build.build) {
        return html! { span .dim { (place(open.release.release)) " brings it" } };
    }
    let runs = row.current.as_ref().filter(|release| release.build == build.build);
    if let (Some(release), None) = (runs, &row.rollout) {
        return html! { span .dim { (place(release.release)) " runs it" } };
    }
    let lacks = match ready {
        Some(Readiness::Ready(_)) => None,
        Some(Readiness::Waiting(why) | Readiness::Never(why)) => Some(why.clone()),
        None => (!build.deployable).then(|| "it can't be deployed".to_owned()),
    };
    let frozen = frozen.map(|freeze| format!("frozen: {}", freeze.reason));
    let held = row.held.as_ref().map(|hold| format!("held: {}", hold.reason));
    let barred = calls.barred(Class::Deploy).or(lacks).or(frozen).or(held);
    let fields = [
        ("app", row.app.to_string()),
        ("env", row.env.to_string()),
        ("build", build.build.to_string()),
    ];
    parts::ask("Deploy", "deploy", &fields, barred.as_deref())
}

/// Freezes that are to come, and the way to a new one.
fn freezes_of(calls: &Calls, row: &EnvStatus, freezes: &Freezes) -> Markup {
    let now = calls.shared().steady_now();
    let place = [("app", row.app.to_string()), ("env", row.env.to_string())];
    let barred = calls.barred(Class::Deploy);
    let ours = |freeze: &&Freeze| freeze.is_of(&row.app, &row.env);
    let coming = freezes.freezes.iter().filter(ours).filter(|freeze| freeze.from > now);
    html! {
        section aria-labelledby="h-freezes" {
            h2 #h-freezes { "Freezes and holds" }
            @for freeze in coming { p {
                (freeze.scope()) " from " (parts::time(freeze.from)) " until " (parts::time(freeze.until))
                " by " (freeze.actor) ": " (freeze.reason)
            } }
            div .buttons {
                (parts::ask("Freeze deploys", "freeze", &place, barred.as_deref()))
                (parts::ask("Hold", "hold", &place, barred.as_deref()))
            }
        }
    }
}

fn history(calls: &Calls, row: &EnvStatus, list: &Releases) -> Markup {
    let runs = row.current.as_ref().map(|release| (release.artifact, release.config));
    let barred = calls.barred(Class::Deploy);
    html! {
        section aria-labelledby="h-history" {
            h2 #h-history { "Releases" }
            @if list.releases.is_empty() { p { "None yet." } } @else {
                table {
                    thead { tr {
                        th scope="col" { "Release" } th scope="col" { "What" }
                        th scope="col" { "Outcome" } th scope="col" { "Begun" }
                        th scope="col" { "By" } th scope="col" { "Why" } th scope="col" {
                            span .hidden { "Go back" }
                        }
                    } }
                    tbody { @for release in &list.releases { tr {
                        th scope="row" { (parts::release_link(&row.app, &row.env, release.release)) }
                        td { (parts::what(release)) }
                        td title=(release.reason) { (parts::release_state(release)) }
                        td { (parts::time(release.created_at)) }
                        td { (release.actor) }
                        td .why { (release.message) }
                        td { @if release.state == RolloutState::Succeeded && !release.bad
                                && runs != Some((release.artifact, release.config)) {
                            (parts::ask("Roll back to it", "rollback", &[
                                ("app", row.app.to_string()),
                                ("env", row.env.to_string()),
                                ("release", release.release.to_string()),
                            ], barred.as_deref()))
                        } }
                    } } }
                }
            }
        }
    }
}
