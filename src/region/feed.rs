//! Follows the coordinator's feed for ever: asks, mirrors, asks again.
//!
//! A coordinator that is gone is asked again with growing, jittered waits; the
//! mirror goes on answering from what it has.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::net::backoff::Backoff;
use crate::net::client::CallError;
use crate::region::coordinators::Coordinators;
use crate::region::metrics;
use crate::region::mirror::{Mirror, MirrorError};
use crate::wire::v1::region::{Feed, FeedRequest};

/// How long one call waits for news: under the usual 30 s of proxies between.
const WAIT: Duration = Duration::from_secs(25);
/// What the call itself may take beyond.
const SLACK: Duration = Duration::from_secs(10);
/// Waits between failed calls, first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Shortest time between two calls that brought nothing, should a coordinator not wait.
const IDLE_PACE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// Follows until `stop` turns true.
pub async fn follow(
    coordinators: Arc<Coordinators>,
    mirror: Arc<Mirror>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let pause = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            outcome = next(&coordinators, &mirror) => match outcome {
                Ok(news) => {
                    if backoff.succeeded() {
                        tracing::info!(revision = mirror.revision(), "feed is back");
                    }
                    if news { Duration::ZERO } else { IDLE_PACE }
                }
                Err(error) => {
                    let wait = backoff.failed();
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "feed failed");
                    coordinators.rotate();
                    wait
                }
            },
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One call; says whether it brought anything.
async fn next(coordinators: &Coordinators, mirror: &Arc<Mirror>) -> Result<bool, FeedError> {
    let since = mirror.revision();
    let request =
        FeedRequest { region: mirror.region().clone(), since, wait_ms: WAIT.as_millis() as u64 };
    let feed: Feed = coordinators.current().post("/v1/region/feed", &request, WAIT + SLACK).await?;
    metrics::fed();
    let nothing = feed.goals.is_empty()
        && feed.artifacts.is_empty()
        && feed.verifiers.is_none()
        && feed.trust.is_none();
    // A revision without news for this region is remembered by asking from it.
    let same = feed.revision == since;
    if nothing && same {
        return Ok(false);
    }
    let (revision, full) = (feed.revision, feed.full);
    let (goals, artifacts) = (feed.goals.len(), feed.artifacts.len());
    mirror.apply(feed).await?;
    tracing::info!(revision, full, goals, artifacts, "feed mirrored");
    Ok(!same)
}
