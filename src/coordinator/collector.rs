//! Takes artifacts away that nobody needs, so that no store fills up.
//!
//! In two steps. One transaction looks at the facts again and marks: from then on the
//! artifact can't be deployed, regions are told that it is gone and delete their copies, and a
//! build of the same brings it back. Some time later another transaction gives its name up for
//! good, and its objects are deleted from the main store. Killed at any moment, in any number
//! of coordinators: what is not written down as done is done again, and no delete, however
//! late, meets an object that came after it, because the name is never used again.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use prometheus::{IntCounterVec, IntGaugeVec};

use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::{features, owner, steadiness};
use crate::model::digest::{ArtifactId, Digest};
use crate::model::id::{AppName, RegionName};
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::net::metrics::{counters, gauges};
use crate::rules::collection::{Policy, collectable};
use crate::store::blobs::{Key, Kind};
use crate::store::db::collected::{self, Due, Sum};
use crate::store::db::events::NewEvent;
use crate::store::db::{
    DbError, Tx, apps, artifacts, collectable as facts, coordinators, replicas,
};
use crate::wire::problem::{Code, Problem};

/// Why an artifact is refused that was made under a name that is given up.
pub(super) const USED_UP: &str =
    "an artifact of this name was collected; what is built again has another name";

/// Longest pause between two looks for objects that are to be deleted.
const POLL: Duration = Duration::from_secs(30);
/// Artifacts marked in one transaction: the writer thread is shared with the job queue.
const MARKED_PER_WRITE: usize = 100;
/// Artifacts whose objects are deleted before anybody else may try.
const TAKEN: usize = 32;
/// Artifacts whose objects are deleted at once.
const DELETES: usize = 4;
/// How long a store may take to delete an object.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long what was not deleted is tried again, by whoever comes first.
const AGAIN: Duration = Duration::from_secs(600);
/// Between two transactions that mark: each plans anew while nobody else writes.
const PAUSE: Duration = Duration::from_millis(250);

static COLLECTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("collected_artifacts_total", "Artifacts that this coordinator took away.", &[])
});
static FREED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Bytes that this coordinator deleted from the main store.";
    counters("collected_bytes_total", help, &[])
});
static FAILED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Deletes that the main store refused; they are tried again.";
    counters("collect_failures_total", help, &[])
});
static LAST: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "When this coordinator last looked through everything for what may go, Unix time.";
    gauges("collected_timestamp_seconds", help, &[])
});

/// What is to go, and where it is.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) main: Sum,
    pub(super) regions: BTreeMap<RegionName, Sum>,
}

impl Part {
    pub(super) fn add(&mut self, other: &Self) {
        add(&mut self.main, other.main);
        for (region, sum) in &other.regions {
            add(self.regions.entry(region.clone()).or_default(), *sum);
        }
    }
}

fn add(to: &mut Sum, sum: Sum) {
    to.artifacts += sum.artifacts;
    to.bytes += sum.bytes;
}

/// How an app is looked through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) policy: Policy,
    /// How long after the mark objects are deleted.
    pub(super) delay: Duration,
}

impl Order {
    /// As configured.
    pub(super) fn usual(shared: &Coordinator) -> Self {
        let config = &shared.config.collector;
        let grace = Duration::from_secs(u64::from(config.keep_days) * 86_400);
        let good = usize::try_from(config.keep_good).unwrap_or(usize::MAX);
        let delay = Duration::from_secs(u64::from(config.delay_minutes) * 60);
        Self { policy: Policy { grace, good }, delay }
    }
}

