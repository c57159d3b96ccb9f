//! Reads of the regional store for agents: manifests, kept in memory while they
//! are asked for, and ranges of packs, streamed.
//!
//! A manifest is checked against its digest before it is handed out, so a damaged
//! store serves no wrong one. Pieces are the agents' to check.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::Semaphore;

use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::manifest::{InvalidManifest, Manifest};
use crate::net::coding;
use crate::store::blobs::{BlobError, Blobs, Key, Kind};

/// Manifests kept, and their bytes together, plain and packed: one of the largest always fits.
const KEPT: (usize, usize) = (256, 128 << 20);
/// Pack reads under way at once: bounds their memory to about 256 MiB, 2 MiB each.
const READS_MAX: usize = 128;
/// How long an agent waits for a store's first byte; the store is asked again meanwhile.
/// Agents go to a peer or ask again.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why an artifact can't be read here.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The region does not hold it complete.
    #[error("artifact {} is not complete in this region", .0.short())]
    Absent(ArtifactId),
    /// The store's manifest is not the right one, or its pack is gone or too short.
    #[error("the artifact in the regional store is damaged")]
    Damaged,
    /// The store failed.
    #[error(transparent)]
    Store(BlobError),
    /// The store does not answer for now.
    #[error("the regional store does not answer")]
    Silent,
    /// Too many reads are under way.
    #[error("the regional store is busy")]
    Busy,
}

/// A complete artifact's manifest.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its canonical bytes.
    pub bytes: Bytes,
    /// The same under [`crate::net::coding`].
    pub packed: Bytes,
    /// Its signature, hex.
    pub signature: String,
    /// As a value.
    pub manifest: Arc<Manifest>,
}

/// The regional store as agents see it.
pub struct Library {
    local: Blobs,
    /// Most recently used last.
    kept: Mutex<Vec<(ArtifactId, Held)>>,
    loading: tokio::sync::Mutex<()>,
    reads: Arc<Semaphore>,
}

impl Library {
    /// A library over the regional store.
    #[must_use]
    pub fn new(local: Blobs) -> Self {
        let (kept, loading) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { local, kept, loading, reads: Arc::new(Semaphore::new(READS_MAX)) }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(ArtifactId, Held)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, artifact: ArtifactId) -> Option<Held> {
        let mut kept = self.kept();
        let at = kept.iter().position(|(id, _)| *id == artifact)?;
        let entry = kept.remove(at);
        let held = entry.1.clone();
        kept.push(entry);
        Some(held)
    }

    fn keep(&self, artifact: ArtifactId, held: Held) {
        let mut kept = self.kept();
        kept.push((artifact, held));
        let size = |held: &Held| held.bytes.len() + held.packed.len();
        let mut bytes: usize = kept.iter().map(|(_, held)| size(held)).sum();
        while kept.len() > KEPT.0 || bytes > KEPT.1 {
            bytes -= size(&kept.remove(0).1);
        }
    }

    /// The manifest of an artifact that the region holds complete.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::Damaged`], [`LibraryError::Store`].
    pub async fn manifest(&self, artifact: ArtifactId) -> Result<Held, LibraryError> {
        if let Some(held) = self.recall(artifact) {
            return Ok(held);
        }
        // Thousands of agents ask for the same new manifest at once: one reads it.
        let _loading = self.loading.lock().await;
        if let Some(held) = self.recall(artifact) {
            return Ok(held);
        }
        let read = |kind| async move {
            let got = self.local.get(Key::new(kind, artifact));
            let got = tokio::time::timeout(SILENCE_MAX, got).await;
            got.map_err(|_| LibraryError::Silent)?.map_err(|error| match error {
                BlobError::NotFound(_) => LibraryError::Absent(artifact),
                error => LibraryError::Store(error),
            })
        };
        let (bytes, signature) = (read(Kind::Manifest).await?, read(Kind::Signature).await?);
        let decode = move || -> Result<Held, InvalidManifest> {
            let manifest = Arc::new(Manifest::decode(&bytes)?);
            let signature = String::from_utf8_lossy(&signature).trim_end().to_owned();
            let packed = coding::pack(&bytes).unwrap_or_default().into();
            Ok(Held { bytes, packed, signature, manifest })
        };
        let held = tokio::task::spawn_blocking(move || {
            decode().ok().filter(|held| Digest::of(&held.bytes) == artifact)
        });
        let held = held.await.ok().flatten().ok_or(LibraryError::Damaged)?;
        self.keep(artifact, held.clone());
        Ok(held)
    }

    /// Streams `range` of a pack, which must lie inside of it.
    ///
    /// # Errors
    /// [`LibraryError::Busy`], or when its first bytes can't be read.
    pub async fn pack(
        &self,
        artifact: ArtifactId,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static, LibraryError> {
        let permit = self.reads.clone().try_acquire_owned().map_err(|_| LibraryError::Busy)?;
        let opened = async {
            let key = Key::new(Kind::Pack, artifact);
            let mut parts = self.local.stream(key, range).await?;
            let first = parts.next().await.transpose()?;
            Ok((first, parts))
        };
        let opened = tokio::time::timeout(SILENCE_MAX, opened).await;
        let (first, rest) = opened.map_err(|_| LibraryError::Silent)?.map_err(failed)?;
        let parts = futures_util::stream::iter(first.map(Ok)).chain(rest);
        Ok(parts.inspect(move |_| {
            let _counted = &permit;
        }))
    }

    /// Whether the store's bytes of a piece are what the manifest says.
    ///
    /// # Errors
    /// When manifest or pack can't be read.
    pub async fn is_sound(&self, artifact: ArtifactId, piece: u32) -> Result<bool, LibraryError> {
        let manifest = self.manifest(artifact).await?.manifest;
        let index = piece as usize;
        let Some(piece) = manifest.pieces.get(index) else { return Ok(true) };
        let offsets = manifest.wire_offsets();
        let range = offsets[index]..offsets[index + 1];
        let bytes = self.local.get_range(Key::new(Kind::Pack, artifact), range).await;
        let bytes = bytes.map_err(LibraryError::Store)?;
        let wire = piece.wire;
        let same = tokio::task::spawn_blocking(move || PieceDigest::of(&bytes) == wire).await;
        Ok(same.unwrap_or(true))
    }
}

fn failed(error: BlobError) -> LibraryError {
    match error {
        BlobError::NotFound(_) => LibraryError::Damaged,
        error => LibraryError::Store(error),
    }
}
