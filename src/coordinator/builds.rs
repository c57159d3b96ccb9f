//! Builds: asked for, looked at, cancelled, tried again.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::once::{Key, made_before};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{apps, attempts, logs};
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, JobNo, RegionName};
use crate::model::job::JobState;
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::net::auth::Identity;
use crate::net::server::{Json, Params, Path};
use crate::rules::authorize::{Class, may};
use crate::rules::queue::{self, Canceled};
use crate::store::blobs::{self, BlobError, Kind};
use crate::store::db::events::NewEvent;
use crate::store::db::jobs::{self, Filter, JobRow, NewJob, Source};
use crate::store::db::replicas::{self, Replica};
use crate::store::db::{DbError, Topic, Tx, artifacts, collected};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::build::{Build, BuildFailed, BuildRequest, Builds, Replication};

/// Most jobs that wait; past it something else is wrong.
const QUEUED_MAX: i64 = 10_000;
/// Longest subject that is kept, bytes.
const SUBJECT_BYTES_MAX: usize = 200;
/// How long the main store may take to say whether it has what was built before.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Default and largest page of a list.
const LIMIT: (u32, u32) = (50, 500);

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/apps/{app}/builds", Class::Build, create)
            .says("Ask for a build; the same app, commit and recipe yields the same job")
            .takes("BuildRequest")
            .gives("Build"),
        get("/v1/builds", Class::Read, list).says("List builds, newest first").gives("Builds"),
        get("/v1/builds/{build}", Class::Read, show).says("Show a build").gives("Build"),
        get("/v1/builds/{build}/log", Class::Read, logs::show)
            .says("Read a build's log from a byte on, waiting for more")
            .gives("BuildLog"),
        post("/v1/builds/{build}/cancel", Class::Build, cancel)
            .says("End a build; one that ended already is shown as it is")
            .gives("Build"),
        post("/v1/builds/{build}/retry", Class::Build, retry)
            .says("Queue a failed build again")
            .gives("Build"),
        post("/v1/builds/{build}/requeue", Class::Manage, requeue)
            .says("Take a running build from a worker that is lost: it waits again, at the front")
            .gives("Build"),
    ]
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(app): Path<AppName>,
    Json(request): Json<BuildRequest>,
) -> Result<Json<Build>, Problem> {
    if request.allow_unmerged && !may(who.role, Class::Manage) {
        return Err(Problem::new(Code::Forbidden, "only an admin may build off the trunk")
            .because("the request says allow_unmerged")
            .hint("merge the commit first, then: deployctl build"));
    }
    let (timing, now) = (shared.timing(), shared.steady_now());
    let regions: Vec<_> = shared.config.regions.keys().cloned().collect();
    let asked = move |tx: &Tx| asked(tx, &app, &request, &who.name);
    let made = shared.db.read({
        let asked = asked.clone();
        move |tx| {
            Ok::<_, Problem>(jobs::find_same(tx, &asked(tx)?)?.and_then(|same| same.job.artifact))
        }
    });
    let lost = lost(&shared, made.await?).await;
    let queue = move |tx: &mut Tx| {
        let asked = asked(tx)?;
        if let Some(same) = find_same(tx, &asked, &regions, lost, now)? {
            if asked.allow_unmerged && same.job.state == JobState::Queued {
                jobs::allow_unmerged(tx, same.no)?;
            }
            return view(tx, same.no);
        }
        if jobs::queued(tx)? >= QUEUED_MAX {
            return Err(Problem::new(Code::Unavailable, "the build queue is full")
                .because(format!("{QUEUED_MAX} jobs wait already")));
        }
        let no = jobs::insert(tx, &asked, &queue::queue(now, &timing), now)?;
        let (actor, commit) = (&asked.actor, asked.commit.short());
        let message = format!("{actor} queued {no}: {} at {commit}", asked.app);
        tx.event(&NewEvent::new(now, "build.queued", actor, message).app(&asked.app).build(no))?;
        tx.touch(Topic::Jobs);
        view(tx, no)
    };
    shared.db.write(queue).await.map(Json)
}

/// The job that a request asks for.
fn asked(tx: &Tx, app: &AppName, request: &BuildRequest, who: &str) -> Result<NewJob, Problem> {
    let app = crate::store::db::apps::find(tx, app)?.ok_or_else(|| apps::unknown(app))?.spec;
    Ok(NewJob {
        app: app.name,
        commit: request.commit.clone(),
        subject: one_line(&request.subject),
        actor: who.to_owned(),
        allow_unmerged: request.allow_unmerged,
        source: Source { repo: app.repo, trunk: app.trunk, recipe: app.recipe },
    })
}

