//! The bytes in which a copy differs from what was predicted: how far to the
//! next one, and what it is.

use super::coder::{Coder, Decoder, Encoder, Number, Tree};

/// What is learned from the differences of one block.
struct Model {
    gaps: [Number; 3],
    /// By the difference just before: the bytes of one number change together.
    bytes: Vec<Tree<256>>,
    /// The kind of gap before, and the last difference.
    before: usize,
    last: u8,
}

impl Model {
    fn new() -> Self {
        let gaps = [Number::default(), Number::default(), Number::default()];
        Self { gaps, bytes: vec![Tree::default(); 257], before: 2, last: 0 }
    }

    fn gap(&mut self, coder: &mut impl Coder, gap: u64) -> u64 {
        let gap = self.gaps[self.before].code(coder, gap);
        self.before = match gap {
            0 => 0,
            1..=7 => 1,
            _ => 2,
        };
        gap
    }

    fn byte(&mut self, coder: &mut impl Coder, difference: u8) -> u8 {
        let context = if self.before == 0 { usize::from(self.last) } else { 256 };
        self.last = self.bytes[context].code(coder, u32::from(difference)) as u8;
        self.last
    }
}

/// Writes the differences of one block.
pub(super) struct DifferenceWriter {
    model: Model,
    coder: Encoder,
    same: u64,
}

impl DifferenceWriter {
    pub(super) fn new() -> Self {
        Self { model: Model::new(), coder: Encoder::new(), same: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.coder.len()
    }

    /// Takes note of bytes of a copy: what is expected there, and what is.
    pub(super) fn write(&mut self, expected: &[u8], actual: &[u8]) {
        let mut at = 0;
        while at < actual.len() {
            let same = equal_bytes(&expected[at..], &actual[at..]);
            self.same += same as u64;
            at += same;
            if at < actual.len() {
                self.model.gap(&mut self.coder, self.same);
                self.model.byte(&mut self.coder, actual[at].wrapping_sub(expected[at]));
                self.same = 0;
                at += 1;
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        // The reader asks for the next difference before it needs it.
        self.model.gap(&mut self.coder, self.same);
        self.coder.finish()
    }
}

/// Reads the differences of one block.
pub(super) struct DifferenceReader<'a> {
    model: Model,
    coder: Decoder<'a>,
    /// Bytes before the next difference.
    same: u64,
}

impl<'a> DifferenceReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (mut model, mut coder) = (Model::new(), Decoder::new(bytes));
        let same = model.gap(&mut coder, 0);
        Self { model, coder, same }
    }

    /// Turns expected bytes of a copy into the actual ones.
    pub(super) fn read(&mut self, mut bytes: &mut [u8]) {
        while self.same < bytes.len() as u64 {
            bytes = &mut bytes[self.same as usize..];
            bytes[0] = bytes[0].wrapping_add(self.model.byte(&mut self.coder, 0));
            bytes = &mut bytes[1..];
            self.same = self.model.gap(&mut self.coder, 0);
        }
        self.same -= bytes.len() as u64;
    }

    /// True when the coded bytes ended too early.
    pub(super) fn overrun(&self) -> bool {
        self.coder.overrun()
    }
}

/// How many bytes at the start of both are equal.
pub(super) fn equal_bytes(one: &[u8], other: &[u8]) -> usize {
    let len = one.len().min(other.len());
    let mut at = 0;
    while at + 8 <= len {
        let a = u64::from_le_bytes(one[at..at + 8].try_into().unwrap_or_default());
        let b = u64::from_le_bytes(other[at..at + 8].try_into().unwrap_or_default());
        if a != b {
            return at + ((a ^ b).trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + one[at..len].iter().zip(&other[at..len]).take_while(|(a, b)| a == b).count()
}
