//! How fast pieces come, how long one usually takes, and how fast they should come.

use std::time::Duration;

use super::uploads::{UPLOAD_SLOTS, UPLOAD_SLOTS_MAX};
use super::words::{Micros, Pace, micros};

/// The rate is measured over spans of this length.
const RATE_SPAN: Duration = Duration::from_millis(500);
/// A request is doubled after this many times the usual slow one, and at least [`SLOW_MIN`].
const SLOW_FACTOR: f32 = 3.0;
/// Requests younger than this are never doubled for their age.
const SLOW_MIN: Duration = Duration::from_millis(500);
/// Deliveries before any request counts as slow.
const SLOW_AFTER: u32 = 8;
/// Slowest paced download, bytes a second [distribution 6.5].
const PACE_MIN: f64 = 16e6;
/// How much faster than just in time [distribution 6.5].
const PACE_MARGIN: f64 = 1.5;
/// Time whose bytes a paced download may ask for at once.
const PACE_BURST: Duration = Duration::from_millis(250);

/// Requests more in flight for each time that an answer takes as long as its bytes.
/// By the simulator, for 8, 16 and 32 hosts with round trips of a thirtieth of a piece's
/// time to its half (docs/decisions/0034).
const MORE: f32 = 8.0;
/// Most of them.
const MORE_MAX: u64 = UPLOAD_SLOTS_MAX - UPLOAD_SLOTS as u64;

/// Rate and usual duration of a download's transfers.
#[derive(Debug, Default)]
pub(super) struct Timing {
    span: (Micros, u64),
    /// Bytes a second; 0: not known.
    pub(super) rate: u64,
    /// Mean and mean deviation of a transfer's duration, microseconds.
    usual: (f32, f32),
    count: u32,
    /// How long a request is answered, by how long its bytes come: mean.
    lag: f32,
}

impl Timing {
    pub(super) fn new(now: Micros) -> Self {
        Self { span: (now, 0), ..Self::default() }
    }

    /// A piece of so many bytes came, from wherever.
    pub(super) fn moved(&mut self, now: Micros, bytes: u64) {
        self.span.1 += bytes;
        let elapsed = now.saturating_sub(self.span.0);
        if elapsed >= micros(RATE_SPAN) {
            let rate = self.span.1.saturating_mul(1_000_000) / elapsed;
            self.rate = if self.rate == 0 { rate } else { (self.rate + rate) / 2 };
            self.span = (now, 0);
        }
    }

    /// A peer's transfer took so long.
    pub(super) fn took(&mut self, took: Micros) {
        let (took, (mean, spread)) = (took as f32, self.usual);
        self.usual = match self.count {
            0 => (took, took / 2.0),
            _ => (mean + (took - mean) / 16.0, spread + ((took - mean).abs() - spread) / 16.0),
        };
        self.count = self.count.saturating_add(1);
    }

    /// A transfer that took so long was told to end so long before its end, which is how
    /// long its request waited for an answer; `None`: too short to be told.
    pub(super) fn lagged(&mut self, took: Micros, before: Option<Micros>) {
        let lag = before.map_or(0.0, |lag| lag as f32 / took.saturating_sub(lag).max(1) as f32);
        self.lag += (lag.min(1.0) - self.lag) / 16.0;
    }

    /// How many requests more than usual keep the link as busy.
    pub(super) fn more(&self) -> u64 {
        ((self.lag * MORE).round() as u64).min(MORE_MAX)
    }

    /// How old a request must be to be doubled; `None` while too few ended. One of the
    /// `last`, with nothing else left to ask for, need not be older than most.
    pub(super) fn slow(&self, last: bool) -> Option<Micros> {
        // Mean plus 1.6 mean deviations is about the 90th percentile.
        let usual = self.usual.0 + 1.6 * self.usual.1;
        let slow = (usual * if last { 1.0 } else { SLOW_FACTOR }) as Micros;
        (self.count >= SLOW_AFTER).then_some(slow.max(micros(SLOW_MIN)))
    }
}

/// Bytes that a paced download may ask for.
#[derive(Debug)]
pub(super) struct Allowance {
    pace: Option<Pace>,
    bytes: f64,
    at: Micros,
}

impl Allowance {
    pub(super) fn new(now: Micros, pace: Option<Pace>) -> Self {
        Self { pace, bytes: 0.0, at: now }
    }

    /// When `next` bytes may be asked for, with `left` bytes missing in all.
    pub(super) fn ready_at(&mut self, now: Micros, left: u64, next: u64) -> Micros {
        let Some(rate) = self.rate(now, left) else { return now };
        let burst = (rate * PACE_BURST.as_secs_f64()).max(next as f64);
        let gained = now.saturating_sub(self.at) as f64 * rate / 1e6;
        self.bytes = (self.bytes + gained).min(burst);
        self.at = now;
        let short = (next as f64 - self.bytes).max(0.0);
        now + (short * 1e6 / rate).ceil() as Micros
    }

    /// Bytes were asked for.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.bytes -= bytes as f64;
    }

    /// Bytes a second; `None`: as fast as may be.
    fn rate(&self, now: Micros, left: u64) -> Option<f64> {
        let Pace { deadline, cap } = self.pace?;
        let time = deadline.saturating_sub(now) as f64 / 1e6;
        let wanted = if time > 0.0 { left as f64 / time * PACE_MARGIN } else { f64::MAX };
        Some(wanted.max(PACE_MIN).min(cap.max(1) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_download_asks_for_what_its_deadline_needs() {
        // 6 GB in 100 s at 1.5 times: 90 MB/s.
        let pace = Pace { deadline: 100_000_000, cap: 200_000_000 };
        let mut allowance = Allowance::new(0, Some(pace));
        let (mut now, mut left, piece) = (0, 6_000_000_000u64, 8_000_000u64);
        while left > 0 {
            let ready = allowance.ready_at(now, left, piece);
            if ready > now {
                now = ready;
                continue;
            }
            allowance.spend(piece);
            left = left.saturating_sub(piece);
        }
        assert!((50_000_000..100_000_000).contains(&now), "{now}");
    }

    #[test]
    fn the_cap_and_the_least_rate_hold_and_no_pace_is_no_wait() {
        let time = |pace, left| Allowance::new(0, pace).ready_at(0, left, 16_000_000);
        assert_eq!(time(None, 1 << 40), 0);
        assert_eq!(time(Some(Pace { deadline: 1 << 40, cap: 1 << 40 }), 16_000_000), 1_000_000);
        assert_eq!(time(Some(Pace { deadline: 0, cap: 160_000_000 }), 1 << 40), 100_000);
    }

    #[test]
    fn slow_is_three_times_the_usual_and_not_known_at_first() {
        let mut timing = Timing::new(0);
        (0..7).for_each(|_| timing.took(1_000_000));
        assert_eq!(timing.slow(false), None);
        (0..200).for_each(|_| timing.took(1_000_000));
        let slow = timing.slow(false).unwrap();
        assert!((3_000_000..3_200_000).contains(&slow), "{slow}");
        let last = timing.slow(true).unwrap();
        assert!((1_000_000..1_100_000).contains(&last), "{last}");
        (0..400).for_each(|_| timing.took(1000));
        assert_eq!(timing.slow(false), Some(500_000));
    }
}
