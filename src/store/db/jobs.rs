//! The queue's rows: jobs and their attempts. What may happen to a job is
//! decided in `rules::queue`; here it is read, and written under a guard.

use std::collections::BTreeSet;

use super::{DbError, Row, Tx, values};
use crate::model::commit::CommitId;
use crate::model::digest::{ArtifactId, Digest};
use crate::model::id::{AppName, JobNo};
use crate::model::job::{BuildFailure, Job, JobState, Outcome};
use crate::model::recipe::Recipe;
use crate::model::time::UnixMillis;

/// What is built from where: the app as it was when the job was queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where to fetch from.
    pub repo: String,
    /// The branch that the commit must be on.
    pub trunk: String,
    /// The app's stored recipe.
    pub recipe: Recipe,
}

impl Source {
    /// Two jobs of one commit are the same when this is.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let text = serde_json::to_string(&(&self.repo, &self.trunk, &self.recipe));
        Digest::of(text.expect("a source is plain JSON").as_bytes())
    }
}

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The app.
    pub app: AppName,
    /// The commit.
    pub commit: CommitId,
    /// Its subject.
    pub subject: String,
    /// Who asked.
    pub actor: String,
    /// Whether it may be off the trunk.
    pub allow_unmerged: bool,
    /// What is built from where.
    pub source: Source,
}

/// A job with all that is stored about it.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Its number.
    pub no: JobNo,
    /// What was asked for.
    pub asked: NewJob,
    /// What the queue's rules decide on.
    pub job: Job,
    /// When it was asked for.
    pub queued_at: UnixMillis,
    /// When the last attempt began.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// Length of its log, dropped parts included, bytes.
    pub log_bytes: u64,
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this app.
    pub app: Option<AppName>,
    /// Only of commits that begin with these hexadecimal digits.
    pub commit: Option<String>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only with a lower number.
    pub before: Option<JobNo>,
    /// Only with this artifact.
    pub artifact: Option<ArtifactId>,
}

/// States that a write for many rows is guarded by: among the rows, not in the statement. For
/// a state in a statement PostgreSQL reads the whole index of that state, whose entries go
/// stale with every write, in place of looking the jobs up.
const QUEUED: &str = JobState::Queued.word();
const RUNNING: &str = JobState::Running.word();

const COLUMNS: &str = "id, app, commit_id, subject, actor, allow_unmerged, repo, trunk, recipe,
    status, attempt, max_attempts, not_before, worker_id, lease_expires_at, cancel_requested_at,
    artifact, failure_class, failure_reason, queued_at, started_at, ended_at, log_bytes";

fn read(row: &Row) -> Result<JobRow, DbError> {
    let source = Source { repo: row.text(6)?, trunk: row.text(7)?, recipe: row.json(8)? };
    let failure = match row.opt_text(17)? {
        None => None,
        Some(_) => Some((row.word(17, BuildFailure::from_word)?, row.text(18)?)),
    };
    Ok(JobRow {
        no: JobNo(row.num(0)?),
        asked: NewJob {
            app: row.parse(1)?,
            commit: row.parse(2)?,
            subject: row.text(3)?,
            actor: row.text(4)?,
            allow_unmerged: row.flag(5)?,
            source,
        },
        job: Job {
            state: row.word(9, JobState::from_word)?,
            attempt: row.num(10)?,
            max_attempts: row.num(11)?,
            not_before: row.time(12)?,
            worker: row.opt_parse(13)?,
            lease_until: row.opt_time(14)?,
            cancel_requested: row.opt_int(15)?.is_some(),
            artifact: row.opt_parse(16)?,
            failure,
        },
        queued_at: row.time(19)?,
        started_at: row.opt_time(20)?,
        ended_at: row.opt_time(21)?,
        log_bytes: row.num(22)?,
    })
}

