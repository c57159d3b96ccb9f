//! One slot: asks for a job, works on it, asks again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::rng::Rng;
use crate::worker::attempt;
use crate::worker::build::Scratch;
use crate::worker::metrics;
use crate::worker::run::Worker;

/// Shortest and longest wait after a claim that brought no answer: a coordinator
/// that starts meets 100 workers spread over 5 s.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// An empty answer that came sooner than this did not wait: do not spin on it.
const TOO_SOON: Duration = Duration::from_millis(200);

/// Works until the worker stops. `number` seeds this slot's waits.
pub async fn slot(worker: &Worker, scratch: Scratch, number: u64) {
    let mut rng = Rng::new(number ^ worker.seed);
    let mut failures = 0u32;
    let mut stop = worker.stop.clone();
    loop {
        let asked = Instant::now();
        let busy = worker.busy.load(Ordering::Relaxed);
        let claim = tokio::select! {
            claim = worker.coordinator.claim(busy) => claim,
            () = async { let _ = stop.wait_for(|stop| *stop).await; } => return,
        };
        let wait = match claim {
            Ok(Some(claim)) => {
                failures = 0;
                worker.busy.fetch_add(1, Ordering::Relaxed);
                attempt::attempt(worker, &scratch, claim).await;
                worker.busy.fetch_sub(1, Ordering::Relaxed);
                Duration::ZERO
            }
            Ok(None) => {
                failures = 0;
                if asked.elapsed() < TOO_SOON { BACKOFF.0 * 4 } else { Duration::ZERO }
            }
            Err(error) => {
                failures += 1;
                metrics::claim_failed();
                if failures == 1 {
                    tracing::warn!(%error, "no claim; trying again");
                }
                let longest = (BACKOFF.0 * 2u32.pow(failures.min(8))).min(BACKOFF.1);
                longest.mul_f64(0.5 + rng.below(500) as f64 / 1000.0)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = async { let _ = stop.wait_for(|stop| *stop).await; } => return,
        }
    }
}
