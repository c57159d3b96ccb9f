//! Waits between tries of something that failed.
//!
//! Each is drawn from the shortest wait to three times the last ("decorrelated
//! jitter", AWS Architecture Blog 2015), so that many hosts or regions do not
//! return to a process in step.

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
        let low = self.least.as_millis() as u64;
        let high = (self.last.unwrap_or(self.least).as_millis() as u64).saturating_mul(3);
        let drawn = low + self.rng.below(high.max(low + 1) - low);
        let wait = Duration::from_millis(drawn).min(self.most);
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
}
