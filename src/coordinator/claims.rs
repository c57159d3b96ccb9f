//! The workers' calls: claim, beat, finish, release; and who works now.
//!
//! Waiting claims stand in one line. One task looks for due jobs on behalf of
//! all of them and gives out as many as there are in one transaction, so a new
//! job wakes one task, not every worker. Whoever wants several gets one like everybody
//! in line, then a second, and so on.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, oneshot};

use crate::coordinator::builds::{end_attempt, unknown};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::{Shared, wait_of};
use crate::coordinator::{artifact, logs, scale};
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{JobNo, WorkerId};
use crate::model::job::{Job, Outcome};
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;
use crate::net::auth::{Identity, random_seed};
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::rules::queue::{self, ATTEMPT_MAX, Fenced, Finished, Holder, Timing};
use crate::store::db::events::NewEvent;
use crate::store::db::{
    DbError, Topic, Tx, ancestry, artifacts, job_log, jobs, patches, replicas, requirements,
    workers,
};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::Workers;
use crate::wire::v1::worker::{
    Beat, BeatReply, Claim, ClaimRequest, Claims, ClaimsRequest, Finish, HandBack, Order,
};

/// Claims that wait at most; the line is longer than any installation needs.
const WAITING_MAX: usize = 4096;
/// Claims answered, jobs given out, and lapsed ones taken back in one transaction; the
/// writer's own batch.
const BATCH_MAX: usize = 256;
/// Jobs given at once to one that asks.
const WANT_MAX: u32 = 64;
/// The poll under every wake-up.
const POLL: Duration = Duration::from_secs(5);
/// The shortest pause between two looks that found nothing.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest name of a machine, bytes, and most slots.
const MACHINE_BYTES_MAX: usize = 128;
const SLOTS_MAX: u32 = 1024;
/// How long after its last call a worker is still listed.
const LISTED: Duration = Duration::from_secs(10 * 60);

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/worker/claims", Class::Worker, claim)
            .says("Wait for jobs; none when there were none in time")
            .takes("ClaimsRequest")
            .gives("Claims"),
        post("/v1/worker/claim", Class::Worker, claim_one)
            .says("Wait for a job, as older workers do; 204 when there was none in time")
            .takes("ClaimRequest")
            .gives("Claim"),
        post("/v1/worker/jobs/{build}/beat", Class::Worker, beat)
            .says("Renew the lease; the reply may order a cancel")
            .takes("Beat")
            .gives("BeatReply"),
        post("/v1/worker/jobs/{build}/log", Class::Worker, logs::append)
            .says("Add to the log; what was had already is dropped")
            .takes("LogChunk"),
        post("/v1/worker/jobs/{build}/finish", Class::Worker, finish)
            .says("End the attempt; the same again is no error")
            .takes("Finish"),
        post("/v1/worker/jobs/{build}/release", Class::Worker, release)
            .says("Hand the job back to the front of the queue, the attempt not counted")
            .takes("HandBack"),
        get("/v1/workers", Class::Read, list).says("List workers").gives("Workers"),
    ]
}

/// A worker in line.
pub(super) struct Waiter {
    by: Arc<workers::Seen>,
    want: usize,
    /// Whether it was recorded as seen.
    seen: bool,
    answer: oneshot::Sender<Vec<Claim>>,
}

/// The line's end where workers join it, and the end where [`give_out`] takes them.
pub(super) fn line() -> (mpsc::Sender<Waiter>, mpsc::Receiver<Waiter>) {
    mpsc::channel(WAITING_MAX)
}

async fn claim(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(request): Json<ClaimsRequest>,
) -> Result<Json<Claims>, Problem> {
    wait_in_line(&shared, who, request).await.map(|claims| Json(Claims { claims }))
}

