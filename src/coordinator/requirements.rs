//! What a build needs of other apps in the env it is deployed to. A check before it begins,
//! never an orchestrator: nothing is deployed for it, and a way back needs nothing
//! [orchestration 6.9].

use crate::model::commit::CommitId;
use crate::model::id::{AppName, EnvName, JobNo};
use crate::model::recipe::Requirement;
use crate::model::rollout::Stable;
use crate::model::time::UnixMillis;
use crate::rules::ancestry::History;
use crate::store::db::deployables::Deployable;
use crate::store::db::events::NewEvent;
use crate::store::db::{DbError, Tx, ancestry, apps, envs, releases, requirements};
use crate::wire::problem::{Code, Problem};

/// Something that a build needs and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unmet {
    /// What of which app is needed, and what is there: one line.
    why: String,
    /// What to type about it.
    remedy: String,
    /// Whether waiting may help.
    pub(super) may_come: bool,
}

/// The first requirement of `build` that `env` does not meet, in every region; `None`, too,
/// where nobody cares (`allow_unmet`).
///
/// # Errors
/// When the database fails.
pub(super) fn unmet(
    tx: &Tx,
    env: &EnvName,
    build: &Deployable,
    allow_unmet: bool,
) -> Result<Option<Unmet>, DbError> {
    if allow_unmet {
        return Ok(None);
    }
    for needed in requirements::of(tx, build.build)? {
        let unmet = lacks(tx, env, &needed)?;
        if unmet.is_some() {
            return Ok(unmet);
        }
    }
    Ok(None)
}

/// All that `build` needs and `env` does not have, a line each: for whoever goes on nevertheless.
///
/// # Errors
/// When the database fails.
pub(super) fn lacking(tx: &Tx, env: &EnvName, build: JobNo) -> Result<Vec<String>, DbError> {
    let mut lines = vec![];
    for needed in requirements::of(tx, build)? {
        lines.extend(lacks(tx, env, &needed)?.map(|unmet| unmet.why));
    }
    Ok(lines)
}

/// Everybody is told when `actor` deploys `build` although something is lacking.
///
/// # Errors
/// When the database fails.
pub(super) fn tell_broken(
    tx: &mut Tx,
    (now, actor): (UnixMillis, &str),
    (app, env): (&AppName, &EnvName),
    build: &Deployable,
) -> Result<(), DbError> {
    let lacking = lacking(tx, env, build.build)?;
    if lacking.is_empty() {
        return Ok(());
    }
    let message =
        format!("{actor} deploys {} although {}", build.commit.short(), lacking.join("; "));
    tx.event(&NewEvent::new(now, "requirement.broken", actor, message).app(app).env(env))
}

fn lacks(tx: &Tx, env: &EnvName, needed: &Requirement) -> Result<Option<Unmet>, DbError> {
    let Requirement { app, min } = needed;
    let unmet = |there: String, remedy: String| Unmet {
        why: format!("it needs {app} at {} or later in {env}; {there}", min.short()),
        remedy,
        may_come: true,
    };
    let status = format!("deployctl status {app} -e {env}");
    if apps::find(tx, app)?.is_none() {
        let unmet = unmet(format!("there is no app {app}"), "deployctl apps list".into());
        return Ok(Some(Unmet { may_come: false, ..unmet }));
    }
    let stable = envs::find(tx, app, env)?.stable;
    let running = running(tx, (app, env), &stable)?;
    if running.is_empty() {
        return Ok(Some(unmet(format!("{app} does not run there yet"), status)));
    }
    let history = History::new(ancestry::of(tx, app)?);
    let Some(short) = running.iter().find(|commit| !history.contains(commit, min)) else {
        return Ok(None);
    };
    Ok(Some(if history.relation(short, min).is_some() {
        unmet(format!("{} runs, which does not contain it", short.short()), status)
    } else {
        // The worker that builds the next commit of that app compares it.
        let short = short.short();
        let there =
            format!("{short} runs, which nobody compared with it: build and deploy a newer one");
        unmet(there, status)
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
            .hint(&self.remedy)
            .hint(format!("{again} --when-ready"))
            .hint(format!("{again} --allow-unmet"))
    }
}
