//! How many workers are wanted: what autoscalers ask, people see, and Prometheus reads.

use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::router::{Route, get};
use crate::coordinator::state::{Coordinator, Shared};
use crate::model::time::UnixMillis;
use crate::net::server::{Json, Params};
use crate::rules::authorize::Class;
use crate::rules::queue::Timing;
use crate::rules::scale::{Load, wanted};
use crate::store::db::{DbError, Tx, gauges, workers};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::QueueScale;

/// The time that the rate of arrivals is of: long enough that a quiet minute sends nobody
/// home, short enough to follow a working day.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// What a job is taken to last while none has ended.
const SERVICE: Duration = Duration::from_secs(60);
/// Within how long the queue is to be empty unless said; and what may be said. Seconds.
const DRAIN_S: u64 = 300;
const DRAIN_S_MAX: u64 = 86_400;
/// A worker that did not ask or beat for so long is gone: a claim waits 25 s at most.
const SILENT_MIN: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/queue/scale", Class::Read, scale)
            .says("Tell how many workers are wanted, in numbers for an autoscaler")
            .gives("QueueScale"),
    ]
}

#[derive(Deserialize)]
struct Query {
    drain_s: Option<u64>,
}

async fn scale(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<QueueScale>, Problem> {
    let drain_s = query.drain_s.unwrap_or(DRAIN_S);
    if !(1..=DRAIN_S_MAX).contains(&drain_s) {
        return Err(Problem::new(Code::Usage, "drain_s is out of bounds")
            .because(format!("it is seconds, 1 to {DRAIN_S_MAX}")));
    }
    let (now, timing) = (shared.steady_now(), shared.timing());
    let look = move |tx: &Tx| of(tx, (now, &timing), Duration::from_secs(drain_s));
    Ok(Json(shared.db.read(look).await?))
}

/// The same with the usual drain.
pub(super) async fn usual(shared: &Coordinator) -> Result<QueueScale, DbError> {
    let (now, timing) = (shared.steady_now(), shared.timing());
    let look = move |tx: &Tx| of(tx, (now, &timing), Duration::from_secs(DRAIN_S));
    shared.db.read(look).await
}

/// Since when a worker that is there was heard of.
pub(super) fn alive_since((now, timing): (UnixMillis, &Timing)) -> UnixMillis {
    now - timing.lease().max(SILENT_MIN)
}

fn of(
    tx: &Tx,
    (now, timing): (UnixMillis, &Timing),
    drain: Duration,
) -> Result<QueueScale, DbError> {
    let alive = workers::list(tx, alive_since((now, timing)))?;
    // Who is drained is about to go, and so is what runs there: that is nobody's to do.
    let (going, alive): (Vec<_>, Vec<_>) = alive.into_iter().partition(|worker| worker.draining);
    let theirs: u64 = going.iter().map(|worker| u64::from(worker.running)).sum();
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let jobs = gauges::jobs_waiting_and_running(tx)?;
    let busy = alive.iter().filter(|worker| worker.running > 0).count() as u64;
    let slots: u64 = alive.iter().map(|worker| u64::from(worker.slots)).sum();
    let (known, known_slots) =
        if slots > 0 { (alive.len() as u64, slots) } else { workers::known(tx)? };
    let load = Load {
        queued: number(jobs.0),
        running: number(jobs.1).saturating_sub(theirs),
        arrived: number(gauges::arrived(tx, now - WINDOW)?),
        window: WINDOW,
        service: gauges::service(tx)?.unwrap_or(SERVICE),
        workers: known,
        slots: known_slots,
    };
    let wanted = wanted(&load, drain);
    let oldest = gauges::oldest_queued(tx)?;
    Ok(QueueScale {
        queued: load.queued,
        oldest_wait_s: oldest.map_or(0, |oldest| now.since(oldest).as_secs()),
        running: number(jobs.1),
        busy_workers: busy,
        idle_workers: alive.len() as u64 - busy,
        slots,
        arrivals_per_hour: load.arrived * 3600 / WINDOW.as_secs(),
        service_ms: u64::try_from(load.service.as_millis()).unwrap_or(u64::MAX),
        drain_s: drain.as_secs(),
        wanted_slots: wanted.slots,
        wanted_workers: wanted.workers,
    })
}