/// Puts a new job at the end of the queue.
///
/// # Errors
/// [`DbError::is_duplicate`] when a live or succeeded job does the same, else
/// when the database fails.
pub fn insert(tx: &mut Tx, asked: &NewJob, job: &Job, now: UnixMillis) -> Result<JobNo, DbError> {
    let recipe = serde_json::to_string(&asked.source.recipe).expect("a recipe is plain JSON");
    let no = tx.row(
        "INSERT INTO jobs (app, commit_id, subject, actor, allow_unmerged, repo, trunk, recipe,
            recipe_digest, status, attempt, max_attempts, not_before, queued_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) RETURNING id",
        values![
            &asked.app,
            &asked.commit,
            &asked.subject,
            &asked.actor,
            asked.allow_unmerged,
            &asked.source.repo,
            &asked.source.trunk,
            recipe,
            asked.source.digest(),
            job.state.word(),
            job.attempt,
            job.max_attempts,
            job.not_before,
            now
        ],
        |row| row.num(0),
    )?;
    no.map(JobNo).ok_or(DbError::Missing("the new job's number"))
}

/// The job `no`.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, no: JobNo) -> Result<Option<JobRow>, DbError> {
    tx.row(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"), values![no], read)
}

/// Those of the jobs with these numbers that there are.
///
/// # Errors
/// When the database fails.
pub fn find_all(tx: &Tx, numbers: &BTreeSet<JobNo>) -> Result<Vec<JobRow>, DbError> {
    let keys: Vec<_> = numbers.iter().map(|no| values![*no].to_vec()).collect();
    tx.rows_of(&format!("SELECT {COLUMNS} FROM jobs WHERE id IN ({{rows}})"), &keys, read)
}

/// The live or succeeded job that does the same as `asked`.
///
/// # Errors
/// When the database fails.
pub fn find_same(tx: &Tx, asked: &NewJob) -> Result<Option<JobRow>, DbError> {
    tx.row(
        &format!(
            "SELECT {COLUMNS} FROM jobs WHERE app = ?1 AND commit_id = ?2 AND recipe_digest = ?3
             AND status IN ('QUEUED', 'RUNNING', 'SUCCEEDED')"
        ),
        values![&asked.app, &asked.commit, asked.source.digest()],
        read,
    )
}

/// Makes way for another job that does the same: what this one made was collected.
///
/// # Errors
/// When the database fails.
pub fn set_aside(tx: &mut Tx, no: JobNo) -> Result<(), DbError> {
    let sql = "UPDATE jobs SET recipe_digest = 'collected ' || id WHERE id = ?1";
    tx.exec(sql, values![no]).map(drop)
}

/// Up to `limit` jobs, newest first.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx, filter: &Filter, limit: u32) -> Result<Vec<JobRow>, DbError> {
    let mut sql = format!("SELECT {COLUMNS} FROM jobs WHERE id < ?1");
    let before = filter.before.map_or(i64::MAX.unsigned_abs(), |no| no.0);
    let mut values = values![before, limit].to_vec();
    let mut and = |condition: &str, value: super::Value| {
        values.push(value);
        sql.push_str(&condition.replace('#', &format!("?{}", values.len())));
    };
    if let Some(app) = &filter.app {
        and(" AND app = #", app.into());
    }
    if let Some(prefix) = &filter.commit {
        // 'g' sorts after every hexadecimal digit.
        and(" AND commit_id >= #", prefix.into());
        and(" AND commit_id < #", format!("{prefix}g").into());
    }
    if let Some(state) = filter.state {
        and(" AND status = #", state.word().into());
    }
    if let Some(artifact) = filter.artifact {
        and(" AND artifact = #", artifact.into());
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?2");
    tx.rows(&sql, &values, read)
}

/// Up to `limit` jobs that may be claimed now, first in line first.
///
/// # Errors
/// When the database fails.
pub fn due(tx: &Tx, now: UnixMillis, limit: usize) -> Result<Vec<JobRow>, DbError> {
    tx.rows(
        &format!(
            "SELECT {COLUMNS} FROM jobs WHERE status = 'QUEUED' AND not_before <= ?1
             ORDER BY priority DESC, id LIMIT ?2"
        ),
        values![now, limit],
        read,
    )
}

