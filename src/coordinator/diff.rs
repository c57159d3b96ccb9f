//! `GET …/diff`: what a deploy would move, before it is made.
//!
//! Told from manifests in the main store, from what hosts last reported, and from
//! which patches each region holds. An estimate: hosts report and patches come while
//! somebody reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;

use crate::coordinator::refs::{self, Named};
use crate::coordinator::router::{Route, get};
use crate::coordinator::state::Shared;
use crate::coordinator::{apps, artifact, readiness};
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::model::manifest::Manifest;
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::net::server::{Json, Params, Path};
use crate::rules::authorize::Class;
use crate::rules::diff::{self, Base, Change, Way};
use crate::rules::patch;
use crate::store::db::artifacts::ArtifactRow;
use crate::store::db::{Tx, artifacts, deployables, hosts, patches, replicas};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::diff::{
    Diff, DiffGroup, DiffPath, DiffQuery, DiffSide, DiffWay, Moved, PathChange, PathCounts,
    RegionDiff,
};
use crate::wire::v1::patch::{Between, PatchOutcome};

/// Most hosts that are looked at: the design's largest fleet.
const HOSTS_MAX: u32 = 300_000;
/// Distinct releases on hosts whose manifests are read, those on most hosts first; a
/// host with none of them counts as one without a base.
const BASES_MAX: usize = 8;
/// Changed paths that are named.
const PATHS_MAX: usize = 20;
/// A patch that is being made for longer than this is not: its worker is gone. Workers
/// stop after 6 h at most.
const MAKING_MAX: Duration = Duration::from_secs(6 * 3600);

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps/{app}/envs/{env}/diff", Class::Read, show)
            .says("Tell what a deploy of `to` would move, and how it differs from `from`")
            .gives("Diff"),
    ]
}

/// The base, the way, and the bytes that come to each host.
type Key = (Option<ArtifactId>, Way, u64);

/// What the database knows.
/// A release and its configuration, when one was named.
type Beside = Option<(ReleaseNo, Option<ConfigId>)>;

struct Facts {
    from: ArtifactRow,
    to: ArtifactRow,
    /// Beside `from` and `to`.
    beside: [Beside; 2],
    /// Every host's region, and what it has.
    hosts: Vec<(RegionName, Vec<ArtifactId>)>,
    /// Patches to `to`: from what, how large, and the regions that hold each.
    patches: BTreeMap<ArtifactId, (u64, BTreeSet<RegionName>)>,
    patch: PatchOutcome,
    builds: BTreeMap<ArtifactId, JobNo>,
}

