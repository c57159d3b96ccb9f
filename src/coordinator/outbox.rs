//! Copies decided goals from SQL to the goal store, in order, until each arrived.
//!
//! Safe in many coordinators and after any crash: a goal leaves the outbox only
//! once the store has it or something newer, and the store refuses lower versions.

use std::time::Duration;

use crate::coordinator::state::{Coordinator, Shared};
use crate::store::db::{Topic, Tx, envs, goals};
use crate::store::goals::{GoalError, Put};

/// Goals copied per transaction.
const BATCH: u32 = 64;
/// The poll under every wake-up.
const EVERY: Duration = Duration::from_secs(1);

/// Copies whatever waits, whenever something does.
pub(super) async fn run(shared: Shared) {
    if let Err(error) = catch_up(&shared).await {
        tracing::warn!(%error, "the goal store can't be read yet");
    }
    let mut changes = shared.db.watch(Topic::Rollouts);
    let mut stop = shared.stop.clone();
    loop {
        changes.borrow_and_update();
        drain(&shared).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Generations that the goal store has seen are never given again, also when the
/// database was restored from an older backup.
async fn catch_up(shared: &Coordinator) -> Result<(), GoalError> {
    let newest = shared.goals.newest().await?;
    Ok(shared.db.write(move |tx: &mut Tx| envs::raise(tx, newest)).await?)
}

/// Copies whatever waits now. What can't be copied stays and is tried again.
pub(super) async fn drain(shared: &Coordinator) {
    let _turn = shared.outbox.lock().await;
    loop {
        match copy(shared).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "goals could not be stored; they are tried again");
                return;
            }
        }
    }
}

async fn copy(shared: &Coordinator) -> Result<usize, GoalError> {
    let waiting = shared.db.read(|tx| goals::outbox(tx, BATCH)).await?;
    let Some((last, _)) = waiting.last() else { return Ok(0) };
    let (last, count) = (*last, waiting.len());
    for (_, goal) in waiting {
        match shared.goals.put(&goal.key, goal.version, &goal.sealed).await? {
            Put::Stored(_) => {}
            Put::Stale(version) => {
                tracing::info!(key = goal.key, ?version, "a newer goal stands already");
                shared.db.write(move |tx: &mut Tx| envs::raise(tx, version)).await?;
            }
        }
    }
    shared.db.write(move |tx: &mut Tx| goals::arrived(tx, last)).await?;
    Ok(count)
}
