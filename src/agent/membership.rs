//! One host's membership of one artifact's swarm: every call to the tracker.
//!
//! A tracker that does not know us (it was restarted, or we were silent) is
//! joined again with what we have; until it answers, the neighbours that are
//! known stay good. Decides nothing about pieces.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::agent::link::Link;
use crate::model::digest::ArtifactId;
use crate::model::id::HostId;
use crate::model::pieces::PieceSet;
use crate::net::client::CallError;
use crate::wire::problem::Code;
use crate::wire::v1::fleet::HostInfo;
use crate::wire::v1::swarm::{
    BadRequest, BeatReply, BeatRequest, DoneRequest, JoinReply, JoinRequest, LeaseReply,
    LeaseRequest, Neighbours,
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

/// What goes with the wish for a lease; see [`LeaseRequest`].
#[derive(Debug, Clone, Default)]
pub(super) struct Asking {
    pub(super) unserved: PieceSet,
    pub(super) returned: Vec<u64>,
    pub(super) starved_ms: u64,
}

/// What the tracker said.
#[derive(Debug, Clone, Default)]
pub(super) struct Word {
    /// The ticket for peers, when we joined just now.
    pub(super) ticket: Option<String>,
    /// The neighbours, when they changed.
    pub(super) neighbours: Option<Neighbours>,
    /// How often to beat.
    pub(super) beat: Duration,
}

impl Membership {
    pub(super) fn new(link: Link, info: HostInfo, artifact: ArtifactId) -> Self {
        Self { link, info, artifact, standing: Mutex::default() }
    }

    /// Says what we have; joins if need be.
    pub(super) async fn beat(&self, have: PieceSet, holding: Vec<u64>) -> Result<Word, CallError> {
        let (beat, joined) = self.enter(have, holding).await?;
        if let Some(word) = joined {
            return Ok(word);
        }
        let reply: BeatReply = self.call("beat", &beat).await?;
        Ok(self.heard(None, reply).await)
    }

    /// Asks for a store lease; joins first if need be.
    pub(super) async fn lease(
        &self,
        have: PieceSet,
        holding: Vec<u64>,
        asking: Asking,
    ) -> Result<(LeaseReply, Word), CallError> {
        let (beat, joined) = self.enter(have, holding).await?;
        let Asking { unserved, returned, starved_ms } = asking;
        let request = LeaseRequest { beat, unserved, returned, starved_ms };
        let reply: LeaseReply = self.call("lease", &request).await?;
        let mut word = self.heard(None, reply.beat.clone()).await;
        if let Some(joined) = joined {
            word.ticket = joined.ticket;
            word.neighbours = word.neighbours.or(joined.neighbours);
        }
        Ok((reply, word))
    }

    /// Reports a bad piece; `from` is `None` for the regional store. Best effort.
    pub(super) async fn bad(&self, piece: u32, from: Option<HostId>) {
        let epoch = self.standing.lock().await.epoch.unwrap_or_default();
        let request = BadRequest { host: self.info.host.clone(), epoch, piece, from };
        if let Err(error) = self.call::<()>("bad", &request).await {
            tracing::debug!(%error, piece, "bad piece not reported");
        }
    }

    /// Leaves: nothing is served any more. Best effort.
    pub(super) async fn leave(&self) {
        let epoch = self.standing.lock().await.epoch.unwrap_or_default();
        let request = DoneRequest { host: self.info.host.clone(), epoch };
        if let Err(error) = self.call::<()>("done", &request).await {
            tracing::debug!(%error, "swarm not left, the tracker will notice");
        }
    }

    async fn enter(
        &self,
        have: PieceSet,
        holding: Vec<u64>,
    ) -> Result<(BeatRequest, Option<Word>), CallError> {
        let mut standing = self.standing.lock().await;
        let mut word = None;
        if !standing.joined {
            let request = JoinRequest {
                host: self.info.host.clone(),
                peer_port: self.info.peer_port,
                rack: self.info.rack.clone(),
                zone: self.info.zone.clone(),
                epoch: standing.epoch,
                have: have.clone(),
            };
            let reply: JoinReply = self.call("join", &request).await?;
            *standing = Standing {
                epoch: Some(reply.epoch),
                joined: true,
                version: reply.neighbours.version,
            };
            word = Some(Word {
                ticket: Some(reply.ticket),
                neighbours: Some(reply.neighbours),
                beat: Duration::from_millis(reply.beat_ms),
            });
        }
        let beat = BeatRequest {
            host: self.info.host.clone(),
            epoch: standing.epoch.unwrap_or_default(),
            have,
            neighbours: standing.version,
            holding,
        };
        Ok((beat, word))
    }

    async fn heard(&self, ticket: Option<String>, reply: BeatReply) -> Word {
        if let Some(neighbours) = &reply.neighbours {
            self.standing.lock().await.version = neighbours.version;
        }
        let beat = Duration::from_millis(reply.beat_ms);
        Word { ticket, neighbours: reply.neighbours, beat }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T, CallError> {
        let client = self.link.client();
        let path = format!("/v1/agent/swarm/{}/{verb}", self.artifact);
        let reply = client.post(&path, request, CALL_TIMEOUT).await;
        match &reply {
            Err(CallError::Unreachable { .. }) => self.link.failed(&client),
            // The next call joins again. (Not when `enter` itself holds the lock.)
            Err(error) if error.code() == Code::Conflict => {
                if let Ok(mut standing) = self.standing.try_lock() {
                    standing.joined = false;
                }
            }
            _ => {}
        }
        reply
    }
}
