//! A plan or a canary that came with a request, before anything is written: whether it fits
//! the fleet that there is. When the rollout begins, the rules look once more.

use crate::coordinator::admission::Stop;
use crate::coordinator::facts::Drawn;
use crate::coordinator::state::Coordinator;
use crate::coordinator::walk::Before;
use crate::coordinator::{facts, features, reached};
use crate::model::canary::Canary;
use crate::model::id::HostId;
use crate::model::plan::PlanFile;
use crate::rules::rollout::Rollout;
use crate::rules::rollout::named::most_of;
use crate::rules::rollout::plan::plan;
use crate::store::db::{Tx, envs};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::words::quoted;

/// Hosts that are named in a line to paste, in place of too many.
const NAMES_HINTED: usize = 4;

/// Whether both are the same plan, whatever they are called.
pub(super) fn are_same(a: Option<&PlanFile>, b: Option<&PlanFile>) -> bool {
    a.map(PlanFile::digest) == b.map(PlanFile::digest)
}

/// Whether `rollout`, which is not admitted yet, can go by the plan or begin with the canary
/// that came with it. Returns the fleet, if it was looked at.
///
/// # Errors
/// `not_found` for a region that nobody knows, `usage` when it does not fit the fleet,
/// `blocked` while a coordinator works that would drop it; [`Stop::Walk`].
pub(super) fn check(
    tx: &mut Tx,
    shared: &Coordinator,
    app: &AppSpec,
    rollout: &Rollout,
    before: &Before,
) -> Result<Option<Drawn>, Stop> {
    let (what, feature) = match (&rollout.plan_file, &rollout.canary) {
        (Some(file), _) => {
            reached::check_known(&facts::region_names(tx, shared)?, file.regions())?;
            (file.name().to_owned(), &features::PLAN_FILES)
        }
        (None, Some(canary)) => (format!("a canary of {}", canary.asked), &features::CANARIES),
        (None, None) => return Ok(None),
    };
    let drawn = facts::fleet(tx, shared, (app, rollout), envs::fresh(tx)?, before)?;
    plan(rollout.wish(), &drawn.fleet).map_err(|why| {
        let problem = Problem::new(Code::Usage, format!("{what} does not fit the fleet"));
        let most = most_of(drawn.fleet.all());
        match &rollout.canary {
            Some(canary) => fewer(problem.because(why), rollout, canary, most),
            None => problem.because(why).hint("deployctl help plan-file"),
        }
    })?;
    features::begin(tx, shared, feature)?;
    Ok(Some(drawn))
}

/// With the lines for a canary of too many hosts: some of them, and who they are.
fn fewer(problem: Problem, rollout: &Rollout, canary: &Canary, most: usize) -> Problem {
    let hosts: Vec<&str> = canary.hosts.values().flatten().map(HostId::as_str).collect();
    let problem = match most < hosts.len() && most <= NAMES_HINTED {
        true => problem.hint(format!("did you mean: --hosts {}", hosts[..most].join(","))),
        false => problem,
    };
    let (asked, app, env) = (quoted(&canary.asked), &rollout.app, &rollout.env);
    problem.hint(format!("deployctl hosts --hosts {asked} -a {app} -e {env}"))
}
