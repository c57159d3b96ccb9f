//! The blob store port: manifests, signatures and packs by digest, behind a URL.
//!
//! Same key, same bytes: overwriting is harmless, so nothing rests on
//! conditional writes (three of five S3 servers ignore or race them
//! [backends 3.1]). A write is durable and visible, whole, when it returns;
//! never half. Cancelling a write leaves no object, at worst an unfinished one that
//! is swept. No server's checksum or ETag is believed: readers have digests of
//! their own.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};

use crate::model::digest::{ArtifactId, Digest};
use crate::model::manifest::MANIFEST_BYTES_MAX;

mod ages;
mod failure;
mod owner;
mod place;
mod profile;
mod s3;
mod upload;

pub use ages::Stored;
pub use failure::BlobError;
pub use owner::Note;
pub use upload::Upload;

/// Bytes of a file that are copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Longest wait for a store that does not answer at a start.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(20);
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

/// A handle on one blob store; cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// How errors name it: its URL without options.
    name: Arc<str>,
    /// The folder of a `file://` store; such a store can adopt a file by renaming it.
    folder: Option<PathBuf>,
    by: Move,
}

/// How an object takes another key.
#[derive(Clone)]
enum Move {
    /// The store copies it in one request, whatever its size.
    Copy,
    /// The store copies parts of it.
    Parts(Arc<s3::S3>),
    /// It is read and written again.
    Through,
}

