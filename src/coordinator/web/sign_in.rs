//! Signing in, by a token in a form or by a link, and signing out.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::coordinator::web::act::Fields;
use crate::coordinator::web::session::{self, SESSION, Session};
use crate::coordinator::web::{Pages, frame, page};
use crate::net::server::Params;
use crate::rules::authorize::{Class, may};
use crate::store::db::sessions::Kind;
use crate::wire::problem::{Code, Problem};

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    link: String,
    #[serde(default)]
    page: String,
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct SignIn {
    #[serde(default)]
    token: String,
    #[serde(default)]
    link: String,
    #[serde(default)]
    page: String,
}

/// `GET /signin`: the form; with a link in hand one button, which the script presses.
/// A link is used up by the button, not by looking: mail scanners only look.
pub(super) async fn from_link(Params(query): Params<Query>) -> Response {
    let back = local(&query.page);
    if session::is_secret(&query.link) {
        return frame::sign_in_by_link(&back, &query.link);
    }
    frame::sign_in(&back, None)
}

/// `POST /signin`.
pub(super) async fn take(
    State(web): State<Pages>,
    headers: HeaderMap,
    Fields(form): Fields<SignIn>,
) -> Response {
    let back = local(&form.page);
    if !is_same_site(&headers) {
        let problem = Problem::new(Code::Forbidden, "this form came from another site");
        return frame::refused(None, &problem);
    }
    match token_of(&web, &form).await {
        Ok(Some(token)) => {
            match session::begin(&web.shared, Kind::Session, &token, SESSION).await {
                Ok(secret) => to(&back, &session::set_cookie(&headers, web.secure, &secret)),
                Err(problem) => frame::refused(None, &problem),
            }
        }
        Ok(None) => {
            let why = if form.link.is_empty() {
                "This token is not known here, or may not look at pages."
            } else {
                "This link was used or is over 5 minutes old. Get another: deployctl open"
            };
            frame::sign_in(&back, Some(why))
        }
        Err(problem) => frame::refused(None, &problem),
    }
}

/// The public id of the token that the form proves.
async fn token_of(web: &Pages, form: &SignIn) -> Result<Option<String>, Problem> {
    let who = if session::is_secret(&form.link) {
        let mac = session::mac_of(&web.shared, Kind::Link, &form.link);
        let token = session::end(&web.shared, Kind::Link, mac).await?;
        token.and_then(|token| web.shared.holder(&token))
    } else {
        web.shared.identify(&format!("Bearer {}", form.token.trim()))
    };
    Ok(who.filter(|who| may(who.role, Class::Read)).map(|who| who.token))
}

/// `POST /signout`.
pub(super) async fn sign_out(
    State(web): State<Pages>,
    Extension(session): Extension<Session>,
    headers: HeaderMap,
    Fields(form): Fields<Csrf>,
) -> Response {
    if !session.made(&form.csrf) {
        return frame::refused(Some(&session), &foreign());
    }
    match session::end(&web.shared, Kind::Session, session.mac).await {
        Ok(_) => to("/", &session::set_cookie(&headers, web.secure, "")),
        Err(problem) => frame::refused(None, &problem),
    }
}

/// The part of every form that proves where it comes from.
#[derive(Deserialize)]
pub(super) struct Csrf {
    #[serde(default)]
    csrf: String,
}

/// The refusal of a form that this session did not get.
pub(super) fn foreign() -> Problem {
    Problem::new(Code::Forbidden, "this form was not made for this session")
        .because("nothing was changed; go back, load the page again, and press again")
}

/// Browsers say where a form comes from; what is not a browser has no session to lose.
fn is_same_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    site.is_none_or(|site| matches!(site, "same-origin" | "none"))
}

fn local(page: &str) -> String {
    if page::is_local(page) { page.to_owned() } else { "/".into() }
}

fn to(page: &str, cookie: &str) -> Response {
    let headers = [(header::LOCATION, page), (header::SET_COOKIE, cookie)];
    (StatusCode::SEE_OTHER, headers).into_response()
}
