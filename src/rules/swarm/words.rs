//! What the rules of a download take in and give out.

use std::sync::Arc;
use std::time::Duration;

use crate::model::pieces::PieceSet;

/// A neighbour's number within one download.
pub type PeerNo = u32;

/// Microseconds on a clock of the caller's that never steps back.
pub type Micros = u64;

/// A span in microseconds.
#[must_use]
pub fn micros(span: Duration) -> Micros {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What the neighbours have, kept by whoever runs the rules: the agent keeps
/// copies, a simulator one set per host for all who look.
pub trait Haves {
    /// A peer's pieces as [`PieceSet::words`]; empty when nothing is known.
    fn words(&self, peer: PeerNo) -> &[u64];
}

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A neighbour.
    Peer(PeerNo),
    /// The regional store, under this lease.
    Store(u64),
    /// The regional store, without a tracker.
    Custody,
}

/// Leave to read pieces from the regional store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// The lease's number.
    pub id: u64,
    /// First piece.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What the tracker answered to a call.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// The whole list of neighbours with their distances, when it changed.
    pub neighbours: Option<Vec<(PeerNo, u8)>>,
    /// A lease, asked for or not.
    pub lease: Option<Leave>,
    /// When to ask for a lease; `None`: not before one has ended or nothing moves.
    pub ask_in: Option<Duration>,
    /// When to call in any case.
    pub beat_in: Duration,
    /// Hosts in the swarm.
    pub members: u32,
}

/// [`Event::Ending`] is told when at least this part of the piece is still to come:
/// for less, the wait between two requests is not worth an event. 1/16.
pub const ENDING_SHARE: u32 = 16;

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The tracker answered a [`Action::Call`].
    Tracker(Word),
    /// It did not.
    TrackerLost,
    /// A neighbour answered, or has news.
    Have(PeerNo),
    /// A piece is verified and written.
    PieceOk(u32, Source),
    /// A piece's bytes were wrong.
    PieceBad(u32, Source),
    /// A neighbour has no free slot and wishes to be left for a while.
    Busy(PeerNo, u32, Duration),
    /// A neighbour does not have the piece after all; its bit is taken back first.
    Missing(PeerNo, u32),
    /// The last bytes of a request come within about the time that the next one needs
    /// to be answered; see [`ENDING_SHARE`].
    Ending(PeerNo, u32),
    /// A request made no progress for 2 s and still runs.
    Stalled(u32),
    /// A request ended without its piece.
    Timeout(PeerNo, u32),
    /// A neighbour can't be reached.
    PeerGone(PeerNo),
    /// The read of a lease ended, whatever came of it.
    LeaseEnded(u64),
    /// A read as custodian ended, whatever came of it.
    CustodyEnded(u32),
    /// Time passed: it is [`super::Swarm::wake_at`].
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask a neighbour for a piece.
    Request(PeerNo, u32),
    /// Drop a request: the piece came from elsewhere.
    Cancel(PeerNo, u32),
    /// Read a lease's pieces from the store.
    ReadStore(Leave),
    /// Read this piece from the store without a lease: the tracker is gone, and
    /// this host is one of few that may.
    ReadAsCustodian(u32),
    /// Call the tracker, join if need be.
    Call {
        /// Whether to ask for a lease.
        lease: bool,
    },
    /// Tell the tracker that this neighbour sent a bad piece.
    Ban(PeerNo, u32),
    /// Every piece is there. Comes once.
    Done,
}

/// How fast a download must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// When it should be complete.
    pub deadline: Micros,
    /// Most bytes a second.
    pub cap: u64,
}

/// Usual time without tracker and without a piece before custodians begin
/// [distribution 6.3].
pub const ALONE: Duration = Duration::from_secs(60);

/// How to start a download.
#[derive(Debug, Clone)]
pub struct Start {
    /// Wire bytes of each piece.
    pub wire: Arc<[u32]>,
    /// Pieces that are there already.
    pub done: PieceSet,
    /// Most bytes in flight, whatever the rate.
    pub window_max: u64,
    /// `None`: flat out.
    pub pace: Option<Pace>,
    /// A hash of host and artifact: what it is custodian of.
    pub identity: u64,
    /// Time without tracker and without a piece before it may be: [`ALONE`].
    pub alone: Duration,
    /// The seed of every choice.
    pub seed: u64,
}