/// The artifact, if the main store does not have it any more. One that does not answer in time
/// has lost nothing.
async fn lost(shared: &Shared, made: Option<ArtifactId>) -> Option<ArtifactId> {
    let artifact = made?;
    let row = shared.db.read(move |tx| artifacts::find(tx, artifact)).await.ok()??;
    let size = |kind| shared.blobs.head(blobs::Key::new(kind, artifact));
    let look = async {
        let (manifest, signature, pack) =
            tokio::try_join!(size(Kind::Manifest), size(Kind::Signature), size(Kind::Pack))?;
        let whole = manifest.is_some() && signature.is_some() && pack == Some(row.wire_size);
        Ok::<_, BlobError>(!whole)
    };
    let lost = tokio::time::timeout(LOOK_TIMEOUT, look).await;
    (matches!(lost, Ok(Ok(true)))).then_some(artifact)
}

/// The job that does the same as `asked`. What one made that was collected comes back if it
/// is there still, else another job may do it again, as it may when the main store `lost` it.
fn find_same(
    tx: &mut Tx,
    asked: &NewJob,
    regions: &[RegionName],
    lost: Option<ArtifactId>,
    now: UnixMillis,
) -> Result<Option<JobRow>, DbError> {
    let Some(same) = jobs::find_same(tx, asked)? else { return Ok(None) };
    let Some(artifact) = same.job.artifact.filter(|_| same.job.state == JobState::Succeeded) else {
        return Ok(Some(same));
    };
    if artifacts::find(tx, artifact)?.is_some() {
        if lost != Some(artifact) {
            return Ok(Some(same));
        }
        let (no, app) = (same.no, &asked.app);
        let message = format!("the main store lost what {no} of {app} made: it is built again");
        tx.event(&NewEvent::new(now, "build.lost", &asked.actor, message).app(app).build(no))?;
    }
    if collected::revive(tx, &artifact, regions, now)? {
        let (no, app) = (same.no, &asked.app);
        let message = format!("{} brought {no} of {app} back from what was collected", asked.actor);
        let event = NewEvent::new(now, "build.revived", &asked.actor, message);
        tx.event(&event.app(app).build(no))?;
        return Ok(Some(same));
    }
    jobs::set_aside(tx, same.no)?;
    Ok(None)
}

#[derive(Deserialize)]
struct Query {
    app: Option<AppName>,
    commit: Option<String>,
    state: Option<JobState>,
    before: Option<JobNo>,
    limit: Option<u32>,
}