async fn claim_one(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(request): Json<ClaimRequest>,
) -> Result<Response, Problem> {
    let ClaimRequest { worker, machine, slots, busy: _, wait_ms } = request;
    let request = ClaimsRequest { worker, machine, slots, want: 1, wait_ms };
    Ok(match wait_in_line(&shared, who, request).await?.pop() {
        Some(claim) => Json(claim).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn wait_in_line(
    shared: &Shared,
    who: Identity,
    request: ClaimsRequest,
) -> Result<Vec<Claim>, Problem> {
    let ClaimsRequest { worker, machine, slots, want, wait_ms } = request;
    let named = !machine.is_empty() && machine.len() <= MACHINE_BYTES_MAX;
    if !named || machine.chars().any(char::is_control) || slots > SLOTS_MAX || want == 0 {
        return Err(Problem::new(Code::Usage, "the claim is out of bounds")
            .because("machine: 1 to 128 bytes; slots: at most 1024; want: at least 1"));
    }
    let (answer, mut answered) = oneshot::channel();
    let by = Arc::new(workers::Seen { worker, machine, slots, token: who.token });
    let want = usize::try_from(want.min(WANT_MAX)).unwrap_or(1);
    shared
        .claims
        .try_send(Waiter { by, want, seen: false, answer })
        .map_err(|_| Problem::new(Code::Unavailable, "too many workers wait for jobs"))?;
    let wait = wait_of(wait_ms).max(Duration::from_millis(1));
    let answer = match tokio::time::timeout(wait, &mut answered).await {
        Ok(answer) => answer.ok(),
        // From here on nothing can be given; what was given just before counts.
        Err(_) => {
            answered.close();
            answered.try_recv().ok()
        }
    };
    Ok(answer.unwrap_or_default())
}

/// Gives due jobs to waiting workers, first come first served, until the stop.
pub(super) async fn give_out(shared: Shared, mut arrivals: mpsc::Receiver<Waiter>) {
    let mut line: VecDeque<Waiter> = VecDeque::new();
    let mut changes = shared.db.watch(Topic::Jobs);
    let mut stop = shared.stop.clone();
    loop {
        changes.borrow_and_update();
        line.retain(|waiter| !waiter.answer.is_closed());
        let pause = match serve(&shared, &mut line).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(%error, "jobs could not be given out");
                POLL
            }
        };
        tokio::select! {
            arrived = arrivals.recv() => {
                line.extend(arrived);
                while let Ok(next) = arrivals.try_recv() {
                    line.push_back(next);
                }
            }
            _ = changes.changed() => {}
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// One look for jobs; returns when the next is worth while without a wake-up.
async fn serve(shared: &Shared, line: &mut VecDeque<Waiter>) -> Result<Duration, DbError> {
    loop {
        if line.is_empty() {
            return Ok(POLL);
        }
        let now = shared.steady_now();
        let next = shared.db.read(move |tx| jobs::next_due(tx, now)).await?;
        let pause = next.map_or(POLL, |next| next.since(now).clamp(PAUSE_MIN, POLL));
        let due = next.is_some_and(|next| next <= now);
        if line.iter().all(|waiter| waiter.seen && !due) {
            return Ok(pause);
        }
        let batch: Vec<Waiter> = line.drain(..line.len().min(BATCH_MAX)).collect();
        let asked: Vec<_> = batch.iter().map(|waiter| (waiter.by.clone(), waiter.want)).collect();
        let timing = shared.timing();
        let claims = shared.db.write(move |tx| claim_all(tx, &asked, &timing, now)).await?;
        let given = claims.iter().any(|claims| !claims.is_empty());
        let mut rest = Vec::new();
        for (mut waiter, claims) in batch.into_iter().zip(claims) {
            waiter.seen = true;
            if claims.is_empty() {
                rest.push(waiter);
            } else {
                hand_over(shared, waiter, claims).await;
            }
        }
        rest.into_iter().rev().for_each(|waiter| line.push_front(waiter));
        if !given {
            return Ok(pause);
        }
    }
}

/// Answers a waiter with its jobs; one that went away gives them back.
async fn hand_over(shared: &Shared, waiter: Waiter, claims: Vec<Claim>) {
    let Err(claims) = waiter.answer.send(claims) else { return };
    let now = shared.steady_now();
    for Claim { build, attempt, .. } in claims {
        let by = waiter.by.clone();
        let holder =
            move |tx: &mut Tx| hand_back(tx, build, Holder { worker: &by.worker, attempt }, now);
        if let Err(problem) = shared.db.write(holder).await {
            tracing::warn!(%build, %problem, "a claim that nobody took could not be given back");
        }
    }
}

/// Gives due jobs to those who asked, like cards: what each got, in their order.
fn claim_all(
    tx: &mut Tx,
    asked: &[(Arc<workers::Seen>, usize)],
    timing: &Timing,
    now: UnixMillis,
) -> Result<Vec<Vec<Claim>>, DbError> {
    let seen: BTreeMap<&str, _> =
        asked.iter().map(|(by, _)| (by.worker.as_str(), by.as_ref())).collect();
    workers::seen(tx, &seen.into_values().collect::<Vec<_>>(), now)?;
    let most = asked.iter().map(|(_, want)| *want).max().unwrap_or(0);
    let each_round = |round| asked.iter().enumerate().filter(move |(_, (_, want))| *want > round);
    let turns = (0..most).flat_map(each_round).take(BATCH_MAX);
    let turns: Vec<(usize, &workers::Seen)> = turns.map(|(i, (by, _))| (i, &**by)).collect();
    let due = jobs::due(tx, now, turns.len())?;
    let mut given = Vec::with_capacity(due.len());
    for (row, (_, by)) in due.iter().zip(&turns) {
        let mut job = row.job.clone();
        queue::claim(&mut job, &by.worker, now, timing).map_err(|_| DbError::Raced("the job"))?;
        given.push((row, job, by.machine.as_str()));
    }
    begin(tx, &given, now)?;
    let mut apps = BTreeMap::new();
    let mut claims: Vec<Vec<Claim>> = asked.iter().map(|_| vec![]).collect();
    for ((row, job, _), (i, _)) in given.into_iter().zip(&turns) {
        let app = &row.asked.app;
        let entry = apps.entry(app);
        let (bases, neighbours) = match entry {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let of_app = due.iter().filter(|other| other.asked.app == *app);
                let last = of_app.map(|row| row.no).max().unwrap_or(row.no);
                new.insert((patches::bases(tx, app)?, ancestry::Neighbours::of(tx, app, last)?))
            }
        };
        let compare = neighbours.to_compare(tx, app, (row.no, &row.asked.commit))?;
        claims[*i].push(told(row, &job, timing, (bases, compare)));
    }
    Ok(claims)
}

/// Writes down that jobs run, on which machines.
fn begin(
    tx: &mut Tx,
    given: &[(&jobs::JobRow, Job, &str)],
    now: UnixMillis,
) -> Result<(), DbError> {
    if given.is_empty() {
        return Ok(());
    }
    let begun = given.iter().map(|(before, job, machine)| jobs::Begun { before, job, machine });
    jobs::begin(tx, &begun.collect::<Vec<_>>(), now)?;
    let mut events = Vec::with_capacity(given.len());
    for (row, job, machine) in given {
        let (no, app) = (row.no, &row.asked.app);
        if job.attempt > 1 {
            let line = format!("=== attempt {} on {machine} ===\n", job.attempt);
            job_log::append(tx, no, job.attempt, &line)?;
        }
        let message = format!("{no} of {app} runs on {machine}");
        events.push(NewEvent::new(now, "build.started", "deployctl", message).app(app).build(no));
    }
    tx.events(&events)?;
    tx.touch(Topic::Rollouts);
    Ok(())
}

/// A job as its worker is told of it.
fn told(
    row: &jobs::JobRow,
    job: &Job,
    timing: &Timing,
    (bases, compare): (&[ArtifactId], Vec<CommitId>),
) -> Claim {
    let asked = row.asked.clone();
    Claim {
        build: row.no,
        attempt: job.attempt,
        bases: bases.to_vec(),
        compare,
        app: asked.app,
        repo: asked.source.repo,
        trunk: asked.source.trunk,
        commit: asked.commit,
        allow_unmerged: asked.allow_unmerged,
        recipe: asked.source.recipe,
        beat_ms: u64::try_from(timing.beat.as_millis()).unwrap_or(u64::MAX),
        lease_ms: u64::try_from(timing.lease().as_millis()).unwrap_or(u64::MAX),
    }
}

async fn beat(
    State(shared): State<Shared>,
    Path(no): Path<JobNo>,
    Json(beat): Json<Beat>,
) -> Result<Json<BeatReply>, Problem> {
    let (now, timing) = (shared.steady_now(), shared.timing());
    let renew = move |tx: &mut Tx| {
        let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
        let mut job = row.job.clone();
        let holder = Holder { worker: &beat.worker, attempt: beat.attempt };
        let began = row.started_at.unwrap_or(now);
        let cancel = queue::beat(&mut job, holder, began, now, &timing);
        let cancel = cancel.map_err(|error| fenced(no, &error))?;
        jobs::update(tx, &row, &job, now)?;
        workers::beat(tx, &beat.worker, now)?;
        let order = if cancel { Order::Cancel } else { Order::Continue };
        Ok::<_, Problem>(BeatReply { order })
    };
    shared.db.write(renew).await.map(Json)
}

async fn release(
    State(shared): State<Shared>,
    Path(no): Path<JobNo>,
    Json(back): Json<HandBack>,
) -> Result<Json<()>, Problem> {
    let now = shared.steady_now();
    let write = move |tx: &mut Tx| {
        hand_back(tx, no, Holder { worker: &back.worker, attempt: back.attempt }, now)
    };
    shared.db.write(write).await.map(Json)
}

fn hand_back(tx: &mut Tx, no: JobNo, holder: Holder, now: UnixMillis) -> Result<(), Problem> {
    let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
    let mut job = row.job.clone();
    queue::release(&mut job, holder, now).map_err(|error| fenced(no, &error))?;
    Ok(end_attempt(tx, &row, &job, None, now)?)
}

async fn finish(
    State(shared): State<Shared>,
    Path(no): Path<JobNo>,
    Json(mut finish): Json<Finish>,
) -> Result<Json<()>, Problem> {
    let attempt = finish.attempt;
    if let Outcome::Failed { reason, .. } = &mut finish.outcome {
        reason.truncate(reason.floor_char_boundary(queue::REASON_BYTES_MAX));
    }
    let mut made = None;
    if let Outcome::Succeeded { artifact } = &finish.outcome {
        let look = move |tx: &Tx| {
            let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
            Ok::<_, Problem>((row, jobs::attempt(tx, no, attempt)?.and_then(|made| made.outcome)))
        };
        let (row, recorded) = shared.db.read(look).await?;
        if recorded.as_ref() == Some(&finish.outcome) {
            return Ok(Json(()));
        }
        queue::check_attempt(&row.job, attempt).map_err(|error| fenced(no, &error))?;
        made = Some(artifact::check(&shared, &row, *artifact).await?);
    }
    let (now, timing) = (shared.steady_now(), shared.timing());
    let regions: Vec<_> = shared.config.regions.keys().cloned().collect();
    let end = move |tx: &mut Tx| {
        if let Some(made) = &made {
            artifacts::insert(tx, made, now)?;
            replicas::expect(tx, &made.artifact, &regions)?;
            tx.touch(Topic::Feed);
        }
        end_by_worker(tx, no, &finish, (now, &timing))
    };
    shared.db.write(end).await.map(Json)
}

fn end_by_worker(
    tx: &mut Tx,
    no: JobNo,
    finish: &Finish,
    (now, timing): (UnixMillis, &Timing),
) -> Result<(), Problem> {
    let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
    let mut recorded = None;
    // An attempt that runs has no end yet.
    if queue::check_attempt(&row.job, finish.attempt).is_err() {
        recorded = jobs::attempt(tx, no, finish.attempt)?.and_then(|attempt| attempt.outcome);
    }
    let mut job = row.job.clone();
    let holder = Holder { worker: &finish.worker, attempt: finish.attempt };
    let mut rng = Rng::new(random_seed());
    let clock = (now, timing, &mut rng);
    let done = queue::finish(&mut job, holder, recorded.as_ref(), &finish.outcome, clock);
    if done.map_err(|error| fenced(no, &error))? != Finished::Repeated {
        end_attempt(tx, &row, &job, Some(&finish.outcome), now)?;
        let built = (no, &row.asked.commit);
        ancestry::record(tx, &row.asked.app, built, &finish.learnt.relatives)?;
        requirements::record(tx, no, &finish.learnt.requires)?;
    }
    Ok(())
}

async fn list(State(shared): State<Shared>) -> Result<Json<Workers>, Problem> {
    let since = shared.steady_now() - LISTED;
    let workers = shared.db.read(move |tx| workers::list(tx, since)).await?;
    Ok(Json(Workers { workers, queue: Some(scale::usual(&shared).await?) }))
}

/// The refusal of an attempt that does not hold its job.
pub(super) fn fenced(no: JobNo, error: &Fenced) -> Problem {
    Problem::new(Code::Fenced, format!("this attempt does not hold {no} any more")).because(error)
}

/// Takes jobs from workers that were not heard of; returns how many.
///
/// # Errors
/// When the database fails.
pub(super) fn take_back_lapsed(tx: &mut Tx, now: UnixMillis) -> Result<usize, DbError> {
    let lapsed = jobs::lapsed(tx, now, BATCH_MAX)?;
    for row in &lapsed {
        let mut job = row.job.clone();
        if queue::lapse(&mut job, now).is_none() {
            continue;
        }
        let lost = Outcome::Failed {
            class: crate::model::job::BuildFailure::LostWorker,
            reason: match row.started_at {
                Some(began) if began + ATTEMPT_MAX <= now => "the attempt never ended".into(),
                _ => "its worker was not heard of in time".into(),
            },
        };
        let worker = row.job.worker.as_ref().map_or("", WorkerId::as_str);
        tracing::warn!(build = %row.no, attempt = row.job.attempt, worker, "a worker was lost");
        end_attempt(tx, row, &job, Some(&lost), now)?;
    }
    Ok(lapsed.len())
}
