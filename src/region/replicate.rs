//! Keeps the regional store holding what the coordinator wants: which artifact
//! next, which try when, what to delete, what to say upward.
//!
//! Artifacts that a goal names come first, then the oldest. A failed pull is tried
//! again for ever with growing waits, and its reason is reported. Deleting goes
//! manifest first, and never touches what a mirrored goal names. Of several processes
//! each looks after the artifacts that belong to it; the store is the same.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::model::digest::ArtifactId;
use crate::net::backoff::Backoff;
use crate::net::trace::TARGET;
use crate::region::landing::Landings;
use crate::region::metrics;
use crate::region::mirror::Mirror;
use crate::region::processes::Processes;
use crate::region::pull::{self, PullError, Pulled, READS, Source};
use crate::region::staging;
use crate::store::blobs::{BlobError, Blobs, Key, Kind};
use crate::wire::v1::region::ReplicaReport;

/// Artifacts pulled at once; small ones do not wait for a large one.
const PULLS: usize = 3;
/// Waits between failed tries of one artifact, first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often it is looked whether another process deleted what was dropped.
const LEFT_EVERY: Duration = Duration::from_secs(30);
/// Most replicas of one report upward.
const REPORTED_MAX: usize = 2_000;
/// An order to heal that comes this soon after a pull ended was decided on older news:
/// the synchronizer looks at lost copies again each 2 s.
const HEALED_LATELY: Duration = Duration::from_secs(5);

/// What is known of one artifact's copy here.
struct Replica {
    bytes: u64,
    complete: bool,
    error: String,
    pulling: bool,
    retry_at: Option<Instant>,
    /// Whether it is pulled because it was lost, and when that was last done.
    healing: bool,
    healed_at: Option<Instant>,
    backoff: Backoff,
}

impl Replica {
    fn new() -> Self {
        Self {
            bytes: 0,
            complete: false,
            error: String::new(),
            pulling: false,
            retry_at: None,
            healing: false,
            healed_at: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        }
    }
}

#[derive(Default)]
struct Book {
    replicas: HashMap<ArtifactId, Replica>,
    unsent: BTreeSet<ArtifactId>,
}

/// The replicator; shared with the reporter.
pub struct Replicator {
    source: Source,
    book: Mutex<Book>,
    /// The regional store was seen not to be the main one.
    apart: OnceCell<()>,
    wake: Notify,
    news: Arc<Notify>,
}

fn not_swept(error: &BlobError) {
    tracing::warn!(%error, "unfinished uploads of a killed region not swept");
}

/// Where a replicator reads and writes.
pub struct Places {
    /// The main store.
    pub main: Blobs,
    /// The regional store.
    pub local: Blobs,
    /// Where packs are staged; best on the regional store's file system.
    pub staging: PathBuf,
    /// Connections to other regions.
    pub http: reqwest::Client,
    /// Where what is being pulled is shown.
    pub landings: Arc<Landings>,
    /// The processes over the regional store.
    pub processes: Arc<Processes>,
}

