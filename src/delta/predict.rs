//! What relinking makes of an address: the copies say where its target went.
//! Where they do not, or say it wrong, the answer once given is remembered.

use super::coder::{Chance, Coder, Number, Tree};
use super::copies::Copy;
use super::fields::{FORMS, Field};
use super::image::{BASES, Space, Zone};

/// Targets remembered, by hash: 8 MiB.
const REMEMBERED: usize = 1 << 19;
/// Old bytes between two marks of the index of copies.
const PAGE: u64 = 4096;
/// Pages marked at most; what is behind them is searched.
const PAGES_MAX: usize = 1 << 20;
/// Errors that may come again, of each form.
const RECENT: usize = 7;

/// Where the bytes of the old executables went.
pub(super) struct Moves {
    /// By old place, without overlap.
    copies: Vec<Copy>,
    /// The first copy that ends in or after each page from `from` on.
    pages: Vec<u32>,
    from: u64,
}

impl Moves {
    /// Of the copies of a group: those from inside the spaces.
    pub(super) fn of(copies: &[Copy], spaces: &[Space]) -> Self {
        let segments = || spaces.iter().flat_map(|space| &space.old.segments);
        let from = segments().map(|s| s.at).min().unwrap_or(0);
        let to = segments().map(|s| s.at.saturating_add(s.len)).max().unwrap_or(0);
        let inside = |copy: &&Copy| copy.old < to && copy.old_end() > from;
        let mut sorted: Vec<Copy> =
            if from < to { copies.iter().filter(inside).copied().collect() } else { Vec::new() };
        sorted.sort_by_key(|copy| (copy.old, copy.new));
        let mut kept: Vec<Copy> = Vec::with_capacity(sorted.len());
        for mut copy in sorted {
            if let Some(before) = kept.last_mut() {
                // The longer one tells better where a place went.
                let overlap = before.old_end().saturating_sub(copy.old);
                if copy.len > before.len {
                    before.len -= overlap.min(before.len - 1);
                }
                let overlap = before.old_end().saturating_sub(copy.old);
                if overlap >= copy.len {
                    continue;
                }
                let len = copy.len - overlap;
                copy = Copy { new: copy.new + overlap, old: copy.old + overlap, len };
            }
            kept.push(copy);
        }
        let mut moves = Self { copies: kept, pages: Vec::new(), from };
        moves.mark();
        moves
    }

    fn mark(&mut self) {
        for (index, copy) in self.copies.iter().enumerate() {
            // The last page a copy touches is enough: a look-up goes on from its mark.
            let page = (copy.old_end().saturating_sub(self.from) / PAGE) as usize;
            if page >= PAGES_MAX {
                break;
            }
            while self.pages.len() <= page {
                self.pages.push(index as u32);
            }
        }
    }

    /// Where the old byte at `at` went, and whether it was copied itself; or
    /// else where it would be next to the nearest byte that was.
    fn find(&self, at: u64) -> Option<(u64, bool)> {
        let page = (at.checked_sub(self.from)? / PAGE) as usize;
        let mark = |page| self.pages.get(page).map(|index| *index as usize);
        let low = mark(page).or(mark(self.pages.len().wrapping_sub(1))).unwrap_or(0);
        let high = mark(page + 1).map_or(self.copies.len(), |index| index + 1);
        let high = high.min(self.copies.len());
        let index = low + self.copies[low..high].partition_point(|copy| copy.old_end() <= at);
        let after = self.copies.get(index);
        if let Some(copy) = after.filter(|copy| copy.old <= at) {
            return Some((copy.new + (at - copy.old), true));
        }
        let before = index.checked_sub(1).map(|index| self.copies[index]);
        let nearer = match (before, after) {
            (Some(before), Some(after)) => {
                if at.saturating_sub(before.old_end()) < after.old - at {
                    before
                } else {
                    *after
                }
            }
            (one, other) => one.or(other.copied())?,
        };
        Some((at.wrapping_add(nearer.new).wrapping_sub(nearer.old), false))
    }
}

/// How sure a guess is; a context of what is coded about it.
#[derive(Clone, Copy)]
enum Source {
    Copied,
    Near,
    Remembered,
    Unknown,
}

const SOURCES: usize = 4;
const OUTCOMES: usize = 3;

/// What is learned of the fields of one form.
struct FormModel {
    right: [[Chance; OUTCOMES]; SOURCES],
    recent: Tree<8>,
    error: Number,
    errors: [u64; RECENT],
    /// How the last field came out: as guessed, off by a recent error, off by a new one.
    outcome: usize,
}

