//! Many workers of one installation in one process, as its coordinators see them: each
//! claims, beats and ends jobs by the worker's own calls, and builds nothing. The load
//! of `bench/queue`.
//!
//! ```text
//! workers seed FILE|URL JOBS              put jobs into a database that no coordinator has open
//! workers claims|cycles FOLDER TOKEN-FILE WORKERS SLOTS JOBS [CLAIMED]
//! workers bare FILE JOBS BATCH            the bare claim statement, by rusqlite, without a network
//! ```
//!
//! FOLDER holds a file per coordinator with its URL; calls that fail go to the next one. A
//! cycle is a claim, a beat and a finish. A line for each claim goes to the file CLAIMED. Prints `RATE PER-SECOND P50-MS P99-MS JOBS TWICE`:
//! of the claims, of all calls when cycles are asked for.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deployctl::model::job::{BuildFailure, Outcome};
use deployctl::model::time::UnixMillis;
use deployctl::net::auth::read_token;
use deployctl::net::client::Client;
use deployctl::rules::queue::{Timing, queue};
use deployctl::store::db::jobs::{NewJob, Source, insert};
use deployctl::store::db::{Db, DbError, Place, Tx, apps};
use deployctl::wire::v1::app::AppSpec;
use deployctl::wire::v1::worker::{Claim, Learnt};
use deployctl::worker::api::{Coordinator, is_fenced};
use futures_util::future::{FutureExt, join_all, try_join_all};
use tokio::sync::Notify;

type Failure = Box<dyn Error + Send + Sync>;

/// Apps that the jobs are of.
const APPS: usize = 20;
/// Where none of them is ever fetched from.
const REPO: &str = "https://git.example.org/app.git";
/// Jobs put into the database in one transaction.
const SEED_BATCH: usize = 1000;
/// What one beat may take.
const BEAT_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a call that no coordinator answered.
const PAUSE: Duration = Duration::from_millis(20);

/// What all workers saw.
#[derive(Default)]
struct Seen {
    /// Jobs that are over (`cycles`) or claimed (`claims`).
    done: AtomicUsize,
    claimed: Mutex<Vec<(u64, u32)>>,
    /// How long calls took, microseconds.
    took: Mutex<Vec<u32>>,
    /// Told when all jobs are.
    over: Notify,
}

struct Load {
    folder: PathBuf,
    token: String,
    slots: u32,
    jobs: usize,
    cycles: bool,
    /// Where a line goes for each claim, for whoever kills this process.
    claimed: Option<File>,
    seen: Seen,
}

impl Load {
    fn coordinator(&self, worker: usize, turn: usize) -> Result<Coordinator, Failure> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            files.push(entry?.path());
        }
        files.sort();
        let file = files.get((worker + turn) % files.len().max(1)).ok_or("no coordinator")?;
        let url = std::fs::read_to_string(file)?;
        let client = Client::new(url.trim(), Some(self.token.clone()));
        Ok(Coordinator::new(client, format!("w-{worker}").parse()?, self.slots))
    }

    fn done(&self, jobs: usize) {
        if self.seen.done.fetch_add(jobs, Ordering::Relaxed) + jobs >= self.jobs {
            self.seen.over.notify_one();
        }
    }

    fn took(&self, since: Instant) {
        let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.seen.took.lock().unwrap_or_else(PoisonError::into_inner).push(micros);
    }

    async fn worker(&self, number: usize) -> Result<Infallible, Failure> {
        let mut turn = 0;
        let mut coordinator = self.coordinator(number, turn)?;
        loop {
            let asked = Instant::now();
            let claims = match coordinator.claim(self.slots).await {
                Ok(claims) => claims,
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    turn += 1;
                    coordinator = self.coordinator(number, turn)?;
                    continue;
                }
            };
            self.took(asked);
            if let Some(mut file) = self.claimed.as_ref() {
                let line = |claim: &Claim| format!("{} {}\n", claim.build, claim.attempt);
                file.write_all(claims.iter().map(line).collect::<String>().as_bytes())?;
            }
            let of = claims.iter().map(|claim| (claim.build.0, claim.attempt));
            self.seen.claimed.lock().unwrap_or_else(PoisonError::into_inner).extend(of);
            if self.cycles {
                let coordinator = &coordinator;
                let all = claims.iter().map(|claim| self.cycle((number, turn), coordinator, claim));
                for ended in join_all(all).await {
                    ended?;
                }
            } else {
                self.done(claims.len());
            }
        }
    }

    /// Ends a job; one that is another's by now is left to it.
    async fn cycle(
        &self,
        (number, mut turn): (usize, usize),
        coordinator: &Coordinator,
        claim: &Claim,
    ) -> Result<(), Failure> {
        let mut attempt = coordinator.attempt(claim);
        let asked = Instant::now();
        let beat = attempt.beat(BEAT_LIMIT).await;
        self.took(asked);
        if beat.as_ref().is_err_and(is_fenced) {
            return Ok(());
        }
        let reason = String::from("nothing was built");
        let outcome = Outcome::Failed { class: BuildFailure::BuildFailed, reason };
        loop {
            let asked = Instant::now();
            let ended = attempt.finish(outcome.clone(), Learnt::default()).await;
            self.took(asked);
            match ended {
                Ok(()) => {
                    self.done(1);
                    return Ok(());
                }
                Err(error) if is_fenced(&error) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error.into()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            turn += 1;
            attempt = self.coordinator(number, turn)?.attempt(claim);
        }
    }

    fn tell(&self, took: Duration) {
        let mut times = self.seen.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).map_or(0, |micros| *micros);
        let claimed = self.seen.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = claimed.len() - claimed.iter().collect::<BTreeSet<_>>().len();
        let done = self.seen.done.load(Ordering::Relaxed);
        let rate = done as f64 / took.as_secs_f64();
        let ms = |micros: u32| f64::from(micros) / 1000.0;
        println!("RATE {rate:.0} {:.2} {:.2} {done} {twice}", ms(at(50)), ms(at(99)));
    }
}

