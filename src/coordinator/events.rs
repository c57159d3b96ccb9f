//! `GET /v1/events`: what happened, in order, resumable for ever.

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::router::{Route, get};
use crate::coordinator::state::{Shared, wait_of};
use crate::model::id::AppName;
use crate::net::server::{Json, Params};
use crate::rules::authorize::Class;
use crate::store::db::{Topic, Tx, events};
use crate::wire::problem::Problem;
use crate::wire::v1::event::Events;

/// Most events of one reply.
const EVENTS_MAX: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/events", Class::Read, list)
            .says("Wait for events after `since`; without `since`, only tell where the end is")
            .gives("Events"),
    ]
}

#[derive(Deserialize)]
struct Query {
    since: Option<u64>,
    #[serde(default)]
    wait_ms: u64,
    app: Option<AppName>,
}

async fn list(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<Events>, Problem> {
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
