//! An object that is written before its key is known.
//!
//! An artifact's name is the digest of its manifest, which lists pieces that are
//! only known when the last of them was made; its pack is in the store by then.
//! So a pack is written under a name of its own, `uploads/<random>`, and takes its
//! key at the end: by a rename in a folder, by a copy inside any other store (a file
//! whose key is known goes straight to it).
//! Whoever is killed meanwhile leaves that object, or parts of it; [`Blobs::sweep`]
//! removes them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStoreExt, WriteMultipart};
use tokio::runtime::Handle;

use super::s3::COPY_PART_BYTES;
use super::{BlobError, Blobs, Key, Move, adopt};

/// Where unfinished objects lie.
const UNFINISHED: &str = "uploads";
/// An unfinished object that nobody wrote to for so long is a killed process'. A live
/// one writes each few seconds; an hour forgives a store that stands still.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Parts that nobody completed for so long are a killed process'. A store tells only when
/// an upload began: the longest, 10 GiB, has a day at 1 Mbit/s.
const UPLOAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of one part: 10 GiB stays under S3's 10,000 parts.
const PART_BYTES: usize = 16 << 20;
/// Parts in flight of one upload; bounds its memory to 64 MiB.
const PARTS_IN_FLIGHT: usize = 3;
/// Bytes written before the disk is told to begin with them: the last sync, which
/// somebody waits for, then finds little left to do.
const FLUSH_BYTES: u64 = 64 << 20;

/// An object on its way. Dropped unfinished, it is removed.
pub struct Upload {
    blobs: Blobs,
    name: String,
    way: Option<Way>,
    runtime: Handle,
}

enum Way {
    /// A file of a folder store.
    File(Flushed),
    /// Parts, sent while more are written.
    Parts(Parts),
}

struct Parts {
    writer: WriteMultipart,
    /// What was there under the name before; nothing under a random one.
    before: Option<ObjectMeta>,
    bytes: u64,
}

