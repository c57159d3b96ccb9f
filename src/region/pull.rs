//! Brings one artifact into the regional store: from other regions that have it or
//! are getting it, and from the main store.
//!
//! Manifest and signature are checked before anything; every piece by its wire
//! digest before it counts, wherever it came from. Sound pieces that are here already
//! (staged by an earlier try, or in a damaged regional pack) are not pulled again.
//! Whom to ask in which order is `rules::fanout`'s; a parent that is gone, gives
//! nothing for long, or gives a wrong piece is left for the next one, the main store
//! last. Published in this order: pack, signature, manifest; then the manifest is
//! read back.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::model::digest::{ArtifactId, Digest};
use crate::model::id::RegionName;
use crate::model::manifest::{InvalidManifest, Manifest};
use crate::model::pieces::PieceSet;
use crate::net::client::CallError;
use crate::net::coding;
use crate::region::landing::{Landing, Landings, Shown};
use crate::region::library::Held;
use crate::region::mirror::Mirror;
use crate::region::parent::{Parent, parents};
use crate::region::processes::Processes;
use crate::region::staging::{self, Staging};
use crate::store::blobs::{BlobError, Blobs, Key, Kind};
use crate::wire::seal::{self, NotTrusted};

/// Neighbouring pieces of one read: one range request, at most 32 MiB.
const PIECES_PER_READ: u32 = 4;
/// Reads in flight, over all artifacts: bounds their memory to 128 MiB.
pub const READS: usize = 4;
/// How long a parent may bring nothing new before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(15);
/// Shortest time between two questions that brought nothing, should a parent not wait.
const PACE: Duration = Duration::from_millis(50);

