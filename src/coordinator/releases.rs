//! `GET …/releases`: the history of an app and env, or of all, newest first.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::apps;
use crate::coordinator::router::{Route, get};
use crate::coordinator::state::Shared;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::net::server::{Json, Params, Path};
use crate::rules::authorize::Class;
use crate::store::db::Tx;
use crate::store::db::releases::{self, Filter, ReleaseRow};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::rollout::Releases;

/// Default and largest page.
const LIMIT: (u32, u32) = (20, 500);

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps/{app}/envs/{env}/releases", Class::Read, list)
            .says("List releases, newest first")
            .gives("Releases"),
        get("/v1/releases", Class::Read, list_all)
            .says("List releases of every app and env, newest first: what changed lately")
            .gives("Releases"),
    ]
}

#[derive(Deserialize)]
struct Query {
    limit: Option<u32>,
    before: Option<ReleaseNo>,
}

async fn list(
    State(shared): State<Shared>,
    Path((app, env)): Path<(AppName, EnvName)>,
    Params(query): Params<Query>,
) -> Result<Json<Releases>, Problem> {
    let limit = query.limit.unwrap_or(LIMIT.0).clamp(1, LIMIT.1);
    let list = move |tx: &Tx| {
        apps::known(tx, &app, Some(&env))?;
        let rows = releases::list(tx, &app, &env, query.before, limit)?;
        Ok(Releases { releases: rows.iter().map(ReleaseRow::view).collect() })
    };
    shared.db.read(list).await.map(Json)
}

#[derive(Deserialize)]
struct QueryAll {
    app: Option<AppName>,
    env: Option<EnvName>,
    /// Only what was admitted in the last so many seconds, by the coordinator's clock.
    within_s: Option<u64>,
    limit: Option<u32>,
}

/// Whether there is such an app, and such an env of it or of any.
///
/// # Errors
/// `not_found`, naming what there is.
fn check_known(tx: &Tx, app: Option<&AppName>, env: Option<&EnvName>) -> Result<(), Problem> {
    if let Some(app) = app {
        return apps::known(tx, app, env).map(drop);
    }
    let Some(env) = env else { return Ok(()) };
    let all = crate::store::db::apps::list(tx)?;
    let envs: BTreeSet<&EnvName> = all.iter().flat_map(|app| &app.spec.envs).collect();
    if envs.contains(env) {
        return Ok(());
    }
    let names: Vec<&str> = envs.into_iter().map(EnvName::as_str).collect();
    Err(Problem::new(Code::NotFound, format!("no app has an env {env}"))
        .because(format!("there are {}", names.join(", ")))
        .hint("deployctl apps list"))
}

async fn list_all(
    State(shared): State<Shared>,
    Params(query): Params<QueryAll>,
) -> Result<Json<Releases>, Problem> {
    let limit = query.limit.unwrap_or(LIMIT.0).clamp(1, LIMIT.1);
    let within = query.within_s.map(Duration::from_secs);
    let since = within.map(|within| shared.steady_now() - within).unwrap_or_default();
    let filter = Filter { app: query.app, env: query.env, since };
    let list = move |tx: &Tx| {
        check_known(tx, filter.app.as_ref(), filter.env.as_ref())?;
        let rows = releases::newest(tx, &filter, limit)?;
        Ok::<_, Problem>(Releases { releases: rows.iter().map(ReleaseRow::view).collect() })
    };
    shared.db.read(list).await.map(Json)
}
