//! The queue's rules against a naive model, alone and through the real database.
//!
//! The model is a plain list. Steps are drawn at random: queue, claim, beat,
//! finish in every way, release, cancel, retry, time passing. What must hold:
//! first in, first out with requeued jobs at the front; one effective end per
//! job; none lost, none invented; and when workers go on, every job ends.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

#[path = "postgres/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use deployctl::model::digest::Digest;
use deployctl::model::id::{JobNo, WorkerId};
use deployctl::model::job::{BuildFailure, Job, JobState, Outcome};
use deployctl::model::rng::Rng;
use deployctl::model::time::UnixMillis;
use deployctl::rules::queue::{self, Canceled, Finished, Holder, Timing};
use deployctl::store::db::jobs::{self, NewJob, Source};
use deployctl::store::db::{Db, DbError, Place, Tx, apps};
use proptest::prelude::*;

const TIMING: Timing =
    Timing { beat: Duration::from_millis(100), missed_beats: 2, max_attempts: 3 };

#[derive(Debug, Clone)]
enum Step {
    Queue,
    Claim,
    /// Which of all claims ever given out speaks, in thousandths of their number.
    Beat(usize),
    Succeed(usize),
    Fail(usize, BuildFailure),
    Release(usize),
    Cancel(usize),
    Retry(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let class = proptest::sample::select(BuildFailure::ALL.to_vec());
    prop_oneof![
        4 => Just(Step::Queue),
        6 => Just(Step::Claim),
        2 => (0..1000usize).prop_map(Step::Beat),
        3 => (0..1000usize).prop_map(Step::Succeed),
        3 => (0..1000usize, class).prop_map(|(i, class)| Step::Fail(i, class)),
        1 => (0..1000usize).prop_map(Step::Release),
        1 => (0..1000usize).prop_map(Step::Cancel),
        1 => (0..1000usize).prop_map(Step::Retry),
        3 => (0..400u64).prop_map(Step::Pass),
    ]
}

/// Where jobs live: a map, or the database.
trait Store {
    fn add(&mut self, job: Job) -> u64;
    fn change<T>(&mut self, no: u64, change: impl FnMut(&mut Job) -> T) -> T;
    fn first_due(&mut self, now: UnixMillis) -> Option<u64>;
    fn all(&mut self) -> BTreeMap<u64, Job>;
}

#[derive(Default)]
struct InMemory(BTreeMap<u64, Job>);

impl Store for InMemory {
    fn add(&mut self, job: Job) -> u64 {
        let no = self.0.len() as u64 + 1;
        self.0.insert(no, job);
        no
    }
    fn change<T>(&mut self, no: u64, mut change: impl FnMut(&mut Job) -> T) -> T {
        change(self.0.get_mut(&no).unwrap())
    }
    fn first_due(&mut self, now: UnixMillis) -> Option<u64> {
        self.0.iter().find(|(_, job)| queue::is_due(job, now)).map(|(no, _)| *no)
    }
    fn all(&mut self) -> BTreeMap<u64, Job> {
        self.0.clone()
    }
}

struct InDatabase {
    runtime: tokio::runtime::Runtime,
    db: Db,
    _folder: tempfile::TempDir,
}

impl InDatabase {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::File(folder.path().join("db"));
        Self::at(&place, folder)
    }

    fn on_server() -> Self {
        let place = Place::parse(&server::fresh_database()).unwrap();
        Self::at(&place, tempfile::tempdir().unwrap())
    }

    fn at(place: &Place, folder: tempfile::TempDir) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let db = runtime.block_on(Db::open_at(place)).unwrap();
        let spec = serde_json::json!({"name": "web", "repo": "file:///x"});
        let spec = serde_json::from_value(spec).unwrap();
        let put = db.write(move |tx| apps::put(tx, &spec, UnixMillis(0)));
        runtime.block_on(put).unwrap();
        Self { runtime, db, _folder: folder }
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tx) -> Result<T, DbError> + Send + 'static,
    ) -> T {
        self.runtime.block_on(self.db.write(work)).unwrap()
    }
}