/// Why an artifact is not here yet.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The coordinator never told whose signatures count.
    #[error("no trusted keys yet")]
    NoTrust,
    /// The main store failed.
    #[error("main store: {0}")]
    Main(#[source] BlobError),
    /// The regional store failed.
    #[error("regional store: {0}")]
    Local(#[source] BlobError),
    /// Another region did not answer well.
    #[error("region {0}: {1}")]
    Parent(RegionName, #[source] CallError),
    /// Another region brought nothing new for long.
    #[error("region {0} brings nothing new")]
    Slow(RegionName),
    /// Another region gave bytes that are not the manifest's.
    #[error("region {0} serves a damaged piece")]
    Wrong(RegionName),
    /// The bytes under the manifest's key have another digest.
    #[error("the manifest's bytes are not those of its digest")]
    Identity,
    /// The manifest breaks a rule.
    #[error("the manifest: {0}")]
    Manifest(#[from] InvalidManifest),
    /// No trusted key signed it.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    /// Pieces in the main store have other bytes than the manifest says.
    #[error("main store: {count} damaged or missing pieces, the first is {first}")]
    Damaged {
        /// How many.
        count: usize,
        /// The lowest index.
        first: usize,
    },
    /// The staging folder failed: disk full, permission, I/O error.
    #[error("staging: {0}")]
    Staging(#[from] std::io::Error),
    /// What was just published does not read back.
    #[error("regional store: the {0} does not read back as it was written")]
    ReadBack(&'static str),
    /// The store replicates itself, and did not get to it yet.
    #[error("the store has not replicated it yet")]
    NotReplicated,
    /// It was dropped meanwhile, or is another process's now.
    #[error("not wanted any more")]
    Unwanted,
}

/// Told the verified bytes so far.
pub type Progress<'a> = dyn Fn(u64) + Send + Sync + 'a;

/// What pulls need.
pub struct Source {
    /// The main store.
    pub main: Blobs,
    /// The regional store.
    pub local: Blobs,
    /// Where packs are staged.
    pub staging: PathBuf,
    /// Trust, siblings, and what is wanted.
    pub mirror: Arc<Mirror>,
    /// Connections to other regions.
    pub http: reqwest::Client,
    /// Where a pull shows what has landed.
    pub landings: Arc<Landings>,
    /// Bounds reads in flight.
    pub reads: Semaphore,
    /// Whose an artifact's pull is.
    pub processes: Arc<Processes>,
}

impl Source {
    /// Whether `artifact` must be held, and is this process's to pull.
    #[must_use]
    pub fn wants(&self, artifact: &ArtifactId) -> bool {
        self.mirror.wants(artifact) && self.processes.owns(artifact)
    }
}

/// Where a pulled artifact's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// From the main store in this try.
    pub main_bytes: u64,
    /// From other regions in this try.
    pub sibling_bytes: u64,
    /// Sound ones that were here already.
    pub reused_bytes: u64,
}

/// Where pieces are read from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// A store, and the length of the pack there.
    Store(&'a Blobs, u64, fn(BlobError) -> PullError),
    Parent(&'a Parent),
}

/// The pack's bytes when the regional store holds `artifact`: manifest and signature sound,
/// pack of the right length. Its pieces are the synchronizer's to sample.
pub async fn held(source: &Source, artifact: ArtifactId) -> Option<u64> {
    let held = manifest_in(&source.local, source, artifact).await.ok()?;
    let length = source.local.head(Key::new(Kind::Pack, artifact)).await.ok()?;
    length.filter(|bytes| *bytes == held.manifest.wire_size())
}

/// Pulls and publishes `artifact`, or looks whether its store did; `progress` is told the verified bytes so far.
///
/// # Errors
/// [`PullError`]; what was verified stays staged for the next try.
pub async fn pull(
    source: &Source,
    artifact: ArtifactId,
    progress: &Progress<'_>,
) -> Result<Pulled, PullError> {
    if source.mirror.is_replicated_by_store() {
        let reused_bytes = held(source, artifact).await.ok_or(PullError::NotReplicated)?;
        return Ok(Pulled { main_bytes: 0, sibling_bytes: 0, reused_bytes });
    }
    let parents = parents(&source.mirror, &artifact, &source.http);
    let held = find_manifest(source, artifact, &parents).await?;
    let pull = Pull::begin(source, artifact, held, progress).await?;
    progress(pull.bytes());
    // A regional pack that is not there or can't be read is no loss: others have it all.
    let _ = pull.take_from_store(&source.local, PullError::Local).await;
    let reused_bytes = pull.bytes();
    for parent in &parents {
        if let Err(error) = pull.follow(parent).await {
            if matches!(error, PullError::Unwanted | PullError::Staging(_)) {
                return Err(error);
            }
            tracing::warn!(%artifact, %error, "parent left");
        }
    }
    let sibling_bytes = pull.bytes() - reused_bytes;
    pull.take_from_store(&source.main, PullError::Main).await?;
    let missing = pull.missing();
    if let Some(first) = missing.iter().next() {
        return Err(PullError::Damaged { count: missing.count() as usize, first: first as usize });
    }
    pull.publish().await?;
    let main_bytes = pull.bytes() - reused_bytes - sibling_bytes;
    Ok(Pulled { main_bytes, sibling_bytes, reused_bytes })
}

/// The checked manifest, from the nearest place that has it.
async fn find_manifest(
    source: &Source,
    artifact: ArtifactId,
    parents: &[Parent],
) -> Result<Held, PullError> {
    if let Ok(held) = manifest_in(&source.local, source, artifact).await {
        return Ok(held);
    }
    for parent in parents {
        match manifest_of(parent, source, artifact).await {
            Ok(held) => return Ok(held),
            Err(PullError::Unwanted) => return Err(PullError::Unwanted),
            Err(error) => tracing::warn!(%artifact, %error, "no manifest from this parent"),
        }
    }
    manifest_in(&source.main, source, artifact).await
}

/// Reads manifest and signature from one store and checks both.
async fn manifest_in(
    store: &Blobs,
    source: &Source,
    artifact: ArtifactId,
) -> Result<Held, PullError> {
    let read = async |kind| store.get(Key::new(kind, artifact)).await.map_err(PullError::Main);
    let (bytes, signature) = (read(Kind::Manifest).await?, read(Kind::Signature).await?);
    check(source, artifact, bytes, signature).await
}

/// Waits for a parent's manifest and checks it.
async fn manifest_of(
    parent: &Parent,
    source: &Source,
    artifact: ArtifactId,
) -> Result<Held, PullError> {
    let failed = |error| PullError::Parent(parent.region.clone(), error);
    let until = Instant::now() + PATIENCE;
    while !parent.pieces(artifact, u32::MAX).await.map_err(failed)?.known {
        if !source.wants(&artifact) {
            return Err(PullError::Unwanted);
        }
        if Instant::now() > until {
            return Err(PullError::Slow(parent.region.clone()));
        }
        tokio::time::sleep(PACE).await;
    }
    let (bytes, signature) = parent.manifest(artifact).await.map_err(failed)?;
    check(source, artifact, bytes, signature).await
}

async fn check(
    source: &Source,
    artifact: ArtifactId,
    bytes: Bytes,
    signature: Bytes,
) -> Result<Held, PullError> {
    let trust = source.mirror.trust().ok_or(PullError::NoTrust)?;
    blocking(move || {
        if Digest::of(&bytes) != artifact {
            return Err(PullError::Identity);
        }
        let signature = std::str::from_utf8(&signature).unwrap_or_default().trim_end().to_owned();
        seal::verify_manifest(&trust.build_keys, &artifact, &signature)?;
        let manifest = Arc::new(Manifest::decode(&bytes)?);
        // Packed when it is shown.
        Ok(Held { bytes, packed: Bytes::new(), signature, manifest })
    })
    .await
}

struct Pull<'a> {
    source: &'a Source,
    artifact: ArtifactId,
    landing: Arc<Landing>,
    verified: AtomicU64,
    progress: &'a Progress<'a>,
    _shown: Shown,
}

impl<'a> Pull<'a> {
    async fn begin(
        source: &'a Source,
        artifact: ArtifactId,
        held: Held,
        progress: &'a Progress<'a>,
    ) -> Result<Self, PullError> {
        let folder = source.staging.clone();
        let landing = blocking(move || {
            let packed = coding::pack(&held.bytes).unwrap_or_default().into();
            let held = Held { packed, ..held };
            let offsets = held.manifest.wire_offsets();
            let staging = Staging::open(&folder, &artifact, &held.manifest)?;
            let landed = staging.resume(&held.manifest, &offsets)?;
            Ok(Arc::new(Landing::new(held, offsets, staging, landed)))
        })
        .await?;
        let _shown = source.landings.show(artifact, landing.clone());
        let pull = Self { source, artifact, landing, verified: 0.into(), progress, _shown };
        let staged =
            pull.landing.landed().borrow().iter().map(|piece| pull.wire_bytes(piece)).sum();
        pull.verified.store(staged, Ordering::Relaxed);
        Ok(pull)
    }

    /// Verified bytes so far.
    fn bytes(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    fn wire_bytes(&self, piece: u32) -> u64 {
        u64::from(self.landing.held.manifest.pieces[piece as usize].wire_bytes)
    }

    fn missing(&self) -> PieceSet {
        let all = PieceSet::full(self.landing.held.manifest.pieces.len() as u32);
        all.minus(&self.landing.landed().borrow())
    }

    /// Reads every missing piece from a store; damaged ones stay missing.
    async fn take_from_store(
        &self,
        store: &Blobs,
        fail: fn(BlobError) -> PullError,
    ) -> Result<(), PullError> {
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let key = Key::new(Kind::Pack, self.artifact);
        let length = store.head(key).await.map_err(fail)?;
        let length = length.ok_or(BlobError::NotFound(key)).map_err(fail)?;
        self.take(Origin::Store(store, length, fail), missing).await
    }

    /// Reads missing pieces from another region as they land there.
    async fn follow(&self, parent: &Parent) -> Result<(), PullError> {
        let failed = |error| PullError::Parent(parent.region.clone(), error);
        let (mut since, mut news_at) = (0, Instant::now());
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if !self.source.wants(&self.artifact) {
                return Err(PullError::Unwanted);
            }
            let offered = parent.pieces(self.artifact, since).await.map_err(failed)?.have;
            since = offered.count();
            let ready = missing.and(&offered);
            if ready.is_empty() {
                if news_at.elapsed() > PATIENCE {
                    return Err(PullError::Slow(parent.region.clone()));
                }
                tokio::time::sleep(PACE).await;
                continue;
            }
            self.take(Origin::Parent(parent), ready.clone()).await?;
            if !self.missing().and(&ready).is_empty() {
                return Err(PullError::Wrong(parent.region.clone()));
            }
            news_at = Instant::now();
        }
    }

    /// Reads `todo` from one place; damaged pieces stay missing.
    async fn take(&self, from: Origin<'_>, mut todo: PieceSet) -> Result<(), PullError> {
        let failed = AtomicBool::new(false);
        // What somebody waits for is chosen when a read begins, not before.
        let runs = std::iter::from_fn(|| {
            // After a failure what is under way ends, and nothing new begins.
            let go_on = !failed.load(Ordering::Relaxed);
            go_on.then(|| self.landing.next_run(&mut todo, PIECES_PER_READ)).flatten()
        });
        let reads = futures_util::stream::iter(runs)
            .map(|run| async {
                let read = self.read(from, run).await;
                failed.fetch_or(read.is_err(), Ordering::Relaxed);
                let sound = read?;
                let bytes = sound.iter().map(|piece| self.wire_bytes(*piece)).sum();
                self.landing.land(sound);
                (self.progress)(self.verified.fetch_add(bytes, Ordering::Relaxed) + bytes);
                Ok(())
            })
            .buffer_unordered(READS);
        let ended: Vec<Result<(), PullError>> = reads.collect().await;
        ended.into_iter().collect()
    }

    /// Reads a run of pieces and stages those that are sound.
    async fn read(&self, from: Origin<'_>, run: Range<u32>) -> Result<Vec<u32>, PullError> {
        let _permit = self.source.reads.acquire().await.expect("the semaphore is never closed");
        if !self.source.wants(&self.artifact) {
            return Err(PullError::Unwanted);
        }
        let offsets = &self.landing.offsets;
        let range = offsets[run.start as usize]..offsets[run.end as usize];
        let bytes = match from {
            Origin::Store(store, length, fail) => {
                let range = range.start..range.end.min(length);
                if range.is_empty() {
                    return Ok(vec![]);
                }
                let key = Key::new(Kind::Pack, self.artifact);
                store.get_range(key, range).await.map_err(fail)?
            }
            Origin::Parent(parent) => {
                let failed = |error| PullError::Parent(parent.region.clone(), error);
                parent.range(self.artifact, range).await.map_err(failed)?
            }
        };
        let landing = self.landing.clone();
        blocking(move || stage(&landing, run, &bytes)).await
    }

    async fn publish(&self) -> Result<(), PullError> {
        if !self.source.wants(&self.artifact) {
            return Err(PullError::Unwanted);
        }
        let (local, key) = (&self.source.local, |kind| Key::new(kind, self.artifact));
        let Held { bytes, signature, manifest, .. } = &self.landing.held;
        let pack = local.put_file(key(Kind::Pack), self.landing.staging.path()).await;
        pack.map_err(PullError::Local)?;
        let signature = Bytes::from(format!("{signature}\n"));
        local.put(key(Kind::Signature), signature).await.map_err(PullError::Local)?;
        local.commit(key(Kind::Manifest), bytes.clone()).await.map_err(PullError::Local)?;
        let length = local.head(key(Kind::Pack)).await.map_err(PullError::Local)?;
        if length != Some(manifest.wire_size()) {
            return Err(PullError::ReadBack("pack"));
        }
        let manifest = local.get(key(Kind::Manifest)).await.map_err(PullError::Local)?;
        if Digest::of(&manifest) != self.artifact {
            return Err(PullError::ReadBack("manifest"));
        }
        staging::discard(&self.source.staging, &self.artifact);
        Ok(())
    }
}

/// Stages the pieces of `run` that `bytes` hold soundly; says which. Blocks.
fn stage(landing: &Landing, run: Range<u32>, bytes: &Bytes) -> Result<Vec<u32>, PullError> {
    let mut sound = vec![];
    let first = landing.offsets[run.start as usize];
    for index in run {
        let piece = &landing.held.manifest.pieces[index as usize];
        let at = landing.offsets[index as usize];
        let start = (at - first) as usize;
        let Some(wire) = bytes.get(start..start + piece.wire_bytes as usize) else { continue };
        if landing.staging.write(index as usize, piece, at, wire)? {
            sound.push(index);
        }
    }
    Ok(sound)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| PullError::Staging(std::io::Error::other(e)))?
}
