//! The region's tracker: HTTP around [`crate::rules::tracker`], one swarm per
//! artifact, and the gate in front of every read of the regional store.
//!
//! A peer's address is the address its connection came from with the port that
//! it claims; a token bound to a host speaks for that host only. Nothing here is
//! durable: a new process has a new epoch, and agents join again with what they have.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use tokio::sync::{Semaphore, oneshot};

use crate::model::digest::{ArtifactId, to_hex};
use crate::model::id::HostId;
use crate::model::manifest::Manifest;
use crate::model::time::UnixMillis;
use crate::net::auth::{Identity, Key, keyed_hash, random_key, random_seed};
use crate::net::server::{Json, Path};
use crate::rules::tracker as rules;
use crate::rules::tracker::graph::Place;
use crate::rules::tracker::leases::ReadRefused;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::swarm::{
    BadRequest, BeatReply, BeatRequest, DoneRequest, JoinReply, JoinRequest, Lease, Neighbour,
    Neighbours, PLACE_BYTES_MAX,
};

pub use crate::rules::tracker::Settings;

/// Most artifacts with a swarm at once: each may cost tens of MB at 100,000 hosts.
const SWARMS_MAX: usize = 1024;
/// Most hosts that one swarm ever knows: the largest fleet, all replaced once.
const HOSTS_MAX: usize = 600_000;
/// A swarm without members is kept this long, so that its egress budget is not
/// forgotten before it would have refilled.
const EMPTY_KEEP: Duration = Duration::from_secs(1200);
/// Most leases named in one call.
const LEASES_NAMED_MAX: usize = 8;

/// Longest turn of one read of the store; a slower one goes on beside the others.
const TURN_MAX: Duration = Duration::from_secs(20);

/// What the tracker needs to know of the region's store.
pub trait Replicas: Send + Sync {
    /// The manifest of an artifact that the regional store holds complete;
    /// `None`: it does not. Called seldom, under no lock of the tracker's.
    fn manifest(&self, artifact: ArtifactId) -> Option<Arc<Manifest>>;

    /// A host found that the regional store's bytes of a piece are wrong: check
    /// and heal. Must return at once.
    fn damaged(&self, artifact: ArtifactId, piece: u32);
}

struct Swarm {
    core: rules::Tracker,
    /// Turns to read the store, first come, first served; and how many there are by now.
    turns: Arc<Semaphore>,
    turn_count: usize,
    numbers: BTreeMap<HostId, rules::HostNo>,
    /// By number.
    hosts: Vec<(HostId, SocketAddr)>,
    racks: BTreeMap<String, u32>,
    zones: BTreeMap<String, u32>,
    used: Instant,
}

/// The trackers of all of a region's artifacts.
pub struct Tracker {
    key: Key,
    epoch: u64,
    settings: Settings,
    replicas: Box<dyn Replicas>,
    swarms: Mutex<BTreeMap<ArtifactId, Swarm>>,
    started: (Instant, UnixMillis),
}

/// A read of the store under way; see [`Tracker::turn`].
pub struct Turn {
    tracker: Arc<Tracker>,
    artifact: ArtifactId,
    lease: Option<u64>,
    _over: oneshot::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let most = self.tracker.settings.reads_at_once;
        let mut swarms = self.tracker.lock();
        let Some(swarm) = swarms.get_mut(&self.artifact) else { return };
        if let Some(lease) = self.lease {
            swarm.core.read_ended(lease);
        }
        if swarm.turn_count < most {
            swarm.turn_count += 1;
            swarm.turns.add_permits(1);
        }
    }
}

/// Numbers of one artifact's swarm, for a person or a test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwarmCounts {
    /// Hosts that are in it.
    pub members: usize,
    /// Bytes admitted to be read from the regional store.
    pub egress: u64,
}

impl Tracker {
    /// A tracker with a new random epoch. `key` makes the peer tickets and is the
    /// same for every tracker of the region.
    #[must_use]
    pub fn new(key: Key, replicas: Box<dyn Replicas>, settings: Settings) -> Self {
        let random = random_key();
        let epoch = u64::from_le_bytes(random[..8].try_into().expect("a key has 32 bytes"));
        Self {
            key,
            // An epoch fits the numbers that every JSON reader keeps exactly.
            epoch: (epoch >> 12) | 1,
            settings,
            replicas,
            swarms: Mutex::new(BTreeMap::new()),
            started: (Instant::now(), crate::host::clock::now()),
        }
    }

