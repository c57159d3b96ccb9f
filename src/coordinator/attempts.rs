//! What attempts say: that they go on, how they ended, that they are handed back; and
//! those of which nothing was heard for too long.
//!
//! All words that wait are taken down in one transaction with a few statements, whatever
//! their number, and answered after its commit. The rules look at them one by one, in the
//! order they came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use crate::coordinator::builds::unknown;
use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{artifact, collector};
use crate::model::digest::ArtifactId;
use crate::model::id::{JobNo, RegionName, WorkerId};
use crate::model::job::{BuildFailure, Job, JobState, Outcome};
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;
use crate::net::auth::random_seed;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::rules::queue::{self, ATTEMPT_MAX, Fenced, Finished, Holder, Timing};
use crate::store::db::artifacts::ArtifactRow;
use crate::store::db::collected::{self, Taken};
use crate::store::db::events::NewEvent;
use crate::store::db::jobs::{Ended, JobRow};
use crate::store::db::{DbError, Topic, Tx, ancestry, artifacts, jobs, requirements, workers};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::worker::{
    Beat, BeatReply, Finish, HandBack, Heard, Order, Report, ReportReply, Word,
};

/// Words that wait at most; past it callers wait for room.
const WAITING_MAX: usize = 4096;
/// Words taken down, and lapsed jobs taken back, in one transaction.
const BATCH_MAX: usize = 512;
/// Words of one report: a worker has as many slots at most.
const REPORT_MAX: usize = 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/worker/report", Class::Worker, report)
            .says("Say of several attempts that they go on, ended, or are handed back")
            .takes("Report")
            .gives("ReportReply"),
        post("/v1/worker/jobs/{build}/beat", Class::Worker, beat)
            .says("Renew the lease; the reply may order a cancel")
            .takes("Beat")
            .gives("BeatReply"),
        post("/v1/worker/jobs/{build}/finish", Class::Worker, finish)
            .says("End the attempt; the same again is no error")
            .takes("Finish"),
        post("/v1/worker/jobs/{build}/release", Class::Worker, release)
            .says("Hand the job back to the front of the queue, the attempt not counted")
            .takes("HandBack"),
    ]
}

/// What one attempt says.
pub(super) struct Said {
    pub(super) build: JobNo,
    pub(super) worker: WorkerId,
    pub(super) attempt: u32,
    pub(super) word: Word,
}

/// A word on its way to [`hear`], with its artifact when it was seen in the main store.
pub(super) struct Waiting {
    said: (Said, Option<ArtifactRow>),
    answer: oneshot::Sender<Result<Order, Problem>>,
}

/// Where words are put, and the end where [`hear`] takes them.
pub(super) fn mouth() -> (mpsc::Sender<Waiting>, mpsc::Receiver<Waiting>) {
    mpsc::channel(WAITING_MAX)
}

async fn report(
    State(shared): State<Shared>,
    Json(report): Json<Report>,
) -> Result<Json<ReportReply>, Problem> {
    if report.said.len() > REPORT_MAX {
        return Err(Problem::new(Code::Usage, "the report is out of bounds")
            .because(format!("it says at most {REPORT_MAX} things")));
    }
    let mut builds: BTreeMap<JobNo, Vec<(usize, Said)>> = BTreeMap::new();
    for (place, said) in report.said.into_iter().enumerate() {
        let worker = report.worker.clone();
        let said = Said { build: said.build, worker, attempt: said.attempt, word: said.word };
        builds.entry(said.build).or_default().push((place, said));
    }
    let heard = builds.into_values().map(|said| say_in_turn(&shared, said));
    let mut heard: Vec<_> = join_all(heard).await.into_iter().flatten().collect();
    heard.sort_by_key(|(place, _)| *place);
    Ok(Json(ReportReply { heard: heard.into_iter().map(|(_, heard)| heard).collect() }))
}

