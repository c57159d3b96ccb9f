//! Waits between tries of something that failed.
//!
//! Each is drawn from the shortest wait to three times the last ("decorrelated
//! jitter", AWS Architecture Blog 2015), or to the longest wait when that is less: many
//! hosts or regions do not return to a process in step, however long it was away.

use std::time::Duration;

use crate::model::rng::Rng;
use crate::net::auth::random_seed;

/// A growing wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    /// The wait after the last failure; `None`: there was none since a success.
    last: Option<Duration>,
    rng: Rng,
}

impl Backoff {
    /// Waits of `least` to `most`, as nothing failed yet.
    #[must_use]
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, last: None, rng: Rng::new(random_seed()) }
    }

    /// How long to wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        self.failed_within(self.most)
    }

    /// The same with another longest wait; never less than the shortest.
    pub fn failed_within(&mut self, most: Duration) -> Duration {
        let low = self.least.as_millis() as u64;
        let high = self.last.unwrap_or(self.least).saturating_mul(3).min(most.min(self.most));
        let drawn = low + self.rng.below((high.as_millis() as u64).max(low + 1) - low);
        let wait = Duration::from_millis(drawn);
        self.last = Some(wait);
        wait
    }

    /// Starts anew after a success; returns whether there had been a failure.
    pub fn succeeded(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds_and_start_anew() {
        let (least, most) = (Duration::from_millis(200), Duration::from_secs(30));
        let mut backoff = Backoff::new(least, most);
        let waits: Vec<Duration> = (0..200).map(|_| backoff.failed()).collect();
        assert!(waits[0] < 3 * least);
        assert!(waits.iter().all(|wait| (least..=most).contains(wait)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(5)));
        assert!(backoff.succeeded());
        assert!(!backoff.succeeded());
        assert!(backoff.failed() < 3 * least);
    }

    #[test]
    fn a_shorter_longest_wait_holds_and_waits_still_differ() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        (0..50).for_each(|_| assert!(backoff.failed() <= Duration::from_secs(30)));
        let most = Duration::from_secs(2);
        let waits: Vec<Duration> = (0..200).map(|_| backoff.failed_within(most)).collect();
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits.iter().filter(|wait| **wait == most).count() < 20, "nobody waits in step");
        assert_eq!(backoff.failed_within(Duration::ZERO), Duration::from_millis(200));
    }
}
