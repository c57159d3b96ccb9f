//! A rollout as it is shown: its row, the newest counts, and what it waits for.

use std::collections::BTreeMap;

use crate::coordinator::facts;
use crate::coordinator::readiness::{self, Readiness};
use crate::coordinator::requirements;
use crate::coordinator::state::Coordinator;
use crate::model::fleet::Tally;
use crate::model::id::RegionName;
use crate::model::rollout::{RolloutKind, RolloutState};
use crate::rules::rollout::words;
use crate::rules::rollout::{Facts, Rollout as Rules};
use crate::store::db::releases::ReleaseRow;
use crate::store::db::{DbError, Tx, envs};
use crate::wire::v1::rollout::Rollout;

/// Shows `row`.
pub(super) fn rollout(tx: &Tx, shared: &Coordinator, row: &ReleaseRow) -> Result<Rollout, DbError> {
    let rules = &row.rollout;
    let facts = facts::load(tx, shared, rules)?;
    let over = rules.state.is_final();
    let mut regions =
        if over && !row.tallies.is_empty() { row.tallies.clone() } else { counts(rules, &facts) };
    recall_failures(rules, &mut regions);
    let base = match rules.kind {
        RolloutKind::Deploy => {
            let own = rules.regions.first().and_then(|region| rules.stable.of(region));
            own.or(rules.stable.base)
        }
        RolloutKind::Rollback => rules.stable.base,
    };
    let unmet = match rules.allow_unmet && rules.kind == RolloutKind::Deploy {
        true => requirements::lacking(tx, &rules.env, row.build)?,
        false => vec![],
    };
    Ok(Rollout {
        release: row.view(),
        stamp: envs::find(tx, &rules.app, &rules.env)?.stamp,
        plan_waves: rules.plan_file.as_ref().map_or_else(Vec::new, |file| file.waves().to_vec()),
        steps: rules.steps.clone(),
        step: rules.step,
        stage: rules.stage,
        held: rules.held,
        baked: rules.has_baked(shared.steady_now()),
        went_back: rules.went_back,
        due_at: rules.due_at,
        waiting_on: waiting_on(tx, shared, row, &facts)?,
        base,
        mixed_base: rules.stable.is_mixed(base, &rules.regions),
        gates: rules.gates(shared.steady_now(), &facts),
        regions,
        unmet,
        joined: false,
        dry_run: false,
    })
}

/// Counts made after it went back do not say what failed: its own memory does.
fn recall_failures(rules: &Rules, tallies: &mut BTreeMap<RegionName, Tally>) {
    let succeeded = matches!(rules.state, RolloutState::Running | RolloutState::Succeeded);
    for (name, failures) in rules.failures.iter().filter(|_| !succeeded) {
        let tally = tallies.entry(name.clone()).or_default();
        if tally.failures.is_empty() {
            tally.failures.clone_from(failures);
        }
    }
}

fn waiting_on(
    tx: &Tx,
    shared: &Coordinator,
    row: &ReleaseRow,
    facts: &Facts,
) -> Result<String, DbError> {
    let rules = &row.rollout;
    if let Some(readiness) = readiness::of_pending(tx, shared, row)? {
        return Ok(match readiness {
            Readiness::Ready(_) => "it starts".into(),
            Readiness::Waiting(why) | Readiness::Never(why) => why,
        });
    }
    Ok(words::waiting_on(rules, shared.steady_now(), facts))
}

/// Counts under the rollout's own goal; a region that has not taken it yet shows
/// only how many hosts it has, and none that could be reached where it is silent.
pub(super) fn counts(rules: &Rules, facts: &Facts) -> BTreeMap<RegionName, Tally> {
    let covered = facts.regions.iter().filter(|(name, _)| rules.covers(name));
    let counts = covered.map(|(name, region)| {
        let speaks = rules.version.is_some_and(|version| region.speaks_of(version));
        let tally = if speaks {
            region.tally.clone()
        } else {
            let reachable = if region.silent { 0 } else { region.reachable };
            let unreachable = region.known.saturating_sub(reachable);
            Tally { hosts: region.known, unreachable, ..Tally::default() }
        };
        (name.clone(), tally)
    });
    counts.collect()
}
