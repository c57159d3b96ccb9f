//! How many pieces a host sends at once.
//!
//! As many as a downloader has in flight: then free slots and free windows find
//! each other, and no link idles while requests wait at another host. In the
//! simulator a window that is larger or smaller than the slots costs 10 to 40 %
//! (docs/decisions/0017). Where answers are late downloaders have more in flight, and
//! say so; a sender follows what they say on average (docs/decisions/0034).

/// Pieces sent at once where answers are quick; all others are answered 429.
pub const UPLOAD_SLOTS: usize = 4;
/// Most pieces sent at once, whatever is said.
pub const UPLOAD_SLOTS_MAX: u64 = 8;
/// One request counts for this part of the average.
const SHARE: f32 = 1.0 / 8.0;

/// How many slots a sender has.
#[derive(Debug, Clone, Copy)]
pub struct Slots(f32);

impl Default for Slots {
    fn default() -> Self {
        Self(UPLOAD_SLOTS as f32)
    }
}

impl Slots {
    /// A request came from a downloader that has `window` in flight.
    pub fn asked(&mut self, window: u64) {
        let window = window.clamp(UPLOAD_SLOTS as u64, UPLOAD_SLOTS_MAX) as f32;
        self.0 += (window - self.0) * SHARE;
    }

    /// Pieces sent at once.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_what_most_say_within_bounds() {
        let mut slots = Slots::default();
        assert_eq!(slots.count(), 4);
        slots.asked(u64::MAX);
        assert_eq!(slots.count(), 5, "one alone moves it by half a slot");
        (0..50).for_each(|_| slots.asked(u64::MAX));
        assert_eq!(slots.count(), 8);
        (0..50).for_each(|_| slots.asked(0));
        assert_eq!(slots.count(), 4);
    }
}
