//! The fields of an executable that hold addresses, found by the look of the
//! bytes around them. Both ends of a patch find the same fields in the same old
//! bytes; one that is none costs a wrong guess, one that is missed is copied.

use super::go_fields;
use super::image::{BASES, Image, Kind};

/// How an address is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 bits: the distance from the end of the field.
    Relative,
    /// The same in `lea`, `mov` and the like: mostly data, not code.
    RelativeData,
    /// 32 bits: the distance from the start of the field.
    Frame,
    /// 32 bits: the distance back from the field.
    Back,
    /// 32 bits: the distance from the zone's base.
    FromBase,
    /// 64 bits: the address.
    Whole,
    /// 32 bits: the number of a row of 24 bytes, counted from the zone's base.
    Row,
    /// The low 26 bits of an instruction: the distance in words.
    Branch,
    /// 21 bits of an instruction (`adrp`): the distance in pages.
    Page,
    /// 12 bits of an instruction: the place in a page, in units of what is accessed.
    InPage,
}

/// Number of forms.
pub(super) const FORMS: usize = 10;
/// Bytes of a symbol and of a relocation.
const ROW: u64 = 24;
const PAGE: u64 = 4096;

/// A field in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// Where in the bytes.
    pub(super) at: usize,
    pub(super) form: Form,
    /// The address it holds; where two fields hold it together, all of it.
    pub(super) target: u64,
    /// Which of the zone's bases it counts from.
    pub(super) base: u8,
}

impl Form {
    /// Bytes of the field.
    pub(super) fn width(self) -> usize {
        if self == Self::Whole { 8 } else { 4 }
    }

    /// The address in a field that is at `here`.
    pub(super) fn target(self, field: &[u8], here: u64, base: u64) -> u64 {
        let distance = || i64::from(i32::from_le_bytes(word(field))) as u64;
        match self {
            Self::Relative | Self::RelativeData => here.wrapping_add(4).wrapping_add(distance()),
            Self::Frame => here.wrapping_add(distance()),
            Self::Back => here.wrapping_sub(distance()),
            Self::FromBase => base.wrapping_add(distance()),
            Self::Whole => u64::from_le_bytes(field[..8].try_into().unwrap_or_default()),
            Self::Row => {
                let row = u64::from(u32::from_le_bytes(word(field)));
                base.wrapping_add(row * ROW)
            }
            Self::Page => {
                let word = u32::from_le_bytes(word(field));
                let pages = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
                let pages = i64::from((pages << 11) as i32 >> 11);
                (here & !(PAGE - 1)).wrapping_add((pages << 12) as u64)
            }
            Self::InPage => {
                let word = u32::from_le_bytes(word(field));
                u64::from(word >> 10 & 0xfff) << unit(word)
            }
            Self::Branch => {
                let words = i64::from((u32::from_le_bytes(word(field)) << 6) as i32 >> 6);
                here.wrapping_add((words << 2) as u64)
            }
        }
    }

    /// Writes an address into a field that is at `here`; bits that do not fit are lost.
    pub(super) fn put(self, field: &mut [u8], target: u64, here: u64, base: u64) {
        let distance = match self {
            Self::Relative | Self::RelativeData => target.wrapping_sub(here).wrapping_sub(4),
            Self::Frame => target.wrapping_sub(here),
            Self::Back => here.wrapping_sub(target),
            Self::FromBase => target.wrapping_sub(base),
            Self::Whole => return field[..8].copy_from_slice(&target.to_le_bytes()),
            Self::Row => target.wrapping_sub(base) / ROW,
            Self::Page => {
                let pages = (target >> 12).wrapping_sub(here >> 12) as u32;
                let bits = (pages >> 2 & 0x7_ffff) << 5 | (pages & 3) << 29;
                u64::from(u32::from_le_bytes(word(field)) & 0x9f00_001f | bits)
            }
            Self::InPage => {
                let word = u32::from_le_bytes(word(field));
                let place = ((target & (PAGE - 1)) >> unit(word)) as u32;
                u64::from(word & 0xffc0_03ff | (place & 0xfff) << 10)
            }
            Self::Branch => {
                let words = (target.wrapping_sub(here) >> 2) as u32 & 0x03ff_ffff;
                u64::from(u32::from_le_bytes(word(field)) & 0xfc00_0000 | words)
            }
        };
        field[..4].copy_from_slice(&(distance as u32).to_le_bytes());
    }
}

impl Form {
    /// The address that a field was found to hold, when `guess` had been expected:
    /// a half of an address leaves the other as expected.
    pub(super) fn answer(self, field: &[u8], here: u64, base: u64, guess: u64) -> u64 {
        let target = self.target(field, here, base);
        match self {
            Self::Page => target | guess & (PAGE - 1),
            Self::InPage => target | guess & !(PAGE - 1),
            _ => target,
        }
    }
}