/// What is said of one build is heard in the order it is said: an end waits for a look into
/// the main store, and what comes after it must not get ahead.
async fn say_in_turn(shared: &Shared, all: Vec<(usize, Said)>) -> Vec<(usize, Heard)> {
    let mut heard = Vec::with_capacity(all.len());
    for (place, said) in all {
        let answer = say(shared, said).await;
        heard.push((place, answer.map_or_else(Heard::Refused, Heard::Order)));
    }
    heard
}

async fn beat(
    State(shared): State<Shared>,
    Path(build): Path<JobNo>,
    Json(Beat { worker, attempt }): Json<Beat>,
) -> Result<Json<BeatReply>, Problem> {
    let said = Said { build, worker, attempt, word: Word::Beat };
    say(&shared, said).await.map(|order| Json(BeatReply { order }))
}

async fn release(
    State(shared): State<Shared>,
    Path(build): Path<JobNo>,
    Json(HandBack { worker, attempt }): Json<HandBack>,
) -> Result<Json<()>, Problem> {
    let said = Said { build, worker, attempt, word: Word::Release };
    say(&shared, said).await.map(|_| Json(()))
}

async fn finish(
    State(shared): State<Shared>,
    Path(build): Path<JobNo>,
    Json(Finish { worker, attempt, outcome, learnt }): Json<Finish>,
) -> Result<Json<()>, Problem> {
    let said = Said { build, worker, attempt, word: Word::Finish { outcome, learnt } };
    say(&shared, said).await.map(|_| Json(()))
}

/// Has `said` taken down; the order that is the answer.
///
/// # Errors
/// `fenced`, `not_found`, `not_deployable`; `unavailable` when it is to be said again.
pub(super) async fn say(shared: &Shared, mut said: Said) -> Result<Order, Problem> {
    let mut made = None;
    if let Word::Finish { outcome, .. } = &mut said.word {
        match outcome {
            Outcome::Failed { reason, .. } => {
                reason.truncate(reason.floor_char_boundary(queue::REASON_BYTES_MAX));
            }
            Outcome::Succeeded { artifact } => {
                let (artifact, outcome) = (*artifact, outcome.clone());
                match seen(shared, &said, artifact, &outcome).await? {
                    None => return Ok(Order::Continue),
                    seen => made = seen,
                }
            }
        }
    }
    let (answer, answered) = oneshot::channel();
    let stopped = |_| Problem::new(Code::Unavailable, "the coordinator stops");
    shared.words.send(Waiting { said: (said, made), answer }).await.map_err(|_| stopped(()))?;
    answered.await.map_err(|_| stopped(()))?
}

/// The artifact that an attempt says it made, once it was seen in the main store; `None`
/// when the same was said and taken down before.
async fn seen(
    shared: &Shared,
    said: &Said,
    artifact: ArtifactId,
    outcome: &Outcome,
) -> Result<Option<ArtifactRow>, Problem> {
    let (no, attempt) = (said.build, said.attempt);
    let look = move |tx: &Tx| {
        let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
        Ok::<_, Problem>((row, jobs::attempt(tx, no, attempt)?.and_then(|made| made.outcome)))
    };
    let (row, recorded) = shared.db.read(look).await?;
    if recorded.as_ref() == Some(outcome) {
        return Ok(None);
    }
    queue::check_attempt(&row.job, attempt).map_err(|error| fenced(no, &error))?;
    let seen = artifact::check(shared, &row, artifact).await;
    if seen.is_err() {
        // Gone because its name was given up, perhaps; of which build it was is known here only.
        let asked = row.asked;
        let note = move |tx: &mut Tx| collected::belongs(tx, &artifact, &asked.app, &asked.commit);
        shared.db.write(note).await?;
    }
    seen.map(Some)
}

