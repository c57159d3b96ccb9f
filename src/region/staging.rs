//! A pack on its way into the regional store: a preallocated file and a journal of
//! the pieces in it that were verified.
//!
//! The journal is a hint, never a proof: after a crash every piece that it names is
//! hashed again, so order and durability of its writes do not matter. Calls block.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::model::digest::{ArtifactId, PieceDigest};
use crate::model::manifest::{Manifest, Piece};
use crate::model::pieces::PieceSet;

/// A pack being staged.
pub struct Staging {
    pack: File,
    journal: File,
    paths: [PathBuf; 2],
}

impl Staging {
    /// Opens what `folder` holds of `artifact`, or begins anew with all space reserved.
    ///
    /// # Errors
    /// Disk full or an I/O error.
    pub fn open(folder: &Path, artifact: &ArtifactId, manifest: &Manifest) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let paths = paths(folder, artifact);
        let pack = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&paths[0])?;
        let journal = OpenOptions::new().read(true).append(true).create(true).open(&paths[1])?;
        reserve(&pack, manifest.wire_size())?;
        Ok(Self { pack, journal, paths })
    }

    /// Hashes again every piece that the journal names; returns those that hold.
    ///
    /// # Errors
    /// An I/O error.
    pub fn resume(&self, manifest: &Manifest, offsets: &[u64]) -> io::Result<PieceSet> {
        let mut held = PieceSet::new();
        let mut journal = Vec::new();
        let longest = 4 * manifest.pieces.len() as u64 * 8;
        (&self.journal).take(longest).read_to_end(&mut journal)?;
        let mut buffer = Vec::new();
        for entry in journal.chunks_exact(4) {
            let index = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize;
            let unseen = |_: &&Piece| !held.contains(index as u32);
            let Some(piece) = manifest.pieces.get(index).filter(unseen) else { continue };
            buffer.resize(piece.wire_bytes as usize, 0);
            self.pack.read_exact_at(&mut buffer, offsets[index])?;
            if PieceDigest::of(&buffer) == piece.wire {
                held.insert(index as u32);
            }
        }
        Ok(held)
    }

    /// Writes a piece if `bytes` are what the manifest says; says whether they were.
    ///
    /// # Errors
    /// Disk full or an I/O error.
    pub fn write(&self, index: usize, piece: &Piece, at: u64, bytes: &[u8]) -> io::Result<bool> {
        if bytes.len() != piece.wire_bytes as usize || PieceDigest::of(bytes) != piece.wire {
            return Ok(false);
        }
        self.pack.write_all_at(bytes, at)?;
        (&self.journal).write_all(&(index as u32).to_le_bytes())?;
        Ok(true)
    }

    /// Fills `into` from `at` on.
    ///
    /// # Errors
    /// An I/O error.
    pub fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.pack.read_exact_at(into, at)
    }

    /// The staged pack's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.paths[0]
    }
}

/// Removes what is staged of `artifact`; nothing there is fine.
pub fn discard(folder: &Path, artifact: &ArtifactId) {
    for path in paths(folder, artifact) {
        // What can't be removed now is overwritten or removed the next time.
        let _ = std::fs::remove_file(path);
    }
}

/// Every artifact of which something is staged.
#[must_use]
pub fn list(folder: &Path) -> BTreeSet<ArtifactId> {
    let Ok(files) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.split_once('.')?.0.parse().ok()).collect()
}

fn paths(folder: &Path, artifact: &ArtifactId) -> [PathBuf; 2] {
    [folder.join(format!("{artifact}.pack")), folder.join(format!("{artifact}.journal"))]
}

/// Reserves the whole length at once, so that a full disk shows before gigabytes moved.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() != bytes {
        file.set_len(bytes)?;
    }
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // Some file systems can't reserve; then the writes themselves tell.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
