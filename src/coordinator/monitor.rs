//! The lost-job monitor: jobs whose worker went silent go back to the queue.
//!
//! Safe in any number of coordinators: every write is guarded by the attempt.

use std::time::Duration;

use crate::coordinator::attempts::take_back_lapsed;
use crate::coordinator::peers;
use crate::coordinator::state::{Coordinator, Shared};
use crate::store::db::{DbError, Tx, hosts, jobs, workers};

/// How long a worker that left is remembered.
const WORKERS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a host that is gone is remembered: a day longer than by its region.
const HOSTS_KEPT: Duration = Duration::from_secs(31 * 86_400);
/// How often old workers and hosts are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Gives every running job one full lease from now: its worker could not beat
/// while no coordinator ran. (While another one did, it could.) No job waits longer than a backoff, also when the
/// clock was set back in between.
///
/// # Errors
/// When the database fails.
pub(super) async fn grant_grace(shared: &Coordinator) -> Result<(), DbError> {
    let (now, timing) = (shared.steady_now(), shared.timing());
    let beaten = peers::worked_until_now(shared).await?;
    let grace = move |tx: &mut Tx| {
        jobs::hasten(tx, now + timing.backoff_max())?;
        if beaten { Ok(0) } else { jobs::renew_leases(tx, now, now + timing.lease()) }
    };
    let running = shared.db.write(grace).await?;
    if running > 0 {
        tracing::info!(running, "jobs were running; their leases begin anew");
    }
    Ok(())
}

/// Looks for lapsed leases every `queue.monitor_ms` until the stop.
pub(super) async fn run(shared: Shared) {
    let every = Duration::from_millis(shared.config.queue.monitor_ms);
    let mut stop = shared.stop.clone();
    let mut forgotten = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = look(&shared).await {
            tracing::error!(%error, "the monitor could not look for lost jobs");
        }
        if forgotten.elapsed() >= FORGET_EVERY {
            forgotten = tokio::time::Instant::now();
            let now = shared.steady_now();
            let forget = move |tx: &mut Tx| {
                hosts::forget(tx, now - HOSTS_KEPT)?;
                workers::forget(tx, now - WORKERS_KEPT)
            };
            if let Err(error) = shared.db.write(forget).await {
                tracing::warn!(%error, "old workers and hosts could not be forgotten");
            }
        }
    }
}

async fn look(shared: &Shared) -> Result<(), DbError> {
    let now = shared.steady_now();
    if shared.db.read(move |tx| jobs::lapsed(tx, now, 1)).await?.is_empty() {
        return Ok(());
    }
    while shared.db.write(move |tx| take_back_lapsed(tx, now)).await? > 0 {}
    Ok(())
}
