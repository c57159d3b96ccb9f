//! The fluid network: flows that share the links at their two ends.
//!
//! A new flow takes a fair share of both of its ends, from those that have more
//! than that, or whatever is free if that is more; what a flow leaves, or can't
//! use, goes to the others at the same two ends. So every rate is feasible at any
//! time, and nearly max-min fair without a look at the whole network.

use super::agenda::Nanos;

/// Most flows at one end of one direction; the callers' windows are below it.
pub(super) const FLOWS_MAX: usize = 24;
/// Free capacity under this share of a link is left: it saves events.
const CRUMB: f64 = 0.01;

/// A flow's number; numbers are used again.
pub(super) type FlowNo = u32;

/// One direction of one link.
#[derive(Debug, Clone, Copy)]
struct End {
    /// Bytes a nanosecond.
    capacity: f64,
    free: f64,
    count: u32,
    flows: [FlowNo; FLOWS_MAX],
}

/// Bytes on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// Index of the sending end.
    pub(super) from: u32,
    /// Index of the receiving end.
    pub(super) to: u32,
    /// What is sent.
    pub(super) piece: u32,
    /// Changes with each new time of completion; stale events are told by it.
    pub(super) turn: u32,
    /// It was said that its end is near.
    ending: bool,
    rate: f64,
    left: f64,
    size: f64,
    at: Nanos,
}

/// Every link and every flow.
#[derive(Debug, Default)]
pub(super) struct Links {
    up: Vec<End>,
    down: Vec<End>,
    flows: Vec<Flow>,
    spare: Vec<FlowNo>,
    /// Flows whose completion is nearer than was last said.
    sooner: Vec<FlowNo>,
    /// Ends are told of so long before.
    ahead: Nanos,
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Look again then.
    Until(Nanos),
    /// Its end is near, and was not said to be; look again then.
    Ending(Nanos),
    /// Whole.
    Whole,
}

impl Links {
    /// Adds a host or a store; capacities in bytes a second. Its index.
    pub(super) fn add(&mut self, up: f64, down: f64) -> u32 {
        let end = |rate: f64| End {
            capacity: rate / 1e9,
            free: rate / 1e9,
            count: 0,
            flows: [0; FLOWS_MAX],
        };
        self.up.push(end(up));
        self.down.push(end(down));
        self.up.len() as u32 - 1
    }

    /// Cuts an unused host's links down to these parts of what they were.
    pub(super) fn limit(&mut self, at: u32, up: f64, down: f64) {
        for (end, part) in [(&mut self.up[at as usize], up), (&mut self.down[at as usize], down)] {
            end.capacity *= part;
            end.free = end.capacity;
        }
    }

    /// A flow as it stands.
    #[must_use]
    pub(super) fn flow(&self, flow: FlowNo) -> &Flow {
        &self.flows[flow as usize]
    }

    /// Flows that are being received by an end.
    #[must_use]
    pub(super) fn to(&self, end: u32) -> &[FlowNo] {
        let end = &self.down[end as usize];
        &end.flows[..end.count as usize]
    }

    /// Flows that an end sends.
    #[must_use]
    pub(super) fn from(&self, end: u32) -> &[FlowNo] {
        let end = &self.up[end as usize];
        &end.flows[..end.count as usize]
    }

    /// Starts a flow of `bytes`.
    pub(super) fn start(
        &mut self,
        now: Nanos,
        (from, to): (u32, u32),
        piece: u32,
        bytes: f64,
    ) -> FlowNo {
        let flow = Flow {
            from,
            to,
            piece,
            turn: 0,
            ending: false,
            rate: 0.0,
            left: bytes,
            size: bytes,
            at: now,
        };
        let no = match self.spare.pop() {
            Some(no) => {
                let turn = self.flows[no as usize].turn + 1;
                self.flows[no as usize] = Flow { turn, ..flow };
                no
            }
            None => {
                self.flows.push(flow);
                self.flows.len() as FlowNo - 1
            }
        };
        let rate = self.up[from as usize].claim().min(self.down[to as usize].claim());
        self.squeeze(now, (from, to), rate);
        self.flows[no as usize].rate = rate;
        for end in [&mut self.up[from as usize], &mut self.down[to as usize]] {
            end.free = (end.free - rate).max(0.0);
            end.flows[end.count as usize] = no;
            end.count += 1;
        }
        self.sooner.push(no);
        self.grow(now, (from, to));
        no
    }

