//! The old bytes of a window, findable by any 16 bytes of them.

/// Bytes of a seed.
pub(super) const SEED: usize = 16;
/// Only each 4th old position is kept, so a match of 19 bytes is never missed.
const STEP: usize = 4;
/// Old places tried for one new place at most.
const TRIES: usize = 16;

/// Positions by hash, the latest first.
pub(super) struct Seeds {
    heads: Vec<u32>,
    chain: Vec<u32>,
    bits: u32,
}

impl Seeds {
    /// Five bytes of memory or less for each four of `old`, which is under 4 GiB.
    pub(super) fn of(old: &[u8]) -> Self {
        let count = if old.len() < SEED { 0 } else { (old.len() - SEED) / STEP + 1 };
        let bits = (usize::BITS - count.leading_zeros()).clamp(10, 25);
        let mut seeds = Self { heads: vec![0; 1 << bits], chain: vec![0; count], bits };
        for (place, chained) in seeds.chain.iter_mut().enumerate() {
            let seed = &old[place * STEP..][..SEED];
            // Padding is everywhere and says nothing.
            if seed[1..] == seed[..SEED - 1] {
                continue;
            }
            let head = &mut seeds.heads[hash(seed, bits)];
            *chained = *head;
            *head = place as u32 + 1;
        }
        seeds
    }

    /// Old positions that may start with the first bytes of `new`, which has `SEED` bytes.
    pub(super) fn places(&self, new: &[u8]) -> impl Iterator<Item = usize> {
        let mut place = self.heads[hash(&new[..SEED], self.bits)];
        std::iter::from_fn(move || {
            let at = place.checked_sub(1)? as usize;
            place = self.chain[at];
            Some(at * STEP)
        })
        .take(TRIES)
    }
}

fn hash(seed: &[u8], bits: u32) -> usize {
    let low = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
    let high = u64::from_le_bytes(seed[8..16].try_into().unwrap_or_default());
    let mixed = (low ^ high.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
}

/// Bytes of a near seed.
pub(super) const NEAR_SEED: usize = 8;
/// How far around the expected old position the near index reaches.
const NEAR: usize = 16 << 10;
const NEAR_BITS: u32 = 15;

/// The old bytes around the expected position, findable by any 8 of them. It
/// moves along; what it forgot or overwrote only costs a match.
pub(super) struct Near {
    places: Vec<u32>,
    from: usize,
    to: usize,
}

impl Near {
    pub(super) fn new() -> Self {
        Self { places: vec![u32::MAX; 1 << NEAR_BITS], from: 0, to: 0 }
    }

    /// Moves to the bytes around `center`.
    pub(super) fn follow(&mut self, old: &[u8], center: usize) {
        let (low, high) = (center.saturating_sub(NEAR), (center + NEAR).min(old.len()));
        let start = if low < self.from || low > self.to {
            self.from = low;
            low
        } else {
            self.to
        };
        for at in start..high.saturating_sub(NEAR_SEED - 1) {
            self.places[near_hash(&old[at..])] = at as u32;
        }
        self.to = self.to.max(high.saturating_sub(NEAR_SEED - 1)).max(start);
        if start == low {
            self.to = high.saturating_sub(NEAR_SEED - 1).max(low);
        }
    }

    /// The old position last seen with the first 8 bytes of `new`.
    pub(super) fn place(&self, new: &[u8]) -> Option<usize> {
        let place = self.places[near_hash(new)];
        (place != u32::MAX).then_some(place as usize)
    }
}

fn near_hash(bytes: &[u8]) -> usize {
    let seed = u64::from_le_bytes(bytes[..NEAR_SEED].try_into().unwrap_or_default());
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - NEAR_BITS)) as usize
}
