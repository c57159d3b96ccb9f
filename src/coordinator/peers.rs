//! Coordinators that share one database: each says now and then that it works, and
//! follows what the others change that it holds in memory.
//!
//! Every write is guarded by itself. The list tells a coordinator that starts whether workers
//! could beat until now, whether one is there that is too old for something, and people who is there.

use std::time::Duration;

use crate::coordinator::features;
use crate::coordinator::state::{Coordinator, Shared};
use crate::model::time::UnixMillis;
use crate::net::auth::random_key;
use crate::store::db::coordinators::{self, CoordinatorRow};
use crate::store::db::{Db, DbError, Topic, Tx};

/// How often a coordinator says that it works, at most; more often when workers beat so.
const BEAT_MAX: Duration = Duration::from_secs(5);
/// Beats after which a silent coordinator counts as gone.
const MISSED: u32 = 3;
/// How long one that is gone is remembered.
const KEPT: Duration = Duration::from_secs(3600);
/// The poll under the news that tokens changed.
const POLL: Duration = Duration::from_secs(5);

/// This start of this process, as others see it.
pub(super) fn own(now: UnixMillis, url: &str) -> CoordinatorRow {
    CoordinatorRow {
        id: crate::model::digest::to_hex(&random_key()[..8]),
        version: env!("CARGO_PKG_VERSION").into(),
        url: url.into(),
        started_at: now,
        seen_at: now,
    }
}

fn every(shared: &Coordinator) -> Duration {
    shared.timing().beat.min(BEAT_MAX)
}

/// Whoever spoke since then works.
pub(super) fn live_since(shared: &Coordinator) -> UnixMillis {
    shared.steady_now() - every(shared) * MISSED
}

/// Whether another coordinator worked until now, so that workers could beat.
///
/// # Errors
/// When the database fails.
pub(super) async fn worked_until_now(shared: &Coordinator) -> Result<bool, DbError> {
    let since = live_since(shared);
    Ok(!shared.db.read(move |tx| coordinators::list(tx, since)).await?.is_empty())
}

/// Says that this coordinator works, until it stops.
pub(super) async fn beat(shared: Shared, own: CoordinatorRow) {
    let (every, mut stop) = (every(&shared), shared.stop.clone());
    loop {
        let row = CoordinatorRow { seen_at: shared.steady_now(), ..own.clone() };
        let said = shared
            .db
            .write(move |tx: &mut Tx| coordinators::seen(tx, &row, &features::own()))
            .await;
        if let Err(error) = said {
            tracing::warn!(%error, "other coordinators don't know that this one works");
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    let (id, before) = (own.id, shared.steady_now() - KEPT);
    let _ = shared.db.write(move |tx: &mut Tx| coordinators::gone(tx, &id, before)).await;
}

/// Reads the tokens anew when another coordinator changed them, until the stop.
pub(super) async fn follow_tokens(shared: Shared) {
    let (mut changes, mut stop) = (shared.db.watch(Topic::Tokens), shared.stop.clone());
    loop {
        changes.borrow_and_update();
        if let Err(error) = shared.reload_keyring().await {
            tracing::error!(%error, "the tokens could not be read anew");
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(POLL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// The time that everything is judged by: the database's where it is shared.
pub(super) fn now(db: &Db) -> UnixMillis {
    db.shared_now().unwrap_or_else(crate::host::clock::now)
}
