//! `POST /v1/collect`: a person has the collector look now, or asks what it would take.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;

use crate::coordinator::admission::MESSAGE_BYTES_MAX;
use crate::coordinator::collector::{self, Order, Part};
use crate::coordinator::owner::Strangers;
use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{leftovers, owner, steadiness};
use crate::model::id::{AppName, RegionName};
use crate::net::auth::Identity;
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::collected::{self, Sum};
use crate::store::db::events::NewEvent;
use crate::store::db::{DbError, Tx};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::collect::{
    CollectRequest, CollectedApp, CollectedStore, CollectedWaiting, Collection,
};

/// Artifacts in the main store of which it is looked whether they are known, before it is
/// adopted: a hundred pages of a bucket's listing, some ten seconds.
const LOOKED_MAX: usize = 100_000;
/// Longest `older_than_s`: ten years.
const OLDER_THAN_S_MAX: u64 = 3650 * 86_400;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/collect", Class::Manage, collect)
            .says("Take artifacts away that nobody needs, or say what would go")
            .takes("CollectRequest")
            .gives("Collection"),
    ]
}

async fn collect(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(request): Json<CollectRequest>,
) -> Result<Json<Collection>, Problem> {
    let order = order(&shared, &request)?;
    if request.adopt_store {
        return adopt(&shared, &who.name, &request, order).await.map(Json);
    }
    if request.trust_clock && !request.dry_run {
        steadiness::trust(&shared, &who.name, &request.message).await?;
        let sum = told(&shared, &request, order, vec![]);
        shared.collect.notify_one();
        return Ok(Json(sum));
    }
    let parts = if request.dry_run {
        collector::would_go(&shared, order.policy).await?
    } else {
        if !request.force {
            steadiness::check(&shared).await?;
        }
        if request.force || request.at_once {
            announce(&shared, &who.name, &request).await?;
        }
        collector::collect_all(&shared, order).await?
    };
    let left_over = left_over(&shared, &request, order).await;
    if !request.dry_run {
        shared.collect_now.fetch_or(request.force || request.at_once, Ordering::Relaxed);
        shared.collect.notify_one();
    }
    let owned = owner::check(&shared).await;
    let clock_doubted = shared.clock_doubt.why();
    let not_owner = owned.err().map(|problem| problem.to_string()).unwrap_or_default();
    let (sum, error) = shared.db.read(collected::waiting).await?;
    let waiting = told_of(sum, error.unwrap_or_default());
    let told = told(&shared, &request, order, parts);
    Ok(Json(Collection { left_over, waiting, not_owner, clock_doubted, ..told }))
}

/// Makes the main store this installation's, or says whose it is and what in it is unknown here:
/// of that nobody may be robbed by mistake. Collects nothing.
async fn adopt(
    shared: &Shared,
    who: &str,
    request: &CollectRequest,
    order: Order,
) -> Result<Collection, Problem> {
    let told = told(shared, request, order, vec![]);
    if !request.dry_run {
        let whose = owner::adopt(shared, who, &request.message).await?;
        return Ok(Collection { whose, ..told });
    }
    let whose = owner::whose(shared).await?;
    let Strangers { artifacts: unknown, more } = owner::strangers(shared, LOOKED_MAX).await?;
    Ok(Collection { whose, unknown, unknown_more: more, ..told })
}