/// When the next queued job is due, `now` if one is; `None` when none is queued.
///
/// # Errors
/// When the database fails.
pub fn next_due(tx: &Tx, now: UnixMillis) -> Result<Option<UnixMillis>, DbError> {
    // The first in line nearly always is: a long queue must not be read for it.
    let first = "SELECT not_before FROM jobs WHERE status = 'QUEUED' AND not_before <= ?1
         ORDER BY priority DESC, id LIMIT 1";
    if tx.row(first, values![now], |row| row.time(0))?.is_some() {
        return Ok(Some(now));
    }
    let sql = "SELECT min(not_before) FROM jobs WHERE status = 'QUEUED'";
    Ok(tx.row(sql, &[], |row| row.opt_time(0))?.flatten())
}

/// Up to `limit` running jobs whose lease is over.
///
/// # Errors
/// When the database fails.
pub fn lapsed(tx: &Tx, now: UnixMillis, limit: usize) -> Result<Vec<JobRow>, DbError> {
    tx.rows(
        &format!(
            "SELECT {COLUMNS} FROM jobs WHERE status = 'RUNNING' AND lease_expires_at <= ?1
             ORDER BY id LIMIT ?2"
        ),
        values![now, limit],
        read,
    )
}

/// Gives every running job a lease until `until`, for workers that could not
/// beat while no coordinator ran; none began after `now`.
///
/// # Errors
/// When the database fails.
pub fn renew_leases(tx: &mut Tx, now: UnixMillis, until: UnixMillis) -> Result<usize, DbError> {
    tx.exec(
        "UPDATE jobs SET lease_expires_at = ?2, 
            started_at = CASE WHEN started_at > ?1 THEN ?1 ELSE started_at END
         WHERE status = 'RUNNING'",
        values![now, until],
    )
}

/// Makes every queued job due at `latest`.
///
/// # Errors
/// When the database fails.
pub fn hasten(tx: &mut Tx, latest: UnixMillis) -> Result<usize, DbError> {
    tx.exec(
        "UPDATE jobs SET not_before = ?1 WHERE status = 'QUEUED' AND not_before > ?1",
        values![latest],
    )
}

/// Jobs before `job` in the queue.
///
/// # Errors
/// When the database fails.
pub fn ahead_of(tx: &Tx, job: JobNo) -> Result<u32, DbError> {
    let ahead = tx.number(
        "SELECT count(*) FROM jobs AS other JOIN jobs AS mine ON mine.id = ?1
         WHERE other.status = 'QUEUED' AND (other.priority > mine.priority
            OR (other.priority = mine.priority AND other.id < mine.id))",
        values![job],
    )?;
    Ok(u32::try_from(ahead).unwrap_or(u32::MAX))
}

/// How many jobs are queued.
///
/// # Errors
/// When the database fails.
pub fn queued(tx: &Tx) -> Result<i64, DbError> {
    tx.number("SELECT count(*) FROM jobs WHERE status = 'QUEUED'", &[])
}

/// Writes what the rules made of `before`, unless somebody changed the job since.
///
/// # Errors
/// [`DbError::Raced`] when it was changed, [`DbError::is_duplicate`] when another
/// live job does the same, else when the database fails; told by a later statement or
/// the end of the write.
pub fn update(tx: &mut Tx, before: &JobRow, job: &Job, now: UnixMillis) -> Result<(), DbError> {
    let running = job.state == JobState::Running;
    let beat = (running && job.lease_until != before.job.lease_until).then_some(now);
    let started = (job.attempt != before.job.attempt).then_some(now);
    let ended = job.state.is_final().then_some(before.ended_at.unwrap_or(now));
    let failure = job.failure.as_ref();
    tx.exec_guarded_later(
        "the job",
        "UPDATE jobs SET status = ?4, attempt = ?5, max_attempts = ?6, not_before = ?7,
            worker_id = ?8, lease_expires_at = ?9, artifact = ?10, failure_class = ?11,
            failure_reason = ?12, ended_at = ?13,
            last_heartbeat = COALESCE(?14, last_heartbeat),
            started_at = COALESCE(?15, started_at),
            cancel_requested_at = CASE WHEN ?16 = 1 THEN COALESCE(cancel_requested_at, ?17) END
         WHERE id = ?1 AND attempt = ?2 AND status = ?3",
        values![
            before.no,
            before.job.attempt,
            before.job.state.word(),
            job.state.word(),
            job.attempt,
            job.max_attempts,
            job.not_before,
            job.worker.as_ref(),
            job.lease_until,
            job.artifact,
            failure.map(|(class, _)| class.word()),
            failure.map(|(_, reason)| reason),
            ended,
            beat,
            started,
            job.cancel_requested,
            now
        ],
    )
}

