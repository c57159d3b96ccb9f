//! What Go's own tables in an ELF file point to: the line table and the module
//! data, as written by the linker since Go 1.20. Hints only, as all of `elf`.

use super::elf::Section;
use super::image::{BASES, Image, Kind};

/// The start of a line table: its version, then two zeros, the size of the
/// smallest instruction and of a pointer.
const MAGIC: [u8; 4] = [0xf1, 0xff, 0xff, 0xff];
/// Bytes of its header.
const HEADER: usize = 72;
/// Places in the module data [runtime: `moduledata`].
const TEXT: usize = 176;
const TYPES: usize = 296;
const FUNCTION_DATA: usize = 320;
/// Bytes of the module data that are looked at.
const MODULE: usize = 328;

/// A section by name, with its bytes.
pub(super) struct Raw {
    pub(super) section: Section,
    pub(super) bytes: Vec<u8>,
}

/// The zones of Go's tables: `lines` is the line table, `data` where the module
/// data may be, `links` the list of types.
pub(super) fn zones(
    lines: &Raw,
    data: &[Raw],
    links: Option<Section>,
    image: &Image,
) -> Vec<Section> {
    let number = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 8).unwrap_or(&[0; 8]);
        u64::from_le_bytes(bytes.try_into().unwrap_or_default())
    };
    let table = &lines.section;
    if lines.bytes.len() < HEADER || lines.bytes[..4] != MAGIC {
        return Vec::new();
    }
    let [functions, names, units, places, index] =
        [8, 32, 40, 56, 64].map(|at| number(&lines.bytes, at));
    let is_module = |part: &&[u8]| {
        number(part, 0) == table.address && number(part, 8) == table.address.wrapping_add(names)
    };
    let windows = data.iter().flat_map(|raw| {
        (0..raw.bytes.len().saturating_sub(MODULE)).step_by(8).map(|at| &raw.bytes[at..at + MODULE])
    });
    let Some(module) = windows.into_iter().find(is_module) else { return Vec::new() };
    let [text, types, function_data] = [TEXT, TYPES, FUNCTION_DATA].map(|at| number(module, at));
    let ends = index.checked_add(functions.saturating_mul(8)).map(|end| end + 4);
    let Some(ends) = ends.filter(|end| *end < table.len) else { return Vec::new() };
    if ![text, types, function_data].into_iter().all(|address| image.holds(address)) {
        return Vec::new();
    }
    let own = |offset: u64| table.address.wrapping_add(offset);
    let part = |name: &str, from: u64, to: u64, kind, bases| Section {
        name: format!("{}{name}", table.name),
        at: table.at + from,
        len: to - from,
        address: own(from),
        kind,
        bases,
    };
    let mut bases = [0; BASES];
    bases[..2].copy_from_slice(&[text, own(index)]);
    let mut zones = vec![part(" index", index, ends, Kind::GoIndex, bases)];
    let bases = [text, own(names), own(places), function_data, own(units)];
    zones.push(part(" functions", ends, table.len, Kind::GoFunctions, bases));
    let mut bases = [0; BASES];
    bases[0] = types;
    zones.extend(links.map(|section| Section { kind: Kind::FromBase, bases, ..section }));
    zones
}
