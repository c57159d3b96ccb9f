//! What happens when: a queue of events by time, first in first out within one
//! instant. A wheel of short spans; the present one is sorted once, as it begins: an
//! event costs tens of nanoseconds however many there are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Nanoseconds since the simulation's start.
pub(super) type Nanos = u64;

/// One span of the wheel, as a power of two of nanoseconds: 33 µs, some dozen events of
/// 10,000 hosts.
const SPAN_BITS: u32 = 15;
/// Spans of the wheel: 1.1 s, more than most transfers take; later events wait in a heap.
const SPANS: usize = 32_768;

/// Events that are due.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    count: u64,
    /// The span that is being lived through.
    span: u64,
    /// Its events, in order.
    present: VecDeque<(Nanos, T)>,
    /// By span, in the order in which they were added.
    wheel: Vec<Vec<(Nanos, T)>>,
    later: BinaryHeap<Reverse<(Nanos, u64, T)>>,
    on_wheel: usize,
}

impl<T: Ord + Copy> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            count: 0,
            span: 0,
            present: VecDeque::new(),
            wheel: vec![vec![]; SPANS],
            later: BinaryHeap::new(),
            on_wheel: 0,
        }
    }
}

impl<T: Ord + Copy> Agenda<T> {
    /// Adds an event; one in the past is due at once.
    pub(super) fn push(&mut self, at: Nanos, due: T) {
        let span = at >> SPAN_BITS;
        if span <= self.span {
            let after = self.present.partition_point(|(other, _)| *other <= at);
            self.present.insert(after, (at, due));
        } else if span < self.span + SPANS as u64 {
            self.wheel[span as usize % SPANS].push((at, due));
            self.on_wheel += 1;
        } else {
            self.count += 1;
            self.later.push(Reverse((at, self.count, due)));
        }
    }

    /// When the next event is due.
    pub(super) fn next_at(&mut self) -> Option<Nanos> {
        while self.present.is_empty() {
            self.advance()?;
        }
        self.present.front().map(|(at, _)| *at)
    }

    /// Takes the next event.
    pub(super) fn pop(&mut self) -> Option<(Nanos, T)> {
        self.next_at()?;
        self.present.pop_front()
    }

    fn advance(&mut self) -> Option<()> {
        let next = match (self.on_wheel, self.later.peek()) {
            (0, None) => return None,
            (0, Some(Reverse((at, ..)))) => at >> SPAN_BITS,
            _ => self.span + 1,
        };
        self.span = next.max(self.span + 1);
        self.take_later();
        let here = &mut self.wheel[self.span as usize % SPANS];
        self.on_wheel -= here.len();
        self.present.extend(here.drain(..));
        // Keeps the order within one instant.
        self.present.make_contiguous().sort_by_key(|(at, _)| *at);
        Some(())
    }

    /// Puts on the wheel what waited for it, before anything else can be: each span's
    /// events stay in the order in which they were added.
    fn take_later(&mut self) {
        let end = self.span + SPANS as u64;
        while let Some(Reverse((at, ..))) = self.later.peek() {
            if at >> SPAN_BITS >= end {
                break;
            }
            let Some(Reverse((at, _, due))) = self.later.pop() else { break };
            self.wheel[(at >> SPAN_BITS) as usize % SPANS].push((at, due));
            self.on_wheel += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};
    use std::collections::BTreeMap;

    proptest! {
        /// Against a sorted map, with events added while others are taken.
        #[test]
        fn events_come_in_order(steps in proptest::collection::vec((0u64..2_000_000_000, 0u8..3), 1..400)) {
            let (mut agenda, mut model) = (Agenda::default(), BTreeMap::new());
            let (mut now, mut count) = (0, 0u64);
            for (after, takes) in steps {
                count += 1;
                agenda.push(now + after, count);
                model.insert((now + after, count), ());
                for _ in 0..takes {
                    let expected = model.pop_first().map(|((at, no), ())| (at, no));
                    prop_assert_eq!(agenda.pop(), expected);
                    now = expected.map_or(now, |(at, _)| at);
                }
            }
            while let Some(((at, no), ())) = model.pop_first() {
                prop_assert_eq!(agenda.pop(), Some((at, no)));
            }
            prop_assert_eq!(agenda.pop(), None);
        }
    }
}