    /// Admits one read of `range` of `artifact`'s pack; refuses without a live
    /// lease, outside of its pieces, or over the egress budget. Call before
    /// every read that an agent makes; `host` is the one its token is bound to.
    ///
    /// # Errors
    /// `forbidden` for a wrong lease or range, `unavailable` over the budget.
    pub fn admit_read(
        &self,
        lease: u64,
        host: Option<&HostId>,
        artifact: ArtifactId,
        range: Range<u64>,
    ) -> Result<(), Problem> {
        let mut swarms = self.lock();
        let no_lease = || Problem::new(Code::Forbidden, "no live store lease for this read");
        let swarm = swarms.get_mut(&artifact).ok_or_else(no_lease)?;
        let host = match host {
            Some(host) => Some(*swarm.numbers.get(host).ok_or_else(no_lease)?),
            None => None,
        };
        swarm.core.read(self.now(), lease, host, &range).map_err(|refused| match refused {
            ReadRefused::NoLease => no_lease(),
            ReadRefused::Range => Problem::new(Code::Forbidden, refused.to_string()),
            ReadRefused::OverBudget => Problem::new(Code::Unavailable, refused.to_string()),
        })
    }

    /// Admits one read of a piece without a lease: the caller says that the tracker
    /// was gone for it and that it is the piece's custodian. The same budget bounds
    /// such reads, so a lie costs no more than the swarm may cost anyway.
    ///
    /// # Errors
    /// `not-found` for an artifact that is not complete here, `forbidden` for more
    /// than one piece, `unavailable` over the budget.
    pub fn admit_custodian(&self, artifact: ArtifactId, range: Range<u64>) -> Result<(), Problem> {
        self.open(artifact)?;
        let mut swarms = self.lock();
        let swarm = swarms.get_mut(&artifact).ok_or_else(gone)?;
        swarm.used = Instant::now();
        let refused = match swarm.core.read_as_custodian(self.now(), &range) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let over = refused == ReadRefused::OverBudget;
        let code = if over { Code::Unavailable } else { Code::Forbidden };
        Err(Problem::new(code, refused.to_string()))
    }

    /// Waits for this read's turn: few read at once, so that the first copies of
    /// pieces are whole early and spread while the store sends others. The turn is
    /// over, and the lease read, when what is returned is dropped.
    ///
    /// # Errors
    /// `conflict` when the swarm is gone.
    pub async fn turn(
        self: &Arc<Self>,
        artifact: ArtifactId,
        lease: Option<u64>,
    ) -> Result<Turn, Problem> {
        let turns = self.lock().get(&artifact).map(|swarm| swarm.turns.clone());
        let (over, ended) = oneshot::channel();
        let turn = Turn { tracker: self.clone(), artifact, lease, _over: over };
        let turns = turns.ok_or_else(gone)?;
        let permit = turns.acquire_owned().await.map_err(|_| gone())?;
        tokio::spawn(async move {
            let _permit = permit;
            // A reader that does not read keeps its bytes, not its turn.
            let _ = tokio::time::timeout(TURN_MAX, ended).await;
        });
        Ok(turn)
    }

    /// Counts of one swarm; `None` when there is none.
    #[must_use]
    pub fn counts(&self, artifact: ArtifactId) -> Option<SwarmCounts> {
        let swarms = self.lock();
        let core = &swarms.get(&artifact)?.core;
        Some(SwarmCounts { members: core.members(), egress: core.egress() })
    }

    /// Drops silent hosts and lapsed leases. Call each second.
    pub fn tick(&self) {
        let now = self.now();
        let mut swarms = self.lock();
        for swarm in swarms.values_mut() {
            swarm.core.tick(now);
        }
        swarms.retain(|_, swarm| swarm.core.members() > 0 || swarm.used.elapsed() < EMPTY_KEEP);
    }