/// Takes down what attempts say, until nobody can say anything any more.
pub(super) async fn hear(shared: Shared, mut words: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    while words.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let (all, answers): (Vec<_>, Vec<_>) =
            waiting.drain(..).map(|Waiting { said, answer }| (said, answer)).unzip();
        let all: Arc<[_]> = all.into();
        let together = take_down(&shared, all.clone(), 0..all.len()).await;
        for (i, answer) in answers.into_iter().enumerate() {
            let heard = match &together {
                Ok(heard) => heard[i].clone(),
                // What the database refuses must not take the others with it.
                Err((_, true)) if all.len() > 1 => take_down(&shared, all.clone(), i..i + 1)
                    .await
                    .map_err(|(problem, _)| problem)
                    .and_then(|mut one| one.remove(0)),
                Err((problem, _)) => Err(problem.clone()),
            };
            // A caller that went away does not undo what it said.
            let _ = answer.send(heard);
        }
    }
}

/// The answers to `part` of `all`; else why there are none, and whether one of them is at
/// fault rather than the database.
async fn take_down(
    shared: &Shared,
    all: Arc<[(Said, Option<ArtifactRow>)]>,
    part: Range<usize>,
) -> Result<Vec<Result<Order, Problem>>, (Problem, bool)> {
    let (now, timing) = (shared.steady_now(), shared.timing());
    let regions: Vec<_> = shared.config.regions.keys().cloned().collect();
    let write = move |tx: &mut Tx| take_down_all(tx, &all[part], (now, &timing), &regions);
    shared.db.write(write).await.map_err(|error| {
        let raced = matches!(error, DbError::Raced(_));
        let problem = Problem::from(error);
        let at_fault = raced || problem.code == Code::Internal;
        (problem, at_fault)
    })
}

/// A job while words about it are taken down.
struct Standing<'a> {
    before: &'a JobRow,
    job: Job,
    /// How the attempt ended, if it did: `None` within when it was handed back.
    ended: Option<Option<&'a Outcome>>,
}

fn take_down_all(
    tx: &mut Tx,
    all: &[(Said, Option<ArtifactRow>)],
    (now, timing): (UnixMillis, &Timing),
    regions: &[RegionName],
) -> Result<Vec<Result<Order, Problem>>, DbError> {
    let rows = jobs::find_all(tx, &all.iter().map(|(said, _)| said.build).collect())?;
    let standing = |before| Standing { before, job: before.job.clone(), ended: None };
    let mut jobs: BTreeMap<JobNo, Standing> =
        rows.iter().map(|row: &JobRow| (row.no, standing(row))).collect();
    let mut beating = BTreeSet::new();
    let mut answers = Vec::with_capacity(all.len());
    let mut rng = Rng::new(random_seed());
    for (said, made) in all {
        let Some(job) = jobs.get_mut(&said.build) else {
            answers.push(Err(unknown(said.build)));
            continue;
        };
        if let Some(made) = made
            && collected::find(tx, &made.artifact)? == Some(Taken::Given)
        {
            // The worker says then that it failed, and the next attempt's has another name.
            collected::belongs(tx, &made.artifact, &made.app, &made.commit)?;
            answers.push(Err(artifact::refuse(collector::USED_UP)));
            continue;
        }
        let done = job.hear(tx, said, (now, timing, &mut rng))?;
        if let (Ok((_, true)), Word::Finish { learnt, .. }) = (&done, &said.word) {
            if let Some(made) = made {
                artifacts::insert(tx, made, regions, now)?;
            }
            let asked = &job.before.asked;
            ancestry::record(tx, &asked.app, (said.build, &asked.commit), &learnt.relatives)?;
            requirements::record(tx, said.build, &learnt.requires)?;
        }
        if done.is_ok() {
            beating.insert(&said.worker);
        }
        answers.push(match done {
            Ok((order, _)) => Ok(order),
            Err(error) => Err(fenced(said.build, &error)),
        });
    }
    let (mut renewed, mut ended) = (vec![], vec![]);
    for Standing { before, job, ended: outcome } in jobs.values() {
        match outcome {
            Some(outcome) => ended.push(Ended { before, job, outcome: *outcome }),
            None if job.lease_until != before.job.lease_until => renewed.push((before.no, job)),
            None => {}
        }
    }
    jobs::renew(tx, &renewed, now)?;
    end(tx, &ended, now)?;
    workers::beat(tx, &beating, now)?;
    Ok(answers)
}

