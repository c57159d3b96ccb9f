//! What peers may read of an artifact: wire bytes, in the pack or in the release.
//!
//! Offers only pieces that were verified here. A piece that is found damaged later
//! is offered no more.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::agent::assemble::{self, Files};
use crate::host::fs::make_folder;
use crate::model::digest::{ArtifactId, PieceDigest};
use crate::model::manifest::{Codec, Manifest, ZSTD_LEVEL};
use crate::model::pieces::PieceSet;
use crate::net::auth::random_key;

/// What a host has of an artifact; the generation changes with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Have {
    pub(super) generation: u64,
    /// Its wire bytes are here, or can be made: peers may ask for it.
    pub(super) served: PieceSet,
    /// In the release: need not be fetched.
    pub(super) done: PieceSet,
}

/// Some of a piece's wire bytes: in a file of the release, or in the pack itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    path: Option<String>,
    /// Offset in that file.
    pub(super) at: u64,
    /// Bytes.
    pub(super) length: u64,
}

/// The wire bytes that peers may read, growing or whole. Pieces that are not
/// compressed lie in the release alone; the pack's file has holes in their place.
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
    files: Files,
    /// Served, but still to be compressed again when somebody asks.
    unmade: Mutex<PieceSet>,
    /// Held while one is.
    making: Mutex<()>,
}

/// What came of making a piece's wire bytes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// They are in the pack.
    Here,
    /// Another piece is being made.
    Busy,
    /// They can't be made here.
    Never,
}

