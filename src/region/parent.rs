//! Another region as this one reads from it: what it has of an artifact, and ranges
//! of the pack.
//!
//! A parent is never trusted: its manifest passes the same checks as the main
//! store's, and every piece is verified by the caller.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, StatusCode, header};

use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::manifest::MANIFEST_BYTES_MAX;
use crate::net::client::{CallError, Client};
use crate::region::mirror::Mirror;
use crate::rules::fanout::{self, Site};
use crate::wire::v1::region::{PiecesReply, PiecesRequest, Sibling};
use crate::wire::v1::swarm::SIGNATURE_HEADER;

/// How long one call waits for a parent's next piece.
const WAIT: Duration = Duration::from_secs(5);
/// What the call itself may take beyond.
const SLACK: Duration = Duration::from_secs(10);
/// How long one read of up to 32 MiB may take: a parent slower than 0.5 MiB/s is none.
const READ_TIME: Duration = Duration::from_secs(60);
/// Longest signature, bytes.
const SIGNATURE_BYTES_MAX: usize = 1 << 10;

/// A region to read from.
pub struct Parent {
    /// Its name.
    pub region: RegionName,
    client: Client,
}

/// Those that `mirror`'s region asks for `artifact`, best first.
#[must_use]
pub fn parents(mirror: &Mirror, artifact: &ArtifactId, http: &reqwest::Client) -> Vec<Parent> {
    let siblings = mirror.siblings();
    let site =
        |sibling: &Sibling| Site { region: sibling.region.clone(), serves: sibling.url.is_some() };
    let sites: Vec<Site> = siblings.iter().map(site).collect();
    let order = fanout::parents(artifact, mirror.region(), &sites);
    let named = order.into_iter().filter_map(|region| {
        let sibling = siblings.iter().find(|sibling| sibling.region == region)?;
        let client = Client::new(sibling.url.as_ref()?, sibling.ticket.clone());
        Some(Parent { region, client: client.over(http.clone()) })
    });
    named.collect()
}

impl Parent {
    /// What it can serve, as soon as that is not `since` pieces, or after a few seconds.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn pieces(&self, artifact: ArtifactId, since: u32) -> Result<PiecesReply, CallError> {
        let wait_ms = WAIT.as_millis() as u64;
        let request = PiecesRequest { artifact, since, wait_ms };
        self.client.post("/v1/region/pieces", &request, WAIT + SLACK).await
    }

    /// Its manifest and signature, unchecked.
    ///
    /// # Errors
    /// [`CallError`]; also when they are over their bounds.
    pub async fn manifest(&self, artifact: ArtifactId) -> Result<(Bytes, Bytes), CallError> {
        let path = format!("/v1/region/artifacts/{artifact}/manifest");
        let reply = self.send(&path, None).await?;
        let signature = reply.headers().get(SIGNATURE_HEADER).map(|value| value.as_bytes());
        let signature = signature.filter(|text| text.len() <= SIGNATURE_BYTES_MAX);
        let signature = signature.ok_or_else(|| self.bad("a manifest without a signature"))?;
        let signature = Bytes::copy_from_slice(signature);
        Ok((self.client.body(reply, MANIFEST_BYTES_MAX).await?.into(), signature))
    }

    /// Reads `range` of the pack; may be shorter.
    ///
    /// # Errors
    /// [`CallError`]; also when it is longer.
    pub async fn range(&self, artifact: ArtifactId, range: Range<u64>) -> Result<Bytes, CallError> {
        let path = format!("/v1/region/artifacts/{artifact}/pack");
        let most = (range.end - range.start) as usize;
        let reply = self.send(&path, Some(range)).await?;
        Ok(self.client.body(reply, most).await?.into())
    }

    async fn send(
        &self,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<reqwest::Response, CallError> {
        let mut request = self.client.request(Method::GET, path).timeout(READ_TIME);
        if let Some(range) = range {
            request =
                request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let reply = request.send().await.map_err(|e| self.client.unreachable(e))?;
        let status = reply.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(reply);
        }
        let problem = self.client.body(reply, MANIFEST_BYTES_MAX).await?;
        Err(self.client.refusal(status.as_u16(), &problem))
    }

    fn bad(&self, why: &str) -> CallError {
        CallError::BadReply { url: self.client.base().to_owned(), why: why.to_owned() }
    }
}
