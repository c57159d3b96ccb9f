//! A binary range coder with adaptive probabilities, and the numbers and bytes
//! coded with it. The carry handling is LZMA's; a probability is the mean of a
//! quick and a slow estimate. It never reads outside its slice: past the end it
//! sees zeros, and the reader learns of that from [`Decoder::overrun`].

/// Probabilities are in 1/2^16, so two of them add to 17 bits; 15 are used.
const PRECISION: u32 = 15;
const HALF: u16 = 1 << 15;
const QUICK: u32 = 4;
const SLOW: u32 = 7;
const TOP: u32 = 1 << 24;

/// The chance that a bit is 0, learned from the bits seen.
#[derive(Clone, Copy)]
pub(super) struct Chance {
    quick: u16,
    slow: u16,
}

impl Default for Chance {
    fn default() -> Self {
        Self { quick: HALF, slow: HALF }
    }
}

impl Chance {
    /// In 1..2^15, never 0 or 1: both bits stay possible.
    fn zero(self) -> u32 {
        let sum = (u32::from(self.quick) + u32::from(self.slow)) >> (17 - PRECISION);
        sum.clamp(24, (1 << PRECISION) - 24)
    }

    fn learn(&mut self, bit: bool) {
        if bit {
            self.quick -= self.quick >> QUICK;
            self.slow -= self.slow >> SLOW;
        } else {
            self.quick += (u16::MAX - self.quick) >> QUICK;
            self.slow += (u16::MAX - self.slow) >> SLOW;
        }
    }
}

/// Both directions of the coder, so that what is coded is written down once:
/// an encoder takes the value and returns it, a decoder ignores it and returns
/// what was coded.
pub(super) trait Coder {
    /// One bit with a learned chance.
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> bool;
    /// `count` (at most 32) bits that nothing is known about.
    fn plain(&mut self, value: u32, count: u32) -> u32;
}

/// Writes bits into bytes.
pub(super) struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    pending: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 1, out: Vec::new() }
    }

    /// Bytes written until now, within five.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// The coded bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.out
    }

    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > 0xffff_ffff {
            let carry = (self.low >> 32) as u8;
            let mut byte = self.cache;
            while self.pending > 0 {
                self.out.push(byte.wrapping_add(carry));
                byte = 0xff;
                self.pending -= 1;
            }
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }
}

impl Coder for Encoder {
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> bool {
        let bound = (self.range >> PRECISION) * chance.zero();
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        chance.learn(bit);
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
        bit
    }

    fn plain(&mut self, value: u32, count: u32) -> u32 {
        for at in (0..count).rev() {
            self.range >>= 1;
            if value >> at & 1 == 1 {
                self.low += u64::from(self.range);
            }
            while self.range < TOP {
                self.range <<= 8;
                self.shift();
            }
        }
        value
    }
}

/// Reads bits from bytes.
pub(super) struct Decoder<'a> {
    code: u32,
    range: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u32::MAX, bytes, at: 0 };
        for _ in 0..5 {
            decoder.next();
        }
        decoder
    }

    /// True when more was read than was there: the bytes were cut or made up.
    pub(super) fn overrun(&self) -> bool {
        self.at > self.bytes.len()
    }

    fn next(&mut self) {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        self.code = self.code << 8 | u32::from(byte);
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, chance: &mut Chance, _: bool) -> bool {
        let bound = (self.range >> PRECISION) * chance.zero();
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        chance.learn(bit);
        while self.range < TOP {
            self.range <<= 8;
            self.next();
        }
        bit
    }

    fn plain(&mut self, _: u32, count: u32) -> u32 {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u32::from(bit);
            while self.range < TOP {
                self.range <<= 8;
                self.next();
            }
        }
        value
    }
}

/// A value of `BITS` bits coded from its top bit down, each bit in the context
/// of those before it. `SIZE` is 2^BITS.
#[derive(Clone)]
pub(super) struct Tree<const SIZE: usize>([Chance; SIZE]);

impl<const SIZE: usize> Default for Tree<SIZE> {
    fn default() -> Self {
        Self([Chance::default(); SIZE])
    }
}

impl<const SIZE: usize> Tree<SIZE> {
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u32) -> u32 {
        let bits = SIZE.trailing_zeros();
        let mut node = 1usize;
        for at in (0..bits).rev() {
            let bit = coder.bit(&mut self.0[node], value >> at & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        (node - SIZE) as u32
    }
}

/// A number of any size: its magnitude and the bit after its top bit in one
/// tree, the two bits after those by tree, the rest plain.
#[derive(Clone)]
pub(super) struct Number {
    slots: Tree<128>,
    next: Vec<Tree<4>>,
}

impl Default for Number {
    fn default() -> Self {
        Self { slots: Tree::default(), next: vec![Tree::default(); 128] }
    }
}

impl Number {
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u64) -> u64 {
        let slot = self.slots.code(coder, slot_of(value));
        if slot < 4 {
            return u64::from(slot);
        }
        let mut rest = (slot >> 1) - 1;
        let mut made = u64::from(2 | slot & 1);
        let known = rest.min(2);
        rest -= known;
        let mask = (1 << known) - 1;
        // A tree of two bits also serves one bit: the top bit is then 0.
        let next = &mut self.next[slot as usize];
        made = made << known | u64::from(next.code(coder, (value >> rest) as u32 & mask) & mask);
        while rest > 0 {
            let step = rest.min(16);
            rest -= step;
            let part = coder.plain((value >> rest) as u32 & ((1 << step) - 1), step);
            made = made << step | u64::from(part);
        }
        made
    }

    /// A number with a sign, small ones near zero first.
    pub(super) fn code_signed(&mut self, coder: &mut impl Coder, value: i64) -> i64 {
        let folded = self.code(coder, (value << 1 ^ value >> 63) as u64);
        (folded >> 1) as i64 ^ -((folded & 1) as i64)
    }
}

fn slot_of(value: u64) -> u32 {
    if value < 4 {
        return value as u32;
    }
    let top = 63 - value.leading_zeros();
    top << 1 | (value >> (top - 1)) as u32 & 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(values in proptest::collection::vec(any::<u64>().prop_flat_map(|v| (0u32..64).prop_map(move |s| v >> s)), 0..300)) {
            let (mut number, mut encoder) = (Number::default(), Encoder::new());
            for value in &values {
                number.code(&mut encoder, *value);
                number.code_signed(&mut encoder, *value as i64);
            }
            let bytes = encoder.finish();
            let (mut number, mut decoder) = (Number::default(), Decoder::new(&bytes));
            for value in &values {
                prop_assert_eq!(number.code(&mut decoder, 0), *value);
                prop_assert_eq!(number.code_signed(&mut decoder, 0), *value as i64);
            }
            prop_assert!(!decoder.overrun());
        }
    }

    #[test]
    fn a_repeated_bit_costs_almost_nothing() {
        let (mut chance, mut encoder) = (Chance::default(), Encoder::new());
        for _ in 0..100_000 {
            encoder.bit(&mut chance, true);
        }
        assert!(encoder.finish().len() < 200);
    }
}
