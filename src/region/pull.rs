//! Brings one artifact from the main store into the regional store.
//!
//! Manifest and signature are checked before anything; every piece by its wire
//! digest before it counts. Sound pieces that are here already (staged by an
//! earlier try, or in a damaged regional pack) are not pulled again. Published
//! in this order: pack, signature, manifest; then the manifest is read back.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::model::digest::{ArtifactId, Digest};
use crate::model::manifest::{InvalidManifest, Manifest};
use crate::region::mirror::Mirror;
use crate::region::staging::{self, Staging};
use crate::store::blobs::{BlobError, Blobs, Key, Kind};
use crate::wire::seal::{self, NotTrusted};

/// Neighbouring pieces of one read: one range request, at most 32 MiB.
const PIECES_PER_READ: usize = 4;
/// Reads in flight, over all artifacts: bounds their memory to 128 MiB.
pub const READS: usize = 4;

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
    /// The bytes under the manifest's key have another digest.
    #[error("main store: the manifest's bytes are not those of its digest")]
    Identity,
    /// The manifest breaks a rule.
    #[error("main store: {0}")]
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
    /// It was dropped meanwhile.
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
    /// Trust, and what is wanted.
    pub mirror: Arc<Mirror>,
    /// Bounds reads in flight.
    pub reads: Semaphore,
}

/// Where a pulled artifact's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// From the main store in this try.
    pub pulled_bytes: u64,
    /// Sound ones that were here already.
    pub reused_bytes: u64,
}

struct Checked {
    bytes: Bytes,
    signature: Bytes,
    manifest: Manifest,
}

/// Where pieces are read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Main,
    Local,
}

impl Origin {
    fn store(self, source: &Source) -> &Blobs {
        match self {
            Self::Main => &source.main,
            Self::Local => &source.local,
        }
    }

    fn error(self) -> fn(BlobError) -> PullError {
        match self {
            Self::Main => PullError::Main,
            Self::Local => PullError::Local,
        }
    }
}

/// The pack's bytes when the regional store holds `artifact`: manifest and signature sound,
/// pack of the right length. Its pieces are the synchronizer's to sample.
pub async fn held(source: &Source, artifact: ArtifactId) -> Option<u64> {
    let checked = manifest_in(&source.local, source, artifact).await.ok()?;
    let length = source.local.head(Key::new(Kind::Pack, artifact)).await.ok()?;
    length.filter(|bytes| *bytes == checked.manifest.wire_size())
}

/// Pulls and publishes `artifact`; `progress` is told the verified bytes so far.
///
/// # Errors
/// [`PullError`]; what was verified stays staged for the next try.
pub async fn pull(
    source: &Source,
    artifact: ArtifactId,
    progress: &Progress<'_>,
) -> Result<Pulled, PullError> {
    let checked = match manifest_in(&source.local, source, artifact).await {
        Ok(checked) => checked,
        Err(_) => manifest_in(&source.main, source, artifact).await?,
    };
    let mut pull = Pull::begin(source, artifact, checked).await?;
    pull.verified.store(pull.held_bytes(), Ordering::Relaxed);
    progress(pull.held_bytes());
    // A regional pack that is not there or can't be read is no loss: the main store has it all.
    let _ = pull.fetch(Origin::Local, progress).await;
    let reused_bytes = pull.held_bytes();
    if pull.held.contains(&false) {
        pull.fetch(Origin::Main, progress).await?;
    }
    if let Some(first) = pull.held.iter().position(|held| !held) {
        let count = pull.held.iter().filter(|held| !**held).count();
        return Err(PullError::Damaged { count, first });
    }
    pull.publish().await?;
    Ok(Pulled { pulled_bytes: pull.held_bytes() - reused_bytes, reused_bytes })
}

/// Reads manifest and signature from one store and checks both.
async fn manifest_in(
    store: &Blobs,
    source: &Source,
    artifact: ArtifactId,
) -> Result<Checked, PullError> {
    let trust = source.mirror.trust().ok_or(PullError::NoTrust)?;
    let bytes = store.get(Key::new(Kind::Manifest, artifact)).await.map_err(PullError::Main)?;
    let signature =
        store.get(Key::new(Kind::Signature, artifact)).await.map_err(PullError::Main)?;
    let check = move || {
        if Digest::of(&bytes) != artifact {
            return Err(PullError::Identity);
        }
        let text = std::str::from_utf8(&signature).unwrap_or_default();
        seal::verify_manifest(&trust.build_keys, &artifact, text)?;
        let manifest = Manifest::decode(&bytes)?;
        Ok(Checked { bytes, signature, manifest })
    };
    blocking(check).await
}

struct Pull<'a> {
    source: &'a Source,
    artifact: ArtifactId,
    checked: Arc<Checked>,
    offsets: Arc<Vec<u64>>,
    staging: Arc<Staging>,
    held: Vec<bool>,
    verified: AtomicU64,
}

