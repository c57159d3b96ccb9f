//! What a build needs of other apps in the env it is deployed to. A check before it begins,
//! never an orchestrator: nothing is deployed for it, and a way back needs nothing
//! [orchestration 6.9].

use crate::model::commit::CommitId;
use crate::model::id::{AppName, EnvName};
use crate::model::recipe::Requirement;
use crate::model::rollout::Stable;
use crate::rules::ancestry::History;
use crate::store::db::deployables::Deployable;
use crate::store::db::{DbError, Tx, ancestry, apps, envs, releases, requirements};
use crate::wire::problem::{Code, Problem};

/// Something that a build needs and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unmet {
    /// The other app.
    app: AppName,
    /// What of it is needed, and what is there: one line.
    why: String,
}

/// The first requirement of `build` that `env` does not meet.
///
/// # Errors
/// When the database fails.
pub(super) fn unmet(tx: &Tx, env: &EnvName, build: &Deployable) -> Result<Option<Unmet>, DbError> {
    for needed in requirements::of(tx, build.build)? {
        if let Some(why) = lacks(tx, env, &needed)? {
            return Ok(Some(Unmet { app: needed.app, why }));
        }
    }
    Ok(None)
}

/// Why `env` does not have what is needed; `None`: it has, in every region.
fn lacks(tx: &Tx, env: &EnvName, needed: &Requirement) -> Result<Option<String>, DbError> {
    let Requirement { app, min } = needed;
    let wanted = format!("it needs {app} at {} or later in {env}", min.short());
    if apps::find(tx, app)?.is_none() {
        return Ok(Some(format!("{wanted}; there is no app {app}")));
    }
    let stable = envs::find(tx, app, env)?.stable;
    let running = running(tx, (app, env), &stable)?;
    if running.is_empty() {
        return Ok(Some(format!("{wanted}; {app} does not run there yet")));
    }
    let history = History::new(ancestry::of(tx, app)?);
    let short = running.iter().find(|commit| !history.contains(commit, min));
    Ok(short.map(|commit| {
        if history.relation(commit, min).is_some() {
            return format!("{wanted}; {} runs, which does not contain it", commit.short());
        }
        format!("{wanted}; {} runs, and nobody knows whether it contains it", commit.short())
    }))
}

/// What runs of the app, in all regions.
fn running(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    stable: &Stable,
) -> Result<Vec<CommitId>, DbError> {
    let targets = stable.base.into_iter().chain(stable.region_base.values().copied());
    let mut commits = vec![];
    for target in targets {
        commits.extend(releases::find(tx, app, env, target.release)?.map(|row| row.commit));
    }
    Ok(commits)
}

impl Unmet {
    /// What a rollout waits for.
    pub(super) fn sentence(&self) -> String {
        self.why.clone()
    }

    /// The refusal of a deploy of `build` that does not wait.
    pub(super) fn refusal(&self, (app, env): (&AppName, &EnvName), build: &Deployable) -> Problem {
        let short = build.commit.short();
        let again = format!("deployctl deploy {short} -a {app} -e {env}");
        Problem::new(Code::Blocked, format!("{short} can't run in {env} yet"))
            .because(&self.why)
            .hint(format!("deployctl status {} -e {env}", self.app))
            .hint(format!("{again} --when-ready"))
            .hint(format!("{again} --allow-unmet"))
    }
}
