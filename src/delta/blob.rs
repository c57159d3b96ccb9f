//! Where bytes come from: a blob that is read at any place, and its files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Random access to a blob's raw bytes.
pub trait Blob: Sync {
    /// Bytes in the blob.
    fn size(&self) -> u64;
    /// Fills `buffer` with the bytes from `at` on. Past the end is an error.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A file of the blob: sides are paired by path first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    /// Path inside the artifact.
    pub path: String,
    /// First byte in the blob.
    pub start: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// A blob and the files it is made of. The spans may be in any order; what
/// none of them covers is compared all the same.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The bytes.
    pub blob: &'a dyn Blob,
    /// The files, none past the blob's end.
    pub files: &'a [FileSpan],
}

impl Blob for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl Blob for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(at, buffer)
    }
}

/// A file as a blob. Its size is asked each time; keep it unchanged meanwhile.
impl Blob for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

/// `len` bytes from `at` on, in memory.
pub(super) fn read(blob: &dyn Blob, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    blob.read_at(at, &mut bytes)?;
    Ok(bytes)
}
