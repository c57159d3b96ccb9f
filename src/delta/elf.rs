//! What the maker of a patch learns from an ELF file: its segments, and which
//! sections hold addresses. Nothing depends on it being right: a wrong hint
//! makes a larger patch.

use super::blob::{Blob, read};
use super::image::{Image, Kind, PARTS_MAX, Segment};

/// A section whose addresses are worth predicting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    /// Where it is in the blob.
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) address: u64,
    pub(super) kind: Kind,
    /// What 32-bit distances in it count from.
    pub(super) base: u64,
}

/// An ELF file: 64 bits, little-endian, x86-64 or AArch64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    pub(super) image: Image,
    /// In the order of the blob.
    pub(super) sections: Vec<Section>,
}

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
const LOAD: u32 = 1;
const EXECUTABLE: u32 = 1;
const PROGBITS: u32 = 1;
const AMD64: u16 = 62;
const ARM64: u16 = 183;
/// Bytes of section names read at most.
const NAMES_MAX: u64 = 1 << 20;
/// Section headers read at most.
const SECTIONS_MAX: u64 = 4096;

/// The ELF file at `start`, of `size` bytes; `None` when there is none that is understood.
pub(super) fn parse(blob: &dyn Blob, start: u64, size: u64) -> Option<Elf> {
    let part = |at: u64, len: u64| {
        let inside = at.checked_add(len).is_some_and(|end| end <= size);
        if inside { read(blob, start + at, len).ok() } else { None }
    };
    let header = part(0, HEADER)?;
    if header[..6] != *b"\x7fELF\x02\x01" || ![AMD64, ARM64].contains(&u16_at(&header, 18)) {
        return None;
    }
    let count = u64::from(u16_at(&header, 56)).min(PARTS_MAX as u64);
    let table = part(u64_at(&header, 32), count * PROGRAM_HEADER)?;
    let segments = table.chunks_exact(PROGRAM_HEADER as usize);
    let segments: Vec<Segment> = segments.filter_map(|row| segment(row, start, size)).collect();
    let image = Image { segments };
    let count = u64::from(u16_at(&header, 60)).min(SECTIONS_MAX);
    let table = part(u64_at(&header, 40), count * SECTION_HEADER).unwrap_or_default();
    let rows: Vec<&[u8]> = table.chunks_exact(SECTION_HEADER as usize).collect();
    let names = rows.get(usize::from(u16_at(&header, 62)));
    let names = names.and_then(|row| part(u64_at(row, 24), u64_at(row, 32).min(NAMES_MAX)));
    let names = names.unwrap_or_default();
    let arm = u16_at(&header, 18) == ARM64;
    let known = |row: &&[u8]| section(row, &names, start, size, arm);
    let mut sections: Vec<Section> = rows.iter().filter_map(known).collect();
    sections.sort_by_key(|section| section.at);
    sections.dedup_by(|next, before| next.at < before.at + before.len);
    sections.truncate(PARTS_MAX);
    Some(Elf { image, sections })
}

fn segment(row: &[u8], start: u64, size: u64) -> Option<Segment> {
    let (at, len) = (u64_at(row, 8), u64_at(row, 32));
    let fits = u32_at(row, 0) == LOAD && at.checked_add(len)? <= size;
    fits.then(|| Segment {
        at: start + at,
        len,
        address: u64_at(row, 16),
        memory: u64_at(row, 40),
        code: u64::from(u32_at(row, 4) & EXECUTABLE),
    })
}

fn section(row: &[u8], names: &[u8], start: u64, size: u64, arm: bool) -> Option<Section> {
    let name = names.get(u32_at(row, 0) as usize..)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    let (at, len) = (u64_at(row, 24), u64_at(row, 32));
    let (kind, flags) = (u32_at(row, 4), u64_at(row, 8));
    let code = if arm { Kind::Arm64 } else { Kind::Amd64 };
    let kind = match name.as_str() {
        ".eh_frame" => Kind::Frames,
        ".eh_frame_hdr" => Kind::FromBase,
        ".rela.dyn" | ".rela.plt" | ".dynsym" | ".symtab" | ".got" | ".got.plt" => Kind::Pointers,
        // Sections that are loaded and executable, or writable.
        _ if kind == PROGBITS && flags & 6 == 6 => code,
        _ if flags & 3 == 3 && kind != 8 => Kind::Pointers,
        _ => return None,
    };
    let fits = len > 0 && at.checked_add(len)? <= size;
    let address = u64_at(row, 16);
    fits.then(|| Section { name, at: start + at, len, address, kind, base: address })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes(b.try_into().unwrap_or_default()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}
