//! The frame around every page, and the pages that stand alone: signing in, refusals.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::coordinator::web::assets;
use crate::coordinator::web::page::{View, escaped};
use crate::coordinator::web::session::Session;
use crate::wire::problem::Problem;

/// The entries of the navigation.
const NAVIGATION: [(&str, &str); 5] = [
    ("/", "Apps"),
    ("/releases", "Releases"),
    ("/builds", "Builds"),
    ("/hosts", "Hosts and regions"),
    ("/events", "Events"),
];

/// The part that holds a form to be filled in.
pub(super) const FORM: &str = "ask";

/// A page that stays current: `path` is its own path and query.
pub(super) fn page(session: &Session, view: &View, path: &str) -> Html<String> {
    let seen = view.digest();
    let mut stream = format!("/live?page={}&seen={seen}", escape(path));
    if let Some((build, from)) = view.log {
        stream.push_str(&format!("&build={build}&log={from}"));
    }
    let main = html! {
        @for part in &view.parts { div id=(part.id) .part { (part.html) } }
        form #act method="post" { input type="hidden" name="csrf" value=(session.csrf); }
    };
    let live = html! { span #live .live role="status" data-stream=(stream) {} };
    // Without the script the page loads itself anew, but not under a form being filled in.
    let refresh = !view.parts.iter().any(|part| part.id == FORM);
    document(&view.title, Some((session, view.under, live)), (&main, refresh))
}

/// A page that stays as it is, such as a confirmation.
pub(super) fn still(session: &Session, title: &str, main: &Markup) -> Html<String> {
    document(title, Some((session, "", html! {})), (main, false))
}

/// A refusal, with its cause and what to do.
pub(super) fn refused(session: Option<&Session>, problem: &Problem) -> Response {
    refused_with(session, problem, &html! {})
}

/// A refusal, and a way on.
pub(super) fn refused_with(session: Option<&Session>, problem: &Problem, on: &Markup) -> Response {
    let status = StatusCode::from_u16(problem.code.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let main = html! {
        h1 { "Refused: " (problem.title) }
        @if !problem.detail.is_empty() { p .cause { (problem.detail) } }
        (on)
        @if !problem.hints.is_empty() {
            p { "On the command line:" }
            pre tabindex="0" { @for hint in &problem.hints { (hint) "\n" } }
        }
        p { a href="/" { "All apps" } }
    };
    let frame = session.map(|session| (session, "", html! {}));
    (status, document("Refused", frame, (&main, false))).into_response()
}

/// The way in, with 401: what does not exist without a session is not told apart.
pub(super) fn sign_in(back: &str, why: Option<&str>) -> Response {
    let main = html! {
        h1 { "Sign in" }
        @if let Some(why) = why { p .cause role="alert" { (why) } }
        form .card method="post" action="/signin" {
            input type="hidden" name="page" value=(back);
            label for="token" { "Token" }
            input #token type="password" name="token" required autocomplete="off"
                spellcheck="false" placeholder="dct_…" autofocus;
            button type="submit" { "Sign in" }
        }
        p { "Or without a token in hand, where " code { "deployctl" } " works: "
            code { "deployctl open" } }
    };
    (StatusCode::UNAUTHORIZED, document("Sign in", None, (&main, false))).into_response()
}

/// The button that uses a link up.
pub(super) fn sign_in_by_link(back: &str, link: &str) -> Response {
    let main = html! {
        h1 { "Sign in" }
        form .card #once method="post" action="/signin" {
            input type="hidden" name="page" value=(back);
            input type="hidden" name="link" value=(link);
            p { "This link signs this browser in, once." }
            button type="submit" autofocus { "Sign in" }
        }
    };
    document("Sign in", None, (&main, false)).into_response()
}

type Around<'a> = (&'a Session, &'a str, Markup);

fn document(
    title: &str,
    around: Option<Around<'_>>,
    (main, refresh): (&Markup, bool),
) -> Html<String> {
    let names = assets::names();
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) " · deployctl" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="stylesheet" href={ "/assets/" (names.style) };
                link rel="icon" href={ "/assets/" (names.icon) };
                script src={ "/assets/" (names.script) } defer {}
                @if refresh { noscript { meta http-equiv="refresh" content="10"; } }
            }
            body {
                a .skip href="#main" { "Skip to the page" }
                (header(around))
                main #main tabindex="-1" { (main) }
            }
        }
    };
    Html(text.into_string())
}

fn header(around: Option<Around<'_>>) -> Markup {
    html! {
        header {
            a .brand href="/" { "deployctl" }
            @if let Some((session, under, live)) = around {
                nav aria-label="Pages" {
                    @for (path, name) in NAVIGATION {
                        a href=(path) aria-current=[(under == path).then_some("page")] { (name) }
                    }
                }
                (live)
                form .who method="post" action="/signout" {
                    input type="hidden" name="csrf" value=(session.csrf);
                    span title={ "role " (session.who.role.word()) } { (session.who.name) }
                    button .plain type="submit" { "Sign out" }
                }
            }
        }
    }
}

fn escape(path: &str) -> String {
    escaped(path).replace('/', "%2F")
}
