//! `GET /v1/events`: what happened, in order, resumable for ever.

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::router::{Route, get};
use crate::coordinator::state::{Shared, wait_of};
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::net::server::{Json, Params};
use crate::rules::authorize::Class;
use crate::store::db::events::Filter;
use crate::store::db::{Topic, Tx, events};
use crate::wire::problem::Problem;
use crate::wire::v1::event::Events;

/// Most events of one reply.
const EVENTS_MAX: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/events", Class::Read, list)
            .says(
                "Wait for events after `since`, or list those before `before`, newest first; \
                 without both, only tell where the end is",
            )
            .gives("Events"),
    ]
}

#[derive(Deserialize)]
struct Query {
    since: Option<u64>,
    before: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    wait_ms: u64,
    app: Option<AppName>,
    env: Option<EnvName>,
    release: Option<ReleaseNo>,
}

async fn list(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<Events>, Problem> {
    if let Some(before) = query.before {
        let limit = query.limit.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX);
        let filter = Filter { app: query.app, env: query.env, release: query.release };
        let events = shared.db.read(move |tx| events::before(tx, before, &filter, limit)).await?;
        let next = events.last().map_or(0, |event| event.seq);
        return Ok(Json(Events { events, next }));
    }
    let Some(since) = query.since else {
        let next = shared.db.read(events::newest).await?;
        return Ok(Json(Events { events: vec![], next }));
    };
    let look = async || {
        let app = query.app.clone();
        let read = move |tx: &Tx| events::after(tx, since, app.as_ref(), EVENTS_MAX);
        let events = shared.db.read(read).await?;
        Ok((!events.is_empty()).then_some(events))
    };
    let found = shared.wait_for(Topic::Events, wait_of(query.wait_ms), look).await?;
    let events = found.unwrap_or_default();
    let next = events.last().map_or(since, |event| event.seq);
    Ok(Json(Events { events, next }))
}