impl<'a> Standing<'a> {
    /// What the rules make of a word: the order for its worker, and whether it ended the
    /// attempt.
    fn hear(
        &mut self,
        tx: &Tx,
        said: &'a Said,
        (now, timing, rng): (UnixMillis, &Timing, &mut Rng),
    ) -> Result<Result<(Order, bool), Fenced>, DbError> {
        let holder = Holder { worker: &said.worker, attempt: said.attempt };
        let job = &mut self.job;
        let outcome = match &said.word {
            Word::Beat => {
                let began = self.before.started_at.unwrap_or(now);
                let cancel = queue::beat(job, holder, began, now, timing);
                let order = |cancel| if cancel { Order::Cancel } else { Order::Continue };
                return Ok(cancel.map(|cancel| (order(cancel), false)));
            }
            Word::Release => {
                if let Err(error) = queue::release(job, holder, now) {
                    return Ok(Err(error));
                }
                None
            }
            Word::Finish { outcome, .. } => {
                // An attempt that runs has no end yet.
                let recorded = match (queue::check_attempt(job, said.attempt), self.ended) {
                    (Ok(()), _) => None,
                    (_, Some(ended)) if said.attempt == self.before.job.attempt => ended.cloned(),
                    _ => jobs::attempt(tx, said.build, said.attempt)?.and_then(|row| row.outcome),
                };
                let clock = (now, timing, rng);
                match queue::finish(job, holder, recorded.as_ref(), outcome, clock) {
                    Err(error) => return Ok(Err(error)),
                    Ok(Finished::Repeated) => return Ok(Ok((Order::Continue, false))),
                    Ok(Finished::Ended | Finished::Requeued) => Some(outcome),
                }
            }
        };
        self.ended = Some(outcome);
        Ok(Ok((Order::Continue, true)))
    }
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
    let rows = jobs::lapsed(tx, now, BATCH_MAX)?;
    let lapsed = rows.iter().filter_map(|row| {
        let mut job = row.job.clone();
        queue::lapse(&mut job, now)?;
        let reason = match row.started_at {
            Some(began) if began + ATTEMPT_MAX <= now => "the attempt never ended",
            _ => "its worker was not heard of in time",
        };
        let worker = row.job.worker.as_ref().map_or("", WorkerId::as_str);
        tracing::warn!(build = %row.no, attempt = row.job.attempt, worker, "a worker was lost");
        Some((row, job, Outcome::Failed { class: BuildFailure::LostWorker, reason: reason.into() }))
    });
    let lapsed: Vec<_> = lapsed.collect();
    let ended = lapsed.iter().map(|(before, job, lost)| Ended { before, job, outcome: Some(lost) });
    end(tx, &ended.collect::<Vec<_>>(), now)?;
    Ok(rows.len())
}

/// Writes what the rules made of a job that `who` took back.
///
/// # Errors
/// When the database fails, or the job changed since it was read.
pub(super) fn taken_back(
    tx: &mut Tx,
    (before, job): (&JobRow, &Job),
    who: &str,
    now: UnixMillis,
) -> Result<(), DbError> {
    let reason = format!("{who} took it from its worker");
    let lost = Outcome::Failed { class: BuildFailure::LostWorker, reason };
    end(tx, &[Ended { before, job, outcome: Some(&lost) }], now)
}

/// Writes what the rules made of running jobs: the rows, their attempts' ends, the events,
/// and the wake-ups.
fn end(tx: &mut Tx, ended: &[Ended], now: UnixMillis) -> Result<(), DbError> {
    if ended.is_empty() {
        return Ok(());
    }
    jobs::end(tx, ended, now)?;
    tx.events(&ended.iter().map(|ended| event(ended, now)).collect::<Vec<_>>())?;
    for topic in [Topic::Jobs, Topic::Logs, Topic::Rollouts] {
        tx.touch(topic);
    }
    Ok(())
}

