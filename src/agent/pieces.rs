//! One artifact's pieces on this host: its pack, its journal, and the release
//! that is made of them.
//!
//! A piece counts as had only after its wire bytes and its raw bytes were both
//! verified and written. The journal names such pieces; what it names is hashed
//! again after a restart, so neither a crash nor a lost write can smuggle in a
//! wrong byte, and no verified piece is fetched twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};

use crate::agent::assemble::{self, Layout, Tree};
use crate::host::fs::{make_folder, write_durable};
use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::id::AppName;
use crate::model::manifest::{Codec, MANIFEST_BYTES_MAX, Manifest};
use crate::model::pieces::PieceSet;
use crate::net::auth::random_key;

/// Journal flag: the raw bytes are in the release, the wire bytes not in the pack.
const UNSERVED: u32 = 1 << 31;

/// Where things lie under the agent's root.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Every app with a folder here.
    pub(super) fn apps(&self) -> Vec<AppName> {
        let folders = fs::read_dir(self.root.join("apps")).into_iter().flatten().flatten();
        folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn releases(&self, app: &AppName) -> PathBuf {
        self.root.join("apps").join(app.as_str()).join("releases")
    }

    pub(super) fn manifests(&self, app: &AppName) -> PathBuf {
        self.root.join("apps").join(app.as_str()).join("manifests")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// The manifest kept for a release, checked against its name; `None` when
    /// there is none, or it is damaged.
    pub(super) fn manifest(&self, app: &AppName, artifact: ArtifactId) -> Option<Manifest> {
        let path = self.manifests(app).join(artifact.to_string());
        let size = fs::metadata(&path).ok()?.len();
        let bytes = (size <= MANIFEST_BYTES_MAX as u64).then(|| fs::read(&path).ok())??;
        (Digest::of(&bytes) == artifact).then(|| Manifest::decode(&bytes).ok())?
    }

    /// Keeps a manifest and its signature, durably.
    pub(super) fn keep_manifest(
        &self,
        app: &AppName,
        artifact: ArtifactId,
        bytes: &[u8],
        signature: &str,
    ) -> io::Result<()> {
        let folder = self.manifests(app);
        make_folder(&folder, 0o755)?;
        let path = folder.join(artifact.to_string());
        write_durable(&path.with_extension("sig"), signature.as_bytes(), 0o644)?;
        write_durable(&path, bytes, 0o644)
    }

    /// Removes manifests that no release and no fetch needs.
    pub(super) fn sweep_manifests(&self) {
        for app in self.apps() {
            for entry in fs::read_dir(self.manifests(&app)).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.file_stem().unwrap_or_default();
                if !self.releases(&app).join(name).is_dir() && !self.staging().join(name).is_dir() {
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }

    /// The signature kept beside a manifest.
    pub(super) fn signature(&self, app: &AppName, artifact: ArtifactId) -> Option<String> {
        let path = self.manifests(app).join(artifact.to_string()).with_extension("sig");
        fs::read_to_string(path).ok().filter(|text| text.len() < 1024)
    }
}

/// What a host has of an artifact; the generation changes with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Have {
    pub(super) generation: u64,
    /// In the pack: can be served.
    pub(super) served: PieceSet,
    /// In the release: need not be fetched.
    pub(super) done: PieceSet,
}

/// A pack that peers may read, growing or whole.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) artifact: ArtifactId,
    pub(super) manifest: Arc<Manifest>,
    pub(super) offsets: Vec<u64>,
    pub(super) folder: PathBuf,
    pub(super) have: watch::Sender<Have>,
    /// What peers must show; none before the tracker told it.
    pub(super) ticket: Mutex<Option<String>>,
    file: File,
}

impl Pack {
    /// Opens or makes the pack in `folder`; nothing of it is trusted yet.
    pub(super) fn open(
        folder: PathBuf,
        artifact: ArtifactId,
        manifest: Arc<Manifest>,
    ) -> io::Result<Self> {
        make_folder(&folder, 0o700)?;
        let file = assemble::allocate(&folder.join("pack"), manifest.wire_size(), 0o600)?;
        // Generations of an earlier process must not look like this one's.
        let random = random_key();
        let generation = u64::from(u32::from_le_bytes([random[0], random[1], random[2], 1])) << 12;
        let have = watch::Sender::new(Have { generation, ..Have::default() });
        let offsets = manifest.wire_offsets();
        Ok(Self { artifact, manifest, offsets, folder, have, ticket: Mutex::new(None), file })
    }

    /// Length of a piece on the wire.
    pub(super) fn wire_len(&self, piece: u32) -> u64 {
        u64::from(self.manifest.pieces[piece as usize].wire_bytes)
    }

    /// Reads a part of a piece's wire bytes.
    pub(super) fn read_part(&self, piece: u32, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, self.offsets[piece as usize] + at)
    }

    /// Whether the pack holds exactly this piece's bytes; they are returned.
    pub(super) fn verified(&self, piece: u32) -> Option<Vec<u8>> {
        let mut wire = vec![0; self.wire_len(piece) as usize];
        self.read_part(piece, 0, &mut wire).ok()?;
        (PieceDigest::of(&wire) == self.manifest.pieces[piece as usize].wire).then_some(wire)
    }

    /// Marks a piece; whether it was news.
    fn mark(&self, piece: u32, served: bool) -> bool {
        self.have.send_if_modified(|have| {
            let news = have.done.insert(piece);
            let more = served && have.served.insert(piece);
            have.generation += u64::from(news || more);
            news || more
        })
    }

    /// Marks a piece of a pack whose release is complete already.
    pub(super) fn mark_served(&self, piece: u32) {
        self.mark(piece, true);
    }

    /// What peers must show.
    pub(super) fn set_ticket(&self, ticket: &str) {
        *self.ticket.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket.to_owned());
    }

    /// Removes the pack's files; open reads go on.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, path = %self.folder.display(), "pack not removed");
        }
    }
}

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
        let fresh = !folder.join("pack").exists();
        let beside = if fresh { manifest.wire_size() } else { 0 };
        let made = Tree::prepare(&staging, manifest.clone(), beside)
            .and_then(|tree| Ok((tree, Pack::open(folder.clone(), artifact, manifest)?)));
        let (tree, pack) = made.inspect_err(|error| {
            // Room that was taken before the disk ran full is given back; pieces that
            // were verified are worth more than the room.
            if error.kind() == io::ErrorKind::StorageFull && !named(&folder) {
                let _ = fs::remove_dir_all(&staging);
                let _ = fs::remove_dir_all(&folder);
            }
        })?;
        let path = folder.join("journal");
        let names = fs::read(&path).unwrap_or_default();
        let journal = OpenOptions::new().create(true).append(true).open(&path)?;
        // A full disk may have cut the last record short.
        journal.set_len(names.len() as u64 / 4 * 4)?;
        let assembly =
            Self { pack: Arc::new(pack), tree, journal: Mutex::new(journal), _claim: claim };
        assembly.recall(&names)?;
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
        if self.pack.have.borrow().served.contains(piece) {
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
        self.pack.file.write_all_at(wire, self.pack.offsets[piece as usize])?;
        Ok(self.note(piece, true)?)
    }

    /// Verifies and writes raw bytes found on this host; whether they were right.
    pub(super) fn put_raw(&self, piece: u32, raw: &[u8]) -> io::Result<bool> {
        let entry = &self.pack.manifest.pieces[piece as usize];
        if PieceDigest::of(raw) != entry.raw {
            return Ok(false);
        }
        self.tree.write(piece, raw)?;
        // Compressing again need not give the same wire bytes: only plain pieces
        // can be served.
        let plain = entry.codec == Codec::None;
        if plain {
            self.pack.file.write_all_at(raw, self.pack.offsets[piece as usize])?;
        }
        self.note(piece, plain)?;
        Ok(true)
    }

    /// Wire bytes of the pieces that are not here yet.
    pub(super) fn missing_wire_bytes(&self) -> u64 {
        let all = PieceSet::full(self.pack.manifest.pieces.len() as u32);
        let missing = all.minus(&self.pack.have.borrow().done);
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
        Ok(copied)
    }

    fn reuse_one(&self, release: &Path, manifest: &Manifest) -> io::Result<u64> {
        let (layout, mut copied) = (Layout::new(manifest), 0);
        let pieces = manifest.pieces.iter().enumerate();
        let by_raw: std::collections::BTreeMap<PieceDigest, usize> =
            pieces.map(|(at, piece)| (piece.raw, at)).collect();
        let all = PieceSet::full(self.pack.manifest.pieces.len() as u32);
        let missing = all.minus(&self.pack.have.borrow().done);
        for piece in missing.iter() {
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
