//! Goals in etcd, by the JSON gateway that every member serves beside gRPC.
//!
//! A goal is one key, `<prefix>/goals/<app>/<env>`; its revision is the one of its last put.
//! A put is a transaction on that revision, after a comparison of versions, so
//! of two writers one is told what stands. A watch carries no data: whatever ends
//! it, the reader asks [`Etcd::after`] its own revision, which no compaction can break.

mod address;
mod gateway;
mod health;
mod messages;
mod watch;

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use self::address::Address;
pub use self::address::BadAddress;
use self::gateway::Gateway;
use self::messages::{Base64, Int, KeyValue, RangeReply, RangeRequest, TxnReply, TxnRequest};
use crate::model::goal::GoalVersion;
use crate::store::db::goals::GoalRow;
use crate::store::goals::{GoalError, Put};
use crate::wire::seal::Sealed;
use crate::wire::v1::goal_store::GoalStore;

/// Keys of one page: with the largest goals (128 KiB) and base64, 40 MiB.
const PAGE: u64 = 200;
/// Writers that may come between a look and a put before it is given up: one per
/// coordinator and region process is usual, and one of them wins each time.
const CONFLICTS_MAX: u32 = 32;

/// A goal as it stands under its key.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    version: GoalVersion,
    #[serde(flatten)]
    sealed: Sealed,
}

/// The engine; cheap to clone.
#[derive(Clone)]
pub(super) struct Etcd(Arc<Inner>);

struct Inner {
    gateway: Arc<Gateway>,
    /// Begun when somebody first watches.
    watching: OnceLock<(tokio::sync::watch::Receiver<u64>, JoinHandle<()>)>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((_, task)) = self.watching.get() {
            task.abort();
        }
    }
}

impl Etcd {
    /// The engine at an `etcd://` URL; calls nobody yet.
    pub(super) fn open(url: &str) -> Result<Self, GoalError> {
        let gateway = Arc::new(Gateway::new(Address::parse(url)?)?);
        Ok(Self(Arc::new(Inner { gateway, watching: OnceLock::new() })))
    }

    pub(super) async fn put(
        &self,
        key: &str,
        version: GoalVersion,
        sealed: &Sealed,
    ) -> Result<Put, GoalError> {
        let full = format!("{}{key}", self.folder());
        let stored = Stored { version, sealed: sealed.clone() };
        let value = serde_json::to_vec(&stored).expect("plain values are plain JSON");
        let mut standing = self.look(&full).await?;
        for _ in 0..CONFLICTS_MAX {
            let seen = standing.as_ref().map_or(Int(0), |standing| standing.mod_revision);
            // Anything that is no goal may be replaced by one.
            if let Some(row) = standing.as_ref().and_then(|standing| self.row(standing))
                && row.version >= version
            {
                let same = row.version == version && row.sealed == *sealed;
                let stale = Put::Stale(row.version);
                return Ok(if same { Put::Stored(row.revision) } else { stale });
            }
            let request = TxnRequest::put_if(&full, seen, value.clone());
            let reply = self.0.gateway.call::<TxnReply>("/v3/kv/txn", &request).await?;
            let reply = reply.unwrap_or_default();
            if reply.succeeded {
                return Ok(Put::Stored(reply.header.revision.0));
            }
            // A call that arrived twice finds its own first arrival here.
            standing = reply.standing();
        }
        Err(GoalError::Contended { key: key.to_owned() })
    }

    pub(super) async fn after(&self, since: u64) -> Result<Vec<GoalRow>, GoalError> {
        loop {
            if let Some((newest, rows)) = self.list(since).await? {
                // A store that was rolled back has not reached `since`: it tells everything.
                if newest >= since {
                    return Ok(rows);
                }
                if let Some((_, all)) = self.list(0).await? {
                    return Ok(all);
                }
            }
            // Compacted between two pages: the newest revision can be listed always.
        }
    }

    pub(super) async fn newest(&self) -> Result<GoalVersion, GoalError> {
        let rows = self.after(0).await?;
        Ok(rows.into_iter().map(|row| row.version).max().unwrap_or_default())
    }

    pub(super) async fn health(&self) -> GoalStore {
        health::of(&self.0.gateway).await
    }

    pub(super) fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        let (receiver, _) = self.0.watching.get_or_init(|| {
            let (sender, receiver) = tokio::sync::watch::channel(0);
            let task = watch::run(self.0.gateway.clone(), self.folder(), sender);
            (receiver, tokio::spawn(task))
        });
        receiver.clone()
    }

    /// What every key of a goal begins with.
    fn folder(&self) -> String {
        format!("{}/goals/", self.0.gateway.prefix())
    }

    async fn look(&self, full: &str) -> Result<Option<KeyValue>, GoalError> {
        let request = RangeRequest { key: full.into(), ..RangeRequest::default() };
        let reply = self.0.gateway.call::<RangeReply>("/v3/kv/range", &request).await?;
        Ok(reply.unwrap_or_default().kvs.into_iter().next())
    }

    /// All goals put after `since`, by revision, as of one revision, and that;
    /// `None`: it was compacted meanwhile.
    async fn list(&self, since: u64) -> Result<Option<(u64, Vec<GoalRow>)>, GoalError> {
        let folder = self.folder();
        let mut request = RangeRequest {
            key: Base64::from(folder.as_str()),
            range_end: Some(end_of(&folder)),
            limit: Int(PAGE),
            revision: Int(0),
            min_mod_revision: Int(if since == 0 { 0 } else { since + 1 }),
        };
        let mut rows = Vec::new();
        loop {
            let reply = self.0.gateway.call::<RangeReply>("/v3/kv/range", &request).await?;
            let Some(reply) = reply else { return Ok(None) };
            if request.revision == Int(0) {
                request.revision = reply.header.revision;
            }
            rows.extend(reply.kvs.iter().filter_map(|kv| self.row(kv)));
            let Some(last) = reply.kvs.last().filter(|_| reply.more) else { break };
            request.key = last.key.clone();
            request.key.0.push(0);
        }
        rows.sort_by_key(|row| row.revision);
        Ok(Some((request.revision.0, rows)))
    }

    /// A key as a goal; one that holds none is left alone.
    fn row(&self, kv: &KeyValue) -> Option<GoalRow> {
        let full = std::str::from_utf8(&kv.key.0).ok()?;
        let key = full.strip_prefix(&self.folder())?.to_owned();
        match serde_json::from_slice::<Stored>(&kv.value.0) {
            Ok(Stored { version, sealed }) => {
                Some(GoalRow { key, version, sealed, revision: kv.mod_revision.0 })
            }
            Err(error) => {
                tracing::warn!(key = full, %error, "a key in etcd holds no goal");
                None
            }
        }
    }
}

/// The end of the range of keys that begin with `folder`, which ends with a slash.
fn end_of(folder: &str) -> Base64 {
    let mut end = folder.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Base64(end)
}