impl Blobs {
    /// Begins an object whose key is not known yet. Call it inside a runtime.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn upload(&self) -> Result<Upload, BlobError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| self.io(std::io::Error::other(e.to_string())))?;
        let name = format!("{UNFINISHED}/{}", crate::model::digest::to_hex(&random));
        let way = match self.place(&name) {
            Some(path) => {
                let create = move || Flushed::create(path);
                Way::File(blocking(create).await.map_err(|e| self.io(e))?)
            }
            None => Way::Parts(self.parts(&name, None).await?),
        };
        Ok(Upload { blobs: self.clone(), name, way: Some(way), runtime: Handle::current() })
    }

    /// Begins the object `key`; a folder store gives it its name at the end all the same.
    pub(super) async fn upload_as(&self, key: Key) -> Result<Upload, BlobError> {
        if self.folder.is_some() {
            return self.upload().await;
        }
        let name = key.to_string();
        let before = self.store.head(&Self::path(key)).await.map(Some);
        let before = before.or_else(|error| match self.error(key)(error) {
            BlobError::NotFound(_) => Ok(None),
            error => Err(error),
        });
        let way = Some(Way::Parts(self.parts(&name, before?).await?));
        Ok(Upload { blobs: self.clone(), name, way, runtime: Handle::current() })
    }

    async fn parts(&self, name: &str, before: Option<ObjectMeta>) -> Result<Parts, BlobError> {
        let parts = self.store.put_multipart(&ObjectPath::from(name)).await;
        let parts = parts.map_err(|source| self.failed(source))?;
        let writer = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
        Ok(Parts { writer, before, bytes: 0 })
    }

    /// Removes what killed processes left unfinished; says how many objects and uploads.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub async fn sweep(&self) -> Result<usize, BlobError> {
        self.sweep_older(IDLE_MAX, UPLOAD_MAX).await
    }

    /// The same for objects written longest `idle` ago, and parts begun `begun` ago.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub async fn sweep_older(&self, idle: Duration, begun: Duration) -> Result<usize, BlobError> {
        let mut removed = 0;
        if let Move::Parts(s3) = &self.by {
            let oldest = SystemTime::now() - begun;
            for folder in [UNFINISHED, "packs"] {
                // Who may not list uploads still sweeps objects; the bucket's rule does the rest.
                match s3.give_up(folder, oldest).await.map_err(|source| self.failed(source)) {
                    Ok(given_up) => removed += given_up,
                    Err(error) => tracing::warn!(%error, folder, "unfinished parts not swept"),
                }
            }
        }
        let oldest = SystemTime::now() - idle;
        let prefix = ObjectPath::from(UNFINISHED);
        let left: Result<Vec<_>, _> = self.store.list(Some(&prefix)).try_collect().await;
        let left = left.map_err(|source| self.failed(source))?;
        for object in
            left.into_iter().filter(|object| SystemTime::from(object.last_modified) < oldest)
        {
            // Another worker may sweep at the same time.
            removed += usize::from(self.store.delete(&object.location).await.is_ok());
        }
        Ok(removed)
    }

    /// Ends the parts. When the answer was lost, or the question came twice, the object
    /// that is there tells whether it was done.
    async fn complete(&self, name: &str, parts: Parts) -> Result<(), BlobError> {
        let Parts { writer, before, bytes } = parts;
        let Err(error) = writer.finish().await else { return Ok(()) };
        let now = self.store.head(&ObjectPath::from(name)).await;
        let same = |now: &ObjectMeta, then: &ObjectMeta| {
            (&now.e_tag, now.last_modified) == (&then.e_tag, then.last_modified)
        };
        match now {
            Ok(now) if now.size == bytes && !before.is_some_and(|then| same(&now, &then)) => {
                tracing::info!(name, %error, "the upload was completed all the same");
                Ok(())
            }
            _ => Err(self.failed(error)),
        }
    }

    /// Gives the object `name`, of `bytes`, the key `key`.
    async fn rename(&self, name: &str, key: Key, bytes: u64) -> Result<(), BlobError> {
        let (from, to) = (ObjectPath::from(name), Self::path(key));
        match &self.by {
            Move::Through => self.copy_through(&from, key, bytes).await?,
            Move::Parts(s3) if bytes > COPY_PART_BYTES => {
                let copied = s3.copy(&from, &to, bytes, COPY_PART_BYTES).await;
                copied.map_err(|source| self.failed(source))?;
            }
            Move::Parts(_) | Move::Copy => {
                let copied = self.store.copy(&from, &to).await;
                copied.map_err(|source| self.failed(source))?;
            }
        }
        // What can't be removed now is swept.
        let _ = self.store.delete(&from).await;
        Ok(())
    }

    /// Reads an object and writes it under `key`, a part at a time.
    async fn copy_through(&self, from: &ObjectPath, key: Key, bytes: u64) -> Result<(), BlobError> {
        let mut writer = self.parts(&key.to_string(), None).await?.writer;
        let write = async {
            for start in (0..bytes).step_by(PART_BYTES) {
                let range = start..bytes.min(start + PART_BYTES as u64);
                let part = self.store.get_range(from, range).await?;
                writer.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                writer.put(part);
            }
            Ok(())
        };
        let written = write.await;
        let done = match written {
            Ok(()) => writer.finish().await.map(drop),
            Err(error) => writer.abort().await.and(Err(error)),
        };
        done.map_err(|source| self.failed(source))
    }

    /// Where an object lies, when the store is a folder.
    fn place(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(name))
    }

    fn io(&self, source: std::io::Error) -> BlobError {
        let path = self.place(UNFINISHED).unwrap_or_else(|| UNFINISHED.into());
        BlobError::Io { path: path.display().to_string(), source }
    }
}

