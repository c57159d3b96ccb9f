//! Figures of all regions together.

use std::time::Duration;

use super::{Outcome, Setting};

/// What came of a whole fleet.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The physical bound of the largest region.
    pub bound: Duration,
    /// Time from its own start of the median host.
    pub p50: Duration,
    /// The same of the host that 99 % are quicker than.
    pub p99: Duration,
    /// The same of the last.
    pub last: Duration,
    /// When the last was done, from the beginning of all.
    pub end: Duration,
    /// Copies read from a region's store: on average, at most.
    pub egress: (f64, f64),
    /// Share of bytes between hosts that left their rack.
    pub cross_rack: f64,
    /// Share of bytes between hosts that were not needed.
    pub duplicate: f64,
    /// Calls to the tracker: per host, at most.
    pub calls: (f64, u32),
    /// Hosts that were complete.
    pub done: usize,
    /// Hosts that failed, as planned.
    pub failed: u32,
    /// Live hosts that were not complete in time.
    pub unfinished: u32,
    /// Pieces with wrong bytes that hosts received and refused.
    pub refused: u64,
    /// Pieces that hosts completed.
    pub pieces: u64,
    /// Events that were handled.
    pub events: u64,
    /// When hosts were complete, ascending.
    pub curve: Vec<Duration>,
}

impl Report {
    /// Adds up regions.
    #[must_use]
    pub fn of(regions: &[(Setting, Outcome)]) -> Self {
        let mut report = Self::default();
        let (mut took, mut moved, mut calls, mut hosts) = (vec![], (0.0, 0.0, 0.0), 0, 0);
        for (setting, outcome) in regions {
            report.bound = report.bound.max(setting.bound());
            let copies = outcome.egress / setting.size().max(1.0);
            report.egress.0 += copies / regions.len() as f64;
            report.egress.1 = report.egress.1.max(copies);
            moved.0 += outcome.moved.0;
            moved.1 += outcome.moved.1;
            moved.2 += outcome.moved.2;
            calls += outcome.calls.0;
            hosts += u64::from(setting.hosts);
            report.calls.1 = report.calls.1.max(outcome.calls.1);
            report.failed += outcome.failed;
            report.unfinished += outcome.unfinished;
            report.refused += outcome.bad.0;
            report.pieces += outcome.pieces;
            report.events += outcome.events;
            took.extend_from_slice(&outcome.took);
            report.curve.extend_from_slice(&outcome.at);
        }
        took.sort_unstable();
        report.curve.sort_unstable();
        let at = |part: f64| {
            let index = (took.len() as f64 * part).ceil() as usize;
            took.get(index.saturating_sub(1)).copied().unwrap_or_default()
        };
        (report.p50, report.p99, report.last) = (at(0.5), at(0.99), at(1.0));
        report.end = report.curve.last().copied().unwrap_or_default();
        report.done = took.len();
        report.cross_rack = moved.1 / f64::max(moved.0, 1.0);
        report.duplicate = moved.2 / f64::max(moved.0, 1.0);
        report.calls.0 = calls as f64 / f64::max(hosts as f64, 1.0);
        report
    }

    /// A time as a multiple of the bound.
    #[must_use]
    pub fn ratio(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.bound.as_secs_f64().max(1e-9)
    }
}
