//! The page: what people see and press in a browser, served by the coordinator.
//!
//! Server-rendered HTML that works without JavaScript; one small script keeps an open
//! page current over one event stream. The page is a client of the API: what it shows
//! and what it changes goes through the same routes, checks and idempotency keys, by
//! a call inside the process ([`call`]). It owns sessions, forms and words in HTML,
//! and decides nothing.

mod act;
mod app;
mod apps;
mod assets;
mod bars;
mod build;
mod builds;
mod call;
mod commits;
mod confirm;
mod curve;
mod events;
mod fleet;
mod frame;
mod gates;
mod guard;
mod hosts;
mod hub;
pub(super) mod links;
mod live;
mod options;
mod page;
mod parts;
mod releases;
mod rollout;
mod session;
mod sign_in;
mod squares;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::coordinator::state::Shared;
use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::Page;
use crate::coordinator::web::session::Session;
use crate::wire::problem::{Code, Problem};

/// What every handler of the page shares.
pub(super) struct Web {
    pub(super) shared: Shared,
    /// The API without its door: calls carry their identity.
    api: Router,
    hub: hub::Hub,
    fleet: fleet::Fleet,
    /// Whether browsers come over TLS.
    secure: bool,
}

/// The page's shared state, by reference counting.
type Pages = Arc<Web>;

/// Every route of the page; `api` is the API behind its door.
pub(super) fn router(shared: &Shared, api: Router) -> Router {
    let web: Pages = Arc::new(Web {
        shared: shared.clone(),
        api,
        hub: hub::Hub::default(),
        fleet: fleet::Fleet::default(),
        secure: shared.config.tls.cert.is_some(),
    });
    let signed_in = axum::middleware::from_fn_with_state(web.clone(), session::required);
    Router::new()
        .route("/", get(show))
        .route("/apps/{app}", get(show))
        .route("/apps/{app}/{env}", get(show))
        .route("/apps/{app}/{env}/{release}", get(show))
        .route("/releases", get(show))
        .route("/builds", get(show))
        .route("/builds/{build}", get(show))
        .route("/builds/{build}/log", get(build::whole_log))
        .route("/hosts", get(show))
        .route("/events", get(show))
        .route("/live", get(live::stream))
        .route("/do/{what}", get(confirm::show).post(act::take))
        .route("/signout", post(sign_in::sign_out))
        .layer(signed_in)
        .route("/signin", get(sign_in::from_link).post(sign_in::take))
        .route("/assets/{name}", get(assets::serve))
        .layer(axum::middleware::from_fn_with_state(web.clone(), guard::keep))
        .with_state(web)
}

/// `GET` of any page.
async fn show(
    State(web): State<Pages>,
    axum::Extension(session): axum::Extension<Session>,
    request: Request,
) -> Response {
    let page = match Page::of(request.uri()) {
        Ok(page) => page,
        Err(problem) => return frame::refused(Some(&session), &problem),
    };
    if let Page::App(app) = &page {
        return app::first_env(&web, &session, app).await;
    }
    let calls = Calls::new(&web, session.who.clone());
    match page.view(&calls).await {
        Ok(view) => frame::page(&session, &view, &page::path(request.uri())).into_response(),
        Err(problem) => frame::refused(Some(&session), &problem),
    }
}

/// The refusal of a page that is not there.
fn no_page(path: &str) -> Problem {
    let path: String = path.chars().take(100).collect();
    Problem::new(Code::NotFound, format!("there is no page {path}"))
}
