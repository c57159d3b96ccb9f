//! Whether a build may be deployed now, and what it lacks.

use crate::coordinator::bars;
use crate::coordinator::requirements::{self, Unmet};
use crate::coordinator::state::Coordinator;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, EnvName};
use crate::model::job::JobState;
use crate::model::replication::ReplicationStatus;
use crate::model::rollout::RolloutState;
use crate::rules::rollout::Rollout;
use crate::store::db::deployables::{self, Deployable};
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, replicas};
use crate::wire::problem::{Code, Problem};

/// Where a build stands on its way to being deployable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Every region holds it.
    Ready(ArtifactId),
    /// It may be ready later; what is missing.
    Waiting(String),
    /// It will never be; why.
    Never(String),
}

/// Looks at a build.
pub(super) fn of(tx: &Tx, shared: &Coordinator, build: &Deployable) -> Result<Readiness, DbError> {
    let no = build.build;
    if build.collected {
        return Ok(Readiness::Never(why_collected(build)));
    }
    Ok(match (build.state, build.artifact) {
        (JobState::Failed, _) => Readiness::Never(format!("{no} failed: {}", build.failure)),
        (JobState::Queued, _) => Readiness::Waiting(format!("{no} is queued")),
        (JobState::Running, _) | (JobState::Succeeded, None) => {
            Readiness::Waiting(format!("{no} is being built"))
        }
        (JobState::Succeeded, Some(artifact)) if build.replication.is_deployable() => {
            Readiness::Ready(artifact)
        }
        (JobState::Succeeded, Some(artifact)) => {
            Readiness::Waiting(replication(tx, shared, build, &artifact)?)
        }
    })
}

/// What a pending rollout needs of other apps and lacks, when that is all that its build
/// waits for.
pub(super) fn unmet(
    tx: &Tx,
    shared: &Coordinator,
    rollout: &Rollout,
) -> Result<Option<Unmet>, DbError> {
    if rollout.state != RolloutState::Pending {
        return Ok(None);
    }
    let Some(row) = releases::find(tx, &rollout.app, &rollout.env, rollout.release)? else {
        return Ok(None);
    };
    let Some(build) = deployables::find(tx, &rollout.app, row.build)? else { return Ok(None) };
    match of(tx, shared, &build)? {
        Readiness::Ready(_) => requirements::unmet(tx, &rollout.env, &build, rollout.allow_unmet),
        _ => Ok(None),
    }
}

/// What a pending rollout lacks, a freeze, a hold, an approval or another app included; `None` when it is not pending.
pub(super) fn of_pending(
    tx: &Tx,
    shared: &Coordinator,
    row: &ReleaseRow,
) -> Result<Option<Readiness>, DbError> {
    let rules = &row.rollout;
    if rules.state != RolloutState::Pending {
        return Ok(None);
    }
    let Some(build) = deployables::find(tx, &rules.app, row.build)? else { return Ok(None) };
    let readiness = of(tx, shared, &build)?;
    let barred = bars::stopping(tx, (&rules.app, &rules.env), shared.steady_now())?;
    Ok(Some(match (readiness, barred) {
        (Readiness::Ready(_), Some(bar)) if !rules.through_freeze => {
            Readiness::Waiting(bar.sentence())
        }
        (Readiness::Ready(_), _) if rules.lacks_approvals() > 0 => {
            Readiness::Waiting(approval(row))
        }
        (Readiness::Ready(artifact), _) => {
            match requirements::unmet(tx, &rules.env, &build, rules.allow_unmet)? {
                Some(unmet) => Readiness::Waiting(unmet.sentence()),
                None => Readiness::Ready(artifact),
            }
        }
        (readiness, _) => readiness,
    }))
}

/// "1 more approval, by somebody else than ann: deployctl approve r412 -a web -e prod".
fn approval(row: &ReleaseRow) -> String {
    let rules = &row.rollout;
    let (lacks, given) = (rules.lacks_approvals(), !rules.approved.is_empty());
    let noun = if lacks == 1 { "approval" } else { "approvals" };
    let more = if given { " more" } else { "" };
    format!(
        "{lacks}{more} {noun}, by somebody else than {}: deployctl approve {} -a {} -e {}",
        row.actor, rules.release, rules.app, rules.env
    )
}

/// "replicated to 1 of 2 regions; eu is at 61%".
fn replication(
    tx: &Tx,
    shared: &Coordinator,
    build: &Deployable,
    artifact: &ArtifactId,
) -> Result<String, DbError> {
    let copies = replicas::of_artifact(tx, artifact)?;
    let mut lacking = Vec::new();
    for region in shared.config.regions.keys() {
        let copy = copies.iter().find(|copy| copy.region == *region);
        let status = copy.map_or(ReplicationStatus::Pending, |copy| copy.status);
        if status == ReplicationStatus::Complete {
            continue;
        }
        let bytes = copy.map_or(0, |copy| copy.claim.bytes);
        let percent = (bytes.saturating_mul(100)).checked_div(build.wire_size).unwrap_or(0);
        let error = copy.map_or("", |copy| copy.error.as_str());
        let claimed = copy.is_some_and(|copy| copy.claim.complete);
        lacking.push(match (status, claimed) {
            _ if !error.is_empty() => format!("{region} is at {percent}% ({error})"),
            (ReplicationStatus::Lost, _) => format!("{region} lost it and fetches it again"),
            (_, true) => format!("{region} has it and is being checked"),
            _ => format!("{region} is at {}%", percent.min(99)),
        });
    }
    let all = shared.config.regions.len();
    let done = all - lacking.len();
    if lacking.is_empty() {
        return Ok("every region has it; it is being checked".into());
    }
    Ok(format!("replicated to {done} of {all} regions; {}", lacking.join(", ")))
}

fn why_collected(build: &Deployable) -> String {
    format!("what {} made was collected: no goal and no recent release needed it", build.build)
}

/// The refusal of a build whose artifact was collected, wherever it is to run.
pub(super) fn collected((app, env): (&AppName, &EnvName), build: &Deployable) -> Problem {
    let (commit, short) = (&build.commit, build.commit.short());
    Problem::new(Code::NotDeployable, format!("{short} must be built again"))
        .because(why_collected(build))
        .hint(format!("deployctl build {commit} -a {app}"))
        .hint(format!("deployctl deploy {short} -a {app} -e {env} --when-ready"))
}

/// The refusal of a build that can't be deployed now.
pub(super) fn refusal(
    (app, env): (&AppName, &EnvName),
    build: &Deployable,
    readiness: &Readiness,
) -> Problem {
    let (commit, no) = (&build.commit, build.build);
    let short = commit.short();
    match readiness {
        _ if build.collected => collected((app, env), build),
        Readiness::Never(why) => {
            Problem::new(Code::NotDeployable, format!("{short} cannot be deployed"))
                .because(why)
                .hint(format!("deployctl logs {no}"))
                .hint(format!("deployctl build {commit} -a {app}"))
        }
        Readiness::Waiting(why) => {
            Problem::new(Code::NotDeployable, format!("{short} cannot be deployed yet"))
                .because(why)
                .hint(format!("deployctl deploy {short} -a {app} -e {env} --when-ready"))
        }
        Readiness::Ready(_) => Problem::new(Code::Internal, "a ready build was refused"),
    }
}