async fn list(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<Builds>, Problem> {
    if let Some(prefix) = &query.commit {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !(4..=64).contains(&prefix.len()) || !prefix.bytes().all(hex) {
            return Err(Problem::new(Code::Usage, "commit: 4 to 64 lower-case hexadecimal digits"));
        }
    }
    let Query { app, commit, state, before, limit } = query;
    let limit = limit.unwrap_or(LIMIT.0).clamp(1, LIMIT.1);
    let filter = Filter { app, commit, state, before, ..Filter::default() };
    let list = move |tx: &Tx| {
        if let Some(app) = &filter.app {
            crate::store::db::apps::find(tx, app)?.ok_or_else(|| apps::unknown(app))?;
        }
        let rows = jobs::list(tx, &filter, limit)?;
        let builds = rows.iter().map(|row| Ok(build(tx, row)?));
        Ok::<_, Problem>(Builds { builds: builds.collect::<Result<_, Problem>>()? })
    };
    shared.db.read(list).await.map(Json)
}

async fn show(State(shared): State<Shared>, Path(no): Path<JobNo>) -> Result<Json<Build>, Problem> {
    shared.db.read(move |tx| view(tx, no)).await.map(Json)
}

async fn cancel(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(no): Path<JobNo>,
) -> Result<Json<Build>, Problem> {
    let now = shared.steady_now();
    let cancel = move |tx: &mut Tx| {
        let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
        let mut job = row.job.clone();
        let done = queue::cancel(&mut job, &who.name);
        let (kind, what) = match done {
            Canceled::TooLate => return view(tx, no),
            Canceled::AtOnce => ("build.canceled", "canceled"),
            Canceled::Asked if row.job.cancel_requested => return view(tx, no),
            Canceled::Asked => ("build.canceling", "asked to cancel"),
        };
        jobs::update(tx, &row, &job, now)?;
        let message = format!("{} {what} {no} of {}", who.name, row.asked.app);
        tx.event(&NewEvent::new(now, kind, who.name, message).app(&row.asked.app).build(no))?;
        tx.touch(Topic::Jobs);
        tx.touch(Topic::Logs);
        tx.touch(Topic::Rollouts);
        view(tx, no)
    };
    shared.db.write(cancel).await.map(Json)
}

async fn retry(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(no): Path<JobNo>,
    key: Key,
) -> Result<Json<Build>, Problem> {
    let (timing, now) = (shared.timing(), shared.steady_now());
    let regions: Vec<_> = shared.config.regions.keys().cloned().collect();
    let retry = move |tx: &mut Tx| {
        if made_before(tx, &who.name, &key, &format!("retry {no}"), now)? {
            return view(tx, no);
        }
        let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
        let mut job = row.job.clone();
        queue::retry(&mut job, now, &timing).map_err(|_| {
            let state = row.job.state.word();
            Problem::new(Code::Conflict, format!("{no} has not failed"))
                .because(format!("it is {state}"))
        })?;
        if let Some(other) = find_same(tx, &row.asked, &regions, None, now)? {
            return Err(Problem::new(Code::Conflict, "another build does the same already")
                .because(format!("{} is {}", other.no, other.job.state.word()))
                .hint(format!("deployctl builds -a {}", row.asked.app)));
        }
        jobs::update(tx, &row, &job, now)?;
        let message = format!("{} queued {no} of {} again", who.name, row.asked.app);
        tx.event(
            &NewEvent::new(now, "build.retried", who.name, message).app(&row.asked.app).build(no),
        )?;
        tx.touch(Topic::Jobs);
        view(tx, no)
    };
    shared.db.write(retry).await.map(Json)
}

async fn requeue(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(no): Path<JobNo>,
    key: Key,
) -> Result<Json<Build>, Problem> {
    let now = shared.steady_now();
    let requeue = move |tx: &mut Tx| {
        if made_before(tx, &who.name, &key, &format!("requeue {no}"), now)? {
            return view(tx, no);
        }
        let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
        let mut job = row.job.clone();
        queue::take_back(&mut job, now).map_err(|_| {
            Problem::new(Code::Conflict, format!("{no} is not running"))
                .because(format!("it is {}", row.job.state.word()))
                .hint(match row.job.state {
                    JobState::Failed => format!("deployctl retry {no}"),
                    _ => format!("deployctl why {no}"),
                })
        })?;
        attempts::taken_back(tx, (&row, &job), &who.name, now)?;
        view(tx, no)
    };
    shared.db.write(requeue).await.map(Json)
}

/// The refusal of a build that does not exist.
pub(super) fn unknown(no: JobNo) -> Problem {
    Problem::new(Code::NotFound, format!("there is no build {no}")).hint("deployctl builds")
}

/// The build `no` as people see it.
///
/// # Errors
/// `not_found`, or when the database fails.
pub(super) fn view(tx: &Tx, no: JobNo) -> Result<Build, Problem> {
    let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
    Ok(build(tx, &row)?)
}

/// A job as people see it.
///
/// # Errors
/// When the database fails.
pub(super) fn build(tx: &Tx, row: &JobRow) -> Result<Build, DbError> {
    let JobRow { no, asked, job, .. } = row;
    let queued = job.state == JobState::Queued;
    let artifact = match job.artifact {
        Some(artifact) => artifacts::find(tx, artifact)?,
        None => None,
    };
    let replicas = match &artifact {
        Some(row) => replicas::of_artifact(tx, &row.artifact)?,
        None => vec![],
    };
    let replication = Replication {
        status: artifact.as_ref().map_or(ReplicationStatus::Pending, |row| row.replication),
        regions: replicas.into_iter().map(Replica::view).collect(),
    };
    let collected = job.state == JobState::Succeeded && artifact.is_none();
    let deployable =
        job.state == JobState::Succeeded && replication.status == ReplicationStatus::Complete;
    Ok(Build {
        build: *no,
        app: asked.app.clone(),
        commit: asked.commit.clone(),
        subject: asked.subject.clone(),
        state: job.state,
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        queue_position: if queued { Some(jobs::ahead_of(tx, *no)?) } else { None },
        worker: jobs::attempt(tx, *no, job.attempt)?.map(|attempt| attempt.machine),
        actor: asked.actor.clone(),
        queued_at: row.queued_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        failure: job.failure.clone().map(|(class, reason)| BuildFailed { class, reason }),
        artifact: artifact.map(|row| row.view()),
        replication,
        deployable,
        collected,
    })
}

fn one_line(text: &str) -> String {
    let line = crate::rules::log::plain("", text.lines().next().unwrap_or_default()).0;
    let line = line.trim();
    line[..line.floor_char_boundary(SUBJECT_BYTES_MAX)].to_owned()
}
