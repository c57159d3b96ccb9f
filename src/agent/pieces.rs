//! One artifact's pieces on this host: its pack, its journal, and the release
//! that is made of them.
//!
//! A piece counts as had only after its wire bytes and its raw bytes were both
//! verified and written. The journal names such pieces; what it names is hashed
//! again after a restart, so neither a crash nor a lost write can smuggle in a
//! wrong byte, and no verified piece is fetched twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::agent::assemble::{Layout, Tree};
use crate::agent::pack::Pack;
use crate::agent::parts::Parts;
use crate::agent::paths::Paths;
use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::manifest::{Codec, Manifest};

/// Journal flag: the raw bytes are in the release, the wire bytes are not here.
const UNSERVED: u32 = 1 << 31;

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The bytes are not the ones that the manifest names: whoever sent them is at fault.
    #[error("wrong bytes")]
    Wire,
    /// The right wire bytes make other raw bytes than the manifest says: the build is at fault.
    #[error("piece {0} does not decode to what its manifest says")]
    Raw(u32),
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// A release in the making, with its pack. Holds the claim on its artifact, so
/// that a cancelled fetch and its successor never write at once.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) pack: Arc<Pack>,
    /// What is half-received.
    pub(super) parts: Parts,
    tree: Tree,
    journal: Mutex<File>,
    _claim: OwnedMutexGuard<()>,
}

impl Assembly {
    /// Makes or takes up the staging folder and the pack, and hashes again what
    /// the journal names.
    pub(super) fn prepare(
        paths: &Paths,
        artifact: ArtifactId,
        manifest: Arc<Manifest>,
        claim: OwnedMutexGuard<()>,
    ) -> io::Result<Self> {
        let staging = paths.staging().join(artifact.to_string());
        let folder = paths.packs().join(artifact.to_string());
        let made = Tree::prepare(&staging, manifest.clone()).and_then(|tree| {
            let pack = Pack::open(folder.clone(), artifact, manifest, tree.files()?)?;
            Ok((tree, pack))
        });
        let (tree, pack) = made.inspect_err(|error| give_back(error, &staging, &folder))?;
        let path = folder.join("journal");
        let names = fs::read(&path).unwrap_or_default();
        let journal = OpenOptions::new().create(true).append(true).open(&path)?;
        // A full disk may have cut the last record short.
        journal.set_len(names.len() as u64 / 4 * 4)?;
        let (pack, journal) = (Arc::new(pack), Mutex::new(journal));
        let parts = Parts::none(folder.join("parts"));
        let mut assembly = Self { pack, parts, tree, journal, _claim: claim };
        assembly.recall(&names)?;
        let missing = assembly.pack.missing();
        let length = |piece| missing.contains(piece).then(|| assembly.pack.wire_len(piece));
        assembly.parts = Parts::find(folder.join("parts"), length);
        Ok(assembly)
    }

