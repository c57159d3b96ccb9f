//! An executable as the codec sees it: where its bytes are in the blob, where
//! they are in memory, and which runs of it hold addresses of which form.

use super::coder::{Coder, Number, Tree};

/// Segments, and zones, of one executable at most.
pub(super) const PARTS_MAX: usize = 64;

/// A run of the blob and where it is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) address: u64,
    /// Bytes in memory; those after `len` are zeros that no file holds.
    pub(super) memory: u64,
    /// 1 when it holds code.
    pub(super) code: u64,
}

/// How addresses stand in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// x86-64 instructions.
    Amd64,
    /// AArch64 instructions.
    Arm64,
    /// Whole addresses, each at a multiple of eight.
    Pointers,
    /// Call frames of `.eh_frame`.
    Frames,
    /// 32-bit distances from the zone's base, each at a multiple of four.
    FromBase,
    /// Symbols: a name from the base on, and an address.
    Symbols,
    /// Relocations: an address, a symbol from the base on, an address.
    Relocations,
    /// Go: where each function is, from the first base, and its entry, from the second.
    GoIndex,
    /// Go: what is known of each function, from all bases.
    GoFunctions,
}

pub(super) const KINDS: [Kind; 9] = [
    Kind::Amd64,
    Kind::Arm64,
    Kind::Pointers,
    Kind::Frames,
    Kind::FromBase,
    Kind::Symbols,
    Kind::Relocations,
    Kind::GoIndex,
    Kind::GoFunctions,
];
/// Addresses that the distances of one zone may count from.
pub(super) const BASES: usize = 5;

/// A run of the blob whose addresses are of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) kind: Kind,
    /// The addresses that 32-bit distances count from, in the old and new image.
    pub(super) bases: [[u64; BASES]; 2],
}

/// Segments in the order of the blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) segments: Vec<Segment>,
}

impl Image {
    /// The address of a byte of the blob.
    pub(super) fn address(&self, at: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| at.wrapping_sub(s.at) < s.len)?;
        Some(segment.address.wrapping_add(at - segment.at))
    }

    /// The byte of the blob that is loaded at an address.
    pub(super) fn place(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| address.wrapping_sub(s.address) < s.len)?;
        Some(segment.at.wrapping_add(address - segment.address))
    }

    /// True for an address in memory.
    pub(super) fn holds(&self, address: u64) -> bool {
        self.segments.iter().any(|s| address.wrapping_sub(s.address) < s.memory)
    }

    /// True for an address of code.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.segments.iter().any(|s| s.code == 1 && address.wrapping_sub(s.address) < s.memory)
    }
}

/// An executable on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) old: Image,
    pub(super) new: Image,
    /// In the old blob, in order, without overlap.
    pub(super) zones: Vec<Zone>,
}

/// How spaces are written.
#[derive(Default)]
pub(super) struct SpaceModel {
    counts: Number,
    numbers: [Number; 5],
    kinds: Tree<16>,
}

impl SpaceModel {
    /// Codes one space. `None`: what was read is over a bound.
    pub(super) fn code(&mut self, coder: &mut impl Coder, space: &Space) -> Option<Space> {
        let old = self.image(coder, &space.old)?;
        let new = self.image(coder, &space.new)?;
        let count = self.counts.code(coder, space.zones.len() as u64) as usize;
        let mut zones = Vec::new();
        if count > PARTS_MAX {
            return None;
        }
        let mut before = 0u64;
        for index in 0..count {
            let none = Zone { at: 0, len: 0, kind: Kind::Amd64, bases: [[0; BASES]; 2] };
            let zone = space.zones.get(index).unwrap_or(&none);
            let mut number = |index: usize, value| self.numbers[index].code(coder, value);
            let at = before.checked_add(number(0, zone.at.wrapping_sub(before)))?;
            let len = number(1, zone.len);
            let bases = zone.bases.map(|bases| bases.map(|base| number(2, base)));
            let kind = KINDS.iter().position(|kind| *kind == zone.kind).unwrap_or_default();
            let kind = *KINDS.get(self.kinds.code(coder, kind as u32) as usize)?;
            before = at.checked_add(len)?;
            zones.push(Zone { at, len, kind, bases });
        }
        Some(Space { old, new, zones })
    }

    fn image(&mut self, coder: &mut impl Coder, image: &Image) -> Option<Image> {
        let count = self.counts.code(coder, image.segments.len() as u64) as usize;
        if count > PARTS_MAX {
            return None;
        }
        let mut segments = Vec::new();
        for index in 0..count {
            let s = image.segments.get(index).copied().unwrap_or_default();
            let mut number = |index: usize, value| self.numbers[index].code(coder, value);
            segments.push(Segment {
                at: number(0, s.at),
                len: number(1, s.len),
                address: number(2, s.address),
                memory: number(3, s.memory),
                code: number(4, s.code),
            });
        }
        Some(Image { segments })
    }
}
