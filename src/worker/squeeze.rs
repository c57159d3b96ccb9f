//! Compresses one piece, or finds cheaply that it does not pay.
//!
//! Bytes that are compressed already (archives, images, ciphertext) are most of
//! some artifacts, and a whole pass of zstd over them costs more than all the rest
//! of packing. A sample of the piece tells them apart. It can err one way only:
//! such a piece is stored plain although zstd would have found a saving, for
//! instance of a repeat farther away than the sample sees.

use zstd::bulk::Compressor;

use crate::model::manifest::ZSTD_LEVEL;

/// zstd level of the sample.
const SAMPLE_LEVEL: i32 = 1;
/// Windows of a sample, evenly spread.
const WINDOWS: usize = 16;
/// A window is this part of a piece, and never shorter than the bytes of
/// [`WINDOW_MIN`]: a sample of 128 KiB of 8 MiB, of 16 KiB of 256 KiB.
const WINDOW_SHARE: usize = 1024;
/// Shorter ones would show nothing but single bytes' frequencies, bytes.
const WINDOW_MIN: usize = 1 << 10;
/// Pieces under this size are not sampled, bytes: the sample would be most of them.
const SAMPLED_MIN: usize = 128 << 10;
/// What a piece must save to be stored compressed: a tenth.
const WORTH: usize = 10;
/// What its sample must save: less, as zstd finds more in the whole than in windows.
const PROMISING: usize = 32;

/// A thread's compressors and their buffers.
pub struct Squeezer {
    zstd: Compressor<'static>,
    scout: Compressor<'static>,
    sample: Vec<u8>,
    wire: Vec<u8>,
}

impl Squeezer {
    /// With buffers that grow to the largest piece seen.
    #[must_use]
    pub fn new() -> Self {
        let at = |level| Compressor::new(level).expect("the level is a constant");
        Self { zstd: at(ZSTD_LEVEL), scout: at(SAMPLE_LEVEL), sample: Vec::new(), wire: Vec::new() }
    }

    /// The piece compressed; `None` when it does not fit in nine tenths of its size.
    /// The same bytes give the same answer on every thread.
    pub fn squeeze(&mut self, raw: &[u8]) -> Option<&[u8]> {
        if raw.len() >= SAMPLED_MIN && !self.promises(raw) {
            return None;
        }
        let length = shrunk(&mut self.zstd, raw, &mut self.wire, WORTH)?;
        Some(&self.wire[..length])
    }

    /// Whether a sample of the piece can be compressed at all.
    fn promises(&mut self, raw: &[u8]) -> bool {
        let window = (raw.len() / WINDOW_SHARE).max(WINDOW_MIN);
        self.sample.clear();
        for index in 0..WINDOWS {
            let at = (raw.len() - window) / (WINDOWS - 1) * index;
            self.sample.extend_from_slice(&raw[at..at + window]);
        }
        shrunk(&mut self.scout, &self.sample, &mut self.wire, PROMISING).is_some()
    }
}

impl Default for Squeezer {
    fn default() -> Self {
        Self::new()
    }
}

/// Compresses into `wire`; `None` when not one part of `saved` is saved.
fn shrunk(
    zstd: &mut Compressor<'_>,
    raw: &[u8],
    wire: &mut Vec<u8>,
    saved: usize,
) -> Option<usize> {
    let room = raw.len() - raw.len().div_ceil(saved);
    if wire.len() < room {
        wire.resize(room, 0);
    }
    zstd.compress_to_buffer(raw, &mut wire[..room]).ok().filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut rng = crate::model::rng::Rng::new(5);
        std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).flatten().take(bytes).collect()
    }

    #[test]
    fn what_pays_is_compressed_and_the_rest_is_told_by_its_sample() {
        let mut squeezer = Squeezer::new();
        for bytes in [1 << 10, 256 << 10, (1 << 20) - 3, 8 << 20] {
            let mut piece = noise(bytes);
            assert!(squeezer.squeeze(&piece).is_none(), "{bytes}");
            // A quarter of zeros at any place is seen.
            for quarter in 0..4 {
                let mut mixed = piece.clone();
                mixed[quarter * bytes / 4..][..bytes / 4].fill(0);
                let wire = squeezer.squeeze(&mixed).map(<[u8]>::to_vec).unwrap();
                assert!(wire.len() < bytes * 4 / 5, "{bytes}: {}", wire.len());
                assert!(zstd::bulk::decompress(&wire, bytes).unwrap() == mixed);
            }
            // Less than a tenth does not pay.
            piece[..bytes / 16].fill(0);
            assert!(squeezer.squeeze(&piece).is_none(), "{bytes}");
        }
        assert!(squeezer.squeeze(b"").is_none());
    }
}
