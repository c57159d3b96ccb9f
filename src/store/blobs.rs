//! The blob store port: manifests, signatures and packs by digest, behind a URL.
//!
//! Same key, same bytes: overwriting is harmless, so nothing rests on
//! conditional writes (three of five S3 servers ignore or race them
//! [backends 3.1]). A write is durable and visible, whole, when it returns;
//! never half. Cancelling a write leaves no object, at worst an unfinished one that
//! is swept.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::model::digest::{ArtifactId, Digest};
use crate::model::manifest::MANIFEST_BYTES_MAX;

mod upload;

pub use upload::Upload;

/// Bytes of a file that are copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Longest range of one read, bytes: four of the largest pieces.
pub const RANGE_BYTES_MAX: u64 = 32 << 20;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A manifest's canonical bytes.
    Manifest,
    /// The signature on a manifest.
    Signature,
    /// An artifact's wire pieces end to end.
    Pack,
}

/// An object's name: what it is, and of which artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub artifact: ArtifactId,
}

impl Key {
    /// The key of `artifact`'s object of `kind`.
    #[must_use]
    pub fn new(kind: Kind, artifact: ArtifactId) -> Self {
        Self { kind, artifact }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = match self.kind {
            Kind::Manifest => "manifests",
            Kind::Signature => "signatures",
            Kind::Pack => "packs",
        };
        let hex = self.artifact.to_string();
        write!(f, "{folder}/{}/{hex}", &hex[..2])
    }
}

/// Why a blob store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The URL names no store that this build knows.
    #[error("{0:?} is not a blob store; use file:///folder")]
    Url(String),
    /// There is no such object.
    #[error("{0} is not in the blob store")]
    NotFound(Key),
    /// The object is larger than its bound.
    #[error("{key} has {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// The object.
        key: Key,
        /// Its length.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The store failed.
    #[error("blob store: {0}")]
    Store(#[source] object_store::Error),
    /// A local file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A handle on one blob store; cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// The folder of a `file://` store; such a store can adopt a file by renaming it.
    folder: Option<std::path::PathBuf>,
}

impl Blobs {
    /// Opens the store at `url`: `file:///folder` (made if missing).
    ///
    /// # Errors
    /// [`BlobError::Url`] for any other URL, [`BlobError::Io`] when the folder can't be made.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        let folder = url.strip_prefix("file://").filter(|path| path.starts_with('/'));
        let folder = std::path::PathBuf::from(folder.ok_or_else(|| BlobError::Url(url.into()))?);
        let io = |source| BlobError::Io { path: folder.display().to_string(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(BlobError::Store)?;
        Ok(Self { store: Arc::new(store.with_fsync(true)), folder: Some(folder) })
    }

    fn path(key: Key) -> ObjectPath {
        ObjectPath::from(key.to_string())
    }

    fn error(key: Key) -> impl Fn(object_store::Error) -> BlobError {
        move |source| match source {
            object_store::Error::NotFound { .. } => BlobError::NotFound(key),
            other => BlobError::Store(other),
        }
    }

    /// Writes a small object whole; durable on return.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put(&self, key: Key, bytes: impl Into<Bytes>) -> Result<(), BlobError> {
        let put = self.store.put(&Self::path(key), bytes.into().into()).await;
        put.map(drop).map_err(Self::error(key))
    }

    /// Stores the file at `from`, moving it when the store is a folder on the
    /// same file system, else copying it; durable on return. `from` may be gone after.
    ///
    /// # Errors
    /// When the file can't be read or the store fails.
    pub async fn put_file(&self, key: Key, from: &Path) -> Result<(), BlobError> {
        if let Some(folder) = &self.folder {
            let to = folder.join(key.to_string());
            let from = from.to_owned();
            let moved = tokio::task::spawn_blocking(move || adopt(&from, &to)).await;
            if matches!(moved, Ok(Ok(()))) {
                return Ok(());
            }
        }
        self.copy_file(key, from).await
    }

