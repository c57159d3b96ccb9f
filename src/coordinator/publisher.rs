//! Keeps the global goal store, an etcd where one is configured, like the database.
//!
//! The database decides and serves the feed; this puts what the store lacks, at once
//! and again whenever it was lost, emptied or rolled back. A store that is away holds
//! nothing up. Safe in many coordinators: the store refuses lower versions.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::coordinator::metrics;
use crate::coordinator::state::{Coordinator, Shared};
use crate::model::goal::GoalVersion;
use crate::store::db::goals::GoalRow;
use crate::store::db::{Topic, Tx, envs};
use crate::store::goals::{GoalError, Goals, Put};

/// The poll under every wake-up.
const EVERY: Duration = Duration::from_secs(5);
/// How often the whole store is read and healed.
const WHOLE_EVERY: Duration = Duration::from_secs(30);

/// Puts goals into the global store, if there is one, until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    let Some(global) = shared.global_goals.clone() else { return };
    let mut changes = shared.db.watch(Topic::Feed);
    let mut stop = shared.stop.clone();
    let (mut since, mut whole_at, mut failing) = (0, Instant::now(), false);
    loop {
        changes.borrow_and_update();
        let whole = Instant::now() >= whole_at;
        let round = tokio::select! {
            round = round(&shared, &global, if whole { None } else { Some(since) }) => round,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        metrics::GLOBAL_GOALS_UP.with_label_values::<&str>(&[]).set(round.is_ok().into());
        match round {
            Ok(reached) => {
                since = reached;
                whole_at = if whole { Instant::now() + WHOLE_EVERY } else { whole_at };
                if std::mem::take(&mut failing) {
                    tracing::info!("the global goal store is back");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "goals could not be put into the global store; tried again");
                (whole_at, failing) = (Instant::now(), true);
            }
        }
        tokio::select! {
            _ = changes.changed(), if !failing => {}
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Puts what was decided after `since`, or, with `None`, all that the store has not;
/// returns up to where decisions were looked at.
async fn round(shared: &Coordinator, global: &Goals, since: Option<u64>) -> Result<u64, GoalError> {
    let decided = shared.goals.after(since.unwrap_or(0)).await?;
    let reached = decided.last().map_or(since.unwrap_or(0), |row| row.revision);
    let mut standing: HashMap<String, GoalVersion> = HashMap::new();
    if since.is_none() {
        let rows = global.after(0).await?;
        standing.extend(rows.into_iter().map(|row| (row.key, row.version)));
    }
    let lacks = |row: &GoalRow| standing.get(&row.key).is_none_or(|there| *there < row.version);
    let (mut put, newest) = (0_u64, standing.values().copied().max().unwrap_or_default());
    for row in decided.iter().filter(|row| lacks(row)) {
        match global.put(&row.key, row.version, &row.sealed).await? {
            Put::Stored(_) => put += 1,
            Put::Stale(version) => {
                tracing::info!(key = row.key, ?version, "a newer goal stands in the global store");
                shared.db.write(move |tx: &mut Tx| envs::raise(tx, version)).await?;
            }
        }
    }
    if since.is_none() {
        // What others gave, or this database before it was restored, is not given again.
        shared.db.write(move |tx: &mut Tx| envs::raise(tx, newest)).await?;
        tracing::debug!(goals = decided.len(), put, "the global goal store was compared");
    }
    Ok(reached)
}
