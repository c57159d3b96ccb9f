//! How many pieces a host sends at once.
//!
//! As many as a downloader has in flight: then free slots and free windows find
//! each other, and no link idles while requests wait at another host. In the
//! simulator a window that is larger or smaller than the slots costs 10 to 40 %
//! (docs/decisions/0017). Where answers are late downloaders have more in flight, and
//! say so; a sender follows what they say on average (docs/decisions/0034). Whoever lacks
//! more than the others that ask may take one slot more: what chance does to one host in
//! a whole download is made up for, and the last is not so late (docs/decisions/0039).

/// Pieces sent at once where answers are quick; all others are answered 429.
pub const UPLOAD_SLOTS: usize = 4;
/// Most pieces sent at once, whatever is said.
pub const UPLOAD_SLOTS_MAX: u64 = 8;
/// One request counts for this part of the average window, and of the average lack.
const SHARE: (f32, f32) = (1.0 / 8.0, 1.0 / 16.0);

/// What a downloader says of itself with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Requests that it has in flight.
    pub window: u64,
    /// Pieces that it lacks; `None`: it does not say.
    pub lacks: Option<u32>,
}

/// How many slots a sender has.
#[derive(Debug, Clone, Copy)]
pub struct Slots {
    window: f32,
    /// Pieces that those who ask lack; `None`: nobody said yet.
    lacks: Option<f32>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { window: UPLOAD_SLOTS as f32, lacks: None }
    }
}

impl Slots {
    /// A downloader asks: as many pieces may be sent at once, its own among them.
    pub fn asked(&mut self, asker: Asker) -> u32 {
        let window = asker.window.clamp(UPLOAD_SLOTS as u64, UPLOAD_SLOTS_MAX) as f32;
        self.window += (window - self.window) * SHARE.0;
        let slots = self.window.round() as u32;
        let Some(lacks) = asker.lacks else { return slots };
        let (lacks, usual) = (lacks as f32, self.lacks.unwrap_or(lacks as f32));
        self.lacks = Some(usual + (lacks - usual) * SHARE.1);
        (slots + u32::from(lacks > usual + 1.0)).min(UPLOAD_SLOTS_MAX as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_what_most_say_within_bounds() {
        let mut slots = Slots::default();
        let mut asked = |window| slots.asked(Asker { window, lacks: None });
        assert_eq!(asked(4), 4);
        assert_eq!(asked(u64::MAX), 5, "one alone moves it by half a slot");
        assert_eq!((0..50).map(|_| asked(u64::MAX)).last(), Some(8));
        assert_eq!((0..50).map(|_| asked(0)).last(), Some(4));
    }

    #[test]
    fn who_lacks_more_than_most_has_a_slot_more() {
        let mut slots = Slots::default();
        let mut asked = |lacks| slots.asked(Asker { window: 4, lacks: Some(lacks) });
        assert_eq!(asked(100), 4, "the first is usual");
        assert_eq!([asked(101), asked(99)], [4, 4], "a piece is no difference");
        assert_eq!([asked(120), asked(70), asked(100)], [5, 4, 4]);
        assert_eq!((0..100).map(|_| asked(10)).last(), Some(4), "what is usual changes");
        assert_eq!(asked(u32::MAX), 5);
        let late = |lacks| Asker { window: u64::MAX, lacks: Some(lacks) };
        assert_eq!((0..50).map(|at| slots.asked(late(at * at))).max(), Some(8), "no more at all");
    }
}