/// Lets a queued job build off the trunk.
///
/// # Errors
/// When the database fails.
pub fn allow_unmerged(tx: &mut Tx, no: JobNo) -> Result<(), DbError> {
    tx.exec("UPDATE jobs SET allow_unmerged = 1 WHERE id = ?1", values![no]).map(drop)
}

/// One attempt, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The machine that made it.
    pub machine: String,
    /// How it ended, in the worker's words; `None`: it runs, or it was handed back.
    pub outcome: Option<Outcome>,
}

/// A job that is given to a worker.
#[derive(Debug)]
pub struct Begun<'a> {
    /// As it was read in this transaction.
    pub before: &'a JobRow,
    /// What the rules made of it.
    pub job: &'a Job,
    /// The worker's machine.
    pub machine: &'a str,
}

/// Writes jobs that begin to run, and their attempts.
///
/// # Errors
/// [`DbError::Raced`] when one was changed since it was read, else when the database fails.
pub fn begin(tx: &mut Tx, begun: &[Begun], now: UnixMillis) -> Result<(), DbError> {
    let row = |begun: &Begun| {
        let Job { attempt, worker, lease_until, .. } = begun.job;
        values![begun.before.no, *attempt, worker.as_ref(), *lease_until, QUEUED].to_vec()
    };
    tx.exec_rows(
        Some("the job"),
        "UPDATE jobs SET status = 'RUNNING', attempt = column2, worker_id = column3,
            lease_expires_at = CAST(column4 AS BIGINT), last_heartbeat = ?1, started_at = ?1
         FROM (VALUES {rows}) AS begun
         WHERE id = column1 AND attempt = column2 - 1 AND status = column5",
        values![now],
        &begun.iter().map(row).collect::<Vec<_>>(),
    )?;
    let attempt = |begun: &Begun| {
        let Begun { before, job, machine } = begun;
        values![before.no, job.attempt, job.worker.as_ref(), *machine, now, before.log_bytes]
            .to_vec()
    };
    tx.exec_rows(
        None,
        "INSERT INTO attempts (job, attempt, worker_id, machine, started_at, log_start)
         VALUES {rows}",
        &[],
        &begun.iter().map(attempt).collect::<Vec<_>>(),
    )
}

/// Writes that leases of running jobs were renewed.
///
/// # Errors
/// [`DbError::Raced`] when one was changed since it was read, else when the database fails.
pub fn renew(tx: &mut Tx, renewed: &[(JobNo, &Job)], now: UnixMillis) -> Result<(), DbError> {
    let row =
        |(no, job): &(JobNo, &Job)| values![*no, job.attempt, job.lease_until, RUNNING].to_vec();
    tx.exec_rows(
        Some("the job"),
        "UPDATE jobs SET lease_expires_at = CAST(column3 AS BIGINT), last_heartbeat = ?1
         FROM (VALUES {rows}) AS renewed
         WHERE id = column1 AND attempt = column2 AND status = column4",
        values![now],
        &renewed.iter().map(row).collect::<Vec<_>>(),
    )
}

/// An attempt that is over.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The job as it was read in this transaction.
    pub before: &'a JobRow,
    /// What the rules made of it.
    pub job: &'a Job,
    /// How it ended, in the worker's words; `None`: it was handed back.
    pub outcome: Option<&'a Outcome>,
}

