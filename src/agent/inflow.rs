//! How many bytes may be on their way to this host over one connection.
//!
//! TCP fills whatever queue stands before a slow link: every request and all news then
//! wait behind it, and what overflows is sent twice. On a link that is slow by today's
//! measure a few connections need no more than some dozen KiB each to keep it busy; on
//! a fast one the kernel's own measure is right, and nothing is limited
//! (docs/decisions/0035).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time whose bytes may wait in queues, beside twice the least round trip: the links stay
/// busy while hosts and senders take turns, and a rate that grows shows.
const WAITING: Duration = Duration::from_millis(20);
/// Connections that bring pieces at once, about: a window's and the store's.
const FLOWS: f64 = 6.0;
/// Least limit: a few segments and what a burst of them takes.
const LEAST_BYTES: usize = 32 << 10;
/// From here on the kernel decides: 300 Mbit/s within a rack.
const MOST_BYTES: usize = 128 << 10;
/// Addresses whose round trips are known at once: many times the neighbours.
const KNOWN_MAX: usize = 512;

/// What is known of the links to this host.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    /// Bytes a second that pieces come at; 0: not known.
    rate: AtomicU64,
    /// Least time of an answer, by address.
    least: Mutex<HashMap<String, Duration>>,
}

impl Inflow {
    /// Pieces come at so many bytes a second.
    pub(super) fn moves(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// An address took so long to answer, waits of its own included.
    pub(super) fn answered(&self, address: &str, took: Duration) {
        let mut least = self.least.lock().unwrap_or_else(PoisonError::into_inner);
        match least.get_mut(address) {
            Some(known) => *known = (*known).min(took),
            None => {
                if least.len() >= KNOWN_MAX {
                    least.clear();
                }
                least.insert(address.to_owned(), took);
            }
        }
    }

    /// Bytes that may be on their way from an address; `None`: as the kernel sees fit.
    pub(super) fn limit(&self, address: &str) -> Option<usize> {
        let rate = self.rate.load(Ordering::Relaxed);
        let least = self.least.lock().unwrap_or_else(PoisonError::into_inner);
        let trip = least.get(address).copied().filter(|_| rate > 0)?;
        let bytes = (rate as f64 * (WAITING + 2 * trip).as_secs_f64() / FLOWS) as usize;
        (bytes < MOST_BYTES).then_some(bytes.max(LEAST_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_links_are_limited_and_fast_or_long_ones_are_not() {
        let inflow = Inflow::default();
        let limit = |mbit: u64, address: &str| {
            inflow.moves(mbit * 125_000);
            inflow.limit(address)
        };
        assert_eq!(limit(100, "near:1"), None, "nothing is known");
        inflow.answered("near:1", Duration::from_millis(30));
        inflow.answered("near:1", Duration::from_millis(1));
        inflow.answered("near:1", Duration::from_millis(40));
        inflow.answered("far:1", Duration::from_millis(40));
        assert_eq!(limit(0, "near:1"), None);
        assert_eq!(limit(24, "near:1"), Some(32 << 10));
        assert_eq!(limit(100, "near:1"), Some(45_833));
        assert_eq!(limit(1000, "near:1"), None);
        assert_eq!(limit(100, "far:1"), None, "a long line holds more");
        // Whoever has the limit alone comes at more than the rate it was made for.
        let alone = limit(50, "far:1").unwrap() as f64 * FLOWS / 0.04;
        assert!(alone > 2.0 * 50.0 * 125_000.0, "{alone}");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let inflow = Inflow::default();
        (0..2000).for_each(|n| inflow.answered(&n.to_string(), Duration::from_millis(1)));
        assert!(inflow.least.lock().unwrap().len() <= KNOWN_MAX);
    }
}
