//! Refuses what would overwrite newer with older: by the repository's history, never by
//! times. Asked when a deploy is admitted, and again when one that waited begins
//! [orchestration 6.8].

use crate::coordinator::admission::Asked;
use crate::coordinator::readiness::{self, Readiness};
use crate::coordinator::state::Coordinator;
use crate::model::ancestry::Relation;
use crate::model::commit::CommitId;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::{OnConflict, Stable};
use crate::rules::ancestry::History;
use crate::store::db::deployables::Deployable;
use crate::store::db::envs::EnvRow;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, ancestry};
use crate::wire::problem::{Code, Problem};

/// A release that an env runs or moves to.
type Standing = (ReleaseNo, CommitId);

/// What was found out about a commit that may be deployed.
pub(super) struct Lineage {
    history: History,
}

/// Why a commit may not take the place of what stands.
enum Doubt {
    Older(Standing),
    Unknown(Standing),
}

/// Refuses a commit that is an ancestor of what runs or is on its way, and one of which
/// nobody knows, unless the request allows it. A build that is not done yet is asked
/// about again when the rollout begins.
///
/// # Errors
/// `blocked`, with the line that goes on.
pub(super) fn check(
    tx: &Tx,
    shared: &Coordinator,
    asked: &Asked,
    build: &Deployable,
    env: &EnvRow,
) -> Result<Lineage, Problem> {
    let (app, name, request) = (&asked.app, &asked.env, &asked.request);
    let history = History::new(ancestry::of(tx, app)?);
    let lineage = Lineage { history };
    if request.allow_older {
        return Ok(lineage);
    }
    let open = releases::open(tx, app, name)?;
    let standing = standing(tx, (app, name), (&env.stable, &request.regions), open.as_ref())?;
    let waits = matches!(readiness::of(tx, shared, build)?, Readiness::Waiting(_));
    let again = format!("deployctl deploy {} -a {app} -e {name}", build.commit.short());
    match lineage.doubt(&build.commit, standing) {
        Some(Doubt::Older((release, commit))) => {
            let title = format!("{} is older than {release} in {name}", build.commit.short());
            Err(Problem::new(Code::Blocked, title)
                .because(format!("{release} is {}, which contains it", commit.short()))
                .hint(format!("deployctl rollback {} -a {app} -e {name}", build.commit.short()))
                .hint(format!("{again} --allow-older")))
        }
        Some(Doubt::Unknown((release, commit))) if !waits => {
            let title = format!(
                "nobody knows whether {} is older than {release} in {name}",
                build.commit.short()
            );
            Err(Problem::new(Code::Blocked, title)
                .because(format!("no worker has compared it with {}", commit.short()))
                .hint(format!("{again} --allow-older"))
                .hint(format!(
                    "git merge-base --is-ancestor {commit} {} && echo newer",
                    build.commit
                )))
        }
        _ => Ok(lineage),
    }
}

/// Why a pending rollout whose build is there may not begin; `None`: it may.
///
/// # Errors
/// When the database fails.
pub(super) fn at_start(tx: &Tx, row: &ReleaseRow) -> Result<Option<String>, DbError> {
    let rollout = &row.rollout;
    if rollout.allow_older || row.is_rollback() {
        return Ok(None);
    }
    let lineage = Lineage { history: History::new(ancestry::of(tx, &rollout.app)?) };
    let place = (&rollout.app, &rollout.env);
    let standing = standing(tx, place, (&rollout.stable, &rollout.regions), None)?;
    Ok(lineage.doubt(&row.commit, standing).map(|doubt| match doubt {
        Doubt::Older((release, _)) => {
            format!("{} is older than {release}; --allow-older deploys it", row.commit.short())
        }
        Doubt::Unknown((release, _)) => format!(
            "nobody knows whether {} is older than {release}; --allow-older deploys it",
            row.commit.short()
        ),
    }))
}

/// What runs where the deploy reaches, and what is on its way.
fn standing(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    (stable, regions): (&Stable, &[crate::model::id::RegionName]),
    open: Option<&ReleaseRow>,
) -> Result<Vec<Standing>, DbError> {
    let everywhere = regions.is_empty();
    let named = regions.iter().filter_map(|region| stable.of(region));
    let all = stable.base.into_iter().chain(stable.region_base.values().copied());
    let targets: Vec<_> = if everywhere { all.collect() } else { named.collect() };
    let mut standing: Vec<Standing> = vec![];
    if let Some(open) = open {
        standing.push((open.rollout.release, open.commit.clone()));
    }
    for target in targets {
        if let Some(row) = releases::find(tx, app, env, target.release)? {
            standing.push((target.release, row.commit));
        }
    }
    Ok(standing)
}

impl Lineage {
    /// The gravest doubt about `commit`: that it is older weighs more than not knowing.
    fn doubt(&self, commit: &CommitId, standing: Vec<Standing>) -> Option<Doubt> {
        let mut unknown = None;
        for (release, other) in standing {
            match self.history.relation(commit, &other) {
                Some(Relation::Ancestor) => return Some(Doubt::Older((release, other))),
                None if *commit != other => unknown = unknown.or(Some((release, other))),
                _ => {}
            }
        }
        unknown.map(Doubt::Unknown)
    }

    /// Refuses to take the place of an open rollout that is not the same or older work,
    /// unless the request says so.
    ///
    /// # Errors
    /// `conflict`, with the lines that go on.
    pub(super) fn check_conflict(
        &self,
        asked: &Asked,
        open: &ReleaseRow,
        build: &Deployable,
    ) -> Result<(), Problem> {
        let relation = self.history.relation(&build.commit, &open.commit);
        let newer = build.commit == open.commit || relation == Some(Relation::Descendant);
        match asked.request.on_conflict {
            Some(OnConflict::Supersede) => return Ok(()),
            None if newer || asked.request.allow_older => return Ok(()),
            _ => {}
        }
        let (app, env, release) = (&asked.app, &asked.env, open.rollout.release);
        let again = format!("deployctl deploy {} -a {app} -e {env}", build.commit.short());
        let why = match asked.request.on_conflict {
            Some(_) => "the request is not to take its place".to_owned(),
            None if relation.is_none() => format!(
                "nobody has compared {} with its commit {} yet",
                build.commit.short(),
                open.commit.short()
            ),
            None => format!(
                "{} does not contain its commit {}",
                build.commit.short(),
                open.commit.short()
            ),
        };
        Err(Problem::new(Code::Conflict, format!("{release} is open in {env}"))
            .because(why)
            .hint(format!("{again} --on-conflict supersede"))
            .hint(format!("{again} --on-conflict wait"))
            .hint(format!("deployctl watch {release} -a {app} -e {env}")))
    }
}
