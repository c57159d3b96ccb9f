//! `/builds/{build}`: the live log, the artifact, its copies, and where it can go.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, View};
use crate::coordinator::web::session::Session;
use crate::coordinator::web::{Pages, app, bars, builds, frame, parts};
use crate::model::id::JobNo;
use crate::model::job::JobState;
use crate::net::server::Path;
use crate::rules::authorize::Class;
use crate::wire::problem::Problem;
use crate::wire::v1::build::{Build, BuildLog};
use crate::wire::v1::fleet::Status;
use crate::wire::v1::freeze::Freezes;
use crate::wire::words::{bytes, count, replication_tone, took};

/// Bytes of the log's end that the page begins with; the rest is one link away.
const LOG_BYTES_MAX: u64 = 24 << 10;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, no: JobNo) -> Result<View, Problem> {
    let build: Build = calls.get(&format!("/v1/builds/{no}")).await?;
    let status: Status = calls.get(&format!("/v1/status?app={}", build.app)).await?;
    let ready = app::readiness(calls, &build.app).await?;
    let freezes: Freezes = calls.get("/v1/freezes").await?;
    let log = tail(calls, no).await?;
    let envs = html! {
        @for row in &status.apps { tr {
            th scope="row" { a href=(parts::env_path(&row.app, &row.env)) { (row.env) } }
            td { (app::deploy(calls, row, &build, (ready.get(&no), app::stopping(calls, &freezes, row)))) }
        } }
    };
    Ok(View {
        title: format!("{no} of {}", build.app),
        under: "/builds",
        parts: vec![
            Part::still(
                "head",
                html! { h1 { (no) " " span .dim { "of " } a href={ "/apps/" (build.app) } { (build.app) } } },
            ),
            Part::live("build", facts(calls, &build)),
            Part::live("where", places(calls, &build, &envs)),
            Part::still(
                "log",
                html! {
                    h2 { "Log" }
                    (shown(no, &log))
                },
            ),
        ],
        log: Some((no, log.next)),
    })
}

/// The last stretch of the log. The text before `from` is not sent.
async fn tail(calls: &Calls, no: JobNo) -> Result<BuildLog, Problem> {
    let end: BuildLog = calls.get(&format!("/v1/builds/{no}/log?from={}", i64::MAX)).await?;
    let from = end.next.saturating_sub(LOG_BYTES_MAX);
    let mut log: BuildLog = calls.get(&format!("/v1/builds/{no}/log?from={from}")).await?;
    if from > 0
        && let Some(line) = log.text.find('\n')
    {
        log.text.drain(..=line);
    }
    Ok(log)
}

fn shown(no: JobNo, log: &BuildLog) -> Markup {
    let all = log.next <= LOG_BYTES_MAX;
    html! {
        @if !all { p .small { "The last " (bytes(LOG_BYTES_MAX)) ". " a href={ "/builds/" (no) "/log" } { "All of it" } } }
        pre #lines tabindex="0" role="log" aria-label="Build log" { (log.text) }
        @if log.next == 0 && !log.ended { p .small { "Nothing was written yet." } }
    }
}

fn facts(calls: &Calls, build: &Build) -> Markup {
    let no = build.build;
    let barred = calls.barred(Class::Build);
    let barred = barred.as_deref();
    let fields = [("build", no.to_string())];
    let again = [("build", no.to_string()), ("key", format!("web-retry-{no}-{}", build.attempt))];
    html! {
        p .lead {
            (builds::state(build)) " " (parts::commit(&build.commit)) " "
            span .subject { (build.subject) }
            span .dim { " asked by " (build.actor) ", " (parts::time(build.queued_at)) }
        }
        p {
            @match (build.started_at, build.ended_at) {
                (Some(began), Some(ended)) => { "took " (took(ended.since(began))) }
                (Some(began), None) => { "began " (parts::time(began)) }
                _ => { "not begun" }
            }
            @if let Some(worker) = &build.worker { " on " code { (worker) } }
            ", attempt " (build.attempt) " of at most " (build.max_attempts)
        }
        div .buttons {
            @match build.state {
                JobState::Queued | JobState::Running => { (parts::press("Cancel the build", "build-cancel", &fields, barred)) }
                JobState::Failed => { (parts::press("Build it again", "build-retry", &again, barred)) }
                JobState::Succeeded => {}
            }
        }
        @if let Some(artifact) = &build.artifact {
            p { "artifact " code { (artifact.artifact) } }
            p .dim {
                (bytes(artifact.size)) ", " (bytes(artifact.wire_size)) " to move, "
                (count(u64::from(artifact.pieces), "piece")) ", "
                (count(u64::from(artifact.entries), "path"))
            }
        }
    }
}

fn places(calls: &Calls, build: &Build, envs: &Markup) -> Markup {
    let Some(artifact) = &build.artifact else {
        return html! { table { thead { tr { th scope="col" { "Env" } th scope="col" { "Deploy" } } } tbody { (envs) } } };
    };
    let regions = calls.shared().config.regions.keys();
    html! {
        div .beside {
            table {
                caption { "Copies" }
                thead { tr {
                    th scope="col" { "Region" } th scope="col" { "Copy" } th scope="col" { "Bytes" }
                    th scope="col" { "Checked" }
                } }
                tbody { @for region in regions {
                    @let copy = build.replication.regions.iter().find(|copy| copy.region == *region);
                    @let status = copy.map_or_else(Default::default, |copy| copy.status);
                    @let held = copy.map_or(0, |copy| copy.bytes).min(artifact.wire_size);
                    tr data-testid={ "copy-" (region) } {
                        th scope="row" { (region) }
                        td { (parts::state(status.word(), replication_tone(status))) }
                        td .hosts {
                            (bars::bar(&[(parts::class(replication_tone(status)), held)], artifact.wire_size,
                                &format!("{} of {}", bytes(held), bytes(artifact.wire_size))))
                            @if let Some(reason) = copy.map(|copy| &copy.reason) { " " span .small { (reason) } }
                        }
                        td { (parts::maybe_time(copy.and_then(|copy| copy.checked_at), "not yet")) }
                    }
                } }
            }
            table {
                caption { "Deploy to" }
                thead { tr { th scope="col" { "Env" } th scope="col" { "Deploy" } } }
                tbody { (envs) }
            }
        }
    }
}

/// `GET /builds/{build}/log`: the whole log as plain text, stretch by stretch.
pub(super) async fn whole_log(
    State(web): State<Pages>,
    Extension(session): Extension<Session>,
    Path(no): Path<JobNo>,
) -> Response {
    let calls = Calls::new(&web, session.who.clone());
    if let Err(problem) = calls.get::<Build>(&format!("/v1/builds/{no}")).await {
        return frame::refused(Some(&session), &problem);
    }
    let stretches = futures_util::stream::unfold(Some(0), move |from| {
        let calls = calls.clone();
        async move {
            let from = from?;
            let path = format!("/v1/builds/{no}/log?from={from}");
            match calls.get::<BuildLog>(&path).await {
                Ok(log) if log.text.is_empty() => None,
                Ok(log) => Some((Ok(Bytes::from(log.text)), Some(log.next))),
                Err(problem) => Some((Err(std::io::Error::other(problem)), None)),
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (kind, Body::from_stream(stretches)).into_response()
}
