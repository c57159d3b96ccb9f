//! How the etcds are that goals travel by: asked of the global one, told by regions.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::State;

use crate::coordinator::router::{Route, get};
use crate::coordinator::state::{Coordinator, Shared};
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::regions;
use crate::store::goals::{GoalError, Goals};
use crate::wire::problem::Problem;
use crate::wire::v1::goal_store::{GoalStore, GoalStores, RegionStores};

/// Time for the global store to be read: who asks waits no longer than three seconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/goal-stores", Class::Read, show)
            .says("How the etcds are that goals travel by")
            .gives("GoalStores"),
    ]
}

async fn show(State(shared): State<Shared>) -> Result<Json<GoalStores>, Problem> {
    let reported = shared.db.read(regions::goal_stores).await?;
    let known = |it: &RegionStores| shared.config.regions.contains_key(&it.region);
    let regions = reported.into_iter().filter(known).collect();
    let global = match &shared.global_goals {
        Some(global) => Some(look(&shared, global).await),
        None => None,
    };
    Ok(Json(GoalStores { global, regions }))
}

async fn look(shared: &Coordinator, global: &Goals) -> GoalStore {
    let (mut store, behind) =
        tokio::join!(global.health(), tokio::time::timeout(PATIENCE, behind(shared, global)),);
    match behind {
        Ok(Ok(behind)) => store.behind = behind,
        Ok(Err(error)) => store.trouble = error.to_string(),
        Err(_) => store.trouble = "no answer in time".into(),
    }
    store
}

/// Goals that were decided and are not there yet.
async fn behind(shared: &Coordinator, global: &Goals) -> Result<u64, GoalError> {
    let (decided, there) = tokio::try_join!(shared.goals.after(0), global.after(0))?;
    let there: HashMap<_, _> = there.into_iter().map(|row| (row.key, row.version)).collect();
    let lacks = decided.iter().filter(|row| there.get(&row.key).is_none_or(|it| *it < row.version));
    Ok(lacks.count() as u64)
}
