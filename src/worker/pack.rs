//! Files in, pieces out: reads, digests and compresses on all cores, and hands the
//! pieces on in order while later ones are made.
//!
//! Every packer takes the next piece, reads it out of its files, digests and
//! compresses it while it is in that core's cache, and waits for its turn to hand
//! it on. One raw and one compressed piece a packer is all the memory there is.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::model::digest::PieceDigest;
use crate::model::manifest::{Codec, Piece, piece_bytes};
use crate::store::blobs::BlobError;
use crate::worker::squeeze::Squeezer;
use crate::worker::walk::Tree;

/// Packers for each core: one that works, one that reads or waits for its turn.
const PACKERS_PER_CORE: usize = 2;
/// Most packers: at most 20 MiB each (two pieces of 8 MiB, zstd's tables), 240 MiB in all.
const PACKERS_MAX: usize = 12;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Raw bytes of each piece but the last.
    pub piece_bytes: u32,
    /// In order.
    pub pieces: Vec<Piece>,
}

/// Why packing stopped.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file has another size than when it was looked at.
    #[error("{path} changed while it was read")]
    Changed {
        /// The file.
        path: String,
    },
    /// A file can't be read.
    #[error("{path} can't be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The pack can't be written.
    #[error("the pack can't be written: {0}")]
    Write(#[source] BlobError),
    /// It was told to stop.
    #[error("packing was stopped")]
    Stopped,
}

/// Takes a pack's bytes in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), BlobError> + Send + 'a;

/// Packs `tree` into `sink`. Blocks. Ends soon after `stop` turns true. Memory: two
/// pieces a packer, whatever the tree's size.
///
/// # Errors
/// See [`PackError`].
pub fn pack(tree: &Tree, stop: &AtomicBool, sink: &mut Sink<'_>) -> Result<Packed, PackError> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let piece_bytes = piece_bytes(tree.size);
    let blob = Blob::of(tree, u64::from(piece_bytes));
    let packers = (cores * PACKERS_PER_CORE).min(PACKERS_MAX).min(blob.pieces);
    let line = Line {
        blob,
        stop,
        taken: AtomicUsize::new(0),
        turn: Mutex::new(Turn { sink, made: Vec::new(), failed: None }),
        moved: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..packers {
            scope.spawn(|| line.work());
        }
    });
    let Turn { made, failed, .. } = line.turn.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        Some(error) => Err(error),
        None => Ok(Packed { piece_bytes, pieces: made }),
    }
}

/// What the packers share.
struct Line<'a, 'b> {
    blob: Blob<'a>,
    stop: &'a AtomicBool,
    /// Pieces that a packer took.
    taken: AtomicUsize,
    turn: Mutex<Turn<'a, 'b>>,
    moved: Condvar,
}

struct Turn<'a, 'b> {
    sink: &'a mut Sink<'b>,
    made: Vec<Piece>,
    /// Whoever finds an error here ends.
    failed: Option<PackError>,
}

impl<'a, 'b> Line<'a, 'b> {
    fn turn(&self) -> MutexGuard<'_, Turn<'a, 'b>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs pieces until there are no more, or anybody failed.
    fn work(&self) {
        let mut squeezer = Squeezer::new();
        let mut raw = Vec::new();
        loop {
            let index = self.taken.fetch_add(1, Ordering::Relaxed);
            if index >= self.blob.pieces {
                return;
            }
            if let Err(error) = self.piece(index, &mut raw, &mut squeezer) {
                self.turn().failed.get_or_insert(error);
                return self.moved.notify_all();
            }
        }
    }