    async fn copy_file(&self, key: Key, from: &Path) -> Result<(), BlobError> {
        let (mut upload, from) = (self.upload().await?, from.to_owned());
        let copy = move || {
            let io = |source| BlobError::Io { path: from.display().to_string(), source };
            let mut file = std::fs::File::open(&from).map_err(io)?;
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                match file.read(&mut buffer).map_err(io)? {
                    0 => return Ok(upload),
                    read => upload.write(&buffer[..read])?,
                }
            }
        };
        let copied = tokio::task::spawn_blocking(copy).await;
        copied.expect("a copy does not panic and is not cancelled")?.finish(key).await
    }

    /// The length of an object, bytes; `None` when there is none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn head(&self, key: Key) -> Result<Option<u64>, BlobError> {
        match self.store.head(&Self::path(key)).await.map_err(Self::error(key)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a manifest or a signature whole.
    ///
    /// # Errors
    /// When there is none, it is over [`MANIFEST_BYTES_MAX`], or the store fails.
    pub async fn get(&self, key: Key) -> Result<Bytes, BlobError> {
        let limit = MANIFEST_BYTES_MAX as u64;
        let got = self.store.get(&Self::path(key)).await.map_err(Self::error(key))?;
        if got.meta.size > limit {
            return Err(BlobError::TooLarge { key, bytes: got.meta.size, limit });
        }
        got.bytes().await.map_err(Self::error(key))
    }

    /// Reads `range` of an object, at most [`RANGE_BYTES_MAX`]; shorter when the object ends before.
    ///
    /// # Errors
    /// When there is no such object, the range is too long, or the store fails.
    pub async fn get_range(&self, key: Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let bytes = range.end.saturating_sub(range.start);
        if bytes > RANGE_BYTES_MAX {
            return Err(BlobError::TooLarge { key, bytes, limit: RANGE_BYTES_MAX });
        }
        self.store.get_range(&Self::path(key), range).await.map_err(Self::error(key))
    }

    /// Every artifact with an object of `kind`, in no order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, kind: Kind) -> Result<Vec<ArtifactId>, BlobError> {
        Ok(self.list_sizes(kind).await?.into_iter().map(|(artifact, _)| artifact).collect())
    }

    /// Every artifact with an object of `kind` and that object's length in bytes, in no order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_sizes(&self, kind: Kind) -> Result<Vec<(ArtifactId, u64)>, BlobError> {
        let any = Key::new(kind, Digest([0; 32]));
        let folder = any.to_string();
        let prefix = ObjectPath::from(folder.split('/').next().unwrap_or_default());
        let names = self.store.list(Some(&prefix)).map_err(BlobError::Store).try_filter_map(
            |meta| async move {
                let artifact = meta.location.filename().and_then(|name| name.parse().ok());
                Ok(artifact.map(|artifact| (artifact, meta.size)))
            },
        );
        names.try_collect().await
    }

    /// Removes an object; no error when there was none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, key: Key) -> Result<(), BlobError> {
        match self.store.delete(&Self::path(key)).await.map_err(Self::error(key)) {
            Err(BlobError::NotFound(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Moves a file into a folder store: sync, rename, sync the folders.
fn adopt(from: &Path, to: &Path) -> std::io::Result<()> {
    let folder = to.parent().ok_or_else(|| std::io::Error::other("a key has a folder"))?;
    std::fs::create_dir_all(folder)?;
    std::fs::File::open(from)?.sync_all()?;
    std::fs::rename(from, to)?;
    std::fs::File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
        (folder, blobs)
    }

    #[tokio::test]
    async fn what_was_put_is_there_and_nothing_else() {
        let (_folder, blobs) = store();
        let key = Key::new(Kind::Manifest, Digest::of(b"x"));
        assert_eq!(blobs.head(key).await.unwrap(), None);
        assert!(matches!(blobs.get(key).await, Err(BlobError::NotFound(_))));
        blobs.put(key, &b"hello"[..]).await.unwrap();
        blobs.put(key, &b"hello"[..]).await.unwrap();
        assert_eq!(blobs.head(key).await.unwrap(), Some(5));
        assert_eq!(blobs.get(key).await.unwrap(), "hello");
        assert_eq!(blobs.get_range(key, 1..3).await.unwrap(), "el");
        assert_eq!(blobs.list(Kind::Manifest).await.unwrap(), vec![key.artifact]);
        assert!(blobs.list(Kind::Pack).await.unwrap().is_empty());
        blobs.delete(key).await.unwrap();
        blobs.delete(key).await.unwrap();
        assert_eq!(blobs.head(key).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_is_adopted_or_copied() {
        let (folder, blobs) = store();
        let key = Key::new(Kind::Pack, Digest::of(b"p"));
        let file = folder.path().join("staged");
        std::fs::write(&file, vec![7u8; 3 << 20]).unwrap();
        blobs.copy_file(key, &file).await.unwrap();
        assert_eq!(blobs.head(key).await.unwrap(), Some(3 << 20));
        blobs.put_file(key, &file).await.unwrap();
        assert!(!file.exists());
        assert_eq!(blobs.get_range(key, 0..4).await.unwrap(), vec![7u8; 4]);
    }

    #[test]
    fn only_known_stores_open() {
        for bad in ["", "/tmp/x", "file://relative", "ftp://x"] {
            assert!(Blobs::open(bad).is_err());
        }
    }
}
