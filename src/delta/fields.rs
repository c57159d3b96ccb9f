//! The fields of an executable that hold addresses, found by the look of the
//! bytes around them. Both ends of a patch find the same fields in the same old
//! bytes; one that is none costs a wrong guess, one that is missed is copied.

use super::image::{Image, Kind};

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
    /// The low 26 bits of an instruction: the distance in words.
    Branch,
}

/// Number of forms.
pub(super) const FORMS: usize = 7;

/// A field in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// Where in the bytes.
    pub(super) at: usize,
    pub(super) form: Form,
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
            Self::Branch => {
                let words = (target.wrapping_sub(here) >> 2) as u32 & 0x03ff_ffff;
                u64::from(u32::from_le_bytes(word(field)) & 0xfc00_0000 | words)
            }
        };
        field[..4].copy_from_slice(&(distance as u32).to_le_bytes());
    }
}

fn word(bytes: &[u8]) -> [u8; 4] {
    bytes[..4].try_into().unwrap_or_default()
}

/// Calls `found` with the fields of `bytes` in order, without overlap. `here`
/// is the address of the first byte, `base` that of the zone.
pub(super) fn find(
    kind: Kind,
    bytes: &[u8],
    here: u64,
    base: u64,
    image: &Image,
    found: &mut impl FnMut(Field),
) {
    match kind {
        Kind::Amd64 => amd64(bytes, here, image, found),
        Kind::Arm64 => arm64(bytes, here, image, found),
        Kind::Pointers => pointers(bytes, here, image, found),
        Kind::Frames => frames(bytes, here, image, found),
        Kind::FromBase => from_base(bytes, here, base, image, found),
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
            found(Field { at: field, form });
            at = field + 4;
        } else {
            at += 1;
        }
    }
}

fn arm64(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 3) as usize;
    while at + 4 <= bytes.len() {
        // b and bl
        if bytes[at + 3] & 0x7c == 0x14 {
            let target = Form::Branch.target(&bytes[at..], here.wrapping_add(at as u64), 0);
            if image.is_code(target) {
                found(Field { at, form: Form::Branch });
            }
        }
        at += 4;
    }
}

fn pointers(bytes: &[u8], here: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 7) as usize;
    while at + 8 <= bytes.len() {
        let target = Form::Whole.target(&bytes[at..], 0, 0);
        // The first page holds no code and no data: such words are small numbers.
        if target >= 4096 && image.holds(target) {
            found(Field { at, form: Form::Whole });
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
        found(Field { at: at + 4, form: Form::Back });
        found(Field { at: at + 8, form: Form::Frame });
        let catches = Form::Frame.target(&bytes[at + 17..], start.wrapping_add(9), 0);
        if bytes[at + 16] == 4 && word(&bytes[at + 17..]) != [0; 4] && image.holds(catches) {
            found(Field { at: at + 17, form: Form::Frame });
        }
        at += 4 + length;
    }
}

fn from_base(bytes: &[u8], here: u64, base: u64, image: &Image, found: &mut impl FnMut(Field)) {
    let mut at = (here.wrapping_neg() & 3) as usize;
    while at + 4 <= bytes.len() {
        if image.holds(Form::FromBase.target(&bytes[at..], 0, base)) {
            found(Field { at, form: Form::FromBase });
        }
        at += 4;
    }
}