/// The shift of an immediate place in a page: that of an `add` is in bytes.
fn unit(word: u32) -> u32 {
    if word & 0x3b00_0000 != 0x3900_0000 {
        return 0;
    }
    // 128-bit registers have their own mark.
    if word & 0xc480_0000 == 0x0480_0000 && word >> 26 & 1 == 1 { 4 } else { word >> 30 }
}

/// The first four bytes.
pub(super) fn word(bytes: &[u8]) -> [u8; 4] {
    bytes[..4].try_into().unwrap_or_default()
}

/// Calls `found` with the fields of `bytes` in order, without overlap. `here`
/// is the address of the first byte, `bases` what distances count from, and
/// `skipped` bytes of the zone are before it.
pub(super) fn find(
    kind: Kind,
    bytes: &[u8],
    here: u64,
    bases: &[u64; BASES],
    skipped: u64,
    image: &Image,
    found: &mut impl FnMut(Field),
) {
    let base = bases[0];
    match kind {
        Kind::Amd64 => amd64(bytes, here, image, found),
        Kind::Arm64 => arm64(bytes, here, image, found),
        Kind::Pointers => pointers(bytes, here, image, found),
        Kind::Frames => frames(bytes, here, image, found),
        Kind::FromBase => from_base(bytes, here, base, image, found),
        Kind::Symbols => {
            rows(bytes, base, skipped, image, &[(Form::FromBase, 0), (Form::Whole, 8)], found)
        }
        Kind::Relocations => {
            let parts = [(Form::Whole, 0), (Form::Row, 12), (Form::Whole, 16)];
            rows(bytes, base, skipped, image, &parts, found);
        }
        Kind::GoIndex => go_fields::index(bytes, bases, skipped, image, found),
        Kind::GoFunctions => go_fields::functions(bytes, here, bases, image, found),
    }
}

fn amd64(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = 0;
    while at + 6 <= bytes.len() {
        let (skip, form) = match bytes[at] {
            // call, jmp
            0xe8 | 0xe9 => (1, Form::Relative),
            // a conditional jump
            0x0f if bytes[at + 1] & 0xf0 == 0x80 => (2, Form::Relative),
            // an operand relative to the instruction pointer
            byte if byte & 0xc7 == 0x05 => (1, Form::RelativeData),
            _ => {
                at += 1;
                continue;
            }
        };
        let field = at + skip;
        let target = form.target(&bytes[field..], here.wrapping_add(field as u64), 0);
        let fits = match form {
            Form::Relative => image.is_code(target),
            _ => image.holds(target),
        };
        if fits {
            found(Field { at: field, form, target, base: 0 });
            at = field + 4;
        } else {
            at += 1;
        }
    }
}

fn arm64(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let start = (here.wrapping_neg() & 3) as usize;
    // The page that an `adrp` put into each register, and how many instructions ago.
    let mut pages = [(0u64, u32::MAX); 32];
    let words = bytes.get(start..).unwrap_or_default().chunks_exact(4);
    for (index, bits) in words.clone().enumerate() {
        let (at, bits) = (start + index * 4, u32::from_le_bytes(word(bits)));
        let place = here.wrapping_add(at as u64);
        let register = (bits >> 5 & 31) as usize;
        if bits & 0x7c00_0000 == 0x1400_0000 {
            // b and bl
            let target = Form::Branch.target(&bytes[at..], place, 0);
            if image.is_code(target) {
                found(Field { at, form: Form::Branch, target, base: 0 });
            }
        } else if bits & 0x9f00_0000 == 0x9000_0000 {
            let page = Form::Page.target(&bytes[at..], place, 0);
            let loaded = (bits & 31) as usize;
            let user = words.clone().skip(index + 1).take(NEAR).find_map(|word_at| {
                let bits = u32::from_le_bytes(word(word_at));
                let uses = is_in_page(bits) && (bits >> 5 & 31) as usize == loaded;
                uses.then(|| Form::InPage.target(word_at, 0, 0)).filter(|place| *place < PAGE)
            });
            let target = page | user.unwrap_or(0);
            pages[loaded] = (page, index as u32);
            if image.holds(target) {
                found(Field { at, form: Form::Page, target, base: 0 });
            }
        } else if is_in_page(bits) {
            let (page, since) = pages[register];
            let near = (index as u32).checked_sub(since).is_some_and(|ago| ago <= NEAR as u32);
            let in_page = Form::InPage.target(&bytes[at..], 0, 0);
            let target = page | in_page;
            if near && in_page < PAGE && image.holds(target) {
                found(Field { at, form: Form::InPage, target, base: 0 });
            }
        }
    }
}