    /// Ends a flow, whole or not; the bytes that it brought.
    pub(super) fn stop(&mut self, now: Nanos, no: FlowNo) -> f64 {
        self.sync(now, no);
        let Flow { from, to, rate, left, size, .. } = self.flows[no as usize];
        for end in [&mut self.up[from as usize], &mut self.down[to as usize]] {
            end.drop(no);
            end.free += rate;
        }
        self.flows[no as usize].turn += 1;
        self.spare.push(no);
        self.grow(now, (from, to));
        size - left
    }

    /// Every flow's end is told of this long before, too.
    pub(super) fn tell_ahead(&mut self, ahead: Nanos) {
        self.ahead = ahead;
    }

    /// How far a flow is.
    pub(super) fn progress(&mut self, now: Nanos, no: FlowNo) -> Progress {
        self.sync(now, no);
        let ahead = self.ahead;
        let flow = &mut self.flows[no as usize];
        let end = flow.end();
        if flow.left < 1.0 {
            Progress::Whole
        } else if flow.ending || ahead == 0 {
            Progress::Until(end)
        } else if end <= now + ahead {
            flow.ending = true;
            Progress::Ending(end)
        } else {
            Progress::Until(end - ahead)
        }
    }

    /// Takes the flows that end sooner than was said, with their turn and end.
    pub(super) fn take_sooner(&mut self, mut say: impl FnMut(FlowNo, u32, Nanos)) {
        for no in self.sooner.drain(..) {
            let flow = &mut self.flows[no as usize];
            flow.turn += 1;
            let ahead = if flow.ending { 0 } else { self.ahead };
            say(no, flow.turn, flow.end().saturating_sub(ahead).max(flow.at));
        }
    }

    /// Takes from the flows at both ends what a new flow's fair share needs.
    fn squeeze(&mut self, now: Nanos, (from, to): (u32, u32), rate: f64) {
        for (sends, at) in [(true, from), (false, to)] {
            let end = if sends { &self.up[at as usize] } else { &self.down[at as usize] };
            let (needed, flows, count) = (rate - end.free, end.flows, end.count as usize);
            if needed <= 0.0 {
                continue;
            }
            let fair = end.capacity / (end.count + 1) as f64;
            let over = |links: &Self, no: FlowNo| (links.flows[no as usize].rate - fair).max(0.0);
            let all: f64 = flows[..count].iter().map(|no| over(self, *no)).sum();
            for &no in &flows[..count] {
                let less = over(self, no) * (needed / all.max(needed));
                if less > 0.0 {
                    self.change(now, no, -less);
                }
            }
        }
    }

    /// Gives what is free at either end to the flows there, the slowest first.
    fn grow(&mut self, now: Nanos, (from, to): (u32, u32)) {
        for (sends, at) in [(true, from), (false, to)] {
            let end = if sends { &self.up[at as usize] } else { &self.down[at as usize] };
            let (crumb, count) = (end.capacity * CRUMB, end.count as usize);
            if end.free <= crumb || count == 0 {
                continue;
            }
            let (flows, fair) = (end.flows, end.capacity / count as f64);
            for ceiling in [fair, f64::INFINITY] {
                for &no in &flows[..count] {
                    let Flow { from, to, rate, .. } = self.flows[no as usize];
                    let free = self.up[from as usize].free.min(self.down[to as usize].free);
                    let more = free.min(ceiling - rate);
                    if more > crumb {
                        self.change(now, no, more);
                        self.sooner.push(no);
                    }
                }
            }
        }
    }

