//! Half-received pieces, kept over a kill: the bytes of a piece that takes long are
//! also written beside the pack as they come, and the next process asks for the rest.
//!
//! What lies here was verified by nobody. It is offered to nobody either, and counts
//! only as the front of a piece whose digest is checked as a whole. Nothing is synced:
//! after a crash of the machine such a piece is fetched again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::fs::make_folder;

/// A piece that comes within this time is not written twice: on a fast link that would
/// cost more than a kill now and then.
const LONG: Duration = Duration::from_millis(20);
/// Part of a piece that a kill may lose, once it takes long: a piece is 1/1,024 of what
/// is large, and a handful are under way.
const STEP_PART: usize = 16;
/// Least and most bytes of such a part: a write costs some microseconds, and a slow link
/// a second for the most.
const STEP_BYTES: (usize, usize) = (16 << 10, 512 << 10);

/// The half-received pieces of one artifact.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    /// What an earlier process left: bytes of each piece, until somebody takes them up.
    left: Mutex<BTreeMap<u32, u64>>,
    /// Pieces whose file is being written: the second copy of a piece that is asked for
    /// twice is in memory only.
    coming: Arc<Mutex<BTreeSet<u32>>>,
}

impl Parts {
    /// Nothing half-received yet.
    pub(super) fn none(folder: PathBuf) -> Self {
        Self { folder, left: Mutex::default(), coming: Arc::default() }
    }

    /// Finds what an earlier process left in `folder`. `length` tells how long a piece
    /// is that is still of use.
    pub(super) fn find(folder: PathBuf, length: impl Fn(u32) -> Option<u64>) -> Self {
        let mut left = BTreeMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let piece = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let there = entry.metadata().ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
            let useful = piece.and_then(&length).zip(there).filter(|(all, there)| there < all);
            match (piece, useful) {
                (Some(piece), Some((_, there))) if there > 0 => {
                    left.insert(piece, there);
                }
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        Self { folder, left: Mutex::new(left), coming: Arc::default() }
    }

    /// A piece is about to be fetched into `buffer`: what is here of it is put there, and
    /// its bytes are written down from now on. Blocks for as long as reading it takes.
    pub(super) fn begin(&self, piece: u32, buffer: &mut [u8]) -> Part {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&piece);
        let path = self.folder.join(piece.to_string());
        let found = left.and_then(|there| taken_up(&path, buffer, there as usize).ok());
        let (file, written) = found.map_or((None, 0), |(file, there)| (Some(file), there));
        let step = (buffer.len() / STEP_PART).clamp(STEP_BYTES.0, STEP_BYTES.1);
        let claim = Claim::on(&self.coming, piece);
        let broken = claim.is_none();
        Part { path, file, begun: Instant::now(), resumed: written, written, step, broken, claim }
    }

    /// Removes all of them: nothing is fetched any more.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn taken_up(path: &Path, buffer: &mut [u8], there: usize) -> io::Result<(File, usize)> {
    let file = opened(path, false)?;
    let front = buffer.get_mut(..there).ok_or(io::ErrorKind::InvalidData)?;
    file.read_exact_at(front, 0)?;
    Ok((file, there))
}

fn opened(path: &Path, fresh: bool) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(fresh).truncate(fresh).mode(0o600).custom_flags(flags);
    how.open(path)
}

/// Leave to write a piece's file, until it is dropped.
#[derive(Debug)]
struct Claim(Arc<Mutex<BTreeSet<u32>>>, u32);

impl Claim {
    fn on(coming: &Arc<Mutex<BTreeSet<u32>>>, piece: u32) -> Option<Self> {
        let news = coming.lock().unwrap_or_else(PoisonError::into_inner).insert(piece);
        news.then(|| Self(coming.clone(), piece))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A piece that is coming. Its file stays when the process ends before [`Self::end`].
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: Option<File>,
    begun: Instant,
    resumed: usize,
    written: usize,
    /// Bytes that are written down at once.
    step: usize,
    /// Nothing more is written down.
    broken: bool,
    claim: Option<Claim>,
}

impl Part {
    /// Bytes at the front that were here already: nobody who sends the rest answers for them.
    pub(super) fn resumed(&self) -> usize {
        self.resumed
    }

    /// All of the piece comes, also what was here.
    pub(super) fn restart(&mut self) {
        (self.resumed, self.written) = (0, 0);
    }

    /// Writes down what came, `bytes` being the whole front of the piece, now and then.
    /// Some dozen KiB into the page cache: too little to leave the thread for.
    pub(super) fn came(&mut self, bytes: &[u8]) {
        let enough = bytes.len() >= self.written + self.step && self.begun.elapsed() >= LONG;
        if !enough || self.broken {
            return;
        }
        // A disk that is full costs bytes after a kill, and nothing now.
        self.broken = self.write(bytes).is_err();
    }

    /// The piece is there, or nobody waits for the rest of it: its file goes. What two
    /// peers sent is never put together, so that a wrong byte has one sender.
    pub(super) fn end(self) {
        if self.file.is_some() && self.claim.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            make_folder(self.path.parent().unwrap_or(Path::new("/")), 0o700)?;
            self.file = Some(opened(&self.path, true)?);
        }
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&bytes[self.written..], self.written as u64)?;
        self.written = bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Parts {
        Parts::find(folder.join("parts"), |piece| (piece < 4).then_some(200_000))
    }

    #[test]
    fn what_a_killed_process_received_is_taken_up_once() {
        let root = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut part = open(root.path()).begin(1, &mut vec![0; 200_000]);
        part.came(&bytes[..10]);
        assert!(!part.path.exists(), "a piece that just began is in memory only");
        part.begun = Instant::now().checked_sub(LONG).unwrap();
        part.came(&bytes[..70_000]);
        part.came(&bytes[..80_000]);
        // Killed: nothing is tidied.
        drop(part);
        fs::write(root.path().join("parts/9"), b"of another manifest").unwrap();
        fs::write(root.path().join("parts/2"), vec![0; 200_001]).unwrap();
        let (parts, mut buffer) = (open(root.path()), vec![0; 200_000]);
        let mut part = parts.begin(1, &mut buffer);
        assert_eq!(part.resumed(), 70_000);
        assert_eq!(buffer[..70_000], bytes[..70_000]);
        assert_eq!(
            parts.begin(1, &mut buffer).resumed(),
            0,
            "another request for it has all to fetch"
        );
        assert_eq!(parts.begin(2, &mut buffer).resumed(), 0);
        assert!(!root.path().join("parts/9").exists());
        part.begun = Instant::now().checked_sub(LONG).unwrap();
        part.came(&bytes[..140_000]);
        assert_eq!(fs::read(&part.path).unwrap(), bytes[..140_000]);
        let mut second = parts.begin(1, &mut buffer);
        second.begun = part.begun;
        second.came(&[0; 100_000]);
        second.end();
        assert_eq!(fs::read(&part.path).unwrap(), bytes[..140_000], "one of two copies writes");
        let path = part.path.clone();
        part.end();
        assert!(!path.exists(), "what is verified or given up leaves nothing");
    }
}
