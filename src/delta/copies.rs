//! The copies of a group: which bytes of the new blob come from where in the
//! old one, and how that list is written.

use super::coder::{Coder, Number, Tree};

/// `len` bytes at `new` are the `len` bytes at `old`, but for differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) new: u64,
    pub(super) old: u64,
    pub(super) len: u64,
}

impl Copy {
    pub(super) fn new_end(self) -> u64 {
        self.new + self.len
    }

    pub(super) fn old_end(self) -> u64 {
        self.old + self.len
    }

    /// Where old stands against new.
    pub(super) fn shift(self) -> i64 {
        self.old.wrapping_sub(self.new) as i64
    }
}

/// Shifts that were used lately are coded by their place in this list.
const RECENT: usize = 7;

/// What is learned while the copies of one group are coded, in new order.
#[derive(Default)]
pub(super) struct CopyModel {
    literals: Number,
    lengths: [Number; 2],
    recent: Tree<8>,
    moves: [Number; 2],
    shifts: Vec<i64>,
}

impl CopyModel {
    /// Codes one copy. `new_before` and `old_before` are the ends of the copy
    /// before it. Only wrapping arithmetic: the reader checks what it gets.
    pub(super) fn code(
        &mut self,
        coder: &mut impl Coder,
        copy: Copy,
        new_before: u64,
        old_before: u64,
    ) -> Copy {
        let gap = self.literals.code(coder, copy.new.wrapping_sub(new_before));
        let new = new_before.wrapping_add(gap);
        let known = self.shifts.iter().position(|shift| *shift == copy.shift());
        let place = self.recent.code(coder, known.unwrap_or(RECENT) as u32) as usize;
        let old = match self.shifts.get(place) {
            Some(shift) => new.wrapping_add(*shift as u64),
            None => {
                // Inserted bytes leave the old position alone, replaced ones move it along.
                let moved = copy.old.wrapping_sub(old_before) as i64;
                let moves = &mut self.moves[usize::from(gap > 0)];
                old_before.wrapping_add(moves.code_signed(coder, moved) as u64)
            }
        };
        let len = self.lengths[usize::from(gap > 0)].code(coder, copy.len);
        let copy = Copy { new, old, len };
        self.remember(copy.shift());
        copy
    }

    fn remember(&mut self, shift: i64) {
        let place = self.shifts.iter().position(|known| *known == shift);
        if let Some(place) = place {
            self.shifts.remove(place);
        }
        self.shifts.insert(0, shift);
        self.shifts.truncate(RECENT);
    }
}