/// Collects until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    let every = Duration::from_millis(shared.config.collector.every_ms);
    let mut stop = shared.stop.clone();
    // There before the first failure: what appears with it does not grow.
    FAILED.with_label_values::<&str>(&[]).inc_by(0);
    loop {
        let round = async {
            let renew = takes_round(&shared, coordinators::OWNER, every.min(owner::RENEWED)).await;
            if let Err(problem) = owner::keep(&shared, renew).await {
                tracing::debug!(%problem, "the main store is not this installation's");
                return;
            }
            // What a person asked for goes all the same.
            let asked = shared.collect_now.swap(false, Ordering::Relaxed);
            let steady = steadiness::check(&shared).await;
            if let Err(problem) = &steady
                && !asked
            {
                tracing::debug!(%problem, "ages are not believed");
                return;
            }
            let enabled = shared.config.collector.enabled;
            if enabled
                && steady.is_ok()
                && takes_round(&shared, coordinators::COLLECTOR, every).await
            {
                look_through(&shared).await;
            }
            // Switched off it deletes nothing that is marked either, but what a person asked for.
            if !enabled && !asked {
                return;
            }
            if let Err(problem) = delete_due(&shared).await {
                tracing::warn!(%problem, "what was collected is not deleted yet");
            }
        };
        tokio::select! {
            () = round => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = shared.collect.notified() => {}
            () = tokio::time::sleep(every.min(POLL)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Whether a round is due and this coordinator's. A round that nobody ends is begun again by
/// whoever asks next.
pub(super) async fn takes_round(shared: &Shared, what: &'static str, every: Duration) -> bool {
    let now = shared.steady_now();
    let take = move |tx: &mut Tx| coordinators::take_round(tx, what, now, now - every);
    shared.db.write(take).await.unwrap_or(false)
}

async fn look_through(shared: &Shared) {
    match collect_all(shared, Order::usual(shared)).await {
        Ok(parts) => {
            let mut all = Part::default();
            parts.iter().for_each(|(_, part)| all.add(part));
            let Sum { artifacts, bytes } = all.main;
            tracing::info!(artifacts, bytes, "looked for artifacts that nobody needs");
            LAST.with_label_values::<&str>(&[]).set(shared.steady_now().0 / 1000);
        }
        Err(problem) => tracing::warn!(%problem, "nothing more is collected for now"),
    }
}

/// Whether the store is this installation's, and objects can be deleted at all: else every
/// artifact would be taken away and no byte come free. Asks to delete what can't be there.
///
/// # Errors
/// `blocked` when the store is another's; `unavailable` when it refuses deletes.
pub(super) async fn check_may_delete(shared: &Shared) -> Result<(), Problem> {
    owner::check(shared).await?;
    let nothing = Key::new(Kind::Manifest, Digest([0; 32]));
    let asked = tokio::time::timeout(DELETE_TIMEOUT, shared.blobs.delete(nothing)).await;
    let why = match asked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    FAILED.with_label_values::<&str>(&[]).inc();
    Err(Problem::new(Code::Unavailable, "nothing can be deleted in the main store").because(why))
}

/// Takes away what may go of every app; what of each.
///
/// # Errors
/// `blocked` while an older coordinator works; `unavailable` when the main store refuses
/// deletes; or when the database fails.
pub(super) async fn collect_all(
    shared: &Shared,
    order: Order,
) -> Result<Vec<(AppName, Part)>, Problem> {
    check_may_delete(shared).await?;
    let mut parts = vec![];
    for app in names(shared).await? {
        let since = shared.steady_now() - order.policy.grace;
        let asked = app.clone();
        if !shared.db.read(move |tx| facts::any_old(tx, &asked, since)).await? {
            continue;
        }
        let now = shared.steady_now();
        let asked = app.clone();
        let look = move |tx: &Tx| plan(tx, &asked, &order.policy, now);
        if shared.db.read(look).await?.is_empty() {
            continue;
        }
        let part = collect(shared, &app, order).await?;
        if part.main.artifacts > 0 {
            parts.push((app, part));
        }
    }
    Ok(parts)
}

/// What would go now of every app.
///
/// # Errors
/// When the database fails.
pub(super) async fn would_go(
    shared: &Shared,
    policy: Policy,
) -> Result<Vec<(AppName, Part)>, DbError> {
    let mut parts = vec![];
    for app in names(shared).await? {
        let (now, asked) = (shared.steady_now(), app.clone());
        let look = move |tx: &Tx| measure(tx, &plan(tx, &asked, &policy, now)?);
        let part = shared.db.read(look).await?;
        if part.main.artifacts > 0 {
            parts.push((app, part));
        }
    }
    Ok(parts)
}

async fn names(shared: &Shared) -> Result<Vec<AppName>, DbError> {
    let all = shared.db.read(apps::list).await?;
    Ok(all.into_iter().map(|app| app.spec.name).collect())
}

fn plan(
    tx: &Tx,
    app: &AppName,
    policy: &Policy,
    now: UnixMillis,
) -> Result<Vec<ArtifactId>, DbError> {
    let facts = facts::facts(tx, app, now - policy.grace, now)?;
    Ok(collectable(&facts, policy, now))
}

/// Where artifacts are, and how large they are there.
fn measure(tx: &Tx, all: &[ArtifactId]) -> Result<Part, DbError> {
    let mut part = Part::default();
    for artifact in all {
        let Some(row) = artifacts::find(tx, *artifact)? else { continue };
        let bytes = row.wire_size + row.manifest_bytes;
        add(&mut part.main, Sum { artifacts: 1, bytes });
        for copy in replicas::of_artifact(tx, artifact)? {
            let whole = copy.status == ReplicationStatus::Complete;
            let bytes = if whole { bytes } else { copy.claim.bytes };
            if bytes > 0 {
                add(part.regions.entry(copy.region).or_default(), Sum { artifacts: 1, bytes });
            }
        }
    }
    Ok(part)
}

/// Takes away what may go of `app`.
async fn collect(shared: &Shared, app: &AppName, order: Order) -> Result<Part, Problem> {
    let mut all = Part::default();
    loop {
        // Right before: regions delete their copies of what is marked at once.
        owner::check(shared).await?;
        let (within, app) = (shared.clone(), app.clone());
        let mark = move |tx: &mut Tx| {
            features::begin(tx, &within, &features::COLLECTS)?;
            // Here nobody else writes: what is decided holds until it is written.
            let now = within.steady_now();
            let mut gone = plan(tx, &app, &order.policy, now)?;
            gone.truncate(MARKED_PER_WRITE);
            let part = measure(tx, &gone)?;
            for artifact in &gone {
                collected::mark(tx, artifact, now, now + order.delay)?;
            }
            if !gone.is_empty() {
                let Sum { artifacts, bytes } = part.main;
                let noun = if artifacts == 1 { "artifact" } else { "artifacts" };
                let message = format!(
                    "{artifacts} {noun} of {app} that nobody needs were collected, {} MiB",
                    bytes >> 20
                );
                tx.event(
                    &NewEvent::new(now, "artifacts.collected", "deployctl", message).app(&app),
                )?;
            }
            Ok::<_, Problem>((part, gone.len()))
        };
        let (part, gone) = shared.db.write(mark).await?;
        COLLECTED.with_label_values::<&str>(&[]).inc_by(part.main.artifacts);
        all.add(&part);
        if gone < MARKED_PER_WRITE {
            return Ok(all);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Deletes the objects of what is due.
async fn delete_due(shared: &Shared) -> Result<(), Problem> {
    loop {
        let now = shared.steady_now();
        if !shared.db.read(move |tx| collected::any_due(tx, now)).await? {
            return Ok(());
        }
        // Right before: whoever made the store its own since needs what is there.
        owner::check(shared).await?;
        let take = move |tx: &mut Tx| collected::take(tx, now, now + AGAIN, TAKEN);
        let due = shared.db.write(take).await?;
        let deletes = due.into_iter().map(|due| delete(shared, due));
        let done: Vec<_> =
            futures_util::stream::iter(deletes).buffer_unordered(DELETES).collect().await;
        for (due, failed) in done {
            let now = shared.steady_now();
            match &failed {
                None => FREED.with_label_values::<&str>(&[]).inc_by(due.bytes),
                Some(error) => {
                    FAILED.with_label_values::<&str>(&[]).inc();
                    tracing::warn!(artifact = %due.artifact, %error, "not deleted; tried again");
                }
            }
            let note =
                move |tx: &mut Tx| collected::ended(tx, &due.artifact, failed.as_deref(), now);
            shared.db.write(note).await?;
        }
    }
}

/// Why it could not be deleted, if so. The manifest first: without it nobody takes the rest
/// for an artifact.
async fn delete(shared: &Shared, due: Due) -> (Due, Option<String>) {
    for kind in [Kind::Manifest, Kind::Signature, Kind::Pack] {
        let key = Key::new(kind, due.artifact);
        match tokio::time::timeout(DELETE_TIMEOUT, shared.blobs.delete(key)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return (due, Some(error.to_string())),
            Err(_) => return (due, Some(format!("{key}: the store does not answer"))),
        }
    }
    (due, None)
}