/// Writes jobs that run no more, and how their attempts ended.
///
/// # Errors
/// [`DbError::Raced`] when one was changed since it was read, else when the database fails.
pub fn end(tx: &mut Tx, ended: &[Ended], now: UnixMillis) -> Result<(), DbError> {
    let row = |ended: &Ended| {
        let Ended { before, job, .. } = ended;
        let failure = job.failure.as_ref();
        values![
            before.no,
            before.job.attempt,
            job.state.word(),
            job.max_attempts,
            job.not_before,
            job.artifact,
            failure.map(|(class, _)| class.word()),
            failure.map(|(_, reason)| reason),
            RUNNING
        ]
        .to_vec()
    };
    tx.exec_rows(
        Some("the job"),
        "UPDATE jobs SET status = column3, max_attempts = column4, not_before = column5,
            artifact = column6, failure_class = column7, failure_reason = column8,
            ended_at = CASE column3 WHEN 'QUEUED' THEN NULL ELSE CAST(?1 AS BIGINT) END,
            worker_id = NULL, lease_expires_at = NULL
         FROM (VALUES {rows}) AS ended
         WHERE id = column1 AND attempt = column2 AND status = column9",
        values![now],
        &ended.iter().map(row).collect::<Vec<_>>(),
    )?;
    let attempt = |ended: &Ended| {
        let (word, reason, artifact) = match ended.outcome {
            None => ("released", "", None),
            Some(Outcome::Succeeded { artifact }) => ("succeeded", "", Some(*artifact)),
            Some(Outcome::Failed { class, reason }) => (class.word(), reason.as_str(), None),
        };
        values![ended.before.no, ended.before.job.attempt, word, reason, artifact].to_vec()
    };
    tx.exec_rows(
        Some("the attempt"),
        "UPDATE attempts SET ended_at = ?1, outcome = column3, reason = column4,
            artifact = column5
         FROM (VALUES {rows}) AS ended WHERE job = column1 AND attempt = column2",
        values![now],
        &ended.iter().map(attempt).collect::<Vec<_>>(),
    )
}

/// An attempt of a job.
///
/// # Errors
/// When the database fails.
pub fn attempt(tx: &Tx, job: JobNo, attempt: u32) -> Result<Option<Attempt>, DbError> {
    tx.row(
        "SELECT machine, outcome, reason, artifact FROM attempts WHERE job = ?1 AND attempt = ?2",
        values![job, attempt],
        |row| {
            let outcome = match row.opt_text(1)?.as_deref() {
                None | Some("released") => None,
                Some("succeeded") => Some(Outcome::Succeeded { artifact: row.parse(3)? }),
                Some(_) => Some(Outcome::Failed {
                    class: row.word(1, BuildFailure::from_word)?,
                    reason: row.text(2)?,
                }),
            };
            Ok(Attempt { machine: row.text(0)?, outcome })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::Db;

    #[tokio::test]
    async fn a_clock_that_was_set_back_holds_no_job_up() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db")).unwrap();
        let rows = db.write(|tx| {
            tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
            for (no, state) in [(1, "QUEUED"), (2, "RUNNING")] {
                tx.exec(
                    "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt,
                        max_attempts, not_before, lease_expires_at, started_at, queued_at,
                        actor, subject, repo, trunk, recipe)
                     VALUES (?1, 'web', ?2, ?3, ?4, 1, 3, 9000, 9000, 8000, 0, '', '', '', '',
                        '{\"build\":{\"command\":\"true\",\"artifact\":\"x\"}}')",
                    values![no, "a".repeat(40), no.to_string(), state],
                )?;
            }
            hasten(tx, UnixMillis(500))?;
            renew_leases(tx, UnixMillis(100), UnixMillis(130))?;
            Ok::<_, DbError>((due(tx, UnixMillis(500), 9)?, lapsed(tx, UnixMillis(130), 9)?))
        });
        let (due, lapsed) = rows.await.unwrap();
        assert_eq!((due.len(), lapsed.len()), (1, 1));
        assert_eq!(lapsed[0].started_at, Some(UnixMillis(100)));
    }
}