    /// Takes up what the journal names and the disk confirms. The journal stays as it
    /// is: hashing takes long, and a kill meanwhile must not lose what it names.
    fn recall(&self, journal: &[u8]) -> io::Result<()> {
        let named =
            |record: &[u8]| u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        let pieces = self.pack.manifest.pieces.len() as u32;
        let records: std::collections::BTreeSet<u32> =
            journal.chunks_exact(4).map(named).filter(|n| n & !UNSERVED < pieces).collect();
        for record in records {
            let piece = record & !UNSERVED;
            let wire = (record & UNSERVED == 0).then(|| self.pack.verified(piece)).flatten();
            if self.pack.is_plain(piece) {
                if wire.is_some() {
                    self.pack.mark(piece, true);
                }
                continue;
            }
            let raw = self.tree.read(piece)?;
            if PieceDigest::of(&raw) == self.pack.manifest.pieces[piece as usize].raw {
                self.pack.mark(piece, wire.is_some());
            } else if let Some(wire) = wire
                && let Err(Refused::Disk(error)) = self.put_wire(piece, &wire)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Verifies and writes a piece's wire bytes; whether it was news. The wire
    /// digest is checked before the decoder sees a byte.
    pub(super) fn put_wire(&self, piece: u32, wire: &[u8]) -> Result<bool, Refused> {
        let entry = self.pack.manifest.pieces.get(piece as usize).ok_or(Refused::Wire)?;
        if wire.len() as u64 != u64::from(entry.wire_bytes) || PieceDigest::of(wire) != entry.wire {
            return Err(Refused::Wire);
        }
        if self.pack.holds(piece) {
            return Ok(false);
        }
        let raw_len = self.pack.manifest.raw_len(piece as usize) as usize;
        let decoded = match entry.codec {
            Codec::None => None,
            Codec::Zstd => {
                let raw = zstd::bulk::decompress(wire, raw_len).map_err(|_| Refused::Raw(piece))?;
                let right = raw.len() == raw_len && PieceDigest::of(&raw) == entry.raw;
                Some(raw).filter(|_| right).ok_or(Refused::Raw(piece)).map(Some)?
            }
        };
        self.tree.write(piece, decoded.as_deref().unwrap_or(wire))?;
        if decoded.is_some() {
            self.pack.write(piece, wire)?;
        }
        Ok(self.note(piece, true)?)
    }

    /// Verifies and writes raw bytes found on this host; whether they were right.
    pub(super) fn put_raw(&self, piece: u32, raw: &[u8]) -> io::Result<bool> {
        let entry = &self.pack.manifest.pieces[piece as usize];
        if PieceDigest::of(raw) != entry.raw {
            return Ok(false);
        }
        self.tree.write(piece, raw)?;
        self.note(piece, entry.codec == Codec::None)?;
        Ok(true)
    }

    /// Sees that there is room for what is to be fetched, within a quota that `allow` knows:
    /// it is told how many bytes release and pack take in the end.
    pub(super) fn check_room(&self, allow: impl FnOnce(u64) -> io::Result<()>) -> io::Result<()> {
        let room = allow(self.pack.manifest.size + self.pack.room())
            .and_then(|()| self.tree.check_room(self.pack.lacking_room()?));
        room.inspect_err(|error| give_back(error, self.tree.staging(), &self.pack.folder))
    }

    /// Takes the release's room, before what it shares with others is copied into it: that may
    /// be all of it.
    pub(super) fn take_tree_room(&self) -> io::Result<()> {
        let taken = self.tree.check_room(0).and_then(|()| self.tree.take_room());
        taken.inspect_err(|error| give_back(error, self.tree.staging(), &self.pack.folder))
    }

    /// Takes the room that [`Self::check_room`] saw.
    pub(super) fn take_room(&self) -> io::Result<()> {
        let taken = self.tree.take_room().and_then(|()| self.pack.take_room());
        taken.inspect_err(|error| give_back(error, self.tree.staging(), &self.pack.folder))
    }

    /// Wire bytes of the pieces that are not here yet.
    pub(super) fn missing_wire_bytes(&self) -> u64 {
        let missing = self.pack.missing();
        missing.iter().map(|piece| self.pack.wire_len(piece)).sum()
    }

    /// Copies every missing piece that a kept release of the app holds; the raw
    /// bytes copied. A release that goes away meanwhile is no error.
    pub(super) fn reuse(&self, paths: &Paths) -> io::Result<u64> {
        let app = &self.pack.manifest.app;
        let mut copied = 0;
        for name in fs::read_dir(paths.releases(app)).into_iter().flatten().flatten() {
            let Some(other) = name.file_name().to_str().and_then(|n| n.parse::<Digest>().ok())
            else {
                continue;
            };
            if let Some(manifest) = paths.manifest(app, other) {
                copied += self.reuse_one(&name.path(), &manifest)?;
            }
        }
        self.pack.offer_unmade();
        Ok(copied)
    }

    fn reuse_one(&self, release: &Path, manifest: &Manifest) -> io::Result<u64> {
        let (layout, mut copied) = (Layout::new(manifest), 0);
        let pieces = manifest.pieces.iter().enumerate();
        let by_raw: std::collections::BTreeMap<PieceDigest, usize> =
            pieces.map(|(at, piece)| (piece.raw, at)).collect();
        for piece in self.pack.missing().iter() {
            let raw = self.pack.manifest.pieces[piece as usize].raw;
            let Some(&at) = by_raw.get(&raw) else { continue };
            let start = at as u64 * u64::from(manifest.piece_bytes);
            let Ok(bytes) = layout.read(release, start..start + manifest.raw_len(at)) else {
                continue;
            };
            if self.put_raw(piece, &bytes)? {
                copied += bytes.len() as u64;
            }
        }
        Ok(copied)
    }

    /// Makes the release; durable on return. The pack stays for peers.
    pub(super) fn publish(&self, paths: &Paths) -> io::Result<()> {
        self.parts.remove();
        let release = paths.releases(&self.pack.manifest.app).join(self.pack.artifact.to_string());
        self.tree.publish(&release)
    }

    fn note(&self, piece: u32, served: bool) -> io::Result<bool> {
        let record = if served { piece } else { piece | UNSERVED };
        self.lock().write_all(&record.to_le_bytes())?;
        Ok(self.pack.mark(piece, served))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that was taken before the disk ran full is given back; pieces that were
/// verified are worth more than the room.
fn give_back(error: &io::Error, staging: &Path, folder: &Path) {
    if error.kind() == io::ErrorKind::StorageFull && !named(folder) {
        let _ = fs::remove_dir_all(staging);
        let _ = fs::remove_dir_all(folder);
    }
}

/// Whether the journal of the pack in `folder` names a piece.
fn named(folder: &Path) -> bool {
    fs::metadata(folder.join("journal")).is_ok_and(|meta| meta.len() >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{Entry, Node, Piece, Provenance, Shape, piece_bytes};

    /// One file of three plain pieces.
    fn artifact() -> (Vec<u8>, Arc<Manifest>) {
        let blob: Vec<u8> = (0..(512usize << 10) + 5).map(|i| (i * 31 % 251) as u8).collect();
        let size = blob.len() as u64;
        let piece = |raw: &[u8]| {
            let digest = PieceDigest::of(raw);
            Piece { raw: digest, wire: digest, wire_bytes: raw.len() as u32, codec: Codec::None }
        };
        let manifest = Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::File,
            entries: vec![Entry { path: "a".into(), node: Node::File { size, exec: true } }],
            size,
            piece_bytes: piece_bytes(size),
            pieces: blob.chunks(256 << 10).map(piece).collect(),
            run: None,
            provenance: Provenance::sample(),
        };
        (blob, Arc::new(manifest))
    }

    fn prepare(paths: &Paths, manifest: &Arc<Manifest>) -> Assembly {
        let claim = Arc::new(tokio::sync::Mutex::new(())).try_lock_owned().unwrap();
        Assembly::prepare(paths, manifest.id(), manifest.clone(), claim).unwrap()
    }

    #[test]
    fn a_kill_while_the_journal_is_checked_loses_no_piece() {
        let root = tempfile::tempdir().unwrap();
        let (paths, (blob, manifest)) = (Paths::new(root.path()), artifact());
        let assembly = prepare(&paths, &manifest);
        for (piece, wire) in blob.chunks(256 << 10).enumerate().take(2) {
            assert!(assembly.put_wire(piece as u32, wire).unwrap());
        }
        // Killed when only one of the two was hashed again.
        assembly.recall(&0u32.to_le_bytes()).unwrap();
        drop(assembly);
        // And a record that a full disk cut short does not shift those after it.
        let journal = paths.packs().join(manifest.id().to_string()).join("journal");
        OpenOptions::new().append(true).open(&journal).unwrap().write_all(&[7]).unwrap();
        let assembly = prepare(&paths, &manifest);
        assert_eq!(assembly.pack.have.borrow().done.count(), 2);
        assert!(assembly.put_wire(2, &blob[512 << 10..]).unwrap());
        drop(assembly);
        assert_eq!(prepare(&paths, &manifest).pack.have.borrow().done.count(), 3);
    }
}