impl Pack {
    /// Opens or makes the pack in `folder` beside the release's `files`; nothing of
    /// either is trusted yet, and no room is taken.
    pub(super) fn open(
        folder: PathBuf,
        artifact: ArtifactId,
        manifest: Arc<Manifest>,
        files: Files,
    ) -> io::Result<Self> {
        make_folder(&folder, 0o700)?;
        let offsets = manifest.wire_offsets();
        let path = folder.join("pack");
        let file = assemble::open_sized(&path, manifest.wire_size(), 0o600)?;
        // Generations of an earlier process must not look like this one's.
        let random = random_key();
        let generation = u64::from(u32::from_le_bytes([random[0], random[1], random[2], 1])) << 12;
        let have = watch::Sender::new(Have { generation, ..Have::default() });
        let (ticket, unmade, making) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { artifact, manifest, offsets, folder, have, ticket, file, files, unmade, making })
    }

    /// Bytes that the pack takes on disk in the end: compressed pieces that lie in it, and
    /// those that are to be fetched. What is made of other bytes on this host lies in the
    /// release alone.
    pub(super) fn room(&self) -> u64 {
        let fetched = self.missing();
        let (have, unmade) = (self.have.borrow(), self.unmade());
        let held = have.served.minus(&unmade);
        let lies = |piece: &u32| {
            !self.is_plain(*piece) && (held.contains(*piece) || fetched.contains(*piece))
        };
        let pieces = 0..self.manifest.pieces.len() as u32;
        pieces.filter(lies).map(|piece| self.wire_len(piece)).sum()
    }

    /// Bytes of [`Self::room`] that are not taken yet.
    pub(super) fn lacking_room(&self) -> io::Result<u64> {
        Ok(self.room().saturating_sub(self.file.metadata()?.blocks() * 512))
    }

    /// Takes the room of what is to be fetched, so that the disk can't run full later.
    pub(super) fn take_room(&self) -> io::Result<()> {
        let missing = self.missing();
        let packed = missing.iter().filter(|piece| !self.is_plain(*piece)).collect::<Vec<_>>();
        packed.chunk_by(|a, b| a + 1 == *b).try_for_each(|run| {
            let (first, last) = (run[0] as usize, run[run.len() - 1] as usize);
            assemble::take_room(&self.file, self.offsets[first]..self.offsets[last + 1])
        })
    }

    /// What is not there yet.
    pub(super) fn missing(&self) -> PieceSet {
        PieceSet::full(self.manifest.pieces.len() as u32).minus(&self.have.borrow().done)
    }

    /// Length of a piece on the wire.
    pub(super) fn wire_len(&self, piece: u32) -> u64 {
        u64::from(self.manifest.pieces[piece as usize].wire_bytes)
    }

    /// Whether a piece is sent as it lies in the release.
    pub(super) fn is_plain(&self, piece: u32) -> bool {
        self.manifest.pieces[piece as usize].codec == Codec::None
    }

    fn raw_range(&self, piece: u32) -> Range<u64> {
        let start = u64::from(piece) * u64::from(self.manifest.piece_bytes);
        start..start + self.manifest.raw_len(piece as usize)
    }

    /// Where a piece's wire bytes lie from the byte `from` on, in order.
    pub(super) fn stretches(&self, piece: u32, from: u64) -> Vec<Stretch> {
        if !self.is_plain(piece) {
            let at = self.offsets[piece as usize] + from;
            return vec![Stretch { path: None, at, length: self.wire_len(piece) - from }];
        }
        let raw = self.raw_range(piece);
        let places = self.files.places(raw.start + from..raw.end).into_iter();
        places.map(|(path, at, length)| Stretch { path: Some(path.into()), at, length }).collect()
    }

    /// The file that a stretch lies in.
    pub(super) fn file(&self, stretch: &Stretch) -> io::Result<File> {
        match &stretch.path {
            Some(path) => self.files.file(path),
            None => self.file.try_clone(),
        }
    }

    /// Whether exactly this piece's wire bytes are here; they are returned.
    pub(super) fn verified(&self, piece: u32) -> Option<Vec<u8>> {
        let mut wire = vec![0; self.wire_len(piece) as usize];
        let mut rest = &mut wire[..];
        for stretch in self.stretches(piece, 0) {
            let (part, after) = rest.split_at_mut_checked(stretch.length as usize)?;
            self.file(&stretch).and_then(|file| file.read_exact_at(part, stretch.at)).ok()?;
            rest = after;
        }
        (PieceDigest::of(&wire) == self.manifest.pieces[piece as usize].wire).then_some(wire)
    }

    /// The raw bytes of a piece as the release holds them, if they are right.
    fn raw(&self, piece: u32) -> Option<Vec<u8>> {
        let mut raw = vec![0; (self.raw_range(piece).end - self.raw_range(piece).start) as usize];
        let mut rest = &mut raw[..];
        for (path, at, length) in self.files.places(self.raw_range(piece)) {
            let (part, after) = rest.split_at_mut_checked(length as usize)?;
            self.files.file(path).and_then(|file| file.read_exact_at(part, at)).ok()?;
            rest = after;
        }
        (PieceDigest::of(&raw) == self.manifest.pieces[piece as usize].raw).then_some(raw)
    }

    /// Hashes a piece that a peer complained of, or whose file could not be read; what
    /// is not right any more is not offered any more. Blocks.
    pub(super) fn look_again(&self, piece: u32) {
        if self.is_unmade(piece) || self.verified(piece).is_some() {
            return;
        }
        tracing::warn!(artifact = %self.artifact.short(), piece, "a piece on disk is damaged, it is not served any more");
        self.withdraw(|served| served.remove(piece));
    }

    fn withdraw(&self, take: impl FnOnce(&mut PieceSet)) {
        self.have.send_modify(|have| {
            take(&mut have.served);
            have.generation += 1;
        });
    }

    /// Writes a compressed piece's wire bytes, which are right.
    pub(super) fn write(&self, piece: u32, wire: &[u8]) -> io::Result<()> {
        self.file.write_all_at(wire, self.offsets[piece as usize])?;
        self.unmade().remove(piece);
        Ok(())
    }

    fn unmade(&self) -> MutexGuard<'_, PieceSet> {
        self.unmade.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a piece's wire bytes must be made before they can be sent.
    pub(super) fn is_unmade(&self, piece: u32) -> bool {
        self.unmade().contains(piece)
    }

    /// Whether a piece's wire bytes are here.
    pub(super) fn holds(&self, piece: u32) -> bool {
        self.have.borrow().served.contains(piece) && !self.is_unmade(piece)
    }

    /// Offers the pieces that are here raw only, when the first of them shows that
    /// compressing again gives the bytes that the manifest names. Blocks.
    pub(super) fn offer_unmade(&self) {
        let lacking = {
            let have = self.have.borrow();
            have.done.minus(&have.served)
        };
        let Some(first) = lacking.iter().next() else { return };
        self.unmade().extend(&lacking);
        if self.make(first) == Made::Here {
            self.have.send_modify(|have| {
                have.served.extend(&lacking);
                have.generation += 1;
            });
        }
    }

    /// Makes a piece's wire bytes of the raw bytes in the release. One at a time; when it
    /// fails nothing more is made. Blocks.
    pub(super) fn make(&self, piece: u32) -> Made {
        let Ok(_one) = self.making.try_lock() else { return Made::Busy };
        if !self.is_unmade(piece) {
            return Made::Here;
        }
        let wire = self.raw(piece).and_then(|raw| zstd::bulk::compress(&raw, ZSTD_LEVEL).ok());
        let named = self.manifest.pieces[piece as usize].wire;
        let wire = wire.filter(|wire| PieceDigest::of(wire) == named);
        if wire.is_some_and(|wire| self.write(piece, &wire).is_ok()) {
            return Made::Here;
        }
        let unmade = std::mem::take(&mut *self.unmade());
        tracing::info!(artifact = %self.artifact.short(), pieces = unmade.count(), "pieces that were on this host can't be compressed again");
        self.withdraw(|served| *served = served.minus(&unmade));
        Made::Never
    }

    /// Marks a piece; whether it was news.
    pub(super) fn mark(&self, piece: u32, served: bool) -> bool {
        self.have.send_if_modified(|have| {
            let news = have.done.insert(piece);
            let more = served && have.served.insert(piece);
            have.generation += u64::from(news || more);
            news || more
        })
    }

    /// Offers what a pack holds whose release is complete already. Blocks for as long
    /// as hashing it takes.
    pub(super) fn recall(&self) {
        for piece in 0..self.manifest.pieces.len() as u32 {
            if self.verified(piece).is_some() {
                self.mark(piece, true);
            } else if !self.is_plain(piece) && self.raw(piece).is_some() {
                self.mark(piece, false);
            }
        }
        self.offer_unmade();
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
