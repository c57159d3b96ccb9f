//! What the maker of a patch learns from an ELF file: its segments, and which
//! sections hold addresses. Nothing depends on it being right: a wrong hint
//! makes a larger patch.

use super::blob::{Blob, read};
use super::go;
use super::image::{BASES, Image, Kind, PARTS_MAX, Segment};

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
    pub(super) bases: [u64; BASES],
}

/// An ELF file: 64 bits, little-endian, x86-64 or AArch64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// Where the file is in the blob.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) image: Image,
    /// In the order of the blob.
    pub(super) sections: Vec<Section>,
}

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
const LOAD: u32 = 1;
const EXECUTABLE: u32 = 1;
/// Kinds and flags of sections.
const PROGBITS: u32 = 1;
const SYMBOLS: u32 = 2;
const NAMES: u32 = 3;
const RELOCATIONS: u32 = 4;
const WITHOUT_BYTES: u32 = 8;
const DYNAMIC_SYMBOLS: u32 = 11;
const ALLOCATED: u64 = 2;
/// Above any address in use.
const MADE_UP: u64 = 1 << 62;
const AMD64: u16 = 62;
const ARM64: u16 = 183;
/// Bytes of section names read at most.
const NAMES_MAX: u64 = 1 << 20;
/// Bytes of one of Go's sections looked at, at most.
const GO_MAX: u64 = 16 << 20;
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
    let mut image = Image { segments };
    let count = u64::from(u16_at(&header, 60)).min(SECTIONS_MAX);
    let table = part(u64_at(&header, 40), count * SECTION_HEADER).unwrap_or_default();
    let rows: Vec<&[u8]> = table.chunks_exact(SECTION_HEADER as usize).collect();
    let names = rows.get(usize::from(u16_at(&header, 62)));
    let names = names.and_then(|row| part(u64_at(row, 24), u64_at(row, 32).min(NAMES_MAX)));
    let names = names.unwrap_or_default();
    let arm = u16_at(&header, 18) == ARM64;
    let addresses = addresses(&rows, start, size, &mut image);
    let known = |index: usize| section(&rows, index, &names, start, size, arm, &addresses);
    let mut sections: Vec<Section> = (0..rows.len()).filter_map(known).collect();
    let named = |name: &str| {
        let row = rows.iter().find(|row| name_of(row, &names) == name)?;
        let (at, len, address) = (u64_at(row, 24), u64_at(row, 32), u64_at(row, 16));
        let bytes = part(at, len.min(GO_MAX))?;
        let (name, at) = (name.to_owned(), start + at);
        let bases = [0; BASES];
        let section = Section { name, at, len, address, kind: Kind::Pointers, bases };
        Some(go::Raw { section, bytes })
    };
    if let Some(lines) = named(".gopclntab") {
        let data = [".go.module", ".noptrdata", ".data", ".data.rel.ro"];
        let data: Vec<go::Raw> = data.into_iter().filter_map(named).collect();
        let links = named(".typelink").map(|raw| raw.section);
        sections.extend(go::zones(&lines, &data, links, &image));
        sections.extend(named(".rodata").map(|raw| raw.section));
    }
    sections.sort_by_key(|section| section.at);
    sections.dedup_by(|next, before| next.at < before.at + before.len);
    sections.truncate(PARTS_MAX);
    Some(Elf { start, end: start + size, image, sections })
}

/// The address of each section. One that is not loaded, such as the names of
/// symbols, gets a made-up one, so that what points into it is an address too.
fn addresses(rows: &[&[u8]], start: u64, size: u64, image: &mut Image) -> Vec<u64> {
    let mut addresses = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let (kind, flags, address) = (u32_at(row, 4), u64_at(row, 8), u64_at(row, 16));
        let (at, len) = (u64_at(row, 24), u64_at(row, 32));
        let inside = at.checked_add(len).is_some_and(|end| end <= size);
        let unloaded = flags & ALLOCATED == 0 && [SYMBOLS, NAMES].contains(&kind) && inside;
        let address = if unloaded { MADE_UP + ((index as u64) << 40) } else { address };
        if unloaded && image.segments.len() < PARTS_MAX {
            image.segments.push(Segment { at: start + at, len, address, memory: len, code: 0 });
        }
        addresses.push(address);
    }
    addresses
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

fn section(
    rows: &[&[u8]],
    index: usize,
    names: &[u8],
    start: u64,
    size: u64,
    arm: bool,
    addresses: &[u64],
) -> Option<Section> {
    let row = rows[index];
    let name = name_of(row, names);
    let (at, len) = (u64_at(row, 24), u64_at(row, 32));
    let (kind, flags) = (u32_at(row, 4), u64_at(row, 8));
    let (own, linked) = (addresses[index], addresses.get(u32_at(row, 40) as usize).copied());
    let code = if arm { Kind::Arm64 } else { Kind::Amd64 };
    let (kind, base) = match name.as_str() {
        ".eh_frame" => (Kind::Frames, own),
        ".eh_frame_hdr" => (Kind::FromBase, own),
        _ if [SYMBOLS, DYNAMIC_SYMBOLS].contains(&kind) => (Kind::Symbols, linked?),
        _ if kind == RELOCATIONS => (Kind::Relocations, linked?),
        ".got" | ".got.plt" | ".itablink" => (Kind::Pointers, own),
        _ if kind == PROGBITS && flags & 6 == 6 => (code, own),
        _ if flags & 3 == 3 && kind != WITHOUT_BYTES => (Kind::Pointers, own),
        _ => return None,
    };
    let fits = len > 0 && at.checked_add(len)? <= size;
    let mut bases = [0; BASES];
    bases[0] = base;
    fits.then(|| Section { name, at: start + at, len, address: own, kind, bases })
}

fn name_of(row: &[u8], names: &[u8]) -> String {
    let name = names.get(u32_at(row, 0) as usize..).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
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
