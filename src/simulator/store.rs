//! The regional store: one read of a piece at a time in each of a few slots, the
//! others wait their turn, as the region serves them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::links::FlowNo;
use super::region::{Due, Region};
use crate::model::time::UnixMillis;
use crate::rules::swarm::peers::has;
use crate::rules::swarm::{Event, Haves, Leave, Source};

/// An agent waits so long after a read that failed.
const RETRY: Duration = Duration::from_secs(1);

/// A read that a host wishes for.
#[derive(Debug, Clone, Copy)]
struct Wish {
    host: u32,
    /// Pieces still to be read.
    next: u32,
    end: u32,
    /// `None`: as custodian.
    lease: Option<u64>,
}

/// The store and who waits for it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) end: u32,
    offsets: Vec<u64>,
    wishes: Vec<Option<Wish>>,
    queue: VecDeque<u32>,
    reading: BTreeMap<FlowNo, u32>,
    /// Reads that ended.
    ended: usize,
}

impl Store {
    pub(super) fn new(end: u32, wire: &[u32]) -> Self {
        let mut offsets = vec![0];
        offsets.extend(wire.iter().scan(0, |at, bytes| {
            *at += u64::from(*bytes);
            Some(*at)
        }));
        let (wishes, queue, reading) = (vec![], VecDeque::new(), BTreeMap::new());
        Self { end, offsets, wishes, queue, reading, ended: 0 }
    }

    fn range(&self, pieces: Range<u32>) -> Range<u64> {
        self.offsets[pieces.start as usize]..self.offsets[pieces.end as usize]
    }
}

impl Region<'_> {
    pub(super) fn wish(&mut self, host: u32, leave: Leave) {
        let Leave { id, first, count } = leave;
        self.want(Wish { host, next: first, end: first + count, lease: Some(id) });
    }

    pub(super) fn wish_as_custodian(&mut self, host: u32, piece: u32) {
        self.want(Wish { host, next: piece, end: piece + 1, lease: None });
    }

    fn want(&mut self, wish: Wish) {
        self.store.wishes.push(Some(wish));
        let no = self.store.wishes.len() as u32 - 1;
        self.later(self.setting.round_trip, Due::Read(wish.host, no));
    }

    /// A wish reaches the store.
    pub(super) fn read(&mut self, host: u32, no: u32) {
        let Some(mut wish) = self.store.wishes[no as usize] else { return };
        // As the agent: what came from elsewhere is not read.
        while wish.next < wish.end && has(self.have.words(host), wish.next) {
            wish.next += 1;
        }
        if wish.next == wish.end {
            self.give_back(host, wish.lease);
            return self.wish_ended(no, Duration::ZERO);
        }
        self.store.wishes[no as usize] = Some(wish);
        let now = Duration::from_nanos(self.now);
        let refuses = self.setting.faults.store_refuses.is_some_and(|span| span.contains(now));
        let range = self.store.range(wish.next..wish.end);
        let at = UnixMillis(now.as_millis() as i64);
        let tracker = &mut self.tracking.tracker;
        let admitted = !refuses
            && match wish.lease {
                Some(lease) => tracker.read(at, lease, Some(host), &range).is_ok(),
                None => tracker.read_as_custodian(at, &range).is_ok(),
            };
        if !admitted {
            return self.wish_ended(no, RETRY);
        }
        self.outcome.egress += (range.end - range.start) as f64;
        self.store.queue.push_back(no);
        self.serve_store();
    }

    fn serve_store(&mut self) {
        let settings = self.tracking.settings;
        let turns = settings.reads_at_once.min(settings.reads_at_first + self.store.ended);
        while self.store.reading.len() < turns {
            let Some(no) = self.store.queue.pop_front() else { return };
            let Some(wish) = self.store.wishes[no as usize] else { continue };
            if self.hosts[wish.host as usize].alive {
                self.read_on(no, wish);
            }
        }
    }

    fn read_on(&mut self, no: u32, wish: Wish) {
        let bytes = f64::from(self.setting.wire[wish.next as usize]) * self.setting.overhead;
        let flow = self.links.start(self.now, (self.store.end, wish.host), wish.next, bytes);
        self.store.reading.insert(flow, no);
        self.schedule_flows();
    }

    /// A read's flow ended; `whole` unless its host died.
    pub(super) fn read_ended(&mut self, flow: FlowNo, host: u32, piece: u32, whole: bool) {
        let Some(no) = self.store.reading.remove(&flow) else { return };
        let Some(mut wish) = self.store.wishes[no as usize] else { return };
        if whole {
            self.got(host, piece, wish.lease.map_or(Source::Custody, Source::Store));
            wish.next += 1;
            if wish.next < wish.end {
                self.store.wishes[no as usize] = Some(wish);
                return self.read_on(no, wish);
            }
        }
        if let Some(lease) = wish.lease {
            self.tracking.tracker.read_ended(lease);
        }
        self.store.ended += 1;
        self.serve_store();
        self.wish_ended(no, Duration::ZERO);
    }

    fn wish_ended(&mut self, no: u32, after: Duration) {
        let Some(wish) = self.store.wishes[no as usize].take() else { return };
        let event = wish.lease.map_or(Event::CustodyEnded(wish.end - 1), Event::LeaseEnded);
        if after.is_zero() {
            self.tell(wish.host, event);
        } else {
            self.tell_later(after, wish.host, event);
        }
    }
}