fn order(shared: &Shared, request: &CollectRequest) -> Result<Order, Problem> {
    if request.message.len() > MESSAGE_BYTES_MAX {
        return Err(Problem::new(Code::Usage, "the message is too long")
            .because(format!("at most {MESSAGE_BYTES_MAX} bytes")));
    }
    let mut order = Order::usual(shared);
    if let Some(older_than_s) = request.older_than_s {
        if older_than_s > OLDER_THAN_S_MAX {
            return Err(Problem::new(Code::Usage, "older_than_s is out of range")
                .because(format!("at most {OLDER_THAN_S_MAX} seconds")));
        }
        let asked = Duration::from_secs(older_than_s);
        if asked < order.policy.grace && !request.force && !request.dry_run {
            let days = order.policy.grace.as_secs() / 86_400;
            return Err(Problem::new(Code::Blocked, "this would take what is younger than usual")
                .because(format!(
                    "the coordinator keeps what was in use within {days} days; for less the \
                     line takes --force --confirm=main -m WHY"
                ))
                .hint("deployctl admin gc --dry-run"));
        }
        order.policy.grace = asked;
    }
    let settles = request.adopt_store || request.trust_clock;
    let severe = (request.force || request.at_once || settles) && !request.dry_run;
    if severe && request.message.trim().is_empty() {
        let title = "force, at_once, adopt_store and trust_clock need a reason";
        return Err(Problem::new(Code::Usage, title)
            .hint("deployctl admin gc --force --confirm=main -m WHY"));
    }
    if request.at_once {
        order.delay = Duration::ZERO;
    }
    Ok(order)
}

/// What no row names is no reason to refuse the rest.
async fn left_over(shared: &Shared, request: &CollectRequest, order: Order) -> CollectedWaiting {
    let (age, sum) = (order.policy.grace, |(artifacts, bytes)| Sum { artifacts, bytes });
    // They go at once, and for good: only when a person insists.
    let found = if request.dry_run || !request.force {
        let all = leftovers::find(shared, age).await;
        all.map(|all| sum((all.len() as u64, all.values().sum())))
    } else {
        leftovers::give_up(shared, age).await.map(sum)
    };
    match found {
        Ok(sum) => told_of(sum, String::new()),
        Err(problem) => told_of(Sum::default(), problem.to_string()),
    }
}

fn told_of(sum: Sum, error: String) -> CollectedWaiting {
    CollectedWaiting { artifacts: sum.artifacts, bytes: sum.bytes, error }
}

/// Tells everybody who had the usual care set aside, and makes what waits due if asked to.
async fn announce(shared: &Shared, who: &str, request: &CollectRequest) -> Result<(), DbError> {
    let now = shared.steady_now();
    let message = format!("{who} collects without the usual care: {}", request.message);
    let (event, at_once) = (NewEvent::new(now, "artifacts.forced", who, message), request.at_once);
    let write = move |tx: &mut Tx| {
        if at_once {
            collected::hasten(tx, now)?;
        }
        tx.event(&event)
    };
    shared.db.write(write).await
}

fn told(
    shared: &Shared,
    request: &CollectRequest,
    order: Order,
    parts: Vec<(AppName, Part)>,
) -> Collection {
    let mut all = Part::default();
    parts.iter().for_each(|(_, part)| all.add(part));
    let store = |region: Option<RegionName>, sum: Sum| CollectedStore {
        region,
        artifacts: sum.artifacts,
        bytes: sum.bytes,
    };
    let configured = shared.config.regions.keys().map(|region| (region.clone(), Sum::default()));
    let mut regions: BTreeMap<RegionName, Sum> = configured.collect();
    regions.extend(all.regions);
    let regions = regions.into_iter().map(|(region, sum)| store(Some(region), sum));
    let app = |(app, part): (AppName, Part)| CollectedApp {
        app,
        artifacts: part.main.artifacts,
        bytes: part.main.bytes,
    };
    Collection {
        dry_run: request.dry_run,
        older_than_s: order.policy.grace.as_secs(),
        keep_good: u32::try_from(order.policy.good).unwrap_or(u32::MAX),
        artifacts: all.main.artifacts,
        bytes: all.main.bytes,
        delay_s: order.delay.as_secs(),
        stores: std::iter::once(store(None, all.main)).chain(regions).collect(),
        apps: parts.into_iter().map(app).collect(),
        switched_off: !shared.config.collector.enabled,
        ..Collection::default()
    }
}
