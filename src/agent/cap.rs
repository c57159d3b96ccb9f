//! Caps on what an agent sends and fetches, bytes per second.
//!
//! One bucket for all transfers of one direction, small, so that a cap holds over any
//! tenth of a second. Without a cap nothing is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(50);
/// Bytes asked for at once under a cap: at least, at most.
const STEP_BYTES: (u64, u64) = (4 << 10, 256 << 10);

/// A cap, or none; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cap(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Bytes per second, at least 1.
    rate: u64,
    /// When all that was let pass will have gone at that rate.
    due: Mutex<Instant>,
}

impl Cap {
    /// A cap of `rate` bytes per second; `None`: no cap.
    pub(super) fn new(rate: Option<u64>) -> Self {
        let due = Mutex::new(Instant::now());
        Self(rate.map(|rate| Arc::new(Bucket { rate: rate.max(1), due })))
    }

    /// How many of `bytes` are to be asked for at once: about what the cap lets pass
    /// in a twentieth of a second.
    pub(super) fn step(&self, bytes: u64) -> u64 {
        let Some(bucket) = &self.0 else { return bytes };
        bytes.min((bucket.rate / 20).clamp(STEP_BYTES.0, STEP_BYTES.1))
    }

    /// Waits until `bytes` more may pass.
    pub(super) async fn pass(&self, bytes: u64) {
        let Some(bucket) = &self.0 else { return };
        let wait = bucket.wait(Instant::now(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Bucket {
    fn wait(&self, now: Instant, bytes: u64) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*due).max(now.checked_sub(BURST).unwrap_or(now));
        *due = begin + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_holds_after_any_pause() {
        let now = Instant::now();
        let bucket = Bucket { rate: 1000, due: Mutex::new(now) };
        assert_eq!(bucket.wait(now, 1000), Duration::from_secs(1));
        assert_eq!(bucket.wait(now, 500), Duration::from_millis(1500));
        // A minute later no more than the burst is saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(bucket.wait(later, 1050), Duration::from_secs(1));
        assert_eq!(Cap::new(Some(1)).step(1 << 20), 4 << 10);
        assert_eq!(Cap::new(None).step(1 << 20), 1 << 20);
    }
}