async fn show(
    State(shared): State<Shared>,
    Path((app, env)): Path<(AppName, EnvName)>,
    Params(query): Params<DiffQuery>,
) -> Result<Json<Diff>, Problem> {
    let (now, place) = (shared.steady_now(), (app.clone(), env.clone()));
    let read = move |tx: &Tx| facts(tx, &place, &query, now);
    let facts = shared.db.read(read).await?;
    let to = artifact::manifest(&shared, facts.to.artifact).await?.0;
    let from = artifact::manifest(&shared, facts.from.artifact).await?.0;
    let mut remaining = BTreeMap::new();
    for base in common(&facts) {
        // A base that is damaged in the store is one that nobody can start from.
        if let Ok((manifest, _)) = artifact::manifest(&shared, base).await {
            remaining.insert(base, (patch::remaining(&manifest, &to), reused(&manifest, &to)));
        }
    }
    let told = tokio::task::spawn_blocking(move || {
        let (paths, changes) = paths(&from, &to);
        let regions = regions(&facts, &remaining);
        let total = regions.iter().map(|region| region.total).fold(Moved::default(), add);
        let Facts { from, to, patch, beside, .. } = facts;
        let [from, to] = [side(from, beside[0]), side(to, beside[1])];
        Diff { app, env, from, to, patch, paths, changes, regions, total }
    });
    told.await.map(Json).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

fn facts(
    tx: &Tx,
    (app, env): &(AppName, EnvName),
    query: &DiffQuery,
    now: UnixMillis,
) -> Result<Facts, Problem> {
    let spec = apps::known(tx, app, Some(env))?;
    let [from, to] = [&query.from, &query.to].map(|text| built(tx, &spec, env, text));
    let ((from, with), (to, other)) = (from?, to?);
    let beside = [with, other];
    let filter = hosts::Filter { env: Some(env.clone()), ..hosts::Filter::default() };
    let rows = hosts::list(tx, &filter, HOSTS_MAX)?.0;
    let hosts = rows.into_iter().filter(|row| spec.hosts.selects(&row.info.labels)).map(|row| {
        let status = row.apps.into_iter().find(|status| status.app == *app);
        let held = status.map(|status| {
            let running = status.running.map(|target| target.artifact);
            status.held.into_iter().chain(running).collect::<BTreeSet<_>>()
        });
        (row.region, held.unwrap_or_default().into_iter().collect())
    });
    let hosts: Vec<(RegionName, Vec<ArtifactId>)> = hosts.collect();
    let mut offered = BTreeMap::new();
    for row in patches::to(tx, &to.artifact)? {
        let PatchOutcome::Made { patch, wire_bytes } = row.outcome else { continue };
        let copies = replicas::of_artifact(tx, &patch)?.into_iter();
        let whole = copies.filter(|copy| copy.status == ReplicationStatus::Complete);
        offered.insert(row.between.from, (wire_bytes, whole.map(|copy| copy.region).collect()));
    }
    let patch = outcome(tx, Between { from: from.artifact, to: to.artifact }, now)?;
    let mut builds = BTreeMap::new();
    for artifact in hosts.iter().flat_map(|(_, held)| held).collect::<BTreeSet<_>>() {
        builds.extend(artifacts::find(tx, *artifact)?.map(|row| (*artifact, row.job)));
    }
    Ok(Facts { from, to, beside, hosts, patches: offered, patch, builds })
}

/// The artifact that `text` names, and what is beside it.
fn built(
    tx: &Tx,
    app: &AppSpec,
    env: &EnvName,
    text: &str,
) -> Result<(ArtifactRow, Beside), Problem> {
    let (artifact, build, beside) = match refs::resolve(tx, app, env, text)? {
        Named::Release(row) => {
            let beside = (row.rollout.release, row.rollout.config);
            (row.artifact, row.build, Some(beside))
        }
        Named::Build(build) => (build.artifact, build.build, None),
    };
    let row = match artifact {
        Some(artifact) => artifacts::find(tx, artifact)?,
        None => None,
    };
    if row.is_none()
        && let Some(build) = deployables::find(tx, &app.name, build)?.filter(|it| it.collected)
    {
        return Err(readiness::collected((&app.name, env), &build));
    }
    row.map(|row| (row, beside)).ok_or_else(|| {
        Problem::new(Code::NotDeployable, format!("{build} has made nothing to compare"))
            .because("its build has not succeeded")
            .hint(format!("deployctl builds -a {}", app.name))
    })
}

/// What became of the patch, or why nobody made one.
fn outcome(tx: &Tx, between: Between, now: UnixMillis) -> Result<PatchOutcome, Problem> {
    let none = |reason: &str| PatchOutcome::None { reason: reason.into() };
    if between.from == between.to {
        return Ok(none("the two are the same"));
    }
    Ok(match patches::find(tx, between)? {
        None => none("no worker was asked for it: it is made from what was deployed last"),
        Some(row) => match row.outcome {
            PatchOutcome::Making if now.since(row.updated_at) > MAKING_MAX => {
                none("the worker that made it is gone")
            }
            outcome => outcome,
        },
    })
}

/// What most hosts have, but for what they are to get.
fn common(facts: &Facts) -> Vec<ArtifactId> {
    let mut count: BTreeMap<ArtifactId, u64> = BTreeMap::new();
    for artifact in facts.hosts.iter().flat_map(|(_, held)| held) {
        *count.entry(*artifact).or_default() += 1;
    }
    count.remove(&facts.to.artifact);
    let mut all: Vec<(ArtifactId, u64)> = count.into_iter().collect();
    all.sort_by_key(|(_, hosts)| std::cmp::Reverse(*hosts));
    all.into_iter().take(BASES_MAX).map(|(artifact, _)| artifact).collect()
}

/// Raw bytes of pieces of `to` that `from` has.
fn reused(from: &Manifest, to: &Manifest) -> u64 {
    let there: BTreeSet<_> = from.pieces.iter().map(|piece| piece.raw).collect();
    let pieces = to.pieces.iter().enumerate().filter(|(_, piece)| there.contains(&piece.raw));
    pieces.map(|(index, _)| to.raw_len(index)).sum()
}

fn regions(facts: &Facts, bases: &BTreeMap<ArtifactId, (u64, u64)>) -> Vec<RegionDiff> {
    let to = &facts.to;
    let mut counted: BTreeMap<RegionName, BTreeMap<Key, u64>> = BTreeMap::new();
    for (region, held) in &facts.hosts {
        let base = |artifact: &ArtifactId| {
            let here = |(bytes, regions): &(u64, BTreeSet<RegionName>)| {
                regions.contains(region).then_some(*bytes)
            };
            let patch = facts.patches.get(artifact).and_then(here);
            bases.get(artifact).map(|(remaining, _)| Base { remaining: *remaining, patch })
        };
        let way = diff::cheapest(held, to.artifact, to.wire_size, base);
        *counted.entry(region.clone()).or_default().entry(way).or_default() += 1;
    }
    let region = |(region, ways): (RegionName, BTreeMap<Key, u64>)| {
        let mut groups: Vec<DiffGroup> = ways
            .into_iter()
            .map(|((base, way, bytes), hosts)| {
                let reused = base.and_then(|base| bases.get(&base)).map_or(0, |(_, raw)| *raw);
                let (way, local, patch, full) = match way {
                    Way::Here => (DiffWay::Here, 0, 0, 0),
                    Way::Patch => (DiffWay::Patch, to.size, bytes, 0),
                    Way::Full => (DiffWay::Full, reused, 0, bytes),
                };
                let moved = Moved {
                    hosts,
                    local_bytes: hosts * local,
                    patch_bytes: hosts * patch,
                    full_bytes: hosts * full,
                    store_bytes: bytes,
                };
                let build = base.and_then(|base| facts.builds.get(&base)).copied();
                DiffGroup { base, build, way, moved }
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.moved.hosts));
        let mut total = groups.iter().map(|group| group.moved).fold(Moved::default(), add);
        // Hosts that take the full pack take it from one swarm: the one that misses most
        // tells what the store sends.
        let full = groups.iter().filter(|group| group.way == DiffWay::Full);
        let patches = groups.iter().filter(|group| group.way == DiffWay::Patch);
        total.store_bytes = patches.map(|group| group.moved.store_bytes).sum::<u64>()
            + full.map(|group| group.moved.store_bytes).max().unwrap_or(0);
        RegionDiff { region, groups, total }
    };
    counted.into_iter().map(region).collect()
}

fn add(a: Moved, b: Moved) -> Moved {
    Moved {
        hosts: a.hosts + b.hosts,
        local_bytes: a.local_bytes + b.local_bytes,
        patch_bytes: a.patch_bytes + b.patch_bytes,
        full_bytes: a.full_bytes + b.full_bytes,
        store_bytes: a.store_bytes + b.store_bytes,
    }
}

fn paths(from: &Manifest, to: &Manifest) -> (PathCounts, Vec<DiffPath>) {
    let changes = diff::changes(from, to);
    let count = |change| changes.iter().filter(|c| c.change == change).count() as u64;
    let (added, removed) = (count(Change::Added), count(Change::Removed));
    let (changed, unclear) = (count(Change::Changed), count(Change::Unclear));
    let same = to.entries.len() as u64 - added - changed - unclear;
    let counts = PathCounts { added, removed, changed, unclear, same };
    let named = changes.into_iter().take(PATHS_MAX).map(|change| DiffPath {
        path: change.path,
        change: match change.change {
            Change::Added => PathChange::Added,
            Change::Removed => PathChange::Removed,
            Change::Changed => PathChange::Changed,
            Change::Unclear => PathChange::Unclear,
        },
        old_bytes: change.old_bytes,
        new_bytes: change.new_bytes,
    });
    (counts, named.collect())
}

fn side(row: ArtifactRow, beside: Beside) -> DiffSide {
    let ArtifactRow { artifact, job, commit, size, wire_size, .. } = row;
    let (release, config) = beside.unzip();
    let config = config.flatten();
    DiffSide { artifact, build: job, commit, release, config, size, wire_size }
}