impl Store for InDatabase {
    fn add(&mut self, job: Job) -> u64 {
        self.write(move |tx| {
            let next = tx.number("SELECT count(*) FROM jobs", &[])? + 1;
            let asked = NewJob {
                app: "web".parse().unwrap(),
                commit: format!("{next:040x}").parse().unwrap(),
                subject: String::new(),
                actor: "ann".into(),
                allow_unmerged: false,
                source: Source {
                    repo: String::new(),
                    trunk: String::new(),
                    recipe: deployctl::model::recipe::Recipe::default(),
                },
            };
            Ok(jobs::insert(tx, &asked, &job, UnixMillis(0))?.0)
        })
    }
    fn change<T>(&mut self, no: u64, mut change: impl FnMut(&mut Job) -> T) -> T {
        let row = self.write(move |tx| Ok(jobs::find(tx, JobNo(no))?.unwrap()));
        let mut job = row.job.clone();
        let result = change(&mut job);
        if job != row.job {
            self.write(move |tx| jobs::update(tx, &row, &job, UnixMillis(7)));
        }
        result
    }
    fn first_due(&mut self, now: UnixMillis) -> Option<u64> {
        self.write(move |tx| jobs::due(tx, now, 1)).first().map(|row| row.no.0)
    }
    fn all(&mut self) -> BTreeMap<u64, Job> {
        let rows = self.write(|tx| jobs::list(tx, &jobs::Filter::default(), 10_000));
        rows.into_iter().map(|row| (row.no.0, row.job)).collect()
    }
}

/// The naive queue: who waits (in order, not before when), who runs, who ended.
#[derive(Default)]
struct Model {
    waiting: Vec<(u64, i64)>,
    running: BTreeMap<u64, (u32, i64)>,
    ended: BTreeMap<u64, u32>,
    jobs: u64,
}

impl Model {
    fn put_back(&mut self, no: u64, not_before: i64) {
        let at = self.waiting.iter().position(|(other, _)| *other > no);
        self.waiting.insert(at.unwrap_or(self.waiting.len()), (no, not_before));
    }

    fn take(&mut self, now: i64) -> Option<u64> {
        let at = self.waiting.iter().position(|(_, not_before)| *not_before <= now)?;
        Some(self.waiting.remove(at).0)
    }

    /// Moves a job to where the rules left it, from RUNNING.
    fn leave(&mut self, no: u64, job: &Job) {
        self.running.remove(&no).unwrap();
        match job.state {
            JobState::Queued => self.put_back(no, job.not_before.0),
            JobState::Running => unreachable!("it left"),
            JobState::Succeeded | JobState::Failed => *self.ended.entry(no).or_default() += 1,
        }
    }
}

struct Run<S> {
    store: S,
    model: Model,
    now: i64,
    rng: Rng,
    /// Every claim ever given out: job, attempt, worker.
    claims: Vec<(u64, u32, WorkerId)>,
}

impl<S: Store> Run<S> {
    fn new(store: S) -> Self {
        Self { store, model: Model::default(), now: 1000, rng: Rng::new(7), claims: vec![] }
    }

    fn claimed(&self, i: usize) -> Option<(u64, u32, WorkerId)> {
        self.claims.get(i * self.claims.len() / 1000).cloned()
    }

    fn step(&mut self, step: &Step) {
        let now = UnixMillis(self.now);
        match step {
            Step::Queue => {
                let no = self.store.add(queue::queue(now, &TIMING));
                self.model.put_back(no, now.0);
                self.model.jobs += 1;
            }
            Step::Claim => self.claim(),
            Step::Pass(ms) => self.pass(*ms),
            Step::Beat(i) => {
                let Some((no, attempt, worker)) = self.claimed(*i) else { return };
                let holder = Holder { worker: &worker, attempt };
                let beat = self.store.change(no, |job| queue::beat(job, holder, now, now, &TIMING));
                assert_eq!(beat.is_ok(), self.holds(no, attempt));
                if beat == Ok(false) {
                    let until = (now + TIMING.lease()).0;
                    self.model.running.insert(no, (attempt, until));
                }
            }
            Step::Succeed(i) => {
                self.finish(*i, &Outcome::Succeeded { artifact: Digest::of(b"x") });
            }
            Step::Fail(i, class) => {
                self.finish(*i, &Outcome::Failed { class: *class, reason: "why".into() });
            }
            Step::Release(i) => {
                let Some((no, attempt, worker)) = self.claimed(*i) else { return };
                let holder = Holder { worker: &worker, attempt };
                let release = |job: &mut Job| (queue::release(job, holder, now), job.clone());
                let (released, job) = self.store.change(no, release);
                assert_eq!(released.is_ok(), self.holds(no, attempt));
                if released.is_ok() {
                    self.model.leave(no, &job);
                }
            }
            Step::Cancel(i) => self.cancel(*i),
            Step::Retry(i) => self.retry(*i),
        }
    }

    fn holds(&self, no: u64, attempt: u32) -> bool {
        self.model.running.get(&no).is_some_and(|(running, _)| *running == attempt)
    }