impl Default for FormModel {
    fn default() -> Self {
        Self {
            right: Default::default(),
            recent: Tree::default(),
            error: Number::default(),
            errors: [0; RECENT],
            outcome: 0,
        }
    }
}

/// The field at hand.
pub(super) struct Here<'a> {
    pub(super) space: &'a Space,
    pub(super) zone: &'a Zone,
    pub(super) field: Field,
    /// Its address in the new image.
    pub(super) new: u64,
}

/// Guesses fields, codes what they really are, and learns from it.
pub(super) struct Predictor {
    moves: Moves,
    remembered: Vec<(u64, u64)>,
    forms: Vec<FormModel>,
}

impl Predictor {
    pub(super) fn new(moves: Moves) -> Self {
        let mut forms = Vec::new();
        forms.resize_with(FORMS * BASES, FormModel::default);
        Self { moves, remembered: Vec::new(), forms }
    }

    fn guess(&self, space: &Space, target: u64) -> (u64, Source) {
        if let Some((_, answer)) =
            self.remembered.get(slot(target)).filter(|(asked, _)| *asked == target)
        {
            return (*answer, Source::Remembered);
        }
        let found = space.old.place(target).and_then(|at| self.moves.find(at));
        if let Some((at, copied)) = found
            && let Some(address) = space.new.address(at)
        {
            return (address, if copied { Source::Copied } else { Source::Near });
        }
        // Zeros behind the last bytes of a segment move as its end does.
        let end = |segments: &[super::image::Segment]| {
            segments.iter().map(|s| s.address.wrapping_add(s.len)).max().unwrap_or(0)
        };
        let moved = end(&space.new.segments).wrapping_sub(end(&space.old.segments));
        (target.wrapping_add(moved), Source::Unknown)
    }

    fn remember(&mut self, asked: u64, answer: u64) {
        if self.remembered.is_empty() {
            self.remembered = vec![(u64::MAX, 0); REMEMBERED];
        }
        self.remembered[slot(asked)] = (asked, answer);
    }

    /// Codes a field: `bytes` starts with the old field and gets the new one.
    /// `actual` is the new one where it is known.
    pub(super) fn field(
        &mut self,
        coder: &mut impl Coder,
        here: &Here<'_>,
        bytes: &mut [u8],
        actual: Option<&[u8]>,
    ) {
        let form = here.field.form;
        let new_base = here.zone.bases[1][usize::from(here.field.base)];
        let asked = here.field.target;
        let (expected, source) = self.guess(here.space, asked);
        form.put(bytes, expected, here.new, new_base);
        // What is coded is in the field's own terms, so nothing is lost when the
        // guess does not fit the field.
        let wide = form.width() == 8;
        let guess = number(bytes, wide);
        let error = actual.map_or(0, |actual| difference(number(actual, wide), guess, wide));
        let error = self.forms[form as usize * BASES + usize::from(here.field.base)]
            .code(coder, source, error);
        if error == 0 {
            return;
        }
        let right = guess.wrapping_add(error).to_le_bytes();
        let width = form.width();
        bytes[..width].copy_from_slice(&right[..width]);
        let answer = form.answer(bytes, here.new, new_base, expected);
        self.remember(asked, answer);
    }
}

impl FormModel {
    fn code(&mut self, coder: &mut impl Coder, source: Source, error: u64) -> u64 {
        let right = &mut self.right[source as usize][self.outcome];
        if !coder.bit(right, error != 0) {
            self.outcome = 0;
            return 0;
        }
        let known = self.errors.iter().position(|known| *known == error).unwrap_or(RECENT);
        let place = self.recent.code(coder, known as u32) as usize;
        self.outcome = if place < RECENT { 1 } else { 2 };
        let error = match self.errors.get(place) {
            Some(known) => *known,
            None => self.error.code_signed(coder, error as i64) as u64,
        };
        let last = place.min(RECENT - 1);
        self.errors.copy_within(0..last, 1);
        self.errors[0] = error;
        error
    }
}

/// The bytes of a field as a number.
fn number(field: &[u8], wide: bool) -> u64 {
    let mut bytes = [0; 8];
    let width = if wide { 8 } else { 4 };
    bytes[..width].copy_from_slice(&field[..width]);
    u64::from_le_bytes(bytes)
}

/// What is added to `guess` to get `actual`, as a number with a sign.
fn difference(actual: u64, guess: u64, wide: bool) -> u64 {
    let difference = actual.wrapping_sub(guess);
    if wide { difference } else { i64::from(difference as u32 as i32) as u64 }
}

fn slot(target: u64) -> usize {
    (target.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - REMEMBERED.trailing_zeros())) as usize
}
