//! What a worker counts.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::model::job::Outcome;
use crate::net::metrics::{counters, gauges};

static BUILDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("worker_builds_total", "Builds that ended here, by how.", &["outcome"])
});
static CLAIM_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("worker_claim_failures_total", "Asks for a job that got no answer.", &[])
});
static SLOTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("worker_own_slots", "Slots of this worker, by use.", &["use"]));

/// A build ended; `None`: it was handed back, or was another's by then.
pub(super) fn ended(outcome: Option<&Outcome>) {
    let outcome = match outcome {
        Some(Outcome::Succeeded { .. }) => "succeeded",
        Some(Outcome::Failed { .. }) => "failed",
        _ => "handed_back",
    };
    BUILDS.with_label_values(&[outcome]).inc();
}

/// A claim was not answered.
pub(super) fn claim_failed() {
    CLAIM_FAILURES.with_label_values::<&str>(&[]).inc();
}

/// Reads what the process does.
pub(super) fn refresh(slots: u32, busy: u32) {
    SLOTS.with_label_values(&["busy"]).set(busy.into());
    SLOTS.with_label_values(&["free"]).set(slots.saturating_sub(busy).into());
    // What never happened is 0 and not absent.
    for outcome in ["succeeded", "failed", "handed_back"] {
        BUILDS.with_label_values(&[outcome]);
    }
    CLAIM_FAILURES.with_label_values::<&str>(&[]);
}
