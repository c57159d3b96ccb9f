//! When a delivery to a webhook is tried again, and when it is given up.

use std::time::Duration;

/// Waits after the first failure, the second, and so on: about 21 hours in all, so that a
/// receiver that is mended in the morning hears what happened at night.
const WAITS_S: [u64; 8] = [5, 30, 120, 600, 1_800, 7_200, 21_600, 43_200];

/// How long to wait after `failures` tries that failed, spread over ±10 % by `draw`
/// (0 to 999); `None`: it is given up.
#[must_use]
pub fn retry_after(failures: u32, draw: u64) -> Option<Duration> {
    let at = usize::try_from(failures.checked_sub(1)?).ok()?;
    let wait_ms = WAITS_S.get(at)? * 1000;
    Some(Duration::from_millis(wait_ms * 9 / 10 + wait_ms * 2 / 10 * (draw % 1000) / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_within_a_day() {
        let waits: Vec<Duration> = (1..).map_while(|failures| retry_after(failures, 999)).collect();
        assert_eq!(waits.len(), 8);
        assert!(waits.is_sorted());
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(24 * 3600));
        assert_eq!(retry_after(1, 0), Some(Duration::from_millis(4500)));
        assert_eq!(retry_after(0, 0), None);
        assert_eq!(retry_after(9, 0), None);
    }
}
