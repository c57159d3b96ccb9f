//! Goals by way of etcd, beside the feed: from the global store, which coordinators
//! put into, and from and into the region's own, where one is configured.
//!
//! Whatever the way, the mirror takes only what is newer and signed by a trusted
//! key. The region's own store outlives its processes and their disks, and what
//! one process took the others find there. Hosts never ask etcd; they ask the mirror.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::goal::GoalVersion;
use crate::net::backoff::Backoff;
use crate::region::goal_stores::GoalStores;
use crate::region::metrics;
use crate::region::mirror::{Mirror, MirrorError, Placed};
use crate::store::db::goals::{GoalRow, key};
use crate::store::goals::{GoalError, Goals, Put};

/// The poll under the watch.
const EVERY: Duration = Duration::from_secs(5);
/// How often the whole store is read and compared: it may have been rolled back.
const WHOLE_EVERY: Duration = Duration::from_secs(60);
/// Waits after failed rounds, first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Longest reason of a failed round that is reported, characters.
const REASON_CHARS_MAX: usize = 300;

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Store(#[from] GoalError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// Which store is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The coordinators' one: only read.
    Global,
    /// The region's own: what the mirror has is put there too.
    Own,
}

struct Follower {
    which: Store,
    goals: Goals,
    mirror: Arc<Mirror>,
    /// The store's revision up to which it was read.
    since: u64,
    /// What stands in the store, as far as is known.
    standing: HashMap<String, GoalVersion>,
}

/// Follows a store until `stop` turns true. One that is away is tried again; the
/// mirror goes on answering from what it has.
pub async fn follow(
    (which, goals): (Store, Goals),
    mirror: Arc<Mirror>,
    stores: Arc<GoalStores>,
    mut stop: watch::Receiver<bool>,
) {
    let (mut hints, mut changes) = (goals.watch(), mirror.changes());
    let mut follower = Follower { which, goals, mirror, since: 0, standing: HashMap::new() };
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut whole_at = Instant::now();
    loop {
        hints.borrow_and_update();
        changes.borrow_and_update();
        let whole = Instant::now() >= whole_at;
        let pause = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            round = follower.round(whole) => match metered(&stores, which, round) {
                Ok(_) => {
                    if backoff.succeeded() {
                        tracing::info!(?which, "etcd is back");
                    }
                    whole_at = if whole { Instant::now() + WHOLE_EVERY } else { whole_at };
                    None
                }
                Err(error) => {
                    let wait = backoff.failed();
                    tracing::warn!(?which, %error, wait_ms = wait.as_millis() as u64, "etcd failed");
                    whole_at = Instant::now();
                    Some(wait)
                }
            },
        };
        let failed = pause.is_some();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause.unwrap_or(EVERY)) => {}
            Ok(()) = hints.changed(), if !failed => {}
            Ok(()) = changes.changed(), if !failed && which == Store::Own => {}
        }
    }
}

fn metered(
    stores: &GoalStores,
    which: Store,
    round: Result<u64, RoundError>,
) -> Result<u64, RoundError> {
    stores.note(which, round.as_ref().copied().map_err(short));
    let store = if which == Store::Own { "own" } else { "global" };
    metrics::ETCD_UP.with_label_values(&[store]).set(round.is_ok().into());
    round
}

/// A reason as it is reported.
fn short(error: &RoundError) -> String {
    error.to_string().chars().take(REASON_CHARS_MAX).collect()
}

impl Follower {
    /// Takes what is newer there; puts there what is newer here. All keys are looked
    /// at if `whole`, else what changed. Returns how many goals were not taken.
    async fn round(&mut self, whole: bool) -> Result<u64, RoundError> {
        if whole {
            self.since = 0;
        }
        let rows = self.goals.after(self.since).await?;
        if whole {
            self.standing.clear();
        }
        // After a rollback of the store this is lower than before.
        self.since = rows.last().map_or(self.since, |row| row.revision);
        self.take(rows).await?;
        match self.which {
            // Whatever it lacked it has now.
            Store::Own => self.keep().await.map(|()| 0),
            Store::Global => Ok(self.refused()),
        }
    }

    /// Goals that the store has and this region would not take.
    fn refused(&self) -> u64 {
        let here = self.versions();
        let newer = |(key, version): &(&String, &GoalVersion)| {
            here.get(*key).is_none_or(|here| here < version)
        };
        self.standing.iter().filter(newer).count() as u64
    }

    async fn take(&mut self, rows: Vec<GoalRow>) -> Result<(), RoundError> {
        let known = self.versions();
        for row in rows {
            let newer = known.get(&row.key).is_none_or(|known| *known < row.version);
            self.standing.insert(row.key.clone(), row.version);
            if newer && self.mirror.place(row.sealed).await? == Placed::Taken {
                let generation = row.version.generation;
                tracing::info!(which = ?self.which, key = row.key, generation, "goal from etcd");
            }
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), RoundError> {
        for (goal, sealed) in self.mirror.both() {
            let (key, version) = (key(&goal.app, &goal.env), goal.version);
            if self.standing.get(&key).is_some_and(|standing| *standing >= version) {
                continue;
            }
            match self.goals.put(&key, version, &sealed).await? {
                Put::Stored(_) => self.standing.insert(key, version),
                // Another process knows better; the next round reads it.
                Put::Stale(newer) => self.standing.insert(key, newer),
            };
        }
        Ok(())
    }

    /// What the mirror has, by key.
    fn versions(&self) -> HashMap<String, GoalVersion> {
        self.mirror.goals().iter().map(|goal| (key(&goal.app, &goal.env), goal.version)).collect()
    }
}