impl Upload {
    /// Appends bytes. Blocks; call it from a thread that may.
    ///
    /// # Errors
    /// When the store fails; the upload is of no use then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        match self.way.as_mut().expect("there is a way until the end") {
            Way::File(file) => file.write(bytes).map_err(|e| self.blobs.io(e)),
            Way::Parts(parts) => self.runtime.block_on(async {
                let room = parts.writer.wait_for_capacity(PARTS_IN_FLIGHT).await;
                room.map_err(|source| self.blobs.failed(source))?;
                parts.writer.write(bytes);
                parts.bytes += bytes.len() as u64;
                Ok(())
            }),
        }
    }

    /// Makes it the object `key`: durable, whole and visible on return.
    ///
    /// # Errors
    /// When the store fails; nothing of it is left then, save what [`Blobs::sweep`] takes.
    pub async fn finish(mut self, key: Key) -> Result<(), BlobError> {
        match self.way.take().expect("there is a way until the end") {
            Way::File(file) => {
                let to = self.blobs.place(&key.to_string()).expect("a file has a folder");
                blocking(move || file.finish(&to)).await.map_err(|e| self.blobs.io(e))
            }
            Way::Parts(parts) => {
                let bytes = parts.bytes;
                let (blobs, name) = (self.blobs.clone(), std::mem::take(&mut self.name));
                drop(self);
                blobs.complete(&name, parts).await?;
                if name == key.to_string() {
                    return Ok(());
                }
                blobs.rename(&name, key, bytes).await
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // What can't be removed now is swept.
        if let Some(Way::Parts(parts)) = self.way.take() {
            self.runtime.spawn(parts.writer.abort());
        }
    }
}

/// A file that goes to the disk while it is written. Dropped unfinished, it is removed.
struct Flushed {
    path: PathBuf,
    file: File,
    waiting: u64,
    flush: Option<JoinHandle<std::io::Result<()>>>,
}

impl Flushed {
    fn create(path: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        Ok(Self { file: File::create_new(&path)?, path, waiting: 0, flush: None })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.waiting += bytes.len() as u64;
        let idle = self.flush.as_ref().is_none_or(JoinHandle::is_finished);
        if self.waiting >= FLUSH_BYTES && idle {
            self.flushed()?;
            let file = self.file.try_clone()?;
            self.flush = Some(std::thread::spawn(move || file.sync_data()));
            self.waiting = 0;
        }
        Ok(())
    }

    /// The end of the sync under way: an error is told once, and must not be lost.
    fn flushed(&mut self) -> std::io::Result<()> {
        let ended = self.flush.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).expect("a sync does not panic")
    }

    fn finish(mut self, to: &Path) -> std::io::Result<()> {
        self.flushed()?;
        adopt(&self.path, to)
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        // Gone already when it was finished; what can't be removed is swept.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::store::blobs::Kind;

    fn stores() -> (tempfile::TempDir, [Blobs; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let file = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        let memory = Blobs { store, name: "memory".into(), folder: None, by: Move::Through };
        (folder, [file, memory])
    }

    async fn written(blobs: &Blobs, blocks: usize) -> Upload {
        let mut upload = blobs.upload().await.unwrap();
        let write = move || {
            let block = vec![7; 1 << 20];
            (0..blocks).for_each(|_| upload.write(&block).unwrap());
            Ok(upload)
        };
        blocking(write).await.unwrap()
    }

    async fn unfinished(blobs: &Blobs) -> usize {
        let list = blobs.store.list(Some(&ObjectPath::from(UNFINISHED)));
        list.try_collect::<Vec<_>>().await.unwrap().len()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_takes_its_key_at_the_end_and_is_not_there_before() {
        let (_folder, stores) = stores();
        let key = Key::new(Kind::Pack, Digest::of(b"p"));
        for blobs in &stores {
            for (blocks, head) in [(70, 70 << 20), (0, 0)] {
                let upload = written(blobs, blocks).await;
                assert_eq!(blobs.head(key).await.unwrap().unwrap_or(70 << 20), 70 << 20);
                upload.finish(key).await.unwrap();
                assert_eq!(blobs.head(key).await.unwrap(), Some(head));
                assert_eq!(unfinished(blobs).await, 0);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_dropped_is_gone_and_what_a_killed_one_left_is_swept() {
        let (folder, stores) = stores();
        for blobs in &stores {
            drop(written(blobs, 40).await);
            // Parts are given up in the background.
            while unfinished(blobs).await > 0 {
                tokio::task::yield_now().await;
            }
        }
        std::mem::forget(written(&stores[0], 1).await);
        assert_eq!(stores[0].sweep().await.unwrap(), 0, "somebody may be writing it");
        let old = SystemTime::now() - IDLE_MAX - Duration::from_secs(60);
        for left in std::fs::read_dir(folder.path().join(UNFINISHED)).unwrap() {
            File::options()
                .append(true)
                .open(left.unwrap().path())
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        assert_eq!(stores[0].sweep().await.unwrap(), 1);
        assert_eq!(unfinished(&stores[0]).await, 0);
    }
}
