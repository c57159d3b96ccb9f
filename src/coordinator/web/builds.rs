//! `/builds`: the newest builds of every app.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, Search, View};
use crate::coordinator::web::{bars, parts};
use crate::wire::problem::Problem;
use crate::wire::v1::build::{Build, Builds, ReplicationStatus};
use crate::wire::v1::fleet::Workers;
use crate::wire::words::{build_tone, count};

/// Drained workers that are named.
const DRAINED_TOLD: usize = 10;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, search: &Search) -> Result<View, Problem> {
    let app = search.app.as_ref().map_or_else(String::new, |app| format!("&app={app}"));
    let list: Builds = calls.get(&format!("/v1/builds?limit=50{app}")).await?;
    let workers: Workers = calls.get("/v1/workers").await?;
    Ok(View {
        title: "Builds".into(),
        under: "/builds",
        parts: vec![
            Part::still("head", html! { h1 { "Builds" } }),
            Part::live("workers", slots(&workers)),
            Part::live("builds", table(calls, &list.builds)),
        ],
        log: None,
    })
}

/// Workers that take jobs, and those that are given none.
fn slots(workers: &Workers) -> Markup {
    let (drained, taking): (Vec<_>, Vec<_>) =
        workers.workers.iter().partition(|worker| worker.draining);
    let slots: u32 = taking.iter().map(|worker| worker.slots).sum();
    let running: u32 = taking.iter().map(|worker| worker.running).sum();
    let machines = count(taking.len() as u64, "worker");
    html! {
        p {
            (machines) ", " (running) " of " (count(u64::from(slots), "slot")) " busy"
            @if taking.is_empty() { ": builds wait until a worker starts, or is not drained" }
        }
        @if !drained.is_empty() { ul .small data-testid="drained" {
            @for worker in drained.iter().take(DRAINED_TOLD) { li {
                strong { (worker.machine) }
                @if worker.running == 0 { " is drained" } @else {
                    " is draining: " (count(u64::from(worker.running), "build")) " still run there"
                }
            } }
            @if drained.len() > DRAINED_TOLD {
                li { "and " (drained.len() - DRAINED_TOLD) " more: " code { "deployctl workers" } }
            }
        } }
    }
}

fn table(calls: &Calls, list: &[Build]) -> Markup {
    html! {
        @if list.is_empty() { p { "No build yet: " code { "deployctl build HEAD" } } } @else {
            table {
                thead { tr {
                    th scope="col" { "Build" } th scope="col" { "App" } th scope="col" { "Commit" }
                    th scope="col" { "State" } th scope="col" { "Regions" }
                    th scope="col" { "Asked" } th scope="col" { "By" }
                } }
                tbody { @for build in list { tr {
                    th scope="row" { a href={ "/builds/" (build.build) } { (build.build) } }
                    td { a href={ "/apps/" (build.app) } { (build.app) } }
                    td { (parts::commit(&build.commit)) " " span .subject { (build.subject) } }
                    td { (state(build)) }
                    td { (copies(calls, build)) }
                    td { (parts::time(build.queued_at)) }
                    td { (build.actor) }
                } } }
            }
        }
    }
}

/// A build's state, with its place in the queue or its reason.
pub(super) fn state(build: &Build) -> Markup {
    html! {
        (parts::state(&build.state.word().to_lowercase(), build_tone(build.state)))
        @if let Some(place) = build.queue_position { span .small { ", " (place) " before it" } }
        @if let Some(failure) = &build.failure { " " span .small { (failure.reason) } }
    }
}

/// In how many regions a build is.
pub(super) fn copies(calls: &Calls, build: &Build) -> Markup {
    let Some(artifact) = &build.artifact else { return html! {} };
    let all = calls.shared().config.regions.len();
    let held = |status| status == ReplicationStatus::Complete;
    let done = build.replication.regions.iter().filter(|copy| held(copy.status)).count();
    let bytes: u64 = build
        .replication
        .regions
        .iter()
        .map(|copy| if held(copy.status) { artifact.wire_size } else { copy.bytes })
        .sum();
    let total = artifact.wire_size.saturating_mul(all as u64);
    let class = if done == all { "good" } else { "moving" };
    let said = format!("in {done} of {all} regions");
    html! { span .hosts { (bars::bar(&[(class, bytes)], total, &said)) " " (done) "/" (all) } }
}