    fn claim(&mut self) {
        let now = UnixMillis(self.now);
        let expected = self.model.take(self.now);
        let first = self.store.first_due(now);
        assert_eq!(first, expected, "first in, first out");
        let Some(no) = first else { return };
        let worker: WorkerId = format!("w{}", self.claims.len()).parse().unwrap();
        let attempt = self.store.change(no, |job| {
            queue::claim(job, &worker, now, &TIMING).unwrap();
            job.attempt
        });
        assert!(self.claims.iter().all(|(job, other, _)| (*job, *other) != (no, attempt)));
        self.model.running.insert(no, (attempt, (now + TIMING.lease()).0));
        self.claims.push((no, attempt, worker));
    }

    fn finish(&mut self, i: usize, outcome: &Outcome) {
        let Some((no, attempt, worker)) = self.claimed(i) else { return };
        let now = UnixMillis(self.now);
        let holder = Holder { worker: &worker, attempt };
        let rng = &mut self.rng;
        let (done, job) = self.store.change(no, |job| {
            let done = queue::finish(job, holder, None, outcome, (now, &TIMING, rng));
            (done, job.clone())
        });
        assert_eq!(done.is_ok(), self.holds(no, attempt), "fenced exactly when it does not hold");
        if done.is_err() {
            return;
        }
        assert_eq!(done == Ok(Finished::Ended), job.state.is_final());
        self.model.leave(no, &job);
        let rng = &mut self.rng;
        let again = self.store.change(no, |job| {
            queue::finish(job, holder, Some(outcome), outcome, (now, &TIMING, rng))
        });
        assert_eq!(again, Ok(Finished::Repeated));
    }

    fn cancel(&mut self, i: usize) {
        let no = (i as u64 * self.model.jobs / 1000) + 1;
        if no > self.model.jobs {
            return;
        }
        let done = self.store.change(no, |job| queue::cancel(job, "ann"));
        match done {
            Canceled::AtOnce => {
                let at = self.model.waiting.iter().position(|(job, _)| *job == no).unwrap();
                self.model.waiting.remove(at);
                *self.model.ended.entry(no).or_default() += 1;
            }
            Canceled::Asked => assert!(self.model.running.contains_key(&no)),
            Canceled::TooLate => assert!(self.model.ended.contains_key(&no)),
        }
    }

    fn retry(&mut self, i: usize) {
        let no = (i as u64 * self.model.jobs / 1000) + 1;
        if no > self.model.jobs {
            return;
        }
        let now = UnixMillis(self.now);
        if self.store.change(no, |job| queue::retry(job, now, &TIMING)).is_ok() {
            assert!(self.model.ended.remove(&no).is_some());
            self.model.put_back(no, self.now);
        }
    }

    /// Time passes; then the monitor looks.
    fn pass(&mut self, ms: u64) {
        self.now += i64::try_from(ms).unwrap();
        let now = UnixMillis(self.now);
        for (no, (_, until)) in self.model.running.clone() {
            let lapse = |job: &mut Job| (queue::lapse(job, now).is_some(), job.clone());
            let (lapsed, job) = self.store.change(no, lapse);
            assert_eq!(lapsed, until <= self.now);
            if lapsed {
                self.model.leave(no, &job);
            }
        }
    }

    fn check(&mut self) {
        let jobs = self.store.all();
        assert_eq!(jobs.len() as u64, self.model.jobs, "none lost, none invented");
        for (no, job) in &jobs {
            let place = match job.state {
                JobState::Queued => self.model.waiting.iter().any(|(waits, _)| waits == no),
                JobState::Running => self.model.running.contains_key(no),
                JobState::Succeeded | JobState::Failed => self.model.ended.get(no) == Some(&1),
            };
            assert!(place, "{no} is {:?}", job.state);
            assert_eq!(job.artifact.is_some(), job.state == JobState::Succeeded);
            assert_eq!(job.failure.is_some(), job.state == JobState::Failed);
            assert_eq!(job.lease_until.is_some(), job.state == JobState::Running);
        }
    }

    /// Silent workers from here on: every job must end by itself.
    fn drain(&mut self) {
        let bound = 200 * (self.model.jobs + 1);
        for _ in 0..bound {
            if self.model.ended.len() as u64 == self.model.jobs {
                return;
            }
            self.claim();
            self.pass(100_000);
        }
        panic!("jobs go on for ever: {:?}", self.store.all());
    }
}

fn check(store: impl Store, steps: &[Step]) {
    let mut run = Run::new(store);
    for step in steps {
        run.step(step);
    }
    run.check();
    run.drain();
    run.check();
}

proptest! {
    #[test]
    fn the_rules_do_what_a_plain_list_does(steps in proptest::collection::vec(step(), 0..200)) {
        check(InMemory::default(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_database_does_too(steps in proptest::collection::vec(step(), 0..60)) {
        check(InDatabase::new(), &steps);
    }

    #[test]
    fn the_database_server_does_too(steps in proptest::collection::vec(step(), 0..60)) {
        check(InDatabase::on_server(), &steps);
    }
}
