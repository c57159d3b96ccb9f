//! What the rollout's rules are told of the world, from the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::coordinator::state::Coordinator;
use crate::coordinator::walk::{Basis, Before, Undone};
use crate::coordinator::{bars, readiness};
use crate::model::goal::GoalVersion;
use crate::model::id::RegionName;
use crate::model::rollout::RolloutState;
use crate::rules::rollout::plan::{Fleet, waves};
use crate::rules::rollout::{Facts, RegionFacts, Rollout};
use crate::store::db::{DbError, Tx, envs, gate_runs, hosts, regions, tallies};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::fleet::REGION_SILENT;

/// Every region that is configured or was ever heard of, by name.
pub(super) fn region_names(tx: &Tx, shared: &Coordinator) -> Result<BTreeSet<RegionName>, DbError> {
    let heard = regions::list(tx)?.into_iter().map(|row| row.region);
    Ok(shared.config.regions.keys().cloned().chain(heard).collect())
}

/// What `rollout` is judged on, but for the buckets of its hosts.
pub(super) fn load(tx: &Tx, shared: &Coordinator, rollout: &Rollout) -> Result<Facts, DbError> {
    let mut counts = tallies::told(tx, &rollout.app, &rollout.env)?;
    let place = (rollout.env.clone(), rollout.hosts.clone());
    let known = shared
        .counted
        .or_look((tx, &rollout.env), place, |(env, hosts)| hosts::count(tx, env, hosts))?;
    let seen: BTreeMap<RegionName, _> =
        regions::list(tx)?.into_iter().map(|row| (row.region, row.seen_at)).collect();
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
        let region = RegionFacts { tally, told_at, silent, known, reachable, buckets: None };
        facts.regions.insert(name, region);
    }
    Ok(facts)
}

/// What the rules look at when they go on with `rollout`: the same, and who there is to let in.
pub(super) fn to_step(tx: &Tx, shared: &Coordinator, rollout: &Rollout) -> Result<Facts, DbError> {
    let mut facts = load(tx, shared, rollout)?;
    if let Some(buckets) = drawn(tx, shared, rollout)? {
        for (name, region) in &mut facts.regions {
            region.buckets = Some(buckets.get(name).cloned().unwrap_or_default());
        }
    }
    Ok(facts)
}

/// Known and reachable hosts by region.
pub(super) type Counts = BTreeMap<RegionName, (u32, u32)>;
/// Each host's bucket and whether it can be reached, by region and ascending.
pub(super) type Buckets = BTreeMap<RegionName, Vec<(u32, bool)>>;

/// The bucket of each host, where permits need to know.
fn drawn(
    tx: &Tx,
    shared: &Coordinator,
    rollout: &Rollout,
) -> Result<Option<Arc<Buckets>>, DbError> {
    let running = rollout.state == RolloutState::Running && rollout.permits.most.is_some();
    let Some(version) = rollout.version.filter(|_| running) else { return Ok(None) };
    // A step draws nobody anew.
    let basis = Basis::of(tx, shared, rollout, GoalVersion { step: 0, ..version })?;
    let look = |basis: &Basis| {
        let mut buckets = Buckets::new();
        basis.each(tx, |region, _, own| match buckets.get_mut(region) {
            Some(buckets) => buckets.push(own),
            None => drop(buckets.insert(region.clone(), vec![own])),
        })?;
        buckets.values_mut().for_each(|region| region.sort_unstable());
        Ok(buckets)
    };
    shared.drawn.or_look((tx, &rollout.env), basis, look).map(Some)
}

/// A fleet, and the version by whose generation its hosts were drawn.
pub(super) struct Drawn {
    pub(super) version: GoalVersion,
    pub(super) fleet: Fleet,
}

/// The fleet as the planner sees it, drawn with the generation of `fresh`: where the plan asks
/// for hosts, by a walk over all of them.
///
/// # Errors
/// [`Undone::Walk`] when that is to be done `before`.
pub(super) fn fleet(
    tx: &Tx,
    shared: &Coordinator,
    (app, rollout): (&AppSpec, &Rollout),
    fresh: GoalVersion,
    before: &Before,
) -> Result<Drawn, Undone> {
    let (mut buckets, mut named) = (BTreeMap::new(), 0);
    if rollout.wish().looks_at_hosts() {
        let walk = before.or_walk(tx, Basis::of(tx, shared, rollout, fresh)?)?;
        (buckets, named) = (walk.buckets.clone(), walk.named);
    }
    let mut names = region_names(tx, shared)?;
    names.extend(buckets.keys().cloned());
    let covered: Vec<RegionName> = names.into_iter().filter(|name| rollout.covers(name)).collect();
    let everywhere = rollout.regions.is_empty();
    let fleet = Fleet { waves: waves(&app.waves, &covered), buckets, named, everywhere };
    Ok(Drawn { version: fresh, fleet })
}
