//! `POST /v1/reconcile`: a person has every store compared with what is known, now.
//!
//! A region's store is looked at by the synchronizer's own round: what it finds lost is told to
//! the region, which fetches it again. Nothing heals the main store but another build.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;

use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::synchronizer::{self, Listing};
use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::replication::ReplicationStatus;
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::{DbError, Tx, artifacts, collected, replicas};
use crate::wire::problem::Problem;
use crate::wire::v1::reconcile::{ReconcileRequest, Reconciled, ReconciledStore};

/// Most artifacts of one installation that are compared.
const ARTIFACTS_MAX: u32 = 1_000_000;
/// How long one store may take to be looked at.
const STORE_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/reconcile", Class::Manage, reconcile)
            .says("Compare every store with what is known, now; regions fetch what they lost")
            .takes("ReconcileRequest")
            .gives("Reconciled"),
    ]
}

async fn reconcile(
    State(shared): State<Shared>,
    Json(ReconcileRequest {}): Json<ReconcileRequest>,
) -> Result<Json<Reconciled>, Problem> {
    let regions = shared.config.regions.keys().map(|region| regional(&shared, region));
    let regions = futures_util::future::join_all(regions);
    let (main, regions) = tokio::join!(main_store(&shared), regions);
    Ok(Json(Reconciled { stores: std::iter::once(main).chain(regions).collect() }))
}

async fn within(
    region: Option<&RegionName>,
    look: impl Future<Output = Result<ReconciledStore, String>>,
) -> ReconciledStore {
    let looked = tokio::time::timeout(STORE_TIMEOUT, look).await;
    let looked = looked.unwrap_or_else(|_| Err("it does not answer in time".into()));
    let failed = |error| ReconciledStore { error, ..ReconciledStore::default() };
    ReconciledStore { region: region.cloned(), ..looked.unwrap_or_else(failed) }
}

async fn known(shared: &Shared) -> Result<BTreeSet<ArtifactId>, DbError> {
    let read = |tx: &Tx| {
        let mut known: BTreeSet<_> = artifacts::all(tx, ARTIFACTS_MAX)?.into_iter().collect();
        known.extend(collected::names_waiting(tx)?);
        Ok::<_, DbError>(known)
    };
    shared.db.read(read).await
}

async fn regional(shared: &Shared, region: &RegionName) -> ReconciledStore {
    let look = async {
        let listing = synchronizer::look_now(shared, region).await?;
        let known = known(shared).await.map_err(|error| error.to_string())?;
        let asked = region.clone();
        let copies = shared.db.read(move |tx| replicas::required(tx, &asked, ARTIFACTS_MAX));
        let copies = copies.await.map_err(|error| error.to_string())?;
        let count = |status: &[ReplicationStatus]| {
            copies.iter().filter(|copy| status.contains(&copy.status)).count() as u64
        };
        let (extra, extra_bytes) = extra(&listing, &known);
        Ok(ReconciledStore {
            holds: count(&[ReplicationStatus::Complete]),
            lacks: count(&[ReplicationStatus::Pending, ReplicationStatus::Partial]),
            lost: count(&[ReplicationStatus::Lost]),
            extra,
            extra_bytes,
            ..ReconciledStore::default()
        })
    };
    within(Some(region), look).await
}

fn extra(listing: &Listing, known: &BTreeSet<ArtifactId>) -> (u64, u64) {
    let unknown = |artifact: &&ArtifactId| !known.contains(artifact);
    let packs = listing.packs.keys().filter(unknown);
    let all: BTreeSet<_> = packs.chain(listing.manifests.iter().filter(unknown)).collect();
    let bytes = all.iter().filter_map(|artifact| listing.packs.get(artifact)).sum();
    (all.len() as u64, bytes)
}

async fn main_store(shared: &Shared) -> ReconciledStore {
    let look = async {
        let listing = Listing::of(&shared.blobs).await.map_err(|error| error.to_string())?;
        let rows = |tx: &Tx| {
            let sizes = artifacts::wire_sizes(tx, ARTIFACTS_MAX)?;
            Ok::<_, DbError>((sizes, collected::names_waiting(tx)?))
        };
        let (sizes, waiting) = shared.db.read(rows).await.map_err(|error| error.to_string())?;
        let sizes: BTreeMap<ArtifactId, u64> = sizes.into_iter().collect();
        let whole = sizes.iter().filter(|(artifact, bytes)| listing.holds(artifact, **bytes));
        let holds = whole.count() as u64;
        let known = sizes.keys().copied().chain(waiting).collect();
        let (extra, extra_bytes) = extra(&listing, &known);
        let lost = sizes.len() as u64 - holds;
        Ok(ReconciledStore { holds, lost, extra, extra_bytes, ..ReconciledStore::default() })
    };
    within(None, look).await
}
