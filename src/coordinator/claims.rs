//! The workers' call for jobs, and who works now.
//!
//! Waiting claims stand in one line. One task looks for due jobs on behalf of
//! all of them and gives out as many as there are in one transaction, so a new
//! job wakes one task, not every worker. Whoever wants several gets one like everybody
//! in line, then a second, and so on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, oneshot};

use crate::coordinator::attempts::{Said, say};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::{Shared, wait_of};
use crate::coordinator::{drains, logs, scale};
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::AppName;
use crate::model::job::Job;
use crate::model::time::UnixMillis;
use crate::net::auth::Identity;
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::rules::queue::{self, Timing};
use crate::store::db::ancestry::Recent;
use crate::store::db::events::NewEvent;
use crate::store::db::{
    self as store, DbError, Topic, Tx, ancestry, collected, job_log, jobs, patches, workers,
};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::Workers;
use crate::wire::v1::worker::{Claim, ClaimRequest, Claims, ClaimsRequest, Word};

/// Claims that wait at most; the line is longer than any installation needs.
const WAITING_MAX: usize = 4096;
/// Claims answered and jobs given out in one transaction; the writer's own batch.
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
        post("/v1/worker/jobs/{build}/log", Class::Worker, logs::append)
            .says("Add to the log; what was had already is dropped")
            .takes("LogChunk"),
        get("/v1/workers", Class::Read, list).says("List workers").gives("Workers"),
        post("/v1/workers/{name}/drain", Class::Manage, drains::drain)
            .says("Give a worker, or all of a machine, nothing new, or jobs again")
            .takes("DrainRequest")
            .gives("Workers"),
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
    let mut looker = Looker::default();
    let mut changes = shared.db.watch(Topic::Jobs);
    let mut stop = shared.stop.clone();
    loop {
        changes.borrow_and_update();
        line.retain(|waiter| !waiter.answer.is_closed());
        let pause = match serve(&shared, &mut line, &mut looker).await {
            Ok(pause) => pause,
            Err(error) => {
                looker = Looker::default();
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

/// What is known of the queue without a look at it.
#[derive(Default)]
struct Looker {
    /// As many jobs were found as were wanted: the next are given out without a look first.
    plenty: bool,
    recent: Arc<Mutex<Recent>>,
}

/// One look for jobs; returns when the next is worth while without a wake-up.
async fn serve(
    shared: &Shared,
    line: &mut VecDeque<Waiter>,
    looker: &mut Looker,
) -> Result<Duration, DbError> {
    while !line.is_empty() {
        let (now, mut pause) = (shared.steady_now(), PAUSE_MIN);
        if !looker.plenty {
            let next = shared.db.read(move |tx| jobs::next_due(tx, now)).await?;
            pause = next.map_or(POLL, |next| next.since(now).clamp(PAUSE_MIN, POLL));
            if line.iter().all(|waiter| waiter.seen) && next.is_none_or(|next| next > now) {
                return Ok(pause);
            }
        }
        let batch: Vec<Waiter> = line.drain(..line.len().min(BATCH_MAX)).collect();
        let asked: Vec<_> = batch.iter().map(|waiter| (waiter.by.clone(), waiter.want)).collect();
        let (timing, recent) = (shared.timing(), looker.recent.clone());
        let claim = move |tx: &mut Tx| {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            claim_all(tx, &asked, (now, &timing), &mut recent)
        };
        let claims = shared.db.write(claim).await?;
        let given: usize = claims.iter().flatten().map(Vec::len).sum();
        let dealt = batch.iter().zip(&claims).filter(|(_, claims)| claims.is_some());
        let wanted: usize = dealt.map(|(waiter, _)| waiter.want).sum();
        looker.plenty = given == wanted.min(BATCH_MAX);
        let mut rest = Vec::new();
        for (mut waiter, claims) in batch.into_iter().zip(claims) {
            waiter.seen = true;
            match claims {
                // Aside, until it has waited for as long as it wanted to.
                None => drop(tokio::spawn(async move { waiter.answer.closed().await })),
                Some(claims) if claims.is_empty() => rest.push(waiter),
                Some(claims) => hand_over(shared, waiter, claims).await,
            }
        }
        rest.into_iter().rev().for_each(|waiter| line.push_front(waiter));
        if given == 0 {
            return Ok(pause);
        }
    }
    Ok(POLL)
}

/// Answers a waiter with its jobs; one that went away gives them back.
async fn hand_over(shared: &Shared, waiter: Waiter, claims: Vec<Claim>) {
    let Err(claims) = waiter.answer.send(claims) else { return };
    for Claim { build, attempt, .. } in claims {
        let worker = waiter.by.worker.clone();
        let back = Said { build, worker, attempt, word: Word::Release };
        if let Err(problem) = say(shared, back).await {
            tracing::warn!(%build, %problem, "a claim that nobody took could not be given back");
        }
    }
}

/// Gives due jobs to those who asked, like cards: what each got, in their order; `None`: it
/// is given nothing, as an admin said.
fn claim_all(
    tx: &mut Tx,
    asked: &[(Arc<workers::Seen>, usize)],
    (now, timing): (UnixMillis, &Timing),
    recent: &mut Recent,
) -> Result<Vec<Option<Vec<Claim>>>, DbError> {
    let seen: BTreeMap<&str, _> =
        asked.iter().map(|(by, _)| (by.worker.as_str(), by.as_ref())).collect();
    workers::seen(tx, &seen.into_values().collect::<Vec<_>>(), now)?;
    let most = asked.iter().map(|(_, want)| *want).max().unwrap_or(0);
    let drained = &store::drains::names(tx)?;
    let takes = |by: &workers::Seen| {
        !drained.contains(by.worker.as_str()) && !drained.contains(&by.machine)
    };
    let each_round = |round| {
        let here = asked.iter().enumerate();
        here.filter(move |(_, (by, want))| *want > round && takes(by))
    };
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
    recent.follow(tx, &due)?;
    let apps: BTreeSet<&AppName> = due.iter().map(|row| &row.asked.app).collect();
    let apps: Vec<&AppName> = apps.into_iter().collect();
    let hints = patches::bases(tx, &apps)?.into_iter().zip(ancestry::standing(tx, &apps)?);
    let hints: BTreeMap<&AppName, _> = apps.into_iter().zip(hints).collect();
    let mut claims: Vec<Option<Vec<Claim>>> =
        asked.iter().map(|(by, _)| takes(by).then(Vec::new)).collect();
    let builds: Vec<_> = due.iter().map(|row| (&row.asked.app, &row.asked.commit)).collect();
    let collected = collected::times(tx, &builds)?;
    for (((row, job, _), (i, _)), collected) in given.into_iter().zip(&turns).zip(collected) {
        let (bases, standing) = &hints[&row.asked.app];
        let compare = recent.to_compare(tx, (row.no, &row.asked), standing)?;
        let mut claim = told(row, &job, timing, (bases, compare));
        claim.collected = collected;
        claims[*i].get_or_insert_default().push(claim);
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
        collected: 0,
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

/// From when on a worker must have been heard of to be listed.
pub(super) fn listed_since(shared: &Shared) -> UnixMillis {
    shared.steady_now() - LISTED
}

async fn list(State(shared): State<Shared>) -> Result<Json<Workers>, Problem> {
    let since = listed_since(&shared);
    let workers = shared.db.read(move |tx| workers::list(tx, since)).await?;
    Ok(Json(Workers { workers, queue: Some(scale::usual(&shared).await?) }))
}
