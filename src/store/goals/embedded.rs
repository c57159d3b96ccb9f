//! Goals in the coordinator's own database; the revision is the feed's.

use tokio::sync::watch;

use crate::model::goal::GoalVersion;
use crate::store::db::goals::{self, GoalRow};
use crate::store::db::{Db, Topic, Tx, feed};
use crate::store::goals::{GoalError, Put};
use crate::wire::seal::Sealed;

/// The embedded engine.
#[derive(Clone)]
pub(super) struct Embedded {
    db: Db,
}

impl Embedded {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }

    pub(super) async fn put(
        &self,
        key: &str,
        version: GoalVersion,
        sealed: &Sealed,
    ) -> Result<Put, GoalError> {
        let (key, sealed) = (key.to_owned(), sealed.clone());
        let put = self.db.write(move |tx| goals::put(tx, &key, version, &sealed)).await?;
        Ok(put.map_or_else(Put::Stale, Put::Stored))
    }

    pub(super) async fn after(&self, since: u64) -> Result<Vec<GoalRow>, GoalError> {
        let read = move |tx: &Tx| {
            let reached = feed::revision(tx)? >= since;
            goals::after(tx, if reached { since } else { 0 })
        };
        Ok(self.db.read(read).await?)
    }

    pub(super) async fn newest(&self) -> Result<GoalVersion, GoalError> {
        Ok(self.db.read(goals::newest).await?)
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.db.watch(Topic::Feed)
    }
}