impl<'a> Pull<'a> {
    async fn begin(
        source: &'a Source,
        artifact: ArtifactId,
        checked: Checked,
    ) -> Result<Self, PullError> {
        let offsets = Arc::new(checked.manifest.wire_offsets());
        let checked = Arc::new(checked);
        let (folder, of, at) = (source.staging.clone(), checked.clone(), offsets.clone());
        let (staging, held) = blocking(move || {
            let staging = Staging::open(&folder, &artifact, &of.manifest)?;
            let held = staging.resume(&of.manifest, &at)?;
            Ok((Arc::new(staging), held))
        })
        .await?;
        let verified = AtomicU64::new(0);
        Ok(Self { source, artifact, checked, offsets, staging, held, verified })
    }

    fn held_bytes(&self) -> u64 {
        let pieces = self.checked.manifest.pieces.iter().zip(&self.held);
        pieces.filter(|(_, held)| **held).map(|(piece, _)| u64::from(piece.wire_bytes)).sum()
    }

    /// Runs of at most four neighbouring pieces that are missing.
    fn missing(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = vec![];
        for index in (0..self.held.len()).filter(|index| !self.held[*index]) {
            match runs.last_mut() {
                Some(run) if run.end == index && run.len() < PIECES_PER_READ => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    /// Reads every missing piece from one store; damaged ones stay missing.
    async fn fetch(&mut self, from: Origin, progress: &Progress<'_>) -> Result<(), PullError> {
        let key = Key::new(Kind::Pack, self.artifact);
        let length = from.store(self.source).head(key).await.map_err(from.error())?;
        let length = length.ok_or(BlobError::NotFound(key)).map_err(from.error())?;
        let failed = AtomicBool::new(false);
        let reads = futures_util::stream::iter(self.missing())
            .map(|run| async {
                // After a failure what is under way ends, and nothing new begins.
                if failed.load(Ordering::Relaxed) {
                    return Ok(vec![]);
                }
                let read = self.read(from, run, length).await;
                failed.fetch_or(read.is_err(), Ordering::Relaxed);
                let sound = read?;
                let bytes = sound.iter().map(|index| self.wire_bytes(*index)).sum();
                progress(self.verified.fetch_add(bytes, Ordering::Relaxed) + bytes);
                Ok::<_, PullError>(sound)
            })
            .buffer_unordered(READS);
        let ended: Vec<_> = reads.collect().await;
        let mut outcome = Ok(());
        for read in ended {
            match read {
                Ok(sound) => sound.into_iter().for_each(|index| self.held[index] = true),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    fn wire_bytes(&self, index: usize) -> u64 {
        u64::from(self.checked.manifest.pieces[index].wire_bytes)
    }

    /// Reads a run of pieces from a pack of `length` bytes and stages those that are sound.
    async fn read(
        &self,
        from: Origin,
        run: Range<usize>,
        length: u64,
    ) -> Result<Vec<usize>, PullError> {
        let _permit = self.source.reads.acquire().await.expect("the semaphore is never closed");
        if !self.source.mirror.wants(&self.artifact) {
            return Err(PullError::Unwanted);
        }
        let range = self.offsets[run.start]..self.offsets[run.end].min(length);
        if range.is_empty() {
            return Ok(vec![]);
        }
        let key = Key::new(Kind::Pack, self.artifact);
        let bytes = from.store(self.source).get_range(key, range).await.map_err(from.error())?;
        let (staging, checked, offsets) =
            (self.staging.clone(), self.checked.clone(), self.offsets.clone());
        blocking(move || {
            let mut sound = vec![];
            let first = offsets[run.start];
            for index in run {
                let piece = &checked.manifest.pieces[index];
                let start = (offsets[index] - first) as usize;
                let end = start + piece.wire_bytes as usize;
                let Some(wire) = bytes.get(start..end) else { continue };
                if staging.write(index, piece, offsets[index], wire)? {
                    sound.push(index);
                }
            }
            Ok(sound)
        })
        .await
    }

    async fn publish(&self) -> Result<(), PullError> {
        if !self.source.mirror.wants(&self.artifact) {
            return Err(PullError::Unwanted);
        }
        let (local, key) = (&self.source.local, |kind| Key::new(kind, self.artifact));
        let pack = local.put_file(key(Kind::Pack), self.staging.path()).await;
        pack.map_err(PullError::Local)?;
        for (kind, bytes) in
            [(Kind::Signature, &self.checked.signature), (Kind::Manifest, &self.checked.bytes)]
        {
            local.put(key(kind), bytes.clone()).await.map_err(PullError::Local)?;
        }
        let length = local.head(key(Kind::Pack)).await.map_err(PullError::Local)?;
        if length != Some(self.checked.manifest.wire_size()) {
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| PullError::Staging(std::io::Error::other(e)))?
}
