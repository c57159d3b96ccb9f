//! What a region's process counts.

use std::sync::{Arc, LazyLock};

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::host::clock;
use crate::net::metrics::{counters, gauges};
use crate::region::fleet::Fleet;
use crate::region::mirror::Mirror;
use crate::region::processes::Processes;

/// Bytes that were pulled into the regional store, by where they were read.
pub(super) static REPLICATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Bytes of artifacts brought into the regional store, by where they were read.";
    counters("region_replicated_bytes_total", help, &["source"])
});
/// Pulls that failed.
pub(super) static PULL_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("region_pull_failures_total", "Replications that failed and are tried again.", &[])
});
/// Bytes of packs that hosts read from the region.
pub(super) static SERVED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("region_served_bytes_total", "Bytes of packs that hosts read from the region.", &[])
});
/// Bytes of packs for which hosts were sent to the store.
pub(super) static DIRECT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Bytes of packs for which hosts were sent to the regional store itself.";
    counters("region_direct_bytes_total", help, &[])
});
/// Whether the last round with an etcd succeeded.
pub(super) static ETCD_UP: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether the last call of an etcd succeeded, by which.";
    gauges("region_etcd_up", help, &["store"])
});
static FEED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "When a coordinator answered the feed last, Unix time; 0: not since the start.";
    gauges("region_feed_timestamp_seconds", help, &[])
});
static AGENTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("region_agents", "Hosts of the region.", &["state"]));
static ELSEWHERE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Hosts of the region that other processes hear.";
    gauges("region_agents_elsewhere", help, &[])
});
static PROCESSES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("region_processes", "The region's other processes, by whether they answer.", &["state"])
});
static GOALS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("region_goals", "Goals that the mirror holds.", &[]));
static WANTED: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("region_artifacts_wanted", "Artifacts that must be held.", &[]));

/// A coordinator answered.
pub(super) fn fed() {
    FEED.with_label_values::<&str>(&[]).set(clock::now().0 / 1000);
}

/// Reads what the process holds.
pub(super) fn refresh(mirror: &Arc<Mirror>, fleet: &Arc<Fleet>, processes: &Arc<Processes>) {
    let (hosts, silent) = fleet.counts();
    let (live, gone) = processes.counts();
    PROCESSES.with_label_values(&["live"]).set(live as i64);
    PROCESSES.with_label_values(&["gone"]).set(gone as i64);
    ELSEWHERE.with_label_values::<&str>(&[]).set(fleet.elsewhere() as i64);
    AGENTS.with_label_values(&["reachable"]).set(hosts.saturating_sub(silent) as i64);
    AGENTS.with_label_values(&["unreachable"]).set(silent as i64);
    let none: &[&str] = &[];
    GOALS.with_label_values(none).set(mirror.goals().len() as i64);
    WANTED.with_label_values(none).set(mirror.wanted().len() as i64);
    // What never happened is 0 and not absent.
    for source in ["main", "sibling", "reused"] {
        REPLICATED.with_label_values(&[source]);
    }
    PULL_FAILURES.with_label_values(none);
    SERVED.with_label_values(none);
    DIRECT.with_label_values(none);
    FEED.with_label_values(none);
}