    /// The ticket that opens peers' listeners for `artifact`.
    #[must_use]
    pub fn ticket(&self, artifact: ArtifactId) -> String {
        let message = format!("deployctl peer ticket v1:{artifact}");
        to_hex(&keyed_hash(&self.key, message.as_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ArtifactId, Swarm>> {
        // A panic in a rule leaves soft state at worst; agents rebuild it.
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wall time that never steps back.
    fn now(&self) -> UnixMillis {
        self.started.1 + self.started.0.elapsed()
    }

    fn join(
        &self,
        artifact: ArtifactId,
        request: JoinRequest,
        from: IpAddr,
    ) -> Result<JoinReply, Problem> {
        if request.rack.len() > PLACE_BYTES_MAX || request.zone.len() > PLACE_BYTES_MAX {
            return Err(Problem::new(Code::Usage, "a rack or zone name is over 64 bytes"));
        }
        self.open(artifact)?;
        let now = self.now();
        let mut swarms = self.lock();
        let swarm = swarms.get_mut(&artifact).ok_or_else(gone)?;
        let have = checked(swarm, request.have)?;
        if swarm.hosts.len() >= HOSTS_MAX && !swarm.numbers.contains_key(&request.host) {
            return Err(Problem::new(Code::Unavailable, "too many hosts fetch this artifact"));
        }
        let host = swarm.number(&request.host, SocketAddr::new(from, request.peer_port));
        let place = swarm.place(&request.rack, &request.zone);
        let returning = request.epoch.is_some_and(|epoch| epoch != self.epoch);
        let wants = request.wants;
        let joining = rules::Joining { host, place, have, returning, wants };
        let word = swarm.core.join(now, joining);
        let (epoch, ticket) = (self.epoch, self.ticket(artifact));
        Ok(JoinReply { epoch, ticket, beat: swarm.reply(word) })
    }

    /// Makes the artifact's swarm if there is none.
    fn open(&self, artifact: ArtifactId) -> Result<(), Problem> {
        if self.lock().contains_key(&artifact) {
            return Ok(());
        }
        let Some(manifest) = self.replicas.manifest(artifact) else {
            let title = format!("artifact {} is not complete in this region", artifact.short());
            return Err(Problem::new(Code::NotFound, title));
        };
        let mut swarms = self.lock();
        if swarms.len() >= SWARMS_MAX {
            return Err(Problem::new(Code::Unavailable, "too many artifacts are fetched at once"));
        }
        let seed = random_seed();
        let offsets = manifest.wire_offsets();
        let core = rules::Tracker::new(self.settings, offsets, self.now(), seed);
        let turn_count = self.settings.reads_at_first.min(self.settings.reads_at_once);
        swarms.entry(artifact).or_insert_with(|| Swarm {
            core,
            turns: Arc::new(Semaphore::new(turn_count)),
            turn_count,
            numbers: BTreeMap::new(),
            hosts: vec![],
            racks: BTreeMap::new(),
            zones: BTreeMap::new(),
            used: Instant::now(),
        });
        Ok(())
    }

    fn beat(&self, artifact: ArtifactId, request: BeatRequest) -> Result<BeatReply, Problem> {
        self.with_member(artifact, request.epoch, &request.host.clone(), |swarm, host, now| {
            swarm.beat(now, host, request)
        })
    }

    fn done(&self, artifact: ArtifactId, request: &DoneRequest) -> Result<(), Problem> {
        self.with_member(artifact, request.epoch, &request.host, |swarm, host, _| {
            swarm.core.leave(host);
            Ok(())
        })
    }

    fn bad(&self, artifact: ArtifactId, request: &BadRequest) -> Result<(), Problem> {
        let BadRequest { epoch, host, piece, from } = request;
        let damaged = self.with_member(artifact, *epoch, host, |swarm, host, now| {
            if *piece >= swarm.core.pieces() {
                return Err(Problem::new(Code::Usage, "there is no such piece"));
            }
            let Some(from) = from else {
                swarm.core.bad_store(now, *piece);
                return Ok(true);
            };
            let suspect = swarm.numbers.get(from).copied();
            if suspect.is_some_and(|suspect| swarm.core.bad_peer(now, host, suspect)) {
                tracing::warn!(host = %from, artifact = %artifact.short(), "host serves bad pieces, in quarantine");
            }
            Ok(false)
        })?;
        if damaged {
            tracing::warn!(artifact = %artifact.short(), piece, "regional store served a bad piece");
            self.replicas.damaged(artifact, *piece);
        }
        Ok(())
    }

    fn with_member<T>(
        &self,
        artifact: ArtifactId,
        epoch: u64,
        host: &HostId,
        act: impl FnOnce(&mut Swarm, rules::HostNo, UnixMillis) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let mut swarms = self.lock();
        let swarm = swarms.get_mut(&artifact).filter(|_| epoch == self.epoch).ok_or_else(gone)?;
        let host = *swarm.numbers.get(host).ok_or_else(gone)?;
        swarm.used = Instant::now();
        act(swarm, host, self.now())
    }
}

/// The answer that makes an agent join again.
fn gone() -> Problem {
    Problem::new(Code::Conflict, "not a member of this swarm under this epoch, join again")
}

fn checked(
    swarm: &Swarm,
    pieces: crate::model::pieces::PieceSet,
) -> Result<crate::model::pieces::PieceSet, Problem> {
    let fits = pieces.fits(swarm.core.pieces());
    fits.then_some(pieces).ok_or_else(|| Problem::new(Code::Usage, "more pieces than there are"))
}

impl Swarm {
    fn number(&mut self, host: &HostId, address: SocketAddr) -> rules::HostNo {
        let next = self.hosts.len() as rules::HostNo;
        let number = *self.numbers.entry(host.clone()).or_insert(next);
        if number == next {
            self.hosts.push((host.clone(), address));
        } else if let Some(known) = self.hosts.get_mut(number as usize) {
            known.1 = address;
        }
        number
    }

    fn place(&mut self, rack: &str, zone: &str) -> Place {
        let number = |names: &mut BTreeMap<String, u32>, name: &str| {
            let next = names.len() as u32 + 1;
            if name.is_empty() { 0 } else { *names.entry(name.to_owned()).or_insert(next) }
        };
        Place { rack: number(&mut self.racks, rack), zone: number(&mut self.zones, zone) }
    }

    fn named(&self, (version, peers): rules::Neighbours) -> Neighbours {
        let named = |(host, distance): (rules::HostNo, u8)| {
            let (host, address) = self.hosts.get(host as usize)?;
            Some(Neighbour { host: host.clone(), address: address.to_string(), distance })
        };
        Neighbours { version, peers: peers.into_iter().filter_map(named).collect() }
    }

    fn reply(&self, word: rules::Word) -> BeatReply {
        let ms = |span: Duration| span.as_millis() as u64;
        let lease = |l: rules::leases::Lease| Lease {
            id: l.id,
            first: l.first,
            count: l.count,
            ttl_ms: ms(l.ttl),
        };
        BeatReply {
            neighbours: word.neighbours.map(|neighbours| self.named(neighbours)),
            lease: word.lease.map(lease),
            ask_ms: word.ask_in.map(ms),
            beat_ms: ms(word.beat_in),
            members: word.members as u32,
        }
    }

    fn beat(
        &mut self,
        now: UnixMillis,
        host: rules::HostNo,
        request: BeatRequest,
    ) -> Result<BeatReply, Problem> {
        let (have, unserved) = (checked(self, request.have)?, checked(self, request.unserved)?);
        let few = |mut leases: Vec<u64>| {
            leases.truncate(LEASES_NAMED_MAX);
            leases
        };
        let beat = rules::Beat {
            have,
            unserved,
            known: request.neighbours,
            holding: few(request.holding),
            returned: few(request.returned),
            starved: Duration::from_millis(request.starved_ms),
            wants: request.wants,
        };
        let word = self.core.beat(now, host, beat).map_err(|_| gone())?;
        Ok(self.reply(word))
    }
}

/// The tracker's routes. The listener's own middleware has put the caller's
/// [`Identity`] and [`SocketAddr`] in the request's extensions.
pub fn routes(tracker: Arc<Tracker>) -> Router {
    Router::new()
        .route("/v1/agent/swarm/{artifact}/join", post(join))
        .route("/v1/agent/swarm/{artifact}/beat", post(beat))
        .route("/v1/agent/swarm/{artifact}/done", post(done))
        .route("/v1/agent/swarm/{artifact}/bad", post(bad))
        .with_state(tracker)
}

/// A token that is bound to a host speaks for no other.
fn allow(identity: &Identity, host: &HostId) -> Result<(), Problem> {
    match &identity.host {
        Some(bound) if bound != host => {
            Err(Problem::new(Code::Forbidden, format!("this token speaks for host {bound} only")))
        }
        _ => Ok(()),
    }
}

type Shared = State<Arc<Tracker>>;

async fn join(
    State(tracker): Shared,
    Path(artifact): Path<ArtifactId>,
    Extension(identity): Extension<Identity>,
    Extension(from): Extension<SocketAddr>,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinReply>, Problem> {
    allow(&identity, &request.host)?;
    // The store's hook may read a file.
    tokio::task::spawn_blocking(move || tracker.join(artifact, request, from.ip()))
        .await
        .map_err(|e| Problem::new(Code::Internal, "the tracker failed").because(e))?
        .map(Json)
}

async fn beat(
    State(tracker): Shared,
    Path(artifact): Path<ArtifactId>,
    Extension(identity): Extension<Identity>,
    Json(request): Json<BeatRequest>,
) -> Result<Json<BeatReply>, Problem> {
    allow(&identity, &request.host)?;
    tracker.beat(artifact, request).map(Json)
}

async fn done(
    State(tracker): Shared,
    Path(artifact): Path<ArtifactId>,
    Extension(identity): Extension<Identity>,
    Json(request): Json<DoneRequest>,
) -> Result<Json<()>, Problem> {
    allow(&identity, &request.host)?;
    tracker.done(artifact, &request).map(Json)
}

async fn bad(
    State(tracker): Shared,
    Path(artifact): Path<ArtifactId>,
    Extension(identity): Extension<Identity>,
    Json(request): Json<BadRequest>,
) -> Result<Json<()>, Problem> {
    allow(&identity, &request.host)?;
    tracker.bad(artifact, &request).map(Json)
}
