//! Where the new bytes of a window stand in its old bytes: copies that go on
//! over scattered differences, as a relinked executable needs them.

use super::copies::Copy;
use super::differences::equal_bytes;
use super::seeds::{NEAR_SEED, Near, SEED, Seeds};

/// An equal byte counts 1 for a copy, a different one this much against it.
const MISS: i32 = 2;
/// A copy ends when its score is this much below its best.
const DROP: i32 = 24;
/// What a copy from near, and from anywhere, must score to pay its entry in the list.
const NEAR_PAYS: i32 = 8;
const FAR_PAYS: i32 = 14;
/// Near enough to the expected place that its position is cheap to write.
const NEAR_BY: usize = 32 << 10;
/// After each so many bytes without a copy the scan takes longer steps, up to `STRIDE_MAX`.
const STRIDE_AFTER: usize = 1 << 10;
const STRIDE_MAX: usize = 8;

/// Both sides of a window, and the index of the old one.
pub(super) struct Aligner<'a> {
    pub(super) old: &'a [u8],
    pub(super) new: &'a [u8],
    pub(super) seeds: &'a Seeds,
}

/// How well, and how far, two places agree in one direction.
#[derive(Clone, Copy, Default)]
struct Agreement {
    score: i32,
    len: usize,
}

impl Aligner<'_> {
    /// The copies that make `new[from..to]`, in order, without overlap; between
    /// them are literals.
    pub(super) fn scan(&self, from: usize, to: usize) -> Vec<Copy> {
        let mut copies: Vec<Copy> = Vec::new();
        let mut near = Near::new();
        let (mut done, mut at, mut expected) = (from, from, from.min(self.old.len()));
        while at + NEAR_SEED <= to {
            near.follow(self.old, expected + (at - done));
            match self.best(&near, at, done, to, expected) {
                Some((old, len)) => {
                    let mut copy = Copy { new: at as u64, old: old as u64, len: len as u64 };
                    self.join(&mut copies, &mut copy, from);
                    copies.push(copy);
                    done = copy.new_end() as usize;
                    expected = copy.old_end() as usize;
                    at = done;
                }
                None => at += (1 + (at - done) / STRIDE_AFTER).min(STRIDE_MAX),
            }
        }
        copies
    }

    /// The old place that serves the new bytes at `at` best, and for how many.
    fn best(
        &self,
        near: &Near,
        at: usize,
        done: usize,
        to: usize,
        expected: usize,
    ) -> Option<(usize, usize)> {
        let mut best: Option<(i32, usize, usize)> = None;
        let mut consider = |old: usize, seed: usize| {
            if self.old.get(old..old + seed) != Some(&self.new[at..at + seed]) {
                return;
            }
            let ahead = self.ahead(old, at, to);
            let behind = self.behind(old, at, done);
            let is_near = (expected + (at - done)).abs_diff(old) < NEAR_BY;
            let pays = if is_near { NEAR_PAYS } else { FAR_PAYS };
            let score = ahead.score + behind.score - pays;
            if score >= 0 && best.is_none_or(|(top, ..)| score > top) {
                best = Some((score, old, ahead.len));
            }
        };
        near.place(&self.new[at..]).into_iter().for_each(|old| consider(old, NEAR_SEED));
        if at + SEED <= to {
            self.seeds.places(&self.new[at..]).for_each(|old| consider(old, SEED));
        }
        best.map(|(_, old, len)| (old, len))
    }

    /// Agreement from `old` and `at` on, up to `to`.
    fn ahead(&self, old: usize, at: usize, to: usize) -> Agreement {
        let (old, new) = (&self.old[old..], &self.new[at..to]);
        let len = old.len().min(new.len());
        let (mut best, mut now) = (Agreement::default(), Agreement::default());
        while now.len < len {
            let same = equal_bytes(&old[now.len..len], &new[now.len..len]);
            now.len += same;
            now.score = now.score.saturating_add(same as i32);
            if now.score > best.score {
                best = now;
            }
            now.len += 1;
            now.score -= MISS;
            if now.score < best.score - DROP {
                break;
            }
        }
        best
    }

    /// Agreement of the bytes before `old` and `at`, down to `from`.
    fn behind(&self, old: usize, at: usize, from: usize) -> Agreement {
        let len = old.min(at - from);
        let (mut best, mut now) = (Agreement::default(), Agreement::default());
        while now.len < len {
            now.len += 1;
            let same = self.old[old - now.len] == self.new[at - now.len];
            now.score += if same { 1 } else { -MISS };
            if now.score > best.score {
                best = now;
            }
            if now.score < best.score - DROP {
                break;
            }
        }
        best
    }

    /// Lets the found copy begin earlier: in the literals before it, and in the
    /// tail of the copy before them where it agrees better than that one.
    fn join(&self, copies: &mut Vec<Copy>, copy: &mut Copy, from: usize) {
        let bound = copies.last().map_or(from, |before| before.new as usize);
        let behind = self.behind(copy.old as usize, copy.new as usize, bound);
        grow_back(copy, behind.len as u64);
        let Some(before) = copies.last_mut() else { return };
        let overlap = before.new_end().saturating_sub(copy.new);
        if overlap == 0 {
            return;
        }
        let keep = self.split(*before, *copy, overlap as usize);
        before.len -= overlap - keep;
        *copy = Copy { new: copy.new + keep, old: copy.old + keep, len: copy.len - keep };
        if before.len == 0 {
            copies.pop();
        }
    }

    /// Of the `overlap` new bytes that both copies cover, how many the first keeps.
    fn split(&self, before: Copy, copy: Copy, overlap: usize) -> u64 {
        let new = &self.new[copy.new as usize..][..overlap];
        let first = &self.old[before.old_end() as usize - overlap..][..overlap];
        let second = &self.old[copy.old as usize..][..overlap];
        let (mut score, mut best, mut keep) = (0i32, 0i32, 0);
        for at in 0..overlap {
            score += i32::from(first[at] == new[at]) - i32::from(second[at] == new[at]);
            if score > best {
                (best, keep) = (score, at + 1);
            }
        }
        keep as u64
    }
}

fn grow_back(copy: &mut Copy, len: u64) {
    copy.new -= len;
    copy.old -= len;
    copy.len += len;
}

/// Puts copies together that go on where the one before ends, on both sides.
pub(super) fn merge(copies: &mut Vec<Copy>) {
    copies.dedup_by(|next, before| {
        let goes_on = before.new_end() == next.new && before.old_end() == next.old;
        if goes_on {
            before.len += next.len;
        }
        goes_on
    });
}
