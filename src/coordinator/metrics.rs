//! What the coordinator counts. What the database knows is read at each scrape, so
//! several coordinators tell the same and a restart loses nothing.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::coordinator::scale;
use crate::coordinator::state::{Coordinator, Shared};
use crate::model::id::RegionName;
use crate::model::time::UnixMillis;
use crate::net::metrics::{counters, durations, gauges};
use crate::store::db::regions::RegionRow;
use crate::store::db::{DbError, Tx, coordinators, gauges as read, regions, workers};

/// Requests that were answered, by route and class of status.
pub(super) static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests that were answered, by route and class of status.";
    counters("http_requests_total", help, &["route", "status"])
});
/// How long they took; long polls wait on purpose.
pub(super) static REQUEST_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "How long requests took, by route; long polls wait on purpose.";
    durations("http_request_duration_seconds", help, &["route"])
});
/// Whether the last round of the publisher reached the global etcd.
pub(super) static GLOBAL_GOALS_UP: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether the last call of the global etcd succeeded.";
    gauges("global_goals_up", help, &[])
});

static JOBS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("build_jobs", "Build jobs by state.", &["state"]));
static OLDEST: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "How long the oldest queued build job has waited; 0: none is queued.";
    gauges("build_queue_oldest_seconds", help, &[])
});
static WORKERS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("workers", "Workers heard of within a lease, at least 30 s.", &[]));
static SLOTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("worker_slots", "Their slots, by use.", &["use"]));
static WANTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Workers that would empty the queue in five minutes, as /v1/queue/scale says.";
    gauges("workers_wanted", help, &[])
});
static ROLLOUTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("rollouts", "Rollouts by state.", &["state"]));
static OUTBOX: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("goals_waiting", "Goals decided and not yet in the goal store.", &[]));
static HOSTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("region_hosts", "Hosts by region, as the region counts them.", &["region", "state"])
});
static SEEN: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "When the region reported last, Unix time; 0: never.";
    gauges("region_last_report_timestamp_seconds", help, &["region"])
});
static CHECKED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "When the region's store was last compared with what it should hold; 0: never.";
    gauges("region_store_checked_timestamp_seconds", help, &["region"])
});

struct Facts {
    jobs: Vec<(String, i64)>,
    oldest: Option<UnixMillis>,
    /// Workers, their slots, and those that build.
    workers: (i64, i64, i64),
    rollouts: Vec<(String, i64)>,
    waiting: i64,
    regions: Vec<RegionRow>,
    /// When the stores of the configured regions were last compared.
    checked: Vec<(RegionName, Option<UnixMillis>)>,
}

fn facts(tx: &Tx, within: &Coordinator, since: UnixMillis) -> Result<Facts, DbError> {
    let alive = workers::list(tx, since)?;
    let sum = |of: fn(&crate::wire::v1::fleet::WorkerRow) -> u32| {
        alive.iter().map(|worker| i64::from(of(worker))).sum()
    };
    Ok(Facts {
        jobs: read::jobs(tx)?,
        oldest: read::oldest_queued(tx)?,
        workers: (alive.len() as i64, sum(|worker| worker.slots), sum(|worker| worker.running)),
        rollouts: read::rollouts(tx)?,
        waiting: read::goals_waiting(tx)?,
        regions: regions::list(tx)?,
        checked: (within.config.regions.keys())
            .map(|region| Ok((region.clone(), coordinators::last_round(tx, region)?)))
            .collect::<Result<_, DbError>>()?,
    })
}

/// Reads what the database knows.
pub(super) async fn refresh(shared: Shared) {
    let now = shared.steady_now();
    let since = scale::alive_since((now, &shared.timing()));
    let within = shared.clone();
    let facts = match shared.db.read(move |tx| facts(tx, &within, since)).await {
        Ok(facts) => facts,
        Err(error) => return tracing::warn!(%error, "metrics can't be read from the database"),
    };
    for (gauge, counts) in [(&JOBS, &facts.jobs), (&ROLLOUTS, &facts.rollouts)] {
        // A state that nothing is in any more is 0 and not what it was.
        gauge.reset();
        for (state, count) in counts {
            gauge.with_label_values(&[state.to_ascii_lowercase()]).set(*count);
        }
    }
    let none: &[&str] = &[];
    let waited = facts.oldest.map_or(0, |oldest| now.since(oldest).as_secs());
    OLDEST.with_label_values(none).set(waited as i64);
    let (workers, slots, busy) = facts.workers;
    WORKERS.with_label_values(none).set(workers);
    match scale::usual(&shared).await {
        Ok(scale) => WANTED.with_label_values(none).set(scale.wanted_workers as i64),
        Err(error) => tracing::warn!(%error, "the queue can't be read for its metrics"),
    }
    SLOTS.with_label_values(&["busy"]).set(busy);
    SLOTS.with_label_values(&["free"]).set((slots - busy).max(0));
    OUTBOX.with_label_values(none).set(facts.waiting);
    for (region, at) in &facts.checked {
        CHECKED.with_label_values(&[region.as_str()]).set(at.map_or(0, |at| at.0 / 1000));
    }
    for region in shared.config.regions.keys() {
        let row = facts.regions.iter().find(|row| row.region == *region);
        let (hosts, silent) = row.map_or((0, 0), |row| (row.hosts, row.unreachable));
        let seen = row.map_or(0, |row| row.seen_at.0 / 1000);
        let region = region.as_str();
        HOSTS.with_label_values(&[region, "reachable"]).set((hosts - silent.min(hosts)) as i64);
        HOSTS.with_label_values(&[region, "unreachable"]).set(silent as i64);
        SEEN.with_label_values(&[region]).set(seen as i64);
    }
}
