//! The content coding of documents that many hosts fetch at once: zstd.
//!
//! A manifest is mostly digits, so a fleet's copies of it would be felt on a small
//! artifact's link to the regional store; packed they take about a third.

use std::io::{self, Read};

/// Its name in `accept-encoding` and `content-encoding`.
pub const ZSTD: &str = "zstd";
/// Level: manifests are packed once and kept.
const LEVEL: i32 = 3;
/// Largest window that is unpacked, as a power of two: 8 MiB, which level 3 stays under.
const WINDOW_LOG_MAX: u32 = 23;

/// Packs a document.
///
/// # Errors
/// When there is no memory for it.
pub fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

/// Unpacks a document of at most `limit` bytes, whoever sent it.
///
/// # Errors
/// When it is larger, or not packed well.
pub fn unpack(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut bytes = vec![];
    decoder.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("over {limit} bytes")));
    }
    Ok(bytes)
}

/// Whether an `accept-encoding` header's value names [`ZSTD`].
#[must_use]
pub fn accepts(value: &str) -> bool {
    value.split(',').any(|coding| coding.trim() == ZSTD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_bombs_do_not_open() {
        let text = b"0123456789abcdef".repeat(1 << 16);
        let packed = pack(&text).unwrap();
        assert!(packed.len() < text.len() / 100);
        assert!(unpack(&packed, text.len()).unwrap() == text);
        assert!(unpack(&packed, text.len() - 1).is_err());
        assert!(unpack(&packed[..packed.len() / 2], text.len()).is_err());
        assert!(unpack(b"not packed", 100).is_err());
        assert!(accepts("gzip, zstd") && !accepts("gzip") && !accepts("zstdx"));
    }
}
