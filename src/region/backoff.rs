//! Waits between tries of something that failed: doubling, with full jitter, so
//! that many regions do not return to a coordinator in step.

use std::time::Duration;

use crate::model::rng::Rng;
use crate::net::auth::random_key;

/// A growing wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    rng: Rng,
}

impl Backoff {
    /// Waits of about `first` at first, never more than `most`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        let mut seed = [0; 8];
        seed.copy_from_slice(&random_key()[..8]);
        Self { first, most, failures: 0, rng: Rng::new(u64::from_le_bytes(seed)) }
    }

    /// How long to wait after one more failure: between half and all of the doubled wait.
    pub fn failed(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures += 1;
        let millis = doubled.as_millis() as u64;
        Duration::from_millis(millis / 2 + self.rng.below(millis / 2 + 1))
    }

    /// Starts anew after a success; returns whether there had been a failure.
    pub fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds_and_start_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for most in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.failed().as_millis() as u64;
            assert!((most / 2..=most).contains(&wait), "{wait} of {most}");
        }
        assert!(backoff.succeeded());
        assert!(!backoff.succeeded());
        assert!(backoff.failed() <= Duration::from_millis(100));
    }
}
