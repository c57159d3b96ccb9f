//! Raw blobs of recent releases, kept on the worker for the next patch.
//!
//! A blob comes out of its pack in the main store, piece by piece and verified, into
//! one file laid end to end. The build of today is the base of tomorrow, so what was
//! used last is kept, within a bound. Everything here is a copy: it may be deleted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::runtime::Handle;

use crate::delta::FileSpan;
use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::manifest::{Codec, InvalidManifest, Manifest, Node, Piece};
use crate::store::blobs::{BlobError, Blobs, Key, Kind};
use crate::worker::build::free_bytes;

/// Bytes of raw blobs that are kept between patches: four releases of 1 GiB. Those
/// of the patch that is made may be more, up to two artifacts.
const KEPT_BYTES: u64 = 4 << 30;
/// Pieces of one read: one range request, at most 32 MiB.
const PIECES_PER_READ: usize = 4;

/// Why a blob is not there.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The main store failed.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// Its manifest breaks a rule.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The store's bytes are not those that the manifest names.
    #[error("artifact {} is damaged in the main store", .0.short())]
    Damaged(ArtifactId),
    /// The worker's disk.
    #[error("the worker's disk: {0}")]
    Disk(#[from] io::Error),
    /// There is no room for it.
    #[error("no room on the worker's disk: {0} MiB needed")]
    NoRoom(u64),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
}

/// An artifact's raw bytes on this disk.
#[derive(Debug)]
pub struct RawBlob {
    /// The file that holds them.
    pub file: File,
    /// Where each of its files stands.
    pub spans: Vec<FileSpan>,
}

/// The folder of raw blobs. Blocks: for a thread of its own.
pub struct RawBlobs {
    folder: PathBuf,
    main: Blobs,
    runtime: Handle,
}

impl RawBlobs {
    /// The blobs in `folder`, made when it is missing; half-written ones are swept.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn open(folder: PathBuf, main: Blobs, runtime: Handle) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let blobs = Self { folder, main, runtime };
        for (path, ..) in blobs.list() {
            if path.extension().is_some() {
                fs::remove_file(path)?;
            }
        }
        Ok(blobs)
    }

    /// The manifest of `artifact` in the main store.
    ///
    /// # Errors
    /// See [`RawError`].
    pub fn manifest(&self, artifact: ArtifactId) -> Result<Manifest, RawError> {
        let get = self.main.get(Key::new(Kind::Manifest, artifact));
        let bytes = self.runtime.block_on(get)?;
        if Digest::of(&bytes) != artifact {
            return Err(RawError::Damaged(artifact));
        }
        Ok(Manifest::decode(&bytes)?)
    }

    /// The raw bytes of `artifact`, out of the main store if they are not here.
    ///
    /// # Errors
    /// See [`RawError`].
    pub fn get(
        &self,
        artifact: ArtifactId,
        manifest: &Manifest,
        stop: &AtomicBool,
    ) -> Result<RawBlob, RawError> {
        let path = self.folder.join(artifact.to_string());
        if !fs::metadata(&path).is_ok_and(|meta| meta.len() == manifest.size) {
            let begun = path.with_extension("new");
            let written = self.write(artifact, manifest, &begun, stop);
            written.inspect_err(|_| drop(fs::remove_file(&begun)))?;
            fs::rename(&begun, &path)?;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        // What was used last is kept longest.
        file.set_modified(SystemTime::now())?;
        Ok(RawBlob { file, spans: spans(manifest) })
    }

    fn write(
        &self,
        artifact: ArtifactId,
        manifest: &Manifest,
        to: &Path,
        stop: &AtomicBool,
    ) -> Result<(), RawError> {
        let room = free_bytes(&self.folder);
        if room.is_some_and(|(free, reserve)| free < manifest.size + 2 * reserve) {
            return Err(RawError::NoRoom(manifest.size >> 20));
        }
        let mut file = File::create(to)?;
        let offsets = manifest.wire_offsets();
        for first in (0..manifest.pieces.len()).step_by(PIECES_PER_READ) {
            if stop.load(Ordering::Relaxed) {
                return Err(RawError::Stopped);
            }
            let end = manifest.pieces.len().min(first + PIECES_PER_READ);
            let range = offsets[first]..offsets[end];
            let read = self.main.get_range(Key::new(Kind::Pack, artifact), range);
            let wire = self.runtime.block_on(read)?;
            for index in first..end {
                let at = (offsets[index] - offsets[first]) as usize;
                let piece = &manifest.pieces[index];
                let bytes = wire.get(at..at + piece.wire_bytes as usize);
                let raw = bytes.and_then(|bytes| raw(piece, bytes, manifest.raw_len(index)));
                file.write_all(&raw.ok_or(RawError::Damaged(artifact))?)?;
            }
        }
        Ok(())
    }

    /// Removes what was used longest ago until the rest is within the bound.
    pub fn trim(&self) {
        let mut kept = self.list();
        kept.sort_unstable_by_key(|(_, used, _)| std::cmp::Reverse(*used));
        let mut bytes = 0;
        for (path, _, size) in kept {
            bytes += size;
            if bytes > KEPT_BYTES
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "raw blob not removed");
            }
        }
    }

    /// Every file here, when it was used, and its bytes.
    fn list(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let known = files.filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((entry.path(), meta.modified().ok()?, meta.len()))
        });
        known.collect()
    }
}