fn event(Ended { before, job, outcome }: &Ended, now: UnixMillis) -> NewEvent {
    let (no, app) = (before.no, &before.asked.app);
    let (kind, message) = match (job.state, &job.failure) {
        (JobState::Succeeded, _) => ("build.succeeded", format!("{no} of {app} succeeded")),
        (JobState::Failed, Some((BuildFailure::Canceled, _))) => {
            ("build.canceled", format!("{no} of {app} was canceled"))
        }
        (JobState::Failed, failure) => {
            let reason = failure.as_ref().map_or("", |(_, reason)| reason);
            ("build.failed", format!("{no} of {app} failed: {reason}"))
        }
        _ => {
            let why = match outcome {
                Some(Outcome::Failed { reason, .. }) => reason,
                _ => "its worker handed it back",
            };
            ("build.requeued", format!("{no} of {app} waits again: {why}"))
        }
    };
    NewEvent::new(now, kind, "deployctl", message).app(app).build(no)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::JobState::{Failed, Queued, Running};
    use crate::store::db::jobs::{Begun, NewJob, Source};
    use crate::store::db::{Db, apps, conformance};
    use crate::wire::v1::worker::Learnt;
    use std::time::Duration;

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const TIMING: Timing =
        Timing { beat: Duration::from_secs(10), missed_beats: 2, max_attempts: 3 };

    fn asked(no: u64) -> NewJob {
        let (repo, trunk) = (String::new(), String::new());
        NewJob {
            app: "web".parse().unwrap(),
            commit: format!("{no:040x}").parse().unwrap(),
            subject: String::new(),
            actor: "ann".into(),
            allow_unmerged: false,
            source: Source { repo, trunk, recipe: Default::default() },
        }
    }

    /// Jobs 1 to `jobs`, all in their first attempt by worker `w`.
    async fn running(db: &Db, jobs: u64) {
        let begin = move |tx: &mut Tx| {
            let spec = serde_json::from_str(r#"{"name": "web", "repo": "file:///x"}"#).unwrap();
            apps::put(tx, &spec, NOW)?;
            for no in 1..=jobs {
                jobs::insert(tx, &asked(no), &queue::queue(NOW, &TIMING), NOW)?;
            }
            let rows = jobs::due(tx, NOW, 1000)?;
            let claim = |row: &JobRow| {
                let mut job = row.job.clone();
                queue::claim(&mut job, &"w".parse().unwrap(), NOW, &TIMING).unwrap();
                job
            };
            let claimed: Vec<Job> = rows.iter().map(claim).collect();
            let begun = |(before, job)| Begun { before, job, machine: "m" };
            jobs::begin(tx, &rows.iter().zip(&claimed).map(begun).collect::<Vec<_>>(), NOW)
        };
        db.write(begin).await.unwrap();
    }

    fn said(build: u64, attempt: u32, word: Word) -> (Said, Option<ArtifactRow>) {
        (Said { build: JobNo(build), worker: "w".parse().unwrap(), attempt, word }, None)
    }

    fn failed(class: BuildFailure, reason: &str) -> Word {
        let outcome = Outcome::Failed { class, reason: reason.into() };
        Word::Finish { outcome, learnt: Learnt::default() }
    }

    /// The answers as their codes.
    async fn take_down(db: &Db, all: Vec<(Said, Option<ArtifactRow>)>) -> Vec<Result<Order, Code>> {
        let write = move |tx: &mut Tx| take_down_all(tx, &all, (NOW + TIMING.beat, &TIMING), &[]);
        let heard = db.write(write).await.unwrap();
        heard.into_iter().map(|heard| heard.map_err(|problem| problem.code)).collect()
    }

    /// Each job's state, attempt, longest number of attempts, lease and failure.
    async fn rows(db: &Db) -> Vec<Job> {
        let all = db.read(|tx| jobs::list(tx, &jobs::Filter::default(), 1000)).await.unwrap();
        let when = |mut job: Job| {
            // A backoff is drawn at random.
            job.not_before = job.not_before.min(NOW + TIMING.beat);
            job
        };
        all.into_iter().rev().map(|row| when(row.job)).collect()
    }

    async fn number(db: &Db, sql: &'static str) -> i64 {
        db.read(move |tx| tx.number(sql, &[])).await.unwrap()
    }

    #[tokio::test]
    async fn losers_in_a_batch_take_nobody_with_them() {
        let (_folder, databases) = conformance::both().await;
        for db in databases {
            running(&db, 300).await;
            let other = |word| {
                let (said, _) = said(2, 1, word);
                (Said { worker: "other".parse().unwrap(), ..said }, None)
            };
            let broken = || failed(BuildFailure::BuildFailed, "broken");
            let mut all = vec![
                said(1, 1, Word::Beat),
                said(1, 1, broken()),
                said(2, 7, Word::Beat),
                said(1, 1, broken()),
                said(1, 1, failed(BuildFailure::BuildFailed, "otherwise")),
                said(1, 1, Word::Beat),
                other(broken()),
                said(2, 1, Word::Beat),
                said(3, 1, Word::Release),
                said(3, 1, Word::Release),
                said(999, 1, Word::Beat),
                said(4, 1, failed(BuildFailure::Infra, "no disk")),
            ];
            all.extend((5..=300).map(|no| said(no, 1, Word::Beat)));
            let heard = take_down(&db, all).await;
            let (go_on, fenced) = (Ok(Order::Continue), Err(Code::Fenced));
            let odd = [go_on, go_on, fenced, go_on, fenced, fenced, fenced, go_on, go_on, fenced];
            assert_eq!(heard[..10], odd);
            assert_eq!(heard[10..12], [Err(Code::NotFound), go_on]);
            assert!(heard[12..].iter().all(|heard| *heard == go_on));
            let rows = rows(&db).await;
            let states: Vec<JobState> = rows.iter().map(|job| job.state).collect();
            assert_eq!(states[..5], [Failed, Running, Queued, Queued, Running]);
            assert_eq!((rows[2].max_attempts, rows[3].max_attempts), (4, 3));
            let until = Some(NOW + TIMING.beat + TIMING.lease());
            assert!(rows.iter().all(|job| job.state != Running || job.lease_until == until));
            // An end that was told before is told again to whoever says the same.
            let again = vec![said(1, 1, broken()), said(3, 1, Word::Beat), said(4, 1, broken())];
            assert_eq!(take_down(&db, again).await, [go_on, fenced, fenced]);
            assert_eq!(number(&db, "SELECT count(*) FROM events").await, 3);
            assert_eq!(number(&db, "SELECT count(ended_at) FROM attempts").await, 3);
        }
    }

    #[tokio::test]
    async fn words_do_the_same_together_as_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        for seed in 0..40 {
            let open = |name: &str| Db::open(&folder.path().join(format!("{name}{seed}"))).unwrap();
            let (together, alone) = (open("together"), open("alone"));
            for db in [&together, &alone] {
                running(db, 6).await;
                let cancel = "UPDATE jobs SET cancel_requested_at = 1 WHERE id = 6";
                db.write(move |tx| tx.exec(cancel, &[])).await.unwrap();
            }
            let words = || {
                let mut rng = Rng::new(seed);
                let mut word = move || match rng.below(6) {
                    0 => Word::Release,
                    n @ 1..=3 => failed(BuildFailure::ALL[n as usize], "why"),
                    _ => Word::Beat,
                };
                let mut rng = Rng::new(seed + 1000);
                let mut draw = move |n| rng.below(n);
                let drawn = (0..30).map(move |_| {
                    let (no, attempt) = (1 + draw(7), 1 + u32::from(draw(8) == 0));
                    said(no, attempt, word())
                });
                drawn.collect::<Vec<_>>()
            };
            let heard = take_down(&together, words()).await;
            let mut one_by_one = vec![];
            for word in words() {
                one_by_one.append(&mut take_down(&alone, vec![word]).await);
            }
            assert_eq!(heard, one_by_one, "seed {seed}");
            assert_eq!(rows(&together).await, rows(&alone).await, "seed {seed}");
        }
    }
}
