//! The goal store port: small keys with revisions, watched.
//!
//! A put compares (epoch, generation, step) and refuses lower ones, so a late or
//! repeated writer can do no harm. Revisions grow over all keys; `after` a
//! revision gives every key that was put since. A put is durable and visible when
//! it returns; cancelling one leaves the old or the new document, never a part.
//! Another engine is one more variant here and one more file beside; `tests/goals.rs`
//! says what each must do.

mod embedded;
mod etcd;

use std::path::PathBuf;

use tokio::sync::watch;

use crate::model::goal::GoalVersion;
use crate::store::db::{Db, DbError, goals::GoalRow};
use crate::store::goals::embedded::Embedded;
pub use crate::store::goals::etcd::BadAddress;
use crate::store::goals::etcd::Etcd;
use crate::wire::seal::Sealed;
use crate::wire::v1::goal_store::GoalStore;

/// Why a goal store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GoalError {
    /// The database.
    #[error("goal store: {0}")]
    Db(#[from] DbError),
    /// The store's URL.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A file that the URL names.
    #[error("goal store: {file}: {why}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why it can't be used.
        why: String,
    },
    /// No member answered in time.
    #[error("goal store: etcd at {store} can't be reached: {why}")]
    Unreachable {
        /// Every member.
        store: String,
        /// What the last one said.
        why: String,
    },
    /// A member answered, and will not do it.
    #[error("goal store: etcd at {store} refused: {why}")]
    Refused {
        /// Every member.
        store: String,
        /// Why.
        why: String,
    },
    /// Others put under the same key faster than this could.
    #[error("goal store: {key} is put by others all the time")]
    Contended {
        /// The key.
        key: String,
    },
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
    Etcd(Etcd),
}

impl Goals {
    /// Goals kept in the coordinator's own database.
    #[must_use]
    pub fn embedded(db: Db) -> Self {
        Self(Engine::Embedded(Embedded::new(db)))
    }

    /// Goals in the etcd at `url`, `etcd://HOST:PORT,…/PREFIX?…`. Calls nobody yet.
    ///
    /// # Errors
    /// When the URL, or a file that it names, can't be used.
    pub fn etcd(url: &str) -> Result<Self, GoalError> {
        Etcd::open(url).map(|etcd| Self(Engine::Etcd(etcd)))
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
            Engine::Etcd(etcd) => etcd.put(key, version, sealed).await,
        }
    }

    /// Every key that was put after revision `since`, by revision. All keys when it is 0,
    /// or when the store has not reached it: it was rolled back then.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn after(&self, since: u64) -> Result<Vec<GoalRow>, GoalError> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.after(since).await,
            Engine::Etcd(etcd) => etcd.after(since).await,
        }
    }

    /// The highest version under any key; zero when there is none.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn newest(&self) -> Result<GoalVersion, GoalError> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.newest().await,
            Engine::Etcd(etcd) => etcd.newest().await,
        }
    }

    /// How the engine is: who answers, how far, and what it raised alarm for. Takes two seconds
    /// at most; what stands in the database has no members.
    pub async fn health(&self) -> GoalStore {
        match &self.0 {
            Engine::Embedded(_) => GoalStore::default(),
            Engine::Etcd(etcd) => etcd.health().await,
        }
    }

    /// Wakes after puts, by whoever: a hint, which may be missed and may say nothing new.
    /// Ask [`Goals::after`] then, and now and then without it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Engine::Embedded(embedded) => embedded.watch(),
            Engine::Etcd(etcd) => etcd.watch(),
        }
    }
}
