//! Files in, pieces out: reads, digests and compresses on all cores, writes one
//! pack file, and keeps a bounded number of pieces in memory.
//!
//! A reader cuts the blob; as many packers as cores digest
//! and compress; this thread writes in order. Each piece lives in a buffer from
//! a fixed set that comes back only when it is written, which bounds memory and
//! makes whoever is ahead wait.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::model::digest::PieceDigest;
use crate::model::manifest::{Codec, Node, Piece, piece_bytes};
use crate::worker::walk::Tree;

/// zstd level: loses < 5 % against a whole-file frame at pieces of 1 MiB and up.
const LEVEL: i32 = 3;
/// Buffers for each core: one that is compressed, one that waits.
const BUFFERS_PER_CORE: usize = 2;

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
    Write(#[source] io::Error),
    /// It was told to stop.
    #[error("packing was stopped")]
    Stopped,
}

struct Raw {
    index: usize,
    bytes: Vec<u8>,
}

struct Done {
    index: usize,
    piece: Piece,
    raw: Vec<u8>,
    /// Compressed bytes; `None`: the raw bytes are stored.
    wire: Option<Vec<u8>>,
}

/// Packs `tree` into the file `to`; not yet durable on return. Ends soon after
/// `stop` turns true. Memory: 2 raw and at most 2 compressed pieces a core.
///
/// # Errors
/// See [`PackError`].
pub fn pack(tree: &Tree, to: &Path, stop: &AtomicBool) -> Result<Packed, PackError> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let buffers = cores * BUFFERS_PER_CORE + 1;
    let piece_bytes = piece_bytes(tree.size);
    let mut file = File::create(to).map_err(PackError::Write)?;
    let (give_back, free) = sync_channel::<Vec<u8>>(buffers);
    let (to_packers, waiting) = sync_channel::<Raw>(buffers);
    let (to_writer, done) = sync_channel::<Done>(buffers);
    let waiting = Mutex::new(waiting);
    for _ in 0..buffers {
        give_back.send(Vec::new()).expect("the channel has room for every buffer");
    }
    thread::scope(|scope| {
        let cutter = Cutter { tree, piece_bytes: piece_bytes as usize, stop, free, to_packers };
        let reader = scope.spawn(|| cutter.cut());
        for _ in 0..cores {
            let to_writer = to_writer.clone();
            scope.spawn(|| compress(&waiting, to_writer));
        }
        drop(to_writer);
        let written = write_in_order(&mut file, done, give_back);
        // A writer that failed dropped its ends, so the others end too.
        let read = reader.join().expect("the reader does not panic");
        let pieces = written.map_err(PackError::Write)?;
        read?;
        Ok(Packed { piece_bytes, pieces })
    })
}

/// Cuts the blob into pieces, in order.
struct Cutter<'a> {
    tree: &'a Tree,
    piece_bytes: usize,
    stop: &'a AtomicBool,
    free: Receiver<Vec<u8>>,
    to_packers: SyncSender<Raw>,
}

impl Cutter<'_> {
    fn cut(self) -> Result<(), PackError> {
        let mut files = Files::new(self.tree);
        for index in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return Err(PackError::Stopped);
            }
            // The writer failed, and tells why.
            let Ok(mut bytes) = self.free.recv() else { return Err(PackError::Stopped) };
            bytes.resize(self.piece_bytes, 0);
            let read = files.fill(&mut bytes)?;
            if read == 0 {
                break;
            }
            bytes.truncate(read);
            if self.to_packers.send(Raw { index, bytes }).is_err() {
                return Err(PackError::Stopped);
            }
        }
        Ok(())
    }
}

/// The files of a tree, laid end to end.
struct Files<'a> {
    tree: &'a Tree,
    next: usize,
    open: Option<(File, &'a str, u64)>,
}

impl<'a> Files<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self { tree, next: 0, open: None }
    }

    /// Fills `buffer` as far as there are bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, PackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some((file, path, left)) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                break;
            };
            let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len() - filled);
            let fail = |source| PackError::Read { path: (*path).to_owned(), source };
            // One byte more than there should be tells that the file grew.
            let probe = &mut [0];
            let target = if wanted == 0 { &mut probe[..] } else { &mut buffer[filled..][..wanted] };
            let read = file.read(target).map_err(fail)?;
            if (read == 0) != (*left == 0) {
                return Err(PackError::Changed { path: (*path).to_owned() });
            }
            if read == 0 {
                self.open = None;
                continue;
            }
            *left -= read as u64;
            filled += read;
        }
        Ok(filled)
    }

    fn open_next(&mut self) -> Result<bool, PackError> {
        while let Some(entry) = self.tree.entries.get(self.next) {
            self.next += 1;
            let Node::File { size, .. } = entry.node else { continue };
            let path = self.tree.root.join(&entry.path);
            let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let file = OpenOptions::new().read(true).custom_flags(nofollow).open(&path);
            let fail = |source| PackError::Read { path: entry.path.clone(), source };
            self.open = Some((file.map_err(fail)?, &entry.path, size));
            return Ok(true);
        }
        Ok(false)
    }
}

