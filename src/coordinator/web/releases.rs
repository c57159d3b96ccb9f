//! `/releases`: the newest releases of every app: what changed lately.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, Search, View};
use crate::coordinator::web::parts;
use crate::wire::problem::Problem;
use crate::wire::v1::rollout::Releases;

/// Releases of the page.
const SHOWN: u32 = 100;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(calls: &Calls, search: &Search) -> Result<View, Problem> {
    let env = search.env.as_ref().map(ToString::to_string).unwrap_or_default();
    let narrowed = if env.is_empty() { String::new() } else { format!("&env={env}") };
    let found: Releases = calls.get(&format!("/v1/releases?limit={SHOWN}{narrowed}")).await?;
    let head = html! {
        h1 { "Releases" }
        form .filter method="get" role="search" {
            label { "Env " input type="search" name="env" value=(env) maxlength="60"; }
            button type="submit" { "Show" }
        }
    };
    Ok(View {
        title: "Releases".into(),
        under: "/releases",
        parts: vec![Part::still("head", head), Part::live("releases", table(&found))],
        log: None,
    })
}

fn table(list: &Releases) -> Markup {
    html! {
        @if list.releases.is_empty() { p { "None yet." } } @else {
            table {
                thead { tr {
                    th scope="col" { "Begun" } th scope="col" { "App" } th scope="col" { "Env" }
                    th scope="col" { "Release" } th scope="col" { "What" }
                    th scope="col" { "Outcome" } th scope="col" { "By" } th scope="col" { "Why" }
                } }
                tbody { @for release in &list.releases { tr {
                    td { (parts::time(release.created_at)) }
                    th scope="row" {
                        a href=(parts::env_path(&release.app, &release.env)) { (release.app) }
                    }
                    td { (release.env) }
                    td { (parts::release_link(&release.app, &release.env, release.release)) }
                    td { (parts::what(release)) }
                    td title=(release.reason) { (parts::release_state(release)) }
                    td { (release.actor) }
                    td .why { (release.message) }
                } } }
            }
        }
    }
}
