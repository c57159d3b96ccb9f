//! A set of pieces of one artifact: what a host has, as bits.
//!
//! As text: hexadecimal bytes, piece 0 in the lowest bit of the first byte. At
//! most [`PIECES_MAX`] pieces, so a set is never over 256 bytes.

use serde::{Deserialize, Serialize};

use super::digest::{from_hex, to_hex};
use super::id::InvalidId;

/// Most pieces of an artifact: just under 2 GiB in pieces of 1 MiB
/// ([`super::manifest::piece_bytes`] never cuts finer).
pub const PIECES_MAX: u32 = 2048;

/// A set of piece numbers below [`PIECES_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PieceSet {
    words: Vec<u64>,
}

impl PieceSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every piece below `count`.
    #[must_use]
    pub fn full(count: u32) -> Self {
        let mut set = Self::new();
        (0..count).for_each(|piece| {
            set.insert(piece);
        });
        set
    }

    /// Adds a piece; whether it was not there before. Pieces from
    /// [`PIECES_MAX`] on are ignored.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= PIECES_MAX || self.contains(piece) {
            return false;
        }
        let word = (piece / 64) as usize;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (piece % 64);
        true
    }

    /// Takes a piece out.
    pub fn remove(&mut self, piece: u32) {
        if let Some(word) = self.words.get_mut((piece / 64) as usize) {
            *word &= !(1 << (piece % 64));
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    /// Whether a piece is in the set.
    #[must_use]
    pub fn contains(&self, piece: u32) -> bool {
        self.words.get((piece / 64) as usize).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// How many pieces there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether every piece is below `count`.
    #[must_use]
    pub fn fits(&self, count: u32) -> bool {
        self.iter().last().is_none_or(|piece| piece < count)
    }

    /// The pieces, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(at as u32 * 64 + bit)
            })
        })
    }

    /// The set as words, piece 0 in the lowest bit of the first; missing words are empty.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The set that these words stand for; pieces from [`PIECES_MAX`] on are ignored.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        Self { words: words.iter().take(PIECES_MAX as usize / 64).copied().collect() }.trimmed()
    }

    /// The pieces of this set that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let word = |(at, word): (usize, &u64)| word & !other.words.get(at).copied().unwrap_or(0);
        Self { words: self.words.iter().enumerate().map(word).collect() }.trimmed()
    }

    /// The pieces in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b);
        Self { words: words.collect() }.trimmed()
    }

    /// Adds every piece of `other`.
    pub fn extend(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    fn trimmed(mut self) -> Self {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self
    }
}

impl FromIterator<u32> for PieceSet {
    fn from_iter<I: IntoIterator<Item = u32>>(pieces: I) -> Self {
        let mut set = Self::new();
        pieces.into_iter().for_each(|piece| {
            set.insert(piece);
        });
        set
    }
}

impl From<PieceSet> for String {
    fn from(set: PieceSet) -> String {
        let bytes: Vec<u8> = set.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        to_hex(&bytes[..used])
    }
}

impl TryFrom<String> for PieceSet {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        let wrong = || InvalidId::new("piece set", &text, "at most 512 hexadecimal digits");
        let bytes = (text.len() <= PIECES_MAX as usize / 4).then(|| from_hex(&text)).flatten();
        let bytes = bytes.ok_or_else(wrong)?;
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Ok(Self { words: words.collect() }.trimmed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_prints_and_is_bounded() {
        for pieces in [vec![], vec![0], vec![7, 8, 63, 64, 2047]] {
            let set: PieceSet = pieces.iter().copied().collect();
            let text = String::from(set.clone());
            assert_eq!(PieceSet::try_from(text).unwrap(), set);
            assert_eq!(set.iter().collect::<Vec<_>>(), pieces);
            assert_eq!(set.count() as usize, pieces.len());
        }
        for bad in ["0", "0G", "AA", &"0".repeat(514)] {
            assert!(PieceSet::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(PieceSet::try_from("0000".to_owned()).unwrap().is_empty());
        assert!(!PieceSet::new().insert(PIECES_MAX));
    }

    #[test]
    fn sets_add_and_subtract() {
        let (mut a, b) = (PieceSet::full(130), PieceSet::full(65));
        assert_eq!(a.minus(&b).iter().next(), Some(65));
        assert_eq!(a.and(&b), b);
        assert!(a.fits(130) && !a.fits(129) && PieceSet::new().fits(0));
        a.remove(129);
        assert!(a.fits(129) && a.insert(129));
        let mut c = PieceSet::new();
        c.extend(&a);
        assert_eq!(c, a);
        assert!(a.minus(&a).is_empty());
    }
}
