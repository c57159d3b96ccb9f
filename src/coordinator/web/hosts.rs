//! `/hosts`: the regions and what they hold; every host as a square; those that are
//! not as they should be, by name.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::fleet::{HOSTS_MAX, Host, Seen};
use crate::coordinator::web::page::{Part, Search, View};
use crate::coordinator::web::squares::{TONES, squares};
use crate::coordinator::web::{bars, parts};
use crate::model::fleet::Sources;
use crate::model::id::RegionName;
use crate::rules::authorize::Class;
use crate::wire::problem::Problem;
use crate::wire::v1::fleet::{Regions, Status};
use crate::wire::words::{Tone, count};

/// Hosts that are named one by one.
const NAMED: usize = 100;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, search: &Search) -> Result<View, Problem> {
    let regions: Regions = calls.get("/v1/regions").await?;
    let status: Status = calls.get("/v1/status").await?;
    let seen = calls.web.fleet.look(calls.shared()).await?;
    let found: Vec<&Host> = seen.hosts.iter().filter(|host| is_meant(search, host)).collect();
    Ok(View {
        title: "Hosts and regions".into(),
        under: "/hosts",
        parts: vec![
            Part::still(
                "head",
                html! { h1 { "Hosts and regions" } (filter(search, &regions, &status)) },
            ),
            Part::live(
                "regions",
                html! {
                    (picture(search, &seen, &found))
                    (named(search, &found, calls.may(Class::Deploy)))
                    (table(&regions, &status))
                },
            ),
        ],
        log: None,
    })
}

fn is_meant(search: &Search, host: &Host) -> bool {
    search.env.as_ref().is_none_or(|env| *env == host.env)
        && search.region.as_ref().is_none_or(|region| *region == host.region)
        && host.host.as_str().starts_with(search.host.trim())
        && search.app.as_ref().is_none_or(|app| host.apps.iter().any(|on| on.app == *app))
        && (search.state.is_empty()
            || parts::class(host.state(search.app.as_ref()).1) == search.state)
}

fn filter(search: &Search, regions: &Regions, status: &Status) -> Markup {
    let mut apps: Vec<&str> = status.apps.iter().map(|row| row.app.as_str()).collect();
    let mut envs: Vec<&str> = status.apps.iter().map(|row| row.env.as_str()).collect();
    apps.dedup();
    envs.sort_unstable();
    envs.dedup();
    let regions: Vec<&str> = regions.regions.iter().map(|region| region.region.as_str()).collect();
    let now = |chosen: Option<&str>| chosen.unwrap_or_default().to_owned();
    let choices = [
        ("app", "App", apps, now(search.app.as_ref().map(|app| app.as_str()))),
        ("env", "Env", envs, now(search.env.as_ref().map(|env| env.as_str()))),
        ("region", "Region", regions, now(search.region.as_ref().map(RegionName::as_str))),
    ];
    html! {
        form .filter method="get" role="search" {
            @for (name, label, values, chosen) in choices {
                label { (label) " " select name=(name) {
                    option value="" { "all" }
                    @for value in values { option selected[value == chosen] { (value) } }
                } }
            }
            label { "State " select name="state" {
                option value="" { "all" }
                @for (tone, word) in TONES {
                    @let class = parts::class(tone);
                    option value=(class) selected[class == search.state] { (word) }
                }
            } }
            label { "Host " input type="search" name="host" value=(search.host) maxlength="60" placeholder="begins with"; }
            button type="submit" { "Show" }
        }
    }
}

fn picture(search: &Search, seen: &Seen, found: &[&Host]) -> Markup {
    let mut by_region: BTreeMap<&RegionName, Vec<Tone>> = BTreeMap::new();
    for host in found {
        by_region.entry(&host.region).or_default().push(host.state(search.app.as_ref()).1);
    }
    html! {
        @if seen.total > seen.hosts.len() as u64 {
            p .look { "The first " (HOSTS_MAX) " of " (seen.total) " hosts; the counts below are of all." }
        }
        div .fleet {
            @for (region, tones) in &by_region {
                @let said = said(tones);
                figure {
                    figcaption { strong { (region) } ": " (count(tones.len() as u64, "host")) }
                    (squares(tones, &said))
                    p .small { (said) }
                }
            }
        }
        @if found.is_empty() { p { @if seen.total == 0 {
            "No host was heard of yet: " code { "deployctl help setup" }
        } @else { "No host is like that." } } }
        @else { ul .legend { @for (tone, word) in TONES { li { span .key.(parts::class(tone)) {} (word) } } } }
    }
}