impl Replicator {
    /// A replicator that tells `news` when there is something to report.
    #[must_use]
    pub fn new(places: Places, mirror: Arc<Mirror>, news: Arc<Notify>) -> Self {
        let Places { main, local, staging, http, landings, processes } = places;
        let reads = Semaphore::new(READS);
        let source = Source { main, local, staging, mirror, http, landings, reads, processes };
        let apart = OnceCell::new();
        Self { source, book: Mutex::default(), apart, wake: Notify::new(), news }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replicates until `stop` turns true. One caller.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.source.mirror.changes();
        let mut processes = self.source.processes.changes();
        let mut pulls = JoinSet::new();
        self.tidy_staging();
        let local = self.source.local.clone();
        tokio::spawn(async move { local.sweep().await.inspect_err(not_swept) });
        loop {
            changes.borrow_and_update();
            processes.borrow_and_update();
            self.leave_others();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.take_inventory() => {}
            }
            let left = self.drop_gone().await;
            let retry_at = self.start_pulls(&mut pulls);
            let look_at = (left > 0).then(|| Instant::now() + LEFT_EVERY);
            let retry_at = retry_at.into_iter().chain(look_at).min();
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                Some(ended) = pulls.join_next() => match ended {
                    Ok((artifact, outcome)) => self.end(artifact, outcome),
                    Err(error) => tracing::error!(%error, "pull ended unexpectedly"),
                },
                _ = changes.changed() => {}
                _ = processes.changed() => {}
                () = self.wake.notified() => {}
                () = retry => {}
            }
        }
    }

    /// Removes what was staged of artifacts that were dropped while nobody ran.
    fn tidy_staging(&self) {
        for artifact in staging::list(&self.source.staging) {
            if !self.source.mirror.wants(&artifact) {
                staging::discard(&self.source.staging, &artifact);
            }
        }
    }

    /// Leaves what is another process's by now out of the book; whoever has it looks anew.
    fn leave_others(&self) {
        let mut book = self.book();
        let Book { replicas, unsent } = &mut *book;
        let owns = |artifact: &ArtifactId| self.source.processes.owns(artifact);
        replicas.retain(|artifact, replica| replica.pulling || owns(artifact));
        unsent.retain(|artifact| replicas.contains_key(artifact));
    }

    /// Looks into the regional store for wanted artifacts that are not in the book.
    async fn take_inventory(&self) {
        let unknown: Vec<ArtifactId> = {
            let book = self.book();
            let mine = |artifact: &ArtifactId| self.source.processes.owns(artifact);
            let wanted = self.source.mirror.wanted().into_iter();
            wanted.filter(|artifact| !book.replicas.contains_key(artifact)).filter(mine).collect()
        };
        let looks = unknown
            .into_iter()
            .map(|artifact| async move { (artifact, pull::held(&self.source, artifact).await) });
        let mut looks = futures_util::stream::iter(looks).buffer_unordered(READS);
        while let Some((artifact, held)) = looks.next().await {
            let mut book = self.book();
            let (bytes, complete) = (held.unwrap_or(0), held.is_some());
            book.replicas.insert(artifact, Replica { bytes, complete, ..Replica::new() });
            book.unsent.insert(artifact);
            self.news.notify_one();
        }
    }

    /// Starts pulls that are due; returns when the next one will be.
    fn start_pulls(
        self: &Arc<Self>,
        pulls: &mut JoinSet<(ArtifactId, Result<Pulled, PullError>)>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        let mut book = self.book();
        let mirror = &self.source.mirror;
        for artifact in mirror.wanted() {
            let Some(replica) = book.replicas.get_mut(&artifact) else { continue };
            if replica.complete || replica.pulling {
                continue;
            }
            match replica.retry_at.filter(|at| *at > now) {
                Some(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                // Patches leave one way free: a build that comes next does not wait for them.
                None if pulls.len() + usize::from(mirror.is_patch(&artifact)) < PULLS => {
                    replica.pulling = true;
                    let this = self.clone();
                    let span = tracing::info_span!(target: TARGET, "replicate", %artifact);
                    let pulling = async move {
                        let progress = |bytes| this.progress(artifact, bytes);
                        (artifact, pull::pull(&this.source, artifact, &progress).await)
                    };
                    pulls.spawn(pulling.instrument(span));
                }
                None => {}
            }
        }
        next
    }

    fn progress(&self, artifact: ArtifactId, bytes: u64) {
        let mut book = self.book();
        if let Some(replica) = book.replicas.get_mut(&artifact) {
            replica.bytes = bytes;
            book.unsent.insert(artifact);
            self.news.notify_one();
        }
    }

    fn end(&self, artifact: ArtifactId, outcome: Result<Pulled, PullError>) {
        let mut book = self.book();
        let Some(replica) = book.replicas.get_mut(&artifact) else { return };
        replica.pulling = false;
        if !self.source.processes.owns(&artifact) {
            tracing::info!(%artifact, "another process of the region has this artifact now");
            book.replicas.remove(&artifact);
            book.unsent.remove(&artifact);
            return;
        }
        match outcome {
            Ok(Pulled { main_bytes, sibling_bytes, reused_bytes }) => {
                let pulled_bytes = main_bytes + sibling_bytes;
                let read =
                    [("main", main_bytes), ("sibling", sibling_bytes), ("reused", reused_bytes)];
                for (source, bytes) in read {
                    metrics::REPLICATED.with_label_values(&[source]).inc_by(bytes);
                }
                tracing::info!(%artifact, pulled_bytes, reused_bytes, sibling_bytes, "artifact replicated");
                replica.bytes = pulled_bytes + reused_bytes;
                (replica.complete, replica.error) = (true, String::new());
                replica.retry_at = None;
                replica.backoff.succeeded();
                if std::mem::take(&mut replica.healing) {
                    replica.healed_at = Some(Instant::now());
                }
            }
            Err(error) => {
                let wait = replica.backoff.failed();
                metrics::PULL_FAILURES.with_label_values::<&str>(&[]).inc();
                tracing::warn!(%artifact, %error, wait_ms = wait.as_millis() as u64, "pull failed");
                replica.error = error.to_string();
                replica.retry_at = Some(Instant::now() + wait);
            }
        }
        book.unsent.insert(artifact);
        self.news.notify_one();
    }

    /// Takes a copy for lost that the synchronizer found missing or damaged: it is
    /// checked piece by piece and published again.
    pub fn heal(&self, artifact: ArtifactId) {
        let mut book = self.book();
        let now = Instant::now();
        let lately = |at: Instant| now.duration_since(at) < HEALED_LATELY;
        let Some(replica) = book.replicas.get_mut(&artifact) else { return };
        if !replica.complete || replica.healed_at.is_some_and(lately) {
            return;
        }
        tracing::warn!(%artifact, "copy was found missing or damaged, healing");
        (replica.complete, replica.bytes) = (false, 0);
        (replica.retry_at, replica.healing) = (None, true);
        book.unsent.insert(artifact);
        self.wake.notify_one();
    }

    /// What changed since the last report that was answered.
    #[must_use]
    pub fn changed(&self) -> Vec<ReplicaReport> {
        let book = self.book();
        let rows = book.unsent.iter().filter_map(|artifact| {
            let replica = book.replicas.get(artifact)?;
            let Replica { bytes, complete, error, .. } = replica;
            let (artifact, bytes, complete) = (*artifact, *bytes, *complete);
            Some(ReplicaReport { artifact, bytes, complete, error: error.clone() })
        });
        rows.take(REPORTED_MAX).collect()
    }

    /// Takes `sent` for known upward, unless it changed since.
    pub fn answered(&self, sent: &[ReplicaReport]) {
        let mut book = self.book();
        for report in sent {
            let same = book.replicas.get(&report.artifact).is_none_or(|replica| {
                (replica.bytes, replica.complete, replica.error.as_str())
                    == (report.bytes, report.complete, report.error.as_str())
            });
            if same {
                book.unsent.remove(&report.artifact);
            }
        }
    }

    /// Deletes what the coordinator dropped and no goal names; says how much is left, which
    /// other processes delete.
    async fn drop_gone(&self) -> usize {
        let mut left = 0;
        for artifact in self.source.mirror.droppable() {
            if self.book().replicas.get(&artifact).is_some_and(|replica| replica.pulling) {
                continue;
            }
            match self.delete(artifact).await {
                Ok(false) => left += 1,
                Ok(true) => {
                    tracing::info!(%artifact, "dropped artifact deleted");
                    let mut book = self.book();
                    book.replicas.remove(&artifact);
                    book.unsent.remove(&artifact);
                }
                Err(error) => tracing::warn!(%artifact, %error, "dropped artifact not deleted"),
            }
        }
        left
    }

    /// Says whether the artifact is gone by now.
    async fn delete(&self, artifact: ArtifactId) -> Result<bool, BlobError> {
        staging::discard(&self.source.staging, &artifact);
        // Whoever replicates a store deletes there, too.
        let by_store = self.source.mirror.is_replicated_by_store();
        if !by_store && !self.source.processes.owns(&artifact) {
            let pack = self.source.local.head(Key::new(Kind::Pack, artifact)).await?;
            if pack.is_some() {
                return Ok(false);
            }
        } else if !by_store {
            // The main store may have had no owner yet when the region started.
            let Source { main, local, mirror, .. } = &self.source;
            let region = mirror.region().as_str();
            self.apart.get_or_try_init(|| local.check_apart(main, region)).await?;
            for kind in [Kind::Manifest, Kind::Signature, Kind::Pack] {
                self.source.local.delete(Key::new(kind, artifact)).await?;
            }
        }
        if let Err(error) = self.source.mirror.forget(&artifact) {
            tracing::warn!(%artifact, %error, "dropped artifact not forgotten");
        }
        Ok(true)
    }
}
