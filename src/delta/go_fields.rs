//! The fields of Go's line table, which holds distances from five places.

use super::fields::{Field, Form, word};
use super::image::{BASES, Image};

/// Pairs of a function's place and its entry's.
pub(super) fn index(
    bytes: &[u8],
    bases: &[u64; BASES],
    skipped: u64,
    image: &Image,
    found: &mut impl FnMut(Field),
) {
    let mut at = (skipped.wrapping_neg() & 3) as usize;
    while at + 4 <= bytes.len() {
        let base = ((skipped + at as u64) >> 2 & 1) as usize;
        field(&bytes[at..], at, base, bases, image, found);
        at += 4;
    }
}

/// Entries of functions [runtime: `_func`]: eleven words, then as many places
/// and pieces of data as they say.
pub(super) fn functions(
    bytes: &[u8],
    here: u64,
    bases: &[u64; BASES],
    image: &Image,
    found: &mut impl FnMut(Field),
) {
    const WORDS: usize = 11;
    // Which base the words of an entry count from: none, or one more than its index.
    const COUNTS_FROM: [usize; WORDS] = [1, 2, 0, 0, 3, 3, 3, 0, 5, 0, 0];
    let mut at = (here.wrapping_neg() & 7) as usize;
    while at + 4 * WORDS <= bytes.len() {
        let number = |index: usize| u32::from_le_bytes(word(&bytes[at + 4 * index..])) as usize;
        let (places, data) = (number(7), usize::from(bytes[at + 43]));
        let code = Form::FromBase.target(&bytes[at..], 0, bases[0]);
        let name = Form::FromBase.target(&bytes[at + 4..], 0, bases[1]);
        let end = at + 4 * (WORDS + places.min(64) + data);
        let is_entry = places < 64 && data < 64 && image.is_code(code) && name < bases[4];
        if !is_entry || name < bases[1] || end > bytes.len() {
            at += 8;
            continue;
        }
        for (index, from) in COUNTS_FROM.into_iter().enumerate() {
            if from > 0 {
                let at = at + 4 * index;
                field(&bytes[at..], at, from - 1, bases, image, found);
            }
        }
        for index in 0..places + data {
            let at = at + 4 * (WORDS + index);
            let base = if index < places { 2 } else { 3 };
            field(&bytes[at..], at, base, bases, image, found);
        }
        at += (end - at).next_multiple_of(8);
    }
}

/// A distance, unless it is none: 0 and -1 stand for nothing.
fn field(
    bytes: &[u8],
    at: usize,
    base: usize,
    bases: &[u64; BASES],
    image: &Image,
    found: &mut impl FnMut(Field),
) {
    let target = Form::FromBase.target(bytes, 0, bases[base]);
    let empty = word(bytes) == [0; 4] || word(bytes) == [0xff; 4];
    if !empty && image.holds(target) {
        found(Field { at, form: Form::FromBase, target, base: base as u8 });
    }
}