async fn seed(place: &str, jobs: usize) -> Result<(), Failure> {
    let server = place.contains("://");
    let place = if server { Place::parse(place)? } else { Place::File(place.into()) };
    let db = Db::open_at(&place).await?;
    let timing = Timing { beat: Duration::from_secs(10), missed_beats: 2, max_attempts: 3 };
    let spec = |n: usize| {
        let name = job(n).app;
        serde_json::from_value(serde_json::json!({"name": name, "repo": REPO}))
    };
    let specs = (0..APPS).map(spec).collect::<Result<Vec<AppSpec>, _>>()?;
    db.write(move |tx: &mut Tx| specs.iter().try_for_each(|app| apps::put(tx, app, UnixMillis(0))))
        .await?;
    for first in (0..jobs).step_by(SEED_BATCH) {
        let last = (first + SEED_BATCH).min(jobs);
        db.write(move |tx: &mut Tx| {
            for n in first..last {
                insert(tx, &job(n), &queue(UnixMillis(0), &timing), UnixMillis(0))?;
            }
            Ok::<_, DbError>(())
        })
        .await?;
    }
    db.close().await;
    Ok(())
}

fn job(n: usize) -> NewJob {
    let recipe = serde_json::from_str(r#"{"build": {"command": "make", "artifact": "it"}}"#);
    NewJob {
        app: format!("app-{}", n % APPS).parse().expect("a name"),
        commit: format!("{n:040x}").parse().expect("a commit"),
        subject: "Change something".into(),
        actor: "bench".into(),
        allow_unmerged: false,
        source: Source {
            repo: REPO.into(),
            trunk: "main".into(),
            recipe: recipe.expect("a recipe"),
        },
    }
}

/// The statement that a queue in SQLite can't do without, durable and `batch` jobs at a time.
fn bare(file: &Path, jobs: usize, batch: usize) -> Result<(), Failure> {
    let db = rusqlite::Connection::open(file)?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    let mut claim = db.prepare(
        "UPDATE jobs SET status = 'RUNNING', attempt = attempt + 1, worker_id = ?1,
            lease_expires_at = ?2, started_at = ?3
         WHERE id IN (SELECT id FROM jobs WHERE status = 'QUEUED' AND not_before <= ?3
            ORDER BY priority DESC, id LIMIT ?4) RETURNING id",
    )?;
    let (since, mut done) = (Instant::now(), 0);
    let mut took = Vec::new();
    while done < jobs {
        let asked = Instant::now();
        db.execute_batch("BEGIN IMMEDIATE")?;
        let rows = claim.query_map((format!("w-{done}"), 30_000, 1, batch as i64), |row| {
            row.get::<_, i64>(0)
        })?;
        let claimed = rows.count();
        db.execute_batch("COMMIT")?;
        took.push(u32::try_from(asked.elapsed().as_micros())?);
        if claimed == 0 {
            return Err(format!("only {done} jobs are queued").into());
        }
        done += claimed;
    }
    let seen = Seen { done: done.into(), took: took.into(), ..Seen::default() };
    let (folder, token) = (PathBuf::new(), String::new());
    Load { folder, token, slots: 1, jobs, cycles: false, claimed: None, seen }
        .tell(since.elapsed());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["seed", place, jobs] => seed(place, jobs.parse()?).await,
        ["bare", file, jobs, batch] => bare(Path::new(file), jobs.parse()?, batch.parse()?),
        [what @ ("claims" | "cycles"), folder, token, workers, slots, jobs, claimed @ ..] => {
            let append = |path: &&str| File::options().create(true).append(true).open(path);
            let load = Arc::new(Load {
                folder: folder.into(),
                token: read_token(Path::new(token))?,
                slots: slots.parse()?,
                jobs: jobs.parse()?,
                cycles: *what == "cycles",
                claimed: claimed.first().map(append).transpose()?,
                seen: Seen::default(),
            });
            let since = Instant::now();
            let all = (0..workers.parse()?).map(|number| {
                let load = load.clone();
                let work = tokio::spawn(async move { load.worker(number).await });
                work.map(|ended| ended?)
            });
            tokio::select! {
                failed = try_join_all(all) => failed.map(drop),
                () = load.seen.over.notified() => {
                    load.tell(since.elapsed());
                    Ok(())
                }
            }
        }
        _ => Err("see the head of examples/workers.rs".into()),
    }
}
