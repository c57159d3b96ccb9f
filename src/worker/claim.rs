//! Asks for jobs for the slots that are free, works on them, and asks again.
//!
//! One question stands at a time, for all free slots. A slot that becomes free while it
//! stands is asked for with the next: when jobs wait, no question stands for long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::model::rng::Rng;
use crate::wire::v1::worker::Claim;
use crate::worker::attempt;
use crate::worker::build::Scratch;
use crate::worker::metrics;
use crate::worker::run::Worker;

/// Shortest and longest wait after a claim that brought no answer: a coordinator
/// that starts meets 100 workers spread over 5 s.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// An empty answer that came sooner than this did not wait: do not spin on it.
const TOO_SOON: Duration = Duration::from_millis(200);

/// Works until the worker stops and all of its jobs have ended. Each job gets one of
/// the `free` folders.
pub async fn work(worker: &Worker, mut free: Vec<Scratch>) {
    let mut running = FuturesUnordered::new();
    let mut stop = worker.stop.clone();
    let asking = Fuse::terminated();
    tokio::pin!(asking);
    while !*stop.borrow() {
        if asking.is_terminated() && !free.is_empty() {
            asking.set(ask(worker, free.len() as u32).fuse());
        }
        tokio::select! {
            claims = &mut asking, if !asking.is_terminated() => {
                for claim in claims {
                    match free.pop() {
                        Some(scratch) => running.push(one(worker, scratch, claim)),
                        // Its lease lapses, and another gets it.
                        None => tracing::error!(build = %claim.build, "more jobs than were wanted"),
                    }
                }
            }
            Some(scratch) = running.next() => free.push(scratch),
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    // What is answered from here on goes back.
    asking.set(Fuse::terminated());
    while running.next().await.is_some() {}
}

async fn one(worker: &Worker, scratch: Scratch, claim: Claim) -> Scratch {
    worker.busy.fetch_add(1, Ordering::Relaxed);
    attempt::attempt(worker, &scratch, claim).await;
    worker.busy.fetch_sub(1, Ordering::Relaxed);
    scratch
}

/// Asks for `want` jobs until there is an answer, which may be that there are none.
async fn ask(worker: &Worker, want: u32) -> Vec<Claim> {
    let mut rng = Rng::new(worker.seed);
    let mut failures = 0u32;
    loop {
        let asked = Instant::now();
        match worker.coordinator.claim(want).await {
            Ok(claims) => {
                if claims.is_empty() && asked.elapsed() < TOO_SOON {
                    tokio::time::sleep(BACKOFF.0 * 4).await;
                }
                return claims;
            }
            Err(error) => {
                failures += 1;
                metrics::claim_failed();
                if failures == 1 {
                    tracing::warn!(%error, "no claim; trying again");
                }
                let longest = (BACKOFF.0 * 2u32.pow(failures.min(8))).min(BACKOFF.1);
                tokio::time::sleep(longest.mul_f64(0.5 + rng.below(500) as f64 / 1000.0)).await;
            }
        }
    }
}
