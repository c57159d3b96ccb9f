//! One region's hosts, tracker and store in a deterministic fluid network, driven
//! by the very rules that agents and trackers run ([`crate::rules`]).
//!
//! Discrete events, no clock, no thread: the same setting gives the same outcome.
//! What is modelled and what is not: docs/decisions.

mod agenda;
mod faults;
mod links;
mod region;
pub mod report;
mod store;
#[cfg(test)]
mod tests;
mod tracking;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::rules::swarm::Pace;

/// A part of the time, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub from: Duration,
    /// How long it lasts.
    pub length: Duration,
}

impl Span {
    fn contains(&self, at: Duration) -> bool {
        at >= self.from && at < self.from + self.length
    }
}

/// What goes wrong. Shares are of the hosts, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Hosts that die at some time in the download, without a word.
    pub churn: f64,
    /// Hosts whose uplink has a tenth of the rate.
    pub slow: f64,
    /// Hosts whose disk reads and writes at a quarter of the link's rate.
    pub slow_disk: f64,
    /// Hosts that send wrong bytes.
    pub poison: f64,
    /// Hosts that start when the others are half done.
    pub late: f64,
    /// Hosts whose disk runs full at some time in the download.
    pub disk_full: f64,
    /// The tracker forgets everything.
    pub tracker_restart: Option<Duration>,
    /// The tracker does not answer.
    pub tracker_gone: Option<Span>,
    /// The store refuses every read.
    pub store_refuses: Option<Span>,
    /// Zone 1 can't reach hosts of other zones, nor they it.
    pub partition: Option<Span>,
}

/// One region and what it is to fetch.
#[derive(Debug, Clone)]
pub struct Setting {
    /// How many hosts.
    pub hosts: u32,
    /// Wire bytes of each piece.
    pub wire: Arc<[u32]>,
    /// A host's uplink, bytes a second.
    pub up: f64,
    /// A host's downlink, bytes a second.
    pub down: f64,
    /// What the store can send in all, bytes a second.
    pub store: f64,
    /// Hosts of one rack; 0: racks are not known.
    pub rack: u32,
    /// Racks are spread over this many zones.
    pub zones: u32,
    /// Bytes on the wire per byte of a piece: headers of every layer.
    pub overhead: f64,
    /// There and back between two hosts, or a host and the region.
    pub round_trip: Duration,
    /// How long after a piece is there its host's neighbours know of it.
    pub news: Duration,
    /// Hosts start within this time.
    pub spread: Duration,
    /// Time of the tracker's for one call.
    pub call_cost: Duration,
    /// How fast the download shall be; `None`: flat out.
    pub pace: Option<Pace>,
    /// What goes wrong.
    pub faults: Faults,
    /// Ends a simulation that does not finish.
    pub limit: Duration,
    /// The seed of every choice.
    pub seed: u64,
}

impl Setting {
    /// Bytes on the wire of the whole artifact.
    #[must_use]
    pub fn size(&self) -> f64 {
        self.wire.iter().map(|bytes| f64::from(*bytes)).sum()
    }

    /// The least time in which the last host can be done, without headers and
    /// without faults: max(S / store, S / min(up, down), N S / (store + N up)) and
    /// the last piece's way to everybody, log2(N) pieces (Kumar and Ross 2006,
    /// Mundinger, Weber and Weiss 2008; distribution section 5).
    #[must_use]
    pub fn bound(&self) -> Duration {
        let (size, hosts) = (self.size(), f64::from(self.hosts.max(1)));
        let fluid = (size / self.store)
            .max(size / self.down)
            .max(hosts * size / (self.store + hosts * self.up));
        let pieces = self.wire.len().max(1) as f64;
        let slowest = self.up.min(self.down);
        Duration::from_secs_f64(fluid + hosts.log2().floor() * size / pieces / slowest)
    }
}

/// What came of one region.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Time from its start until a host was complete, of each that was.
    pub took: Vec<Duration>,
    /// The same from the beginning of all.
    pub at: Vec<Duration>,
    /// Hosts that died, or whose disk ran full.
    pub failed: u32,
    /// Live hosts that were not done in time.
    pub unfinished: u32,
    /// Bytes read from the store.
    pub egress: f64,
    /// Piece bytes between hosts: all, out of the rack, not needed.
    pub moved: (f64, f64, f64),
    /// Calls that reached the tracker: all, the most of one host.
    pub calls: (u64, u32),
    /// Pieces with wrong bytes that were received, and taken for good.
    pub bad: (u64, u64),
    /// Pieces that were completed.
    pub pieces: u64,
    /// Events that were handled.
    pub events: u64,
}

/// A tracker's time for one call: about 20,000 calls a second.
pub const CALL_COST: Duration = Duration::from_micros(50);

/// Runs one region to its end, or until `stop` is set.
#[must_use]
pub fn run(setting: &Setting, stop: &AtomicBool) -> Outcome {
    region::Region::new(setting).run(stop)
}
