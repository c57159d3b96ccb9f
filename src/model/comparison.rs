//! How hosts with a new release fare beside those without it, as a region counts it.
//!
//! An event is one thing that went wrong after an activation and that the host got over
//! by itself: the app ended unasked and was started again, or its probe failed after it had
//! passed. What a host does not get over is a failure, and is counted as one.

use serde::{Deserialize, Serialize};

/// Hosts over a time, and what happened on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Seconds that hosts were watched for, of all hosts together.
    pub host_s: u64,
    /// Events on them in that time.
    pub events: u64,
}

impl Span {
    /// What came since `before`; `None`: less than that.
    fn since(self, before: Self) -> Option<Self> {
        let host_s = self.host_s.checked_sub(before.host_s)?;
        Some(Self { host_s, events: self.events.checked_sub(before.events)? })
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { host_s: self.host_s + other.host_s, events: self.events + other.events }
    }
}

/// One of the two groups of hosts that are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Hosts in it now, of those whose agents tell events.
    pub hosts: u32,
    /// Hosts with an event within the last ten minutes.
    #[serde(default)]
    pub struck: u32,
    /// While both groups had hosts, since the goal's generation came to the region.
    #[serde(default)]
    pub span: Span,
}

/// The two groups of one region under one goal, in the same minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Which count it is: another number, and it began elsewhere or anew.
    #[serde(default)]
    pub ledger: u32,
    /// Hosts that may run the new release, and do.
    pub next: Side,
    /// Hosts that may not have it yet, and run what they should.
    pub control: Side,
    /// Events that `next` would have had, had its hosts fared at each moment as those of
    /// `control` did then; thousandths.
    #[serde(default)]
    pub expected_milli: u64,
    /// Hosts with the new release while nobody was left to compare with.
    #[serde(default)]
    pub alone: Span,
    /// All hosts of the region in the hour before the goal's generation came.
    #[serde(default)]
    pub before: Span,
}

impl Comparison {
    /// What was counted since `mark`; all of it when any part went back, for then the count
    /// began anew in between and no part of it is of the mark's.
    #[must_use]
    pub fn since(self, mark: &Self) -> Self {
        self.grown(mark).unwrap_or(self)
    }

    fn grown(mut self, mark: &Self) -> Option<Self> {
        self.next.span = self.next.span.since(mark.next.span)?;
        self.control.span = self.control.span.since(mark.control.span)?;
        self.alone = self.alone.since(mark.alone)?;
        self.expected_milli = self.expected_milli.checked_sub(mark.expected_milli)?;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_one_part_went_back_no_part_is_of_the_mark() {
        let count = |events: u64, expected_milli: u64, host_s: u64| {
            let side = Side { span: Span { host_s, events }, ..Side::default() };
            Comparison { next: side, control: side, expected_milli, ..Comparison::default() }
        };
        let mark = count(4, 9000, 500);
        assert_eq!(count(6, 9500, 700).since(&mark), count(2, 500, 200));
        // More hosts and events than before, and yet a new count: all that is expected stays.
        for anew in [count(5, 5000, 600), count(3, 9500, 600), count(5, 9500, 400)] {
            assert_eq!(anew.since(&mark), anew);
        }
    }
}
