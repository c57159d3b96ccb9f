//! How many workers an installation wants: Little's law over what arrives, and what
//! empties the queue in time.
//!
//! Jobs that arrive at the rate λ and take S each keep λ·S slots busy. A queue of Q jobs
//! is gone within T when Q·S/T slots more work on it, and never needs more than Q. Slots
//! that run a job are never wanted away.

use std::time::Duration;

/// What is known of the queue and of those who work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs that were asked for within `window`.
    pub arrived: u64,
    /// The time that `arrived` is of.
    pub window: Duration,
    /// How long the last jobs took on average.
    pub service: Duration,
    /// Workers that the slots are of, those that left included.
    pub workers: u64,
    /// Slots of these.
    pub slots: u64,
}

/// How many are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Jobs at a time.
    pub slots: u64,
    /// Workers of as many slots as there are now.
    pub workers: u64,
}

/// How many are wanted so that the queue is empty within `drain`.
#[must_use]
pub fn wanted(load: &Load, drain: Duration) -> Wanted {
    let (service, window) = (load.service.as_millis().max(1), load.window.as_millis().max(1));
    let busy = u128::from(load.arrived).saturating_mul(service).div_ceil(window);
    let backlog =
        u128::from(load.queued).saturating_mul(service).div_ceil(drain.as_millis().max(1));
    let backlog = backlog.min(load.queued.into());
    let slots = busy.saturating_add(backlog).max(load.running.into());
    let (workers, all) = (u128::from(load.workers.max(1)), u128::from(load.slots.max(1)));
    let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    Wanted { slots: narrow(slots), workers: narrow(slots.saturating_mul(workers).div_ceil(all)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn load() -> Load {
        let (window, service) = (15 * MINUTE, 2 * MINUTE);
        let (queued, running, arrived) = (0, 0, 0);
        Load { queued, running, arrived, window, service, workers: 0, slots: 0 }
    }

    fn slots(load: Load) -> u64 {
        wanted(&load, 5 * MINUTE).slots
    }

    #[test]
    fn nothing_to_do_wants_nobody() {
        assert_eq!(wanted(&load(), MINUTE), Wanted { slots: 0, workers: 0 });
    }

    #[test]
    fn a_steady_stream_wants_what_it_keeps_busy() {
        // 30 jobs of 2 minutes in 15 minutes.
        assert_eq!(slots(Load { arrived: 30, ..load() }), 4);
        assert_eq!(slots(Load { arrived: 1, ..load() }), 1);
    }

    #[test]
    fn a_backlog_wants_what_empties_it_in_time_and_no_more_than_it_is() {
        assert_eq!(slots(Load { queued: 100, ..load() }), 40);
        assert_eq!(slots(Load { queued: 3, service: 60 * MINUTE, ..load() }), 3);
        assert_eq!(slots(Load { queued: 1, service: Duration::ZERO, ..load() }), 1);
    }

    #[test]
    fn who_works_is_not_wanted_away() {
        assert_eq!(slots(Load { running: 7, ..load() }), 7);
    }

    #[test]
    fn slots_become_workers_of_the_size_that_is_known() {
        let workers = |load: Load| wanted(&load, 5 * MINUTE).workers;
        assert_eq!(workers(Load { running: 7, workers: 2, slots: 8, ..load() }), 2);
        assert_eq!(workers(Load { running: 9, workers: 2, slots: 8, ..load() }), 3);
        assert_eq!(workers(Load { running: 7, ..load() }), 7, "of one slot unless known");
        let huge = Load { queued: u64::MAX, arrived: u64::MAX, service: Duration::MAX, ..load() };
        assert_eq!(slots(huge), u64::MAX);
    }
}
