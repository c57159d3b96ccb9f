//! Lets the rules look at every open rollout: each second, and at once when a
//! region reports. Safe in many coordinators: rows are written by compare-and-set.

use std::time::Duration;

use crate::coordinator::readiness::{self, Readiness};
use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::walk::{self, Before, Undone};
use crate::coordinator::{ancestry, facts, holds, outbox, steer};
use crate::rules::rollout::Rollout;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Topic, Tx};

/// How often the clock alone is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    let mut changes = shared.db.watch(Topic::Rollouts);
    let mut stop = shared.stop.clone();
    loop {
        changes.borrow_and_update();
        if let Err(error) = tick(&shared).await {
            tracing::warn!(%error, "rollouts could not be looked at; tries again");
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks at a snapshot first and writes only where something is to be done, so
/// that a hundred quiet rollouts cost the writer nothing.
async fn tick(shared: &Shared) -> Result<(), DbError> {
    let within = shared.clone();
    let due = move |tx: &Tx| {
        let mut due = Vec::new();
        for row in releases::moving(tx)? {
            if is_due(tx, &within, &row)? {
                due.push(row.rollout);
            }
        }
        Ok::<_, DbError>((due, holds::any_lapsed(tx, &within)?))
    };
    let (due, lapsed) = shared.db.read(due).await?;
    if lapsed {
        let within = shared.clone();
        shared.db.write(move |tx: &mut Tx| holds::lapse(tx, &within)).await?;
    }
    if due.is_empty() && !lapsed {
        return Ok(());
    }
    for rollout in due {
        let within = shared.clone();
        let release = rollout.release;
        let done = walk::write(shared, move |tx, before| act(tx, &within, &rollout, before)).await;
        match done {
            Ok(()) => {}
            Err(Undone::Db(DbError::Raced(_))) => {
                tracing::debug!(%release, "another coordinator was faster")
            }
            Err(error) => tracing::warn!(%release, %error, "a rollout could not be moved on"),
        }
    }
    outbox::drain(shared).await;
    Ok(())
}

fn is_due(tx: &Tx, shared: &Coordinator, row: &ReleaseRow) -> Result<bool, DbError> {
    let mut rollout = row.rollout.clone();
    let facts = facts::to_step(tx, shared, &rollout)?;
    let actions = rollout.step(shared.steady_now(), &facts);
    if !actions.is_empty() || rollout != row.rollout {
        return Ok(true);
    }
    Ok(match readiness::of_pending(tx, shared, row)? {
        Some(Readiness::Ready(_) | Readiness::Never(_)) => true,
        Some(Readiness::Waiting(_)) | None => false,
    })
}

/// Looks again, in a transaction that can write.
fn act(tx: &mut Tx, shared: &Coordinator, seen: &Rollout, before: &Before) -> Result<(), Undone> {
    let Some(mut row) = releases::find(tx, &seen.app, &seen.env, seen.release)? else {
        return Ok(());
    };
    match readiness::of_pending(tx, shared, &row)? {
        Some(Readiness::Ready(artifact)) => {
            if let Some(why) = ancestry::at_start(tx, &row)? {
                let actions = row.rollout.turn_away(&why);
                let facts = facts::load(tx, shared, &row.rollout)?;
                return Ok(steer::save(tx, shared, &mut row, actions, (steer::SELF, &facts))?);
            }
            steer::begin(tx, shared, &mut row, artifact, (steer::SELF, None, before))?;
        }
        Some(Readiness::Never(why)) => {
            let actions = row.rollout.give_up(&why);
            let facts = facts::load(tx, shared, &row.rollout)?;
            return Ok(steer::save(tx, shared, &mut row, actions, (steer::SELF, &facts))?);
        }
        Some(Readiness::Waiting(_)) | None => {}
    }
    steer::step(tx, shared, &mut row)?;
    Ok(())
}
