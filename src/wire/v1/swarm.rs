//! Swarm: what agents say to their region's tracker
//! (`POST /v1/agent/swarm/{artifact}/{join,beat,done,bad}`) and to each
//! other (`GET /v1/peer/{artifact}/have`, `GET /v1/peer/{artifact}/pieces/{i}`).
//!
//! A call under an epoch that the tracker does not know (it was restarted, or
//! dropped a silent host) is refused with `conflict`: join again.

use serde::{Deserialize, Serialize};

use crate::model::id::HostId;
use crate::model::pieces::PieceSet;

/// Header of a read from the regional store: the lease that allows it.
pub const LEASE_HEADER: &str = "deployctl-lease";
/// Header of a read without a lease: the tracker is gone, and the caller is one of
/// the piece's few custodians. Its value is `1`.
pub const CUSTODIAN_HEADER: &str = "deployctl-custodian";
/// Header of a read under a lease: whether the host reads the store itself when the answer is
/// 307 with a URL for that. Without it a region sends the bytes.
pub const DIRECT_HEADER: &str = "deployctl-direct";
/// The host would follow a URL.
pub const DIRECT_WANTED: &str = "1";
/// It followed one, and it did not work.
pub const DIRECT_FAILED: &str = "failed";
/// Header of a manifest's reply: its signature.
pub const SIGNATURE_HEADER: &str = "deployctl-signature";
/// The type of a reply that goes on: `<generation>:<hex>` is all that the peer has,
/// `<generation>+<piece>,<piece>` what came since the line before.
pub const NEWS_TYPE: &str = "application/x-deployctl-have";
/// Request header: how many requests the downloader has in flight; a sender without it
/// takes the usual number.
pub const WINDOW_HEADER: &str = "deployctl-window";
/// Request header: how many pieces the downloader lacks. Whoever lacks more than others
/// gets a slot sooner.
pub const LACKS_HEADER: &str = "deployctl-lacks";
/// Reply header of a busy peer: when to ask again, milliseconds.
pub const RETRY_HEADER: &str = "retry-after-ms";
/// Longest rack or zone name, bytes.
pub const PLACE_BYTES_MAX: usize = 64;
/// Longest time that a peer is followed by one request, milliseconds.
pub const HAVE_WAIT_MS_MAX: u64 = 25_000;

/// Enters an artifact's swarm, or enters it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Who joins.
    pub host: HostId,
    /// Where it serves peers; the address is the connection's own.
    pub peer_port: u16,
    /// Its rack; empty: not known.
    #[serde(default)]
    pub rack: String,
    /// Its zone; empty: not known.
    #[serde(default)]
    pub zone: String,
    /// The epoch that it knew; `None`: it is new.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// Pieces that it can serve.
    #[serde(default)]
    pub have: PieceSet,
    /// Whether a lease is of use to it: it downloads.
    #[serde(default)]
    pub wants: bool,
}

/// What a member of a swarm needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Of this start of the tracker; goes with every later call.
    pub epoch: u64,
    /// Opens the peers' listeners for this artifact, and is to be asked for.
    pub ticket: String,
    /// What a beat's answer says; whom to fetch from is always there.
    #[serde(flatten)]
    pub beat: BeatReply,
}

/// A host's neighbours, numbered so that they are sent only when they changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Counts changes.
    pub version: u64,
    /// At most 24.
    pub peers: Vec<Neighbour>,
}

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Who.
    pub host: HostId,
    /// `address:port` of its peer listener.
    pub address: String,
    /// 0: same rack, 1: same zone, 2: farther.
    pub distance: u8,
}

/// Says that the host is alive and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatRequest {
    /// Who.
    pub host: HostId,
    /// The tracker's epoch.
    pub epoch: u64,
    /// Pieces that it can serve.
    pub have: PieceSet,
    /// The neighbours' version that it knows.
    #[serde(default)]
    pub neighbours: u64,
    /// Leases that still make progress, at most 8: each is prolonged.
    #[serde(default)]
    pub holding: Vec<u64>,
    /// Pieces that it has but can't serve: not to be leased to it.
    #[serde(default)]
    pub unserved: PieceSet,
    /// Leases that it gives back unread, at most 8.
    #[serde(default)]
    pub returned: Vec<u64>,
    /// How long no piece came, milliseconds: its peers may be out of its reach.
    #[serde(default)]
    pub starved_ms: u64,
    /// Whether a lease is of use to it: it downloads.
    #[serde(default)]
    pub wants: bool,
}

/// The answer to a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatReply {
    /// Its neighbours, when they changed.
    #[serde(default)]
    pub neighbours: Option<Neighbours>,
    /// A lease, asked for or not; it goes back in `returned` when it is of no use.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// When to call for another lease, milliseconds; `None`: once one has ended.
    #[serde(default)]
    pub ask_ms: Option<u64>,
    /// When to beat in any case, milliseconds.
    pub beat_ms: u64,
    /// Hosts in the swarm.
    #[serde(default)]
    pub members: u32,
}

/// Leave to read neighbouring pieces once from the regional store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Goes in [`LEASE_HEADER`] with the read, in decimal.
    pub id: u64,
    /// First piece.
    pub first: u32,
    /// How many, 1 to 4.
    pub count: u32,
    /// It lapses after this time without a beat that holds it, milliseconds.
    pub ttl_ms: u64,
}

/// Leaves a swarm: nothing is served any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneRequest {
    /// Who.
    pub host: HostId,
    /// The tracker's epoch.
    pub epoch: u64,
}

/// A piece whose bytes were not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRequest {
    /// Who reports.
    pub host: HostId,
    /// The tracker's epoch.
    pub epoch: u64,
    /// The piece.
    pub piece: u32,
    /// The peer that sent it; `None`: the regional store did.
    pub from: Option<HostId>,
}

/// The query of `GET /v1/peer/{artifact}/have`: a peer tells what it can serve and of every
/// change, in lines of [`NEWS_TYPE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaveQuery {
    /// The generation that the caller has; 0: none.
    #[serde(default)]
    pub since: u64,
    /// For how long to tell, milliseconds, at most [`HAVE_WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: u64,
}