/// "8 as it should be, 1 failed".
fn said(tones: &[Tone]) -> String {
    let counts =
        TONES.iter().map(|(tone, word)| (tones.iter().filter(|own| *own == tone).count(), *word));
    let parts = counts.filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// Hosts to look at, and with a search for one also that one.
fn named(search: &Search, found: &[&Host], may_pin: bool) -> Markup {
    let asked = !search.host.trim().is_empty() || !search.state.is_empty();
    let pins = asked && may_pin;
    let mut shown: Vec<&&Host> = found
        .iter()
        .filter(|host| asked || matches!(host.state(search.app.as_ref()).1, Tone::Bad | Tone::Look))
        .collect();
    shown.sort_by_key(|host| host.state(search.app.as_ref()).1 != Tone::Bad);
    html! {
        @if !shown.is_empty() {
            h2 { @if asked { "Found" } @else { "Not as they should be" } }
            table {
                thead { tr {
                    th scope="col" { "Host" } th scope="col" { "Region" } th scope="col" { "Env" }
                    th scope="col" { "State" } th scope="col" { "Runs" } th scope="col" { "Heard" }
                    th scope="col" { "Reason" }
                    @if pins { th scope="col" { span .hidden { "Keep it there" } } }
                } }
                tbody { @for host in shown.iter().take(NAMED) {
                    @let (word, tone) = host.state(search.app.as_ref());
                    tr {
                        th scope="row" { code { (host.host) } }
                        td { (host.region) } td { (host.env) } td { (parts::state(word, tone)) }
                        td { @for app in &host.apps { div { (app.app) " " (app.runs)
                            @if app.runs != app.wants { span .dim { " should " (app.wants) } } } } }
                        td { (parts::time(host.seen_at)) }
                        td .why { @for app in &host.apps { div { (app.reason) } } }
                        @if pins { td { @for app in &host.apps {
                            // A link: a hundred forms would weigh more than the picture.
                            @let place = format!("app={}&env={}&host={}", app.app, host.env, host.host);
                            a href={ "/do/hold?" (place) } data-testid={ "pin-" (host.host) } { "Pin" } " "
                        } } }
                    }
                } }
            }
            @if shown.len() > NAMED { p .small { "and " (shown.len() - NAMED) " more" } }
        }
    }
}

fn table(regions: &Regions, status: &Status) -> Markup {
    let mut from: BTreeMap<&RegionName, Sources> = BTreeMap::new();
    for (region, tally) in status.apps.iter().flat_map(|row| &row.regions) {
        *from.entry(region).or_default() += tally.sources;
    }
    html! {
        h2 { "Regions" }
        table .regions {
            thead { tr {
                th scope="col" { "Region" } th scope="col" .n { "Hosts" }
                th scope="col" .n { "Unreachable" } th scope="col" .n { "Artifacts" }
                th scope="col" .n { "Owed" } th scope="col" { "Reported" }
                th scope="col" { "Where the bytes of what runs came from" }
            } }
            tbody { @for region in &regions.regions { tr {
                th scope="row" { (region.region) }
                td .n data-label="hosts" { (region.hosts) }
                td .n .look[region.unreachable > 0] data-label="unreachable" { (region.unreachable) }
                td .n data-label="artifacts" { (region.artifacts) }
                td .n .look[region.owed > 0] data-label="owed" { (region.owed) }
                td { (parts::maybe_time(region.seen_at, "never")) }
                td .from { @if let Some(sources) = from.get(&region.region) { (bars::sources(sources)) } }
            } } }
        }
    }
}
