//! The goal store port: small keys with revisions, watched.
//!
//! A put compares (epoch, generation, step) and refuses lower ones, so a late or
//! repeated writer can do no harm. Revisions grow over all keys; `after` a
//! revision gives every key that was put since. A put is durable and visible when
//! it returns; cancelling one leaves the old or the new document, never a part.
//! Another engine (etcd) is one more variant here and one more file beside.

mod embedded;

use tokio::sync::watch;

use crate::model::goal::GoalVersion;
use crate::store::db::{Db, DbError, goals::GoalRow};
use crate::store::goals::embedded::Embedded;
use crate::wire::seal::Sealed;

/// Why a goal store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GoalError {
    /// The database.
    #[error("goal store: {0}")]
    Db(#[from] DbError),
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is stored, now or already, under this revision.
    Stored(u64),
    /// A newer document stands under the key.
    Stale(GoalVersion),
}

/// A goal store; cheap to clone.
#[derive(Clone)]
pub struct Goals(Engine);

#[derive(Clone)]
enum Engine {
    Embedded(Embedded),
}

impl Goals {
    /// Goals kept in the coordinator's own database.
    #[must_use]
    pub fn embedded(db: Db) -> Self {
        Self(Engine::Embedded(Embedded::new(db)))
    }

    /// Stores `sealed` under `key` unless something at or past `version` is there.
    ///
    /// # Errors
    /// When the store can't be reached; nothing is known then, put it again.
    pub async fn put(
        &self,
        key: &str,
        version: GoalVersion,
        sealed: &Sealed,
    ) -> Result<Put, GoalError> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.put(key, version, sealed).await,
        }
    }

    /// Every key that was put after revision `since`, by revision; 0: all keys.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn after(&self, since: u64) -> Result<Vec<GoalRow>, GoalError> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.after(since).await,
        }
    }

    /// The highest version under any key; zero when there is none.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn newest(&self) -> Result<GoalVersion, GoalError> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.newest().await,
        }
    }

    /// Wakes after puts; ask [`Goals::after`] then.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.watch(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(generation: u64, step: u32) -> GoalVersion {
        GoalVersion { epoch: 1, generation, step }
    }

    fn sealed(text: &str) -> Sealed {
        Sealed { payload: text.into(), signature: "00".into() }
    }

    /// What every engine must do.
    async fn conforms(goals: &Goals) {
        let mut changes = goals.watch();
        assert_eq!(goals.newest().await.unwrap(), GoalVersion::default());
        let Put::Stored(first) = goals.put("a/prod", version(1, 1), &sealed("1")).await.unwrap()
        else {
            panic!("the first put was refused")
        };
        changes.changed().await.unwrap();
        let again = goals.put("a/prod", version(1, 1), &sealed("1")).await.unwrap();
        assert_eq!(again, Put::Stored(first), "a repeated put is no news");
        let other = goals.put("a/prod", version(1, 1), &sealed("x")).await.unwrap();
        assert_eq!(other, Put::Stale(version(1, 1)));
        goals.put("b/prod", version(2, 1), &sealed("2")).await.unwrap();
        let Put::Stored(last) = goals.put("a/prod", version(2, 2), &sealed("3")).await.unwrap()
        else {
            panic!("a newer put was refused")
        };
        assert!(last > first);
        let late = goals.put("a/prod", version(1, 9), &sealed("4")).await.unwrap();
        assert_eq!(late, Put::Stale(version(2, 2)));
        let keys: Vec<String> =
            goals.after(first).await.unwrap().into_iter().map(|row| row.key).collect();
        assert_eq!(keys, ["b/prod", "a/prod"]);
        assert!(goals.after(last).await.unwrap().is_empty());
        assert_eq!(goals.newest().await.unwrap(), version(2, 2));
    }

    #[tokio::test]
    async fn the_embedded_store_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db.sqlite")).unwrap();
        conforms(&Goals::embedded(db)).await;
    }
}
