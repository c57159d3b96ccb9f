//! A server's clock as this process knows it: several coordinators then agree on the
//! time within milliseconds, whatever the clocks of their machines say.
//!
//! It never goes back, and follows a jump of the server's clock by and by.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::model::time::UnixMillis;

/// How far one comparison may move the clock, milliseconds: a tenth of the five
/// seconds between two. A jump of the server's clock is taken over by and by.
const STEP_MS: i64 = 500;

/// Unix time that only grows.
pub(super) struct Clock {
    base: Instant,
    /// The time at `base`, Unix milliseconds.
    at_base: AtomicI64,
    /// The latest that was told.
    last: AtomicI64,
}

impl Clock {
    /// A clock that the server's shows `now`, Unix milliseconds.
    pub(super) fn at(now: i64) -> Self {
        Self { base: Instant::now(), at_base: AtomicI64::new(now), last: AtomicI64::new(now) }
    }

    /// The time now.
    pub(super) fn now(&self) -> UnixMillis {
        let now = self.by_base();
        UnixMillis(self.last.fetch_max(now, Ordering::Relaxed).max(now))
    }

    fn by_base(&self) -> i64 {
        let since = i64::try_from(self.base.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.at_base.load(Ordering::Relaxed).saturating_add(since)
    }

    /// Comes nearer to a server's clock, which showed `ms` a moment `ago`.
    pub(super) fn follow(&self, ms: i64, ago: Duration) {
        let off = self.off(ms, ago);
        self.at_base.fetch_add(off.clamp(-STEP_MS, STEP_MS), Ordering::Relaxed);
    }

    fn off(&self, ms: i64, ago: Duration) -> i64 {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(0);
        ms.saturating_add(ago).saturating_sub(self.by_base())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_in_steps_and_never_goes_back() {
        let clock = Clock::at(1_000_000);
        let before = clock.now().0;
        clock.follow(before - 60_000, Duration::ZERO);
        assert!(clock.now().0 >= before, "it never goes back");
        let ahead = clock.by_base() + 60_000;
        clock.follow(ahead, Duration::ZERO);
        let step = clock.by_base() - before;
        assert!((0..30_000).contains(&step), "one step at a time: {step}");
    }
}