    fn piece(
        &self,
        index: usize,
        raw: &mut Vec<u8>,
        squeezer: &mut Squeezer,
    ) -> Result<(), PackError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(PackError::Stopped);
        }
        self.blob.read(index, raw)?;
        let digest = PieceDigest::of(raw);
        let (codec, wire) = match squeezer.squeeze(raw) {
            Some(wire) => (Codec::Zstd, wire),
            None => (Codec::None, raw.as_slice()),
        };
        let wire_digest = if codec == Codec::None { digest } else { PieceDigest::of(wire) };
        let wire_bytes = u32::try_from(wire.len()).expect("a piece is at most 8 MiB");
        let piece = Piece { raw: digest, wire: wire_digest, wire_bytes, codec };
        self.hand_on(index, piece, wire)
    }

    /// Hands a piece on when all before it are.
    fn hand_on(&self, index: usize, piece: Piece, wire: &[u8]) -> Result<(), PackError> {
        let mine = |turn: &mut Turn<'_, '_>| turn.made.len() != index && turn.failed.is_none();
        let turn = self.moved.wait_while(self.turn(), mine);
        let mut turn = turn.unwrap_or_else(PoisonError::into_inner);
        if turn.failed.is_some() {
            return Err(PackError::Stopped);
        }
        (turn.sink)(wire).map_err(PackError::Write)?;
        turn.made.push(piece);
        drop(turn);
        self.moved.notify_all();
        Ok(())
    }
}

/// The files of a tree, laid end to end and cut into pieces.
struct Blob<'a> {
    tree: &'a Tree,
    /// Where each file with bytes begins, and which entry it is.
    files: Vec<(u64, usize)>,
    piece_bytes: u64,
    pieces: usize,
}

impl<'a> Blob<'a> {
    fn of(tree: &'a Tree, piece_bytes: u64) -> Self {
        let mut at = 0;
        let mut files = Vec::new();
        for (index, entry) in tree.entries.iter().enumerate().filter(|(_, entry)| entry.size() > 0)
        {
            files.push((at, index));
            at += entry.size();
        }
        let pieces = usize::try_from(at.div_ceil(piece_bytes)).expect("a bounded artifact has few");
        Self { tree, files, piece_bytes, pieces }
    }

    /// Reads a whole piece.
    fn read(&self, index: usize, piece: &mut Vec<u8>) -> Result<(), PackError> {
        let start = index as u64 * self.piece_bytes;
        let end = self.tree.size.min(start + self.piece_bytes);
        let bytes = (end - start) as usize;
        // One byte more shows a last file that grew.
        piece.resize(bytes + 1, 0);
        let mut filled = 0;
        let first = self.files.partition_point(|(at, _)| *at <= start) - 1;
        for &(at, entry) in &self.files[first..] {
            if filled == bytes {
                break;
            }
            let entry = &self.tree.entries[entry];
            let from = start + filled as u64 - at;
            let to = entry.size().min(end - at);
            let wanted = (to - from) as usize;
            self.part(&entry.path, from..to, entry.size(), &mut piece[filled..=filled + wanted])?;
            filled += wanted;
        }
        piece.truncate(bytes);
        Ok(())
    }

    /// Reads `range` of a file that must have `size` bytes. `into` has room for one more.
    fn part(
        &self,
        name: &str,
        range: Range<u64>,
        size: u64,
        into: &mut [u8],
    ) -> Result<(), PackError> {
        let fail = |source| PackError::Read { path: name.to_owned(), source };
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file =
            OpenOptions::new().read(true).custom_flags(nofollow).open(self.tree.root.join(name));
        let file = file.map_err(fail)?;
        let wanted = into.len() - 1;
        let room = wanted + usize::from(range.end == size);
        let read = read_at_most(&file, &mut into[..room], range.start).map_err(fail)?;
        if read == wanted { Ok(()) } else { Err(PackError::Changed { path: name.to_owned() }) }
    }
}

