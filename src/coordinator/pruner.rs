//! Drops rows that nobody reads any more: old logs of builds, old events, names that were given
//! up long ago.
//!
//! The rows are this database's alone, so it goes on where another owns the main store; with
//! `enabled = false` they stay, too. A little at a time: whoever builds or deploys waits for the
//! same writer.

use std::time::Duration;

use crate::coordinator::collector::takes_round;
use crate::coordinator::state::Shared;
use crate::coordinator::steadiness;
use crate::model::id::JobNo;
use crate::store::db::job_log::Forgotten;
use crate::store::db::{DbError, Tx, collected, coordinators, events, job_log};

/// Jobs whose logs are looked at in one transaction: 16 MiB each at most.
const LOGS: usize = 100;
/// Bytes of their logs after which no other is taken into the same transaction.
const LOG_BYTES: u64 = 16 << 20;
/// Old events, or names, dropped in one transaction.
const ROWS: u32 = 500;
/// Between two transactions.
const PAUSE: Duration = Duration::from_millis(200);
/// Transactions of one round; the next goes on.
const WRITES_MAX: usize = 5_000;
/// How long it is remembered which names are given up: far longer than any process hangs.
const REMEMBERED: Duration = Duration::from_secs(365 * 86_400);
/// Longest pause between two looks whether a round is due.
const POLL: Duration = Duration::from_secs(30);

/// Prunes until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    if !shared.config.collector.enabled {
        return;
    }
    let every = Duration::from_millis(shared.config.collector.every_ms);
    let mut stop = shared.stop.clone();
    loop {
        let round = async {
            if steadiness::check(&shared).await.is_ok()
                && takes_round(&shared, coordinators::PRUNER, every).await
                && let Err(error) = prune(&shared).await
            {
                tracing::warn!(%error, "old rows could not be dropped");
            }
        };
        tokio::select! {
            () = round => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every.min(POLL)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn prune(shared: &Shared) -> Result<(), DbError> {
    let config = shared.config.collector;
    let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
    let now = shared.steady_now();
    let (logs, told) = (now - days(config.keep_log_days), now - days(config.keep_event_days));
    // Logs that stay are passed once in a round.
    let mut after = Some(JobNo(0));
    for _ in 0..WRITES_MAX {
        let drop = move |tx: &mut Tx| {
            let none = Forgotten { jobs: 0, next: None };
            let logs = after.map(|after| job_log::forget(tx, logs, after, LOGS, LOG_BYTES));
            let logs = logs.unwrap_or(Ok(none))?;
            let rest =
                events::forget(tx, told, ROWS)? + collected::forget(tx, now - REMEMBERED, ROWS)?;
            Ok::<_, DbError>((logs.next, logs.jobs + rest))
        };
        let (next, went) = shared.db.write(drop).await?;
        if went == 0 && next.is_none() {
            break;
        }
        after = next;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
