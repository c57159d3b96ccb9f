//! One host's membership of one artifact's swarm: every call to the tracker.
//!
//! A tracker that does not know us (it was restarted, or we were silent) is
//! joined again with what we have; until it answers, the neighbours that are
//! known stay good. Decides nothing about pieces.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::agent::link::Link;
use crate::model::digest::ArtifactId;
use crate::model::id::HostId;
use crate::model::pieces::PieceSet;
use crate::net::client::CallError;
use crate::wire::problem::Code;
use crate::wire::v1::fleet::HostInfo;
use crate::wire::v1::swarm::{
    BadRequest, BeatReply, BeatRequest, DoneRequest, JoinReply, JoinRequest,
};

/// The tracker answers from memory: slower than this is as good as down.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Standing {
    /// The epoch of the last join, also after it was lost.
    epoch: Option<u64>,
    joined: bool,
    version: u64,
}

/// A membership; shared by the tasks of one download.
pub(super) struct Membership {
    link: Link,
    info: HostInfo,
    artifact: ArtifactId,
    standing: Mutex<Standing>,
}

/// What goes with a call; see [`BeatRequest`].
#[derive(Debug, Clone, Default)]
pub(super) struct Saying {
    pub(super) have: PieceSet,
    pub(super) unserved: PieceSet,
    pub(super) holding: Vec<u64>,
    pub(super) returned: Vec<u64>,
    pub(super) starved_ms: u64,
    /// Whether a lease is of use: we download.
    pub(super) wants: bool,
}

/// What the tracker said.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// The ticket for peers, when we joined just now.
    pub(super) ticket: Option<String>,
    /// All else.
    pub(super) reply: BeatReply,
}

impl Membership {
    pub(super) fn new(link: Link, info: HostInfo, artifact: ArtifactId) -> Self {
        Self { link, info, artifact, standing: Mutex::default() }
    }

    /// Says what we have; joins if need be, and is done with that.
    pub(super) async fn call(&self, saying: Saying) -> Result<Heard, CallError> {
        let mut standing = self.standing.lock().await;
        if !standing.joined {
            let reply = self.join(standing.epoch, saying.have, saying.wants).await?;
            let version = reply.beat.neighbours.as_ref().map_or(0, |n| n.version);
            *standing = Standing { epoch: Some(reply.epoch), joined: true, version };
            return Ok(Heard { ticket: Some(reply.ticket), reply: reply.beat });
        }
        let Saying { have, unserved, holding, returned, starved_ms, wants } = saying;
        let request = BeatRequest {
            host: self.info.host.clone(),
            epoch: standing.epoch.unwrap_or_default(),
            have,
            neighbours: standing.version,
            holding,
            unserved,
            returned,
            starved_ms,
            wants,
        };
        let reply: Result<BeatReply, CallError> = self.post("beat", &request).await;
        if reply.as_ref().is_err_and(|error| error.code() == Code::Conflict) {
            // The next call joins again.
            standing.joined = false;
        }
        let reply = reply?;
        if let Some(neighbours) = &reply.neighbours {
            standing.version = neighbours.version;
        }
        Ok(Heard { ticket: None, reply })
    }

    async fn join(
        &self,
        epoch: Option<u64>,
        have: PieceSet,
        wants: bool,
    ) -> Result<JoinReply, CallError> {
        let request = JoinRequest {
            host: self.info.host.clone(),
            peer_port: self.info.peer_port,
            rack: self.info.rack.clone(),
            zone: self.info.zone.clone(),
            epoch,
            have,
            wants,
        };
        self.post("join", &request).await
    }

    /// A hash of host and artifact: what this host is custodian of.
    pub(super) fn identity(&self) -> u64 {
        let text = format!("deployctl custodian v1:{}:{}", self.artifact, self.info.host);
        let hash = Sha256::digest(text.as_bytes());
        u64::from_le_bytes(std::array::from_fn(|at| hash[at]))
    }

    /// Reports a bad piece; `from` is `None` for the regional store. Best effort.
    pub(super) async fn bad(&self, piece: u32, from: Option<HostId>) {
        let epoch = self.standing.lock().await.epoch.unwrap_or_default();
        let request = BadRequest { host: self.info.host.clone(), epoch, piece, from };
        if let Err(error) = self.post::<()>("bad", &request).await {
            tracing::debug!(%error, piece, "bad piece not reported");
        }
    }

    /// Leaves: nothing is served any more. Best effort.
    pub(super) async fn leave(&self) {
        let epoch = self.standing.lock().await.epoch.unwrap_or_default();
        let request = DoneRequest { host: self.info.host.clone(), epoch };
        if let Err(error) = self.post::<()>("done", &request).await {
            tracing::debug!(%error, "swarm not left, the tracker will notice");
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T, CallError> {
        let client = self.link.client();
        let path = format!("/v1/agent/swarm/{}/{verb}", self.artifact);
        let reply = client.post(&path, request, CALL_TIMEOUT).await;
        if let Err(CallError::Unreachable { .. }) = &reply {
            self.link.failed(&client);
        }
        reply
    }
}
