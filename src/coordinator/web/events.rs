//! `/events`: who did what, and what happened by itself; newest first.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, Search, View};
use crate::coordinator::web::parts;
use crate::wire::problem::Problem;
use crate::wire::v1::event::{Event, Events};
use crate::wire::words::Tone;

/// Events of one page.
const SHOWN: usize = 100;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, search: &Search) -> Result<View, Problem> {
    let before = search.before.unwrap_or(i64::MAX.unsigned_abs());
    let app = search.app.as_ref().map_or_else(String::new, |app| format!("&app={app}"));
    let path = format!("/v1/events?before={before}&limit={SHOWN}{app}");
    let found: Events = calls.get(&path).await?;
    let older = (found.events.len() == SHOWN).then_some(found.next);
    let chosen = search.app.as_ref().map(ToString::to_string).unwrap_or_default();
    let head = html! {
        h1 { "Events" }
        form .filter method="get" role="search" {
            label { "App " input type="search" name="app" value=(chosen) maxlength="60"; }
            button type="submit" { "Show" }
        }
    };
    let list = html! {
        (table(&found.events, true))
        p .pages {
            @if search.before.is_some() { a href={ "/events?app=" (chosen) } { "Newest" } " " }
            @if let Some(older) = older { a href={ "/events?app=" (chosen) "&before=" (older) } { "Older" } }
        }
    };
    Ok(View {
        title: "Events".into(),
        under: "/events",
        parts: vec![Part::still("head", head), Part::live("events", list)],
        log: None,
    })
}

/// Events as a table, with or without what they are about.
pub(super) fn table(events: &[Event], about: bool) -> Markup {
    html! {
        @if events.is_empty() { p { "Nothing yet." } } @else {
            table {
                thead { tr {
                    th scope="col" { "When" } th scope="col" { "What" }
                    @if about { th scope="col" { "About" } }
                    th scope="col" { "By" } th scope="col" { "In words" }
                } }
                tbody { @for event in events { tr {
                    td { (parts::time(event.at)) }
                    td { (parts::state(&event.kind, tone(&event.kind))) }
                    @if about { td { (subject(event)) } }
                    td { (event.actor) }
                    td .why { (event.message) }
                } } }
            }
        }
    }
}

fn subject(event: &Event) -> Markup {
    html! {
        @match (&event.app, &event.env, event.release, event.build) {
            (Some(app), Some(env), Some(release), _) => {
                a href=(parts::env_path(app, env)) { (app) " " (env) } " "
                (parts::release_link(app, env, release))
            }
            (Some(app), _, _, Some(build)) => {
                a href={ "/apps/" (app) } { (app) } " " a href={ "/builds/" (build) } { (build) }
            }
            (Some(app), ..) => { a href={ "/apps/" (app) } { (app) } }
            _ => { @if let Some(region) = &event.region { (region) } }
        }
    }
}

fn tone(kind: &str) -> Tone {
    let last = kind.rsplit('.').next().unwrap_or_default();
    match last {
        "succeeded" | "complete" | "replicated" => Tone::Good,
        "failed" | "lost" | "expired" => Tone::Bad,
        "paused" | "reverting" | "reverted" | "canceled" | "canceling" => Tone::Look,
        "started" | "step" | "promoted" | "resumed" => Tone::Moving,
        _ => Tone::Dim,
    }
}
