//! A rollback, before it takes its place: to which release it goes, whether it may, and what
//! it says of the release that it leaves.

use super::{Admitted, Desk, Load, Stop, at_goal, place, root};
use crate::coordinator::refs::{self, Named, resolve};
use crate::coordinator::{holds, readiness};
use crate::model::config::Bits;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, deployables};
use crate::wire::problem::{Code, Problem};

pub(super) fn rollback(tx: &mut Tx, desk: &Desk<'_>) -> Result<Admitted, Stop> {
    let (app, env, request) = (&desk.app, &desk.asked.env, &desk.asked.request);
    let leaving = desk.env.goal_release.ok_or_else(|| refs::never(app, env))?;
    let leaving = releases::find(tx, &app.name, env, leaving)?
        .ok_or(DbError::Missing("the release of a goal"))?;
    let target = if request.target.is_empty() {
        if let Some(same) = repeated(desk) {
            return Ok(Admitted::Joined(Box::new(same)));
        }
        refs::known_good_before(tx, app, env, &leaving)
            .map_err(|none| refs::or_cancel(none, desk.open.as_ref()))?
    } else {
        deployed(tx, desk, resolve(tx, app, env, &request.target)?)?
    };
    let artifact = target.artifact.ok_or_else(|| {
        let release = target.rollout.release;
        Problem::new(Code::NotDeployable, format!("{release} has no build to go back to"))
    })?;
    if target.bad && !request.allow_bad {
        let release = target.rollout.release;
        return Err(Problem::new(Code::Blocked, format!("{release} was marked bad in {env}"))
            .hint(format!(
                "deployctl rollback {release} -a {} -e {env} --allow-bad -m WHY",
                app.name
            ))
            .into());
    }
    let build = deployables::find(tx, &app.name, target.build)?
        .ok_or(DbError::Missing("a release's build"))?;
    if build.collected {
        return Err(readiness::collected((&app.name, env), &build).into());
    }
    let config = target.rollout.config;
    let bits = Bits { artifact, config };
    let load = Load { artifact: Some(artifact), ..Load::new(build, Some(root(&target)), config) };
    match &desk.open {
        Some(open) if is_same_rollback(open, desk, bits) => {
            return Ok(Admitted::Joined(Box::new(open.clone())));
        }
        None => {
            if let Some(row) = at_goal(tx, desk, Some(bits))? {
                return Ok(Admitted::Joined(Box::new(row)));
            }
        }
        Some(_) => {}
    }
    // Going back says that what is left was bad; going forward again says nothing.
    if let Some(left) = leaving.bits()
        && request.regions.is_empty()
        && left != bits
        && root(&target) < root(&leaving)
    {
        releases::mark(tx, (&app.name, env), &left, true)?;
    }
    let scope = (&app.name, env, &request.regions[..]);
    let left = leaving.bits().filter(|left| *left != bits);
    holds::make_way(tx, desk.shared, scope, (left, request.unpin), &desk.asked.actor)?;
    let tolerate = match request.regions.is_empty() {
        true => vec![],
        false => leaving.bits().into_iter().collect(),
    };
    place(tx, desk, load, tolerate)
}

/// A rollback that was asked for again while it is under way: the same one. Only
/// after it ended does another go further back.
fn repeated(desk: &Desk<'_>) -> Option<ReleaseRow> {
    let open = desk.open.as_ref()?;
    let same = open.is_rollback() && open.rollout.regions == desk.asked.request.regions;
    same.then(|| open.clone())
}

fn is_same_rollback(open: &ReleaseRow, desk: &Desk<'_>, bits: Bits) -> bool {
    open.is_rollback()
        && open.bits() == Some(bits)
        && open.rollout.regions == desk.asked.request.regions
}

/// The release that a rollback's target names: only what was deployed there.
fn deployed(tx: &Tx, desk: &Desk<'_>, named: Named) -> Result<ReleaseRow, Stop> {
    let env = &desk.asked.env;
    let build = match named {
        Named::Release(row) if row.rollout.env == *env => return Ok(*row),
        Named::Release(row) => row.build,
        Named::Build(build) => build.build,
    };
    let rows = releases::list(tx, &desk.app.name, env, None, 500)?;
    rows.into_iter().find(|row| row.build == build && row.rollout.version.is_some()).ok_or_else(
        || {
            Problem::new(Code::NotFound, format!("{build} was never deployed to {env}"))
                .because("a rollback goes to a release that the env has run")
                .hint(format!("deployctl deploy {build} -a {} -e {env}", desk.app.name))
                .into()
        },
    )
}