    fn change(&mut self, now: Nanos, no: FlowNo, by: f64) {
        self.sync(now, no);
        let flow = &mut self.flows[no as usize];
        flow.rate += by;
        let (up, down) = (&mut self.up[flow.from as usize], &mut self.down[flow.to as usize]);
        up.free = (up.free - by).max(0.0);
        down.free = (down.free - by).max(0.0);
    }

    fn sync(&mut self, now: Nanos, no: FlowNo) {
        let flow = &mut self.flows[no as usize];
        flow.left = (flow.left - flow.rate * (now - flow.at) as f64).max(0.0);
        flow.at = now;
    }
}

impl End {
    /// What a new flow may have here.
    fn claim(&self) -> f64 {
        self.free.max(self.capacity / (self.count + 1) as f64)
    }

    fn drop(&mut self, no: FlowNo) {
        let count = self.count as usize;
        if let Some(at) = self.flows[..count].iter().position(|there| *there == no) {
            self.flows[at] = self.flows[count - 1];
            self.count -= 1;
        }
    }
}

impl Flow {
    fn end(&self) -> Nanos {
        self.at + (self.left / self.rate.max(1e-12)).ceil().min(1e15) as Nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rng::Rng;
    use proptest::prelude::{prop_assert, proptest};

    fn ends(links: &mut Links) -> Vec<Nanos> {
        let mut ends = vec![];
        links.take_sooner(|_, _, end| ends.push(end));
        ends
    }

    #[test]
    fn flows_share_and_take_what_is_left() {
        let mut links = Links::default();
        let hosts: Vec<u32> = (0..3).map(|_| links.add(1e9, 1e9)).collect();
        let first = links.start(0, (hosts[0], hosts[1]), 0, 1e9);
        assert_eq!(ends(&mut links), vec![1_000_000_000]);
        let second = links.start(0, (hosts[0], hosts[2]), 1, 1e9);
        assert_eq!(ends(&mut links), vec![2_000_000_000]);
        assert_eq!(links.progress(1_000_000_000, first), Progress::Until(2_000_000_000));
        assert!((links.stop(1_000_000_000, first) - 5e8).abs() < 2.0);
        assert_eq!(ends(&mut links), vec![1_500_000_000]);
        assert_eq!(links.progress(1_500_000_000, second), Progress::Whole);
    }

    proptest! {
        #[test]
        fn no_link_ever_carries_more_than_it_can(
            seed: u64, steps in proptest::collection::vec((0u8..3, 1u64..2_000_000), 1..300),
        ) {
            let (mut links, mut rng) = (Links::default(), Rng::new(seed));
            for _ in 0..6 {
                links.add(1e6 * (1 + rng.below(9)) as f64, 1e6 * (1 + rng.below(9)) as f64);
            }
            let (mut live, mut now) = (vec![], 0);
            for (what, wait) in steps {
                now += wait;
                if what > 0 && live.len() < 20 {
                    let from = rng.below(6) as u32;
                    let to = (from + 1 + rng.below(5) as u32) % 6;
                    live.push(links.start(now, (from, to), 0, 1e6));
                } else if !live.is_empty() {
                    let flow = live.swap_remove(rng.below(live.len() as u64) as usize);
                    links.stop(now, flow);
                }
                for end in links.up.iter().chain(&links.down) {
                    let flows = &end.flows[..end.count as usize];
                    let sum: f64 = flows.iter().map(|no| links.flows[*no as usize].rate).sum();
                    prop_assert!(sum <= end.capacity * 1.000_001, "{sum} of {}", end.capacity);
                    prop_assert!((sum + end.free - end.capacity).abs() < end.capacity * 1e-6);
                }
                for flow in &live {
                    prop_assert!(links.flows[*flow as usize].rate > 0.0);
                }
            }
        }
    }
}
