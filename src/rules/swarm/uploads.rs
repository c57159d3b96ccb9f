//! How many pieces a host sends at once.
//!
//! As many as a downloader has in flight: then free slots and free windows find
//! each other, and no link idles while requests wait at another host. In the
//! simulator a window that is larger or smaller than the slots costs 10 to 40 %
//! (docs/decisions/0017).

/// Pieces sent at once; all others are answered 429.
pub const UPLOAD_SLOTS: usize = 4;