/// The raw bytes of a piece, if `wire` is what the manifest names.
fn raw(piece: &Piece, wire: &[u8], raw_len: u64) -> Option<Vec<u8>> {
    if PieceDigest::of(wire) != piece.wire {
        return None;
    }
    let raw = match piece.codec {
        Codec::None => wire.to_vec(),
        Codec::Zstd => zstd::bulk::decompress(wire, usize::try_from(raw_len).ok()?).ok()?,
    };
    (PieceDigest::of(&raw) == piece.raw).then_some(raw)
}

/// Where each file of `manifest` stands in its blob.
fn spans(manifest: &Manifest) -> Vec<FileSpan> {
    let mut start = 0;
    let mut spans = vec![];
    for entry in &manifest.entries {
        if let Node::File { size, .. } = entry.node {
            spans.push(FileSpan { path: entry.path.clone(), start, size });
            start += size;
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::publish;
    use crate::worker::{pack, walk};
    use ed25519_dalek::SigningKey;

    struct Place {
        folder: tempfile::TempDir,
        main: Blobs,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let main = Blobs::open(&format!("file://{}/main", folder.path().display())).unwrap();
            Self { folder, main }
        }

        fn raws(&self) -> RawBlobs {
            let folder = self.folder.path().join("raw");
            RawBlobs::open(folder, self.main.clone(), Handle::current()).unwrap()
        }

        /// Publishes a folder of three files; its blob is returned, too.
        async fn publish(&self, seed: u8) -> (ArtifactId, Manifest, Vec<u8>) {
            let out = self.folder.path().join("out");
            fs::create_dir_all(&out).unwrap();
            let parts =
                [("a", vec![seed; 700_000]), ("b", vec![]), ("c", vec![seed + 1; 1_500_000])];
            for (name, bytes) in &parts {
                fs::write(out.join(name), bytes).unwrap();
            }
            let tree = walk::walk(self.folder.path(), "out").unwrap();
            let mut upload = self.main.upload().await.unwrap();
            let packing = tokio::task::spawn_blocking(move || {
                let packed =
                    pack::pack(&tree, &AtomicBool::new(false), &mut |bytes| upload.write(bytes));
                (tree, packed.unwrap(), upload)
            });
            let (tree, packed, upload) = packing.await.unwrap();
            let manifest = Manifest {
                v: 1,
                app: "api".parse().unwrap(),
                shape: tree.shape,
                entries: tree.entries,
                size: tree.size,
                piece_bytes: packed.piece_bytes,
                pieces: packed.pieces,
                run: None,
                provenance: crate::model::manifest::Provenance::sample(),
            };
            let key = SigningKey::from_bytes(&[7; 32]);
            let id = publish::publish(&self.main, &key, &manifest, upload).await.unwrap();
            (id, manifest, parts.into_iter().flat_map(|(_, bytes)| bytes).collect())
        }
    }

    /// Runs what blocks as the worker does: on a thread of its own.
    async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    #[tokio::test]
    async fn a_blob_comes_out_of_its_pack_once_and_is_kept() {
        let place = Place::new();
        let (id, manifest, bytes) = place.publish(1).await;
        let raws = place.raws();
        let pack = place.folder.path().join("main").join(Key::new(Kind::Pack, id).to_string());
        let seen = apart(move || {
            assert_eq!(raws.manifest(id).unwrap(), manifest);
            let stopped = raws.get(id, &manifest, &AtomicBool::new(true));
            assert!(matches!(stopped, Err(RawError::Stopped)));
            assert!(raws.list().is_empty(), "nothing half is left");
            let go = AtomicBool::new(false);
            raws.get(id, &manifest, &go).unwrap();
            // From now on the store is not asked.
            fs::remove_file(pack).unwrap();
            let raw = raws.get(id, &manifest, &go).unwrap();
            raws.trim();
            assert_eq!(raws.list().len(), 1);
            raw
        })
        .await;
        let mut read = vec![];
        io::Read::read_to_end(&mut &seen.file, &mut read).unwrap();
        assert!(read == bytes);
        let spans: Vec<_> = seen.spans.iter().map(|s| (s.path.as_str(), s.start, s.size)).collect();
        assert_eq!(spans, [("a", 0, 700_000), ("b", 700_000, 0), ("c", 700_000, 1_500_000)]);
    }

    #[tokio::test]
    async fn a_damaged_store_makes_no_blob() {
        let place = Place::new();
        let (id, manifest, _) = place.publish(3).await;
        let raws = place.raws();
        let path = |kind| place.folder.path().join("main").join(Key::new(kind, id).to_string());
        let (pack, written) = (path(Kind::Pack), path(Kind::Manifest));
        apart(move || {
            let mut bytes = fs::read(&pack).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&pack, bytes).unwrap();
            let damaged = raws.get(id, &manifest, &AtomicBool::new(false));
            assert!(matches!(damaged, Err(RawError::Damaged(_))));
            assert!(raws.list().is_empty());
            fs::write(written, b"{}").unwrap();
            assert!(matches!(raws.manifest(id), Err(RawError::Damaged(_))));
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_used_last_is_kept() {
        let place = Place::new();
        let raws = place.raws();
        let folder = place.folder.path().join("raw");
        fs::write(folder.join("half.new"), b"x").unwrap();
        for (age, name) in ["new", "middle", "old"].iter().enumerate() {
            let file = File::create(folder.join(name)).unwrap();
            file.set_len(KEPT_BYTES / 2).unwrap();
            let ago = std::time::Duration::from_secs(age as u64 * 60);
            file.set_modified(SystemTime::now() - ago).unwrap();
        }
        drop(raws);
        let raws = place.raws();
        raws.trim();
        let mut names: Vec<_> = raws.list().into_iter().map(|(path, ..)| path).collect();
        names.sort();
        assert_eq!(names, [folder.join("middle"), folder.join("new")]);
    }
}