/// Fills `into` as far as the file goes. A read that is short is its end.
fn read_at_most(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(into, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::walk::walk;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut rng = crate::model::rng::Rng::new(seed);
        std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).flatten().take(bytes).collect()
    }

    fn pack_now(tree: &Tree) -> Result<(Packed, Vec<u8>), PackError> {
        let mut wire = Vec::new();
        let mut sink = |bytes: &[u8]| {
            wire.extend_from_slice(bytes);
            Ok(())
        };
        let packed = pack(tree, &AtomicBool::new(false), &mut sink)?;
        Ok((packed, wire))
    }

    /// Undoes a pack by the manifest's rules alone.
    fn unpack(packed: &Packed, wire: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        let mut at = 0;
        for piece in &packed.pieces {
            let bytes = &wire[at..][..piece.wire_bytes as usize];
            at += bytes.len();
            assert_eq!(PieceDigest::of(bytes), piece.wire);
            let raw = match piece.codec {
                Codec::None => bytes.to_vec(),
                Codec::Zstd => zstd::bulk::decompress(bytes, packed.piece_bytes as usize).unwrap(),
            };
            assert_eq!(PieceDigest::of(&raw), piece.raw);
            blob.extend(raw);
        }
        assert_eq!(at, wire.len());
        blob
    }

    #[test]
    fn files_end_to_end_come_back_from_their_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"all work and no play ".repeat(200_000);
        let parts: [(&str, &[u8]); 5] = [
            ("a", &noise((3 << 20) + 17, 1)),
            ("b", b""),
            ("c", &text),
            ("d", b"x"),
            ("e", &noise(1 << 20, 2)),
        ];
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        for (name, bytes) in parts {
            std::fs::write(out.join(name), bytes).unwrap();
        }
        let tree = walk(folder.path(), "out").unwrap();
        let (packed, wire) = pack_now(&tree).unwrap();
        let blob: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        assert_eq!(packed.piece_bytes, 256 << 10);
        assert_eq!(packed.pieces.len(), blob.len().div_ceil(256 << 10));
        assert!(unpack(&packed, &wire) == blob);
        assert_eq!(packed.pieces[0].codec, Codec::None);
        assert_eq!(packed.pieces[20].codec, Codec::Zstd);
        assert!(wire.len() < blob.len() - (3 << 20));
        assert!(pack_now(&tree).unwrap() == (packed, wire));
    }

    #[test]
    fn nothing_packs_to_nothing_and_one_byte_to_itself() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        for path in ["file", "empty"] {
            let (packed, wire) = pack_now(&walk(folder.path(), path).unwrap()).unwrap();
            assert!(packed.pieces.is_empty() && wire.is_empty());
        }
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let (packed, _) = pack_now(&walk(folder.path(), "file").unwrap()).unwrap();
        assert_eq!((packed.pieces[0].codec, packed.pieces[0].wire_bytes), (Codec::None, 1));
    }

    #[test]
    fn a_file_that_changed_or_went_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, noise(100, 3)).unwrap();
        let tree = walk(folder.path(), "file").unwrap();
        for bytes in [99, 101, 0, 3 << 20] {
            std::fs::write(&file, noise(bytes, 3)).unwrap();
            let error = pack_now(&tree).unwrap_err();
            assert!(matches!(error, PackError::Changed { .. }), "{bytes}: {error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(pack_now(&tree).unwrap_err(), PackError::Read { .. }));
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(matches!(pack_now(&tree).unwrap_err(), PackError::Read { .. }));
    }

    #[test]
    fn a_full_disk_and_a_stop_end_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), noise(40 << 20, 4)).unwrap();
        let tree = walk(folder.path(), "file").unwrap();
        let mut room = 10 << 20;
        let full = pack(&tree, &AtomicBool::new(false), &mut |bytes| {
            room -= bytes.len().min(room);
            let full =
                || BlobError::Io { path: "pack".into(), source: io::ErrorKind::StorageFull.into() };
            if room > 0 { Ok(()) } else { Err(full()) }
        });
        assert!(matches!(full.unwrap_err(), PackError::Write(_)));
        let mut untouched = |_: &[u8]| -> Result<(), BlobError> { panic!("nothing is handed on") };
        let stopped = pack(&tree, &AtomicBool::new(true), &mut untouched);
        assert!(matches!(stopped.unwrap_err(), PackError::Stopped));
    }
}