impl Blobs {
    /// Opens the store at `url`: `file:///folder` (made if missing), `s3://`, `gs://` or
    /// `az://` with bucket, prefix and options. Asks no server anything.
    ///
    /// # Errors
    /// [`BlobError::Url`] with what is wrong, [`BlobError::Io`] when a folder can't be made.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        place::open(url)
    }

    /// Refuses a regional store that is the main one, or lies in it, or the other way round:
    /// what the region deletes of its own would be gone from the main one.
    ///
    /// # Errors
    /// [`BlobError::Same`].
    pub fn apart(main: &str, region: &str, name: &str) -> Result<(), BlobError> {
        if !place::overlap(main, region) {
            return Ok(());
        }
        let [main, region] = [main, region].map(|url| url.split('?').next().unwrap_or(url).into());
        Err(BlobError::Same { main, region, name: name.into() })
    }

    /// Opens the store at `url` for a process that starts. A store that only can't be
    /// reached now is left for later, with a warning.
    ///
    /// # Errors
    /// See [`Blobs::open`]; and what [`BlobError::is_setup`].
    pub async fn open_at_start(url: &str) -> Result<Self, BlobError> {
        let blobs = Self::open(url)?;
        match blobs.reach().await {
            Err(error) if error.is_setup() => return Err(error),
            Err(error) => tracing::warn!(store = &*blobs.name, %error, "not reached yet"),
            Ok(()) => {}
        }
        Ok(blobs)
    }

    /// Looks whether the store answers and lets this process list. Best at a start: an
    /// error that [`BlobError::is_setup`] does not pass by waiting.
    ///
    /// # Errors
    /// [`BlobError::Denied`], [`BlobError::NoBucket`], or the store's failure; all after
    /// at most [`REACH_TIMEOUT`].
    pub async fn reach(&self) -> Result<(), BlobError> {
        if let Move::Parts(s3) = &self.by {
            let given = tokio::time::timeout(REACH_TIMEOUT / 2, s3.credentials()).await;
            let given = given.unwrap_or_else(|_| Err(silent("nobody gives credentials")));
            given.map_err(|source| BlobError::no_credentials(&self.name, &source))?;
        }
        let manifests = folder_of(Kind::Manifest);
        let mut list = self.store.list(Some(&manifests));
        let first = tokio::time::timeout(REACH_TIMEOUT / 2, list.next()).await;
        let first = first.unwrap_or_else(|_| Some(Err(silent("it does not answer"))));
        first.transpose().map(drop).map_err(|source| self.failed(source))
    }

    fn path(key: Key) -> ObjectPath {
        ObjectPath::from(key.to_string())
    }

    fn error(&self, key: Key) -> impl Fn(object_store::Error) -> BlobError + use<> {
        let store = self.name.clone();
        move |source| BlobError::of(&store, Some(key), source)
    }

    fn failed(&self, source: object_store::Error) -> BlobError {
        BlobError::of(&self.name, None, source)
    }

    /// Writes a small object whole; durable on return.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put(&self, key: Key, bytes: impl Into<Bytes>) -> Result<(), BlobError> {
        let put = self.store.put(&Self::path(key), bytes.into().into()).await;
        put.map(drop).map_err(self.error(key))
    }

    /// Writes a small object that makes others count, such as a manifest: created if it is
    /// not there, left if it is the same, else replaced. Durable on return.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn commit(&self, key: Key, bytes: impl Into<Bytes>) -> Result<(), BlobError> {
        let bytes = bytes.into();
        let (payload, create) = (bytes.clone().into(), PutMode::Create.into());
        if self.store.put_opts(&Self::path(key), payload, create).await.is_ok() {
            return Ok(());
        }
        // It was there already, the answer was lost, the server knows no such condition
        // or says "conflict" and kept nothing: what is there decides.
        match self.get(key).await {
            Ok(there) if there == bytes => Ok(()),
            _ => self.put(key, bytes).await,
        }
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
        let (mut upload, from) = (self.upload_as(key).await?, from.to_owned());
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
        match self.store.head(&Self::path(key)).await.map_err(self.error(key)) {
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
        let got = self.store.get(&Self::path(key)).await.map_err(self.error(key))?;
        if got.meta.size > limit {
            return Err(BlobError::TooLarge { key, bytes: got.meta.size, limit });
        }
        got.bytes().await.map_err(self.error(key))
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
        self.store.get_range(&Self::path(key), range).await.map_err(self.error(key))
    }

    /// A URL that reads `range` of an object for `valid`, and nothing else: the range is
    /// signed too, and goes with the request. `None`: this kind of store has none.
    ///
    /// # Errors
    /// When there are no credentials to sign with.
    pub async fn signed_range(
        &self,
        key: Key,
        range: Range<u64>,
        valid: Duration,
    ) -> Result<Option<String>, BlobError> {
        let Move::Parts(s3) = &self.by else { return Ok(None) };
        let signed = s3.signed_range(&Self::path(key), range, valid).await;
        signed.map(Some).map_err(self.error(key))
    }

    /// Whether it has such URLs.
    #[must_use]
    pub fn signs(&self) -> bool {
        matches!(self.by, Move::Parts(_))
    }

    /// Streams `range` of an object in parts of at most a few MiB, as the reader takes
    /// them. A broken connection is mended where it broke.
    ///
    /// # Errors
    /// When there is no such object, it ends before the range does, or the store fails;
    /// some only in the stream.
    pub async fn stream(
        &self,
        key: Key,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        if self.folder.is_some() || range.is_empty() {
            return Ok(self.read_along(key, range));
        }
        let asked = GetRange::Bounded(range.clone());
        let options = GetOptions { range: Some(asked), ..GetOptions::default() };
        let got = self.store.get_opts(&Self::path(key), options).await.map_err(self.error(key))?;
        if got.range != range {
            return Err(BlobError::NotFound(key));
        }
        Ok(got.into_stream().map_err(self.error(key)).boxed())
    }

    /// Reads a range of a file part by part: files have no streams worth the name.
    fn read_along(
        &self,
        key: Key,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let parts = futures_util::stream::try_unfold(
            (self.clone(), range),
            move |(blobs, left)| async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let part = left.start..left.end.min(left.start + COPY_BYTES as u64);
                let bytes = blobs.get_range(key, part.clone()).await?;
                // An object that was cut short ends the stream early.
                let whole = bytes.len() as u64 == part.end - part.start;
                if whole {
                    Ok(Some((bytes, (blobs, part.end..left.end))))
                } else {
                    Err(BlobError::NotFound(key))
                }
            },
        );
        parts.boxed()
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
        let folder = folder_of(kind);
        let names = self.store.list(Some(&folder)).try_filter_map(|meta| async move {
            let artifact = meta.location.filename().and_then(|name| name.parse().ok());
            Ok(artifact.map(|artifact| (artifact, meta.size)))
        });
        names.try_collect().await.map_err(|source| self.failed(source))
    }

    /// Removes an object; no error when there was none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, key: Key) -> Result<(), BlobError> {
        match self.store.delete(&Self::path(key)).await.map_err(self.error(key)) {
            Err(BlobError::NotFound(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Where the objects of a kind lie.
fn folder_of(kind: Kind) -> ObjectPath {
    let any = Key::new(kind, Digest([0; 32])).to_string();
    ObjectPath::from(any.split('/').next().unwrap_or_default())
}

fn silent(why: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "store", source: why.into() }
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
}
