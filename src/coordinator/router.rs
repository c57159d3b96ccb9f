//! One table of every route: method, path, class, handler, and its line in the
//! API document. Authorization, the 401 walk in the tests and `/v1/openapi.json`
//! all come from this table, so a route can't miss one of them.
//!
//! **To add routes:** give your module
//! `pub(super) fn routes() -> Vec<Route>` with rows such as
//! `get("/v1/hosts", Class::Read, list).says("Lists hosts").gives("Hosts")`,
//! and add one line to [`table`]. Handlers take `State<Shared>`,
//! `Extension<Identity>` (who asks), `Path`, `Params` and last `Json`, and
//! return `Result<Json<T>, Problem>`.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, get as on_get, on};

use crate::coordinator::state::Shared;
use crate::coordinator::{
    apps, attempts, auth, builds, claims, collect, commits, configs, curves, diff, events, feed,
    fence, fleet, freezes, goal_stores, holds, hosts, openapi, patches, reconcile, releases,
    rollouts, scale, status, tokens, web, webhooks,
};
use crate::net::trace::{Traced, traced};
use crate::rules::authorize::Class;
use crate::wire::problem::{Code, Problem};

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) class: Class,
    /// What it does, one imperative line.
    pub(super) summary: &'static str,
    /// The name of the request body in `wire::v1`; empty: none.
    pub(super) request: &'static str,
    /// The name of the reply's body in `wire::v1`; empty: none.
    pub(super) reply: &'static str,
    handler: MethodRouter<Shared>,
}

/// Every route but `/healthz`.
pub(super) fn table() -> Vec<Route> {
    let tables = [
        apps::routes(),
        attempts::routes(),
        builds::routes(),
        claims::routes(),
        collect::routes(),
        commits::routes(),
        configs::routes(),
        curves::routes(),
        diff::routes(),
        events::routes(),
        feed::routes(),
        fence::routes(),
        fleet::routes(),
        freezes::routes(),
        goal_stores::routes(),
        holds::routes(),
        hosts::routes(),
        openapi::routes(),
        patches::routes(),
        reconcile::routes(),
        releases::routes(),
        rollouts::routes(),
        scale::routes(),
        status::routes(),
        tokens::routes(),
        web::links::routes(),
        webhooks::routes(),
    ];
    tables.into_iter().flatten().collect()
}

/// A `GET` route; it must change nothing.
pub(super) fn get<H, T>(path: &'static str, class: Class, handler: H) -> Route
where
    H: Handler<T, Shared>,
    T: 'static,
{
    Route::new(Method::GET, path, class, on(MethodFilter::GET, handler))
}

/// A `POST` route.
pub(super) fn post<H, T>(path: &'static str, class: Class, handler: H) -> Route
where
    H: Handler<T, Shared>,
    T: 'static,
{
    Route::new(Method::POST, path, class, on(MethodFilter::POST, handler))
}

/// A `PUT` route.
pub(super) fn put<H, T>(path: &'static str, class: Class, handler: H) -> Route
where
    H: Handler<T, Shared>,
    T: 'static,
{
    Route::new(Method::PUT, path, class, on(MethodFilter::PUT, handler))
}

/// A `DELETE` route.
pub(super) fn delete<H, T>(path: &'static str, class: Class, handler: H) -> Route
where
    H: Handler<T, Shared>,
    T: 'static,
{
    Route::new(Method::DELETE, path, class, on(MethodFilter::DELETE, handler))
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        class: Class,
        handler: MethodRouter<Shared>,
    ) -> Self {
        Self { method, path, class, summary: "", request: "", reply: "", handler }
    }

    /// With its line in the API document.
    pub(super) fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// With the name of its request's body.
    pub(super) fn takes(mut self, request: &'static str) -> Self {
        self.request = request;
        self
    }

    /// With the name of its reply's body.
    pub(super) fn gives(mut self, reply: &'static str) -> Self {
        self.reply = reply;
        self
    }
}

/// Everything that is served. The API, and what does not exist, needs a known token,
/// and each of its routes a role that its class allows; the page needs a session.
pub(super) fn router(shared: &Shared) -> Router {
    let mut api = Router::new();
    for route in table() {
        let class = from_fn_with_state(route.class, auth::authorize);
        api = api.route(route.path, route.handler.layer(class));
    }
    let api: Router =
        api.fallback(nowhere).method_not_allowed_fallback(nowhere).with_state(shared.clone());
    let all = api
        .clone()
        .layer(from_fn_with_state(shared.clone(), auth::authenticate))
        .merge(web::router(shared, api))
        .route("/healthz", on_get(healthz))
        .layer(axum::middleware::from_fn(auth::trace));
    traced(all, Traced::All)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn nowhere(method: Method, uri: axum::http::Uri) -> Problem {
    Problem::new(Code::NotFound, format!("there is no {method} {}", uri.path()))
        .hint("GET /v1/openapi.json lists every path")
}