fn compress(waiting: &Mutex<Receiver<Raw>>, to_writer: SyncSender<Done>) {
    let mut zstd = zstd::bulk::Compressor::new(LEVEL).expect("the level is a constant");
    loop {
        let next = waiting.lock().expect("no packer panics with the lock held").recv();
        let Ok(Raw { index, bytes }) = next else { return };
        if to_writer.send(compress_one(&mut zstd, index, bytes)).is_err() {
            return;
        }
    }
}

fn compress_one(zstd: &mut zstd::bulk::Compressor<'_>, index: usize, raw: Vec<u8>) -> Done {
    let digest = PieceDigest::of(&raw);
    // A piece that does not fit in nine tenths of its size is stored plain.
    let mut wire = vec![0; raw.len() - raw.len().div_ceil(10)];
    let smaller = zstd.compress_to_buffer(&raw, &mut wire).ok().filter(|length| *length > 0);
    let piece = match smaller {
        Some(length) => {
            wire.truncate(length);
            let wire_bytes = u32::try_from(length).expect("a piece is at most 8 MiB");
            Piece { raw: digest, wire: PieceDigest::of(&wire), wire_bytes, codec: Codec::Zstd }
        }
        None => {
            let wire_bytes = u32::try_from(raw.len()).expect("a piece is at most 8 MiB");
            Piece { raw: digest, wire: digest, wire_bytes, codec: Codec::None }
        }
    };
    Done { index, piece, raw, wire: smaller.map(|_| wire) }
}

fn write_in_order(
    file: &mut File,
    done: Receiver<Done>,
    give_back: SyncSender<Vec<u8>>,
) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut early: BTreeMap<usize, Done> = BTreeMap::new();
    for piece in done {
        early.insert(piece.index, piece);
        while let Some(next) = early.remove(&pieces.len()) {
            file.write_all(next.wire.as_deref().unwrap_or(&next.raw))?;
            pieces.push(next.piece);
            // The reader is done already.
            let _ = give_back.send(next.raw);
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::walk::walk;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut rng = crate::model::rng::Rng::new(seed);
        std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).flatten().take(bytes).collect()
    }

    fn pack_now(tree: &Tree, to: &Path) -> Result<Packed, PackError> {
        pack(tree, to, &AtomicBool::new(false))
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
        let to = folder.path().join("pack");
        let packed = pack_now(&tree, &to).unwrap();
        let blob: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        assert_eq!(packed.piece_bytes, 256 << 10);
        assert_eq!(packed.pieces.len(), blob.len().div_ceil(256 << 10));
        let wire = std::fs::read(&to).unwrap();
        assert!(unpack(&packed, &wire) == blob);
        assert_eq!(packed.pieces[0].codec, Codec::None);
        assert_eq!(packed.pieces[20].codec, Codec::Zstd);
        assert!(wire.len() < blob.len() - (3 << 20));
        assert_eq!(pack_now(&tree, &to).unwrap(), packed);
    }

    #[test]
    fn nothing_packs_to_nothing_and_one_byte_to_itself() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("pack");
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        for path in ["file", "empty"] {
            let packed = pack_now(&walk(folder.path(), path).unwrap(), &to).unwrap();
            assert!(packed.pieces.is_empty());
            assert_eq!(std::fs::metadata(&to).unwrap().len(), 0);
        }
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let packed = pack_now(&walk(folder.path(), "file").unwrap(), &to).unwrap();
        assert_eq!((packed.pieces[0].codec, packed.pieces[0].wire_bytes), (Codec::None, 1));
    }

    #[test]
    fn a_file_that_changed_or_went_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("file"), folder.path().join("pack"));
        std::fs::write(&file, noise(100, 3)).unwrap();
        let tree = walk(folder.path(), "file").unwrap();
        for bytes in [99, 101, 0, 3 << 20] {
            std::fs::write(&file, noise(bytes, 3)).unwrap();
            let error = pack_now(&tree, &to).unwrap_err();
            assert!(matches!(error, PackError::Changed { .. }), "{bytes}: {error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(pack_now(&tree, &to).unwrap_err(), PackError::Read { .. }));
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(matches!(pack_now(&tree, &to).unwrap_err(), PackError::Read { .. }));
    }

    #[test]
    fn a_full_disk_and_a_stop_end_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), noise(40 << 20, 4)).unwrap();
        let tree = walk(folder.path(), "file").unwrap();
        let full = pack_now(&tree, Path::new("/dev/full")).unwrap_err();
        assert!(matches!(full, PackError::Write(_)), "{full}");
        let stopped = pack(&tree, &folder.path().join("pack"), &AtomicBool::new(true));
        assert!(matches!(stopped.unwrap_err(), PackError::Stopped));
    }
}
