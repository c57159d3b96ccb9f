//! What the rollout's rules are told of the world, from the database.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::state::Coordinator;
use crate::coordinator::{bars, readiness};
use crate::model::goal::{GoalVersion, bucket};
use crate::model::hold::Hold;
use crate::model::id::{HostId, RegionName};
use crate::model::rollout::RolloutState;
use crate::rules::rollout::plan::{Fleet, waves};
use crate::rules::rollout::{Facts, RegionFacts, Rollout};
use crate::store::db::{DbError, Tx, envs, gate_runs, holds, hosts, regions, tallies};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::fleet::REGION_SILENT;

/// Every region that is configured or was ever heard of, by name.
pub(super) fn region_names(tx: &Tx, shared: &Coordinator) -> Result<BTreeSet<RegionName>, DbError> {
    let heard = regions::list(tx)?.into_iter().map(|row| row.region);
    Ok(shared.config.regions.keys().cloned().chain(heard).collect())
}

/// What `rollout` is judged on.
pub(super) fn load(tx: &Tx, shared: &Coordinator, rollout: &Rollout) -> Result<Facts, DbError> {
    let mut counts = tallies::told(tx, &rollout.app, &rollout.env)?;
    let known = hosts::count(tx, &rollout.env, &rollout.hosts)?;
    let seen: BTreeMap<RegionName, _> =
        regions::list(tx)?.into_iter().map(|row| (row.region, row.seen_at)).collect();
    let mut buckets = drawn(tx, shared, rollout)?;
    let now = shared.steady_now();
    let barred = bars::stopping(tx, (&rollout.app, &rollout.env), now)?;
    let barred = barred.map(|bar| bar.sentence());
    let unmet = readiness::unmet(tx, shared, rollout)?.map(|unmet| unmet.sentence());
    let gates = match rollout.gates.is_empty() {
        true => BTreeMap::new(),
        false => gate_runs::of(tx, &rollout.app, &rollout.env)?,
    };
    let fresh = envs::fresh(tx)?;
    let mut facts = Facts { regions: BTreeMap::new(), fresh, barred, unmet, gates };
    let names: BTreeSet<RegionName> =
        shared.config.regions.keys().chain(seen.keys()).chain(known.keys()).cloned().collect();
    for name in names {
        // A coordinator that just started has heard of nobody yet. What was heard in
        // the future was heard before the clock was set back: it proves nothing.
        let heard = seen.get(&name).copied().filter(|heard| *heard <= now).unwrap_or_default();
        let heard = heard.max(shared.started_at());
        let (known, reachable) = known.get(&name).copied().unwrap_or_default();
        let (tally, told_at) = counts.remove(&name).unwrap_or_default();
        let told_at = Some(told_at).filter(|told| *told <= now).unwrap_or_default();
        let silent = now.since(heard) > REGION_SILENT;
        let buckets = buckets.as_mut().map(|all| all.remove(&name).unwrap_or_default());
        let region = RegionFacts { tally, told_at, silent, known, reachable, buckets };
        facts.regions.insert(name, region);
    }
    Ok(facts)
}

/// Each host's bucket, and whether it can be reached.
type Buckets = Vec<(u32, bool)>;

/// The bucket of each host, by region and ascending, where permits need to know.
fn drawn(
    tx: &Tx,
    shared: &Coordinator,
    rollout: &Rollout,
) -> Result<Option<BTreeMap<RegionName, Buckets>>, DbError> {
    let running = rollout.state == RolloutState::Running && rollout.permits.most.is_some();
    let Some(version) = rollout.version.filter(|_| running) else { return Ok(None) };
    let salt = version.generation.to_string();
    let mut buckets: BTreeMap<RegionName, Buckets> = BTreeMap::new();
    each_free(tx, shared, rollout, |region, host, reachable| {
        let own = bucket(&salt, &rollout.app, &host);
        buckets.entry(region).or_default().push((own, reachable));
    })?;
    buckets.values_mut().for_each(|region| region.sort_unstable());
    Ok(Some(buckets))
}

/// Tells `take` each host that the rollout covers and that nobody holds or pins: one that
/// is kept is not asked, and a canary of such hosts would prove nothing.
fn each_free(
    tx: &Tx,
    shared: &Coordinator,
    rollout: &Rollout,
    mut take: impl FnMut(RegionName, HostId, bool),
) -> Result<(), DbError> {
    let kept = holds::placed(tx, (&rollout.app, &rollout.env), shared.steady_now())?;
    let kept: Vec<_> = kept.iter().filter_map(Hold::pin).collect();
    hosts::each(tx, &rollout.env, &rollout.hosts, |region, host, reachable| {
        if !kept.iter().any(|pin| pin.keeps(&host, &region)) {
            take(region, host, reachable);
        }
    })
}

/// A fleet, and the version by whose generation its hosts were drawn.
pub(super) struct Drawn {
    pub(super) version: GoalVersion,
    pub(super) fleet: Fleet,
}

/// The fleet as the planner sees it, drawn with the generation of `fresh`: a walk over all its
/// hosts.
pub(super) fn fleet(
    tx: &Tx,
    shared: &Coordinator,
    app: &AppSpec,
    rollout: &Rollout,
    fresh: GoalVersion,
) -> Result<Drawn, DbError> {
    let salt = fresh.generation.to_string();
    let (mut buckets, mut named) = (BTreeMap::<RegionName, Vec<u32>>::new(), 0);
    let canary = rollout.canary.as_ref();
    each_free(tx, shared, rollout, |region, host, reachable| {
        if reachable && canary.is_some_and(|canary| canary.has(&region, &host)) {
            named += 1;
        } else if reachable {
            buckets.entry(region).or_default().push(bucket(&salt, &rollout.app, &host));
        }
    })?;
    let mut names = region_names(tx, shared)?;
    names.extend(buckets.keys().cloned());
    let covered: Vec<RegionName> = names.into_iter().filter(|name| rollout.covers(name)).collect();
    let everywhere = rollout.regions.is_empty();
    let fleet = Fleet { waves: waves(&app.waves, &covered), buckets, named, everywhere };
    Ok(Drawn { version: fresh, fleet })
}
