//! Who sits at a browser: a random secret in a cookie, its keyed hash in the database,
//! and the token that stands behind it. A token that is withdrawn ends its sessions.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use crate::coordinator::state::Coordinator;
use crate::coordinator::web::{Pages, frame, guard, page};
use crate::model::digest::to_hex;
use crate::net::auth::{Identity, keyed_hash, random_key};
use crate::rules::authorize::{Class, may};
use crate::store::db::sessions::{self, Kind};
use crate::store::db::{DbError, Tx};
use crate::wire::problem::Problem;

/// How long a browser stays signed in.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Hexadecimal digits of a secret.
const SECRET_DIGITS: usize = 64;

/// A browser that is signed in.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// Who.
    pub(super) who: Identity,
    /// What each form of the session must carry.
    pub(super) csrf: String,
    /// The keyed hash of its secret.
    pub(super) mac: String,
}

impl Session {
    /// Whether a form was made for this session.
    pub(super) fn made(&self, csrf: &str) -> bool {
        self.csrf.as_bytes().ct_eq(csrf.as_bytes()).into()
    }
}

/// Lets only browsers in that are signed in: the others see the way to sign in. The
/// handler finds the [`Session`] in the request's extensions.
pub(super) async fn required(
    State(web): State<Pages>,
    mut request: Request,
    next: Next,
) -> Response {
    match of(&web, request.headers()).await {
        Ok(Some(session)) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        Ok(None) => {
            let is_page = request.method() == Method::GET && request.uri().path() != "/live";
            let back = if is_page { page::path(request.uri()) } else { "/".into() };
            frame::sign_in(&back, None)
        }
        Err(problem) => frame::refused(None, &problem),
    }
}

async fn of(web: &Pages, headers: &HeaderMap) -> Result<Option<Session>, Problem> {
    let name = cookie_name(headers, web.secure);
    let Some(secret) = cookie(headers, &name) else { return Ok(None) };
    let mac = mac_of(&web.shared, Kind::Session, &secret);
    let csrf = keyed_hash(&web.shared.keys.token, format!("deployctl csrf v1:{secret}").as_bytes());
    let who = holder(&web.shared, &mac).await?;
    Ok(who.map(|who| Session { who, csrf: to_hex(&csrf), mac }))
}

/// Who the session with this keyed hash belongs to, while it lasts.
///
/// # Errors
/// When the database fails.
pub(super) async fn holder(shared: &Coordinator, mac: &str) -> Result<Option<Identity>, Problem> {
    let (mac, now) = (mac.to_owned(), shared.steady_now());
    let find = move |tx: &Tx| sessions::find(tx, (Kind::Session, &mac), now);
    let token = shared.db.read(find).await.map_err(|error: DbError| Problem::from(error))?;
    Ok(token.and_then(|token| shared.holder(&token)).filter(|who| may(who.role, Class::Read)))
}

/// Begins a session, or makes a link, for the token `token`; returns the secret.
///
/// # Errors
/// When the database fails.
pub(super) async fn begin(
    shared: &Coordinator,
    kind: Kind,
    token: &str,
    lasts: Duration,
) -> Result<String, Problem> {
    let secret = to_hex(&random_key());
    let (mac, token) = (mac_of(shared, kind, &secret), token.to_owned());
    let now = shared.steady_now();
    let insert = move |tx: &mut Tx| sessions::insert(tx, (kind, &mac), &token, now, now + lasts);
    shared.db.write(insert).await.map_err(|error: DbError| Problem::from(error))?;
    Ok(secret)
}

/// Ends a session by its keyed hash, or uses a link up; the token behind it.
///
/// # Errors
/// When the database fails.
pub(super) async fn end(
    shared: &Coordinator,
    kind: Kind,
    mac: String,
) -> Result<Option<String>, Problem> {
    let now = shared.steady_now();
    let take = move |tx: &mut Tx| sessions::take(tx, (kind, &mac), now);
    shared.db.write(take).await.map_err(|error: DbError| Problem::from(error))
}

/// What is stored in place of a secret.
pub(super) fn mac_of(shared: &Coordinator, kind: Kind, secret: &str) -> String {
    let text = format!("deployctl web {kind:?} v1:{secret}");
    to_hex(&keyed_hash(&shared.keys.token, text.as_bytes()))
}

/// The cookie that makes a browser keep `secret`; an empty one makes it forget.
pub(super) fn set_cookie(headers: &HeaderMap, secure: bool, secret: &str) -> String {
    let name = cookie_name(headers, secure);
    let seconds = if secret.is_empty() { 0 } else { SESSION.as_secs() };
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

/// Browsers do not tell ports apart: several coordinators of one machine must not
/// take each other's cookies.
fn cookie_name(headers: &HeaderMap, secure: bool) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let prefix = if secure { "__Host-" } else { "" };
    match guard::split(host).1 {
        Some(port) => format!("{prefix}deployctl-{port}"),
        None => format!("{prefix}deployctl"),
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
    is_secret(value).then(|| value.to_owned())
}

/// Whether a text could be a secret of ours.
pub(super) fn is_secret(text: &str) -> bool {
    text.len() == SECRET_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}