/// Instructions after an `adrp` that may use what it loaded.
const NEAR: usize = 16;

/// `add` with an immediate, or a load or store with an unsigned one.
fn is_in_page(bits: u32) -> bool {
    bits & 0xffc0_0000 == 0x9100_0000 || bits & 0x3b00_0000 == 0x3900_0000
}

/// Rows of 24 bytes with fields at fixed places.
fn rows(
    bytes: &[u8],
    base: u64,
    skipped: u64,
    image: &Image,
    parts: &[(Form, usize)],
    found: &mut impl FnMut(Field),
) {
    let mut at = ((ROW - skipped % ROW) % ROW) as usize;
    while at + ROW as usize <= bytes.len() {
        for (form, place) in parts {
            let field = &bytes[at + place..];
            let target = form.target(field, 0, base);
            let empty = word(field) == [0; 4] || *form == Form::Whole && target < PAGE;
            if !empty && image.holds(target) {
                found(Field { at: at + place, form: *form, target, base: 0 });
            }
        }
        at += ROW as usize;
    }
}

fn pointers(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 7) as usize;
    while at + 8 <= bytes.len() {
        let target = Form::Whole.target(&bytes[at..], 0, 0);
        // The first page holds no code and no data: such words are small numbers.
        if target >= PAGE && image.holds(target) {
            found(Field { at, form: Form::Whole, target, base: 0 });
        }
        at += 8;
    }
}

/// A frame: its length, the distance back to its common part, the code it is
/// for, and, when four bytes of further data follow, what catches there.
fn frames(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 3) as usize;
    while at + 21 <= bytes.len() {
        let length = u32::from_le_bytes(word(&bytes[at..])) as usize;
        let start = here.wrapping_add(at as u64 + 8);
        let code = Form::Frame.target(&bytes[at + 8..], start, 0);
        if !(12..1024).contains(&length) || length & 3 != 0 || !image.is_code(code) {
            at += 4;
            continue;
        }
        let common = Form::Back.target(&bytes[at + 4..], start.wrapping_sub(4), 0);
        found(Field { at: at + 4, form: Form::Back, target: common, base: 0 });
        found(Field { at: at + 8, form: Form::Frame, target: code, base: 0 });
        let catches = Form::Frame.target(&bytes[at + 17..], start.wrapping_add(9), 0);
        if bytes[at + 16] == 4 && word(&bytes[at + 17..]) != [0; 4] && image.holds(catches) {
            found(Field { at: at + 17, form: Form::Frame, target: catches, base: 0 });
        }
        at += 4 + length;
    }
}

fn from_base(bytes: &[u8], here: u64, base: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 3) as usize;
    while at + 4 <= bytes.len() {
        let target = Form::FromBase.target(&bytes[at..], 0, base);
        if image.holds(target) {
            found(Field { at, form: Form::FromBase, target, base: 0 });
        }
        at += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Form; FORMS] = [
        Form::Relative,
        Form::RelativeData,
        Form::Frame,
        Form::Back,
        Form::FromBase,
        Form::Whole,
        Form::Row,
        Form::Branch,
        Form::Page,
        Form::InPage,
    ];

    proptest! {
        #[test]
        fn what_is_read_from_a_field_is_what_is_put_there(bytes: [u8; 8], here: u32, base: u32) {
            let (here, base) = (u64::from(here) << 2, u64::from(base));
            for form in ALL {
                // A place behind the page belongs to no `adrp`, and is not put back.
                if form == Form::InPage && form.target(&bytes, here, base) >= PAGE {
                    continue;
                }
                let mut again = bytes;
                form.put(&mut again, form.target(&bytes, here, base), here, base);
                prop_assert_eq!(again, bytes, "{:?}", form);
            }
        }

        #[test]
        fn fields_lie_inside_in_order_and_apart(kind in 0usize..9, bytes in proptest::collection::vec(any::<u8>(), 0..600), here in 0u64..1 << 20) {
            let segment = crate::delta::image::Segment { at: 0, len: 1 << 40, address: 0, memory: u64::MAX, code: 1 };
            let image = Image { segments: vec![segment] };
            let mut end = 0;
            find(crate::delta::image::KINDS[kind], &bytes, here, &[0, 0, 0, 0, u64::MAX], here, &image, &mut |field| {
                assert!(field.at >= end, "{field:?} before {end}");
                end = field.at + field.form.width();
            });
            prop_assert!(end <= bytes.len());
        }
    }
}
