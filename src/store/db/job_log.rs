//! The logs of jobs: text in chunks, attempt after attempt, the middle dropped
//! when an attempt's part grows over its bound.

use super::{DbError, Topic, Tx, values};
use crate::model::id::JobNo;
use crate::model::time::UnixMillis;

/// How far one attempt's log has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Bytes had from the worker, as it counts them.
    pub received: u64,
    /// Where the attempt begins in the job's log.
    pub start: u64,
    /// An escape sequence that the last chunk cut off.
    pub carry: String,
}

/// A stretch of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins in the job's log.
    pub at: u64,
    /// What it says.
    pub text: String,
}

/// How far the log of an attempt has come; `None`: there is no such attempt.
///
/// # Errors
/// When the database fails.
pub fn progress(tx: &Tx, job: JobNo, attempt: u32) -> Result<Option<Progress>, DbError> {
    tx.row(
        "SELECT log_received, log_start, log_carry FROM attempts WHERE job = ?1 AND attempt = ?2",
        values![job, attempt],
        |row| Ok(Progress { received: row.num(0)?, start: row.num(1)?, carry: row.text(2)? }),
    )
}

/// Records how far the log of an attempt has come.
///
/// # Errors
/// When the database fails.
pub fn advance(
    tx: &mut Tx,
    (job, attempt): (JobNo, u32),
    received: u64,
    carry: &str,
) -> Result<(), DbError> {
    tx.exec_later(
        "UPDATE attempts SET log_received = ?3, log_carry = ?4 WHERE job = ?1 AND attempt = ?2",
        values![job, attempt, received, carry],
    )
}

/// Adds text at the end of a job's log; returns the log's new length.
///
/// # Errors
/// When the database fails.
pub fn append(tx: &mut Tx, job: JobNo, attempt: u32, text: &str) -> Result<u64, DbError> {
    let end = tx.row(
        "UPDATE jobs SET log_bytes = log_bytes + ?2 WHERE id = ?1 RETURNING log_bytes",
        values![job, text.len()],
        |row| row.num::<u64>(0),
    )?;
    let end = end.ok_or(DbError::Missing("the job of a log"))?;
    if !text.is_empty() {
        tx.exec_later(
            "INSERT INTO job_log (job, at, attempt, bytes, text) VALUES (?1, ?2, ?3, ?4, ?5)",
            values![job, end - text.len() as u64, attempt, text.len(), text],
        )?;
        tx.touch(Topic::Logs);
    }
    Ok(end)
}

/// Drops whole chunks of an attempt that lie within `from..to`.
///
/// # Errors
/// When the database fails.
pub fn drop_between(
    tx: &mut Tx,
    (job, attempt): (JobNo, u32),
    from: u64,
    to: u64,
) -> Result<(), DbError> {
    tx.exec(
        "DELETE FROM job_log WHERE job = ?1 AND at >= ?2 AND at + bytes <= ?3 AND attempt = ?4",
        values![job, from, to, attempt],
    )?;
    Ok(())
}

/// Up to `limit` chunks from the one that holds `from` on, in order.
///
/// # Errors
/// When the database fails.
pub fn read(tx: &Tx, job: JobNo, from: u64, limit: usize) -> Result<Vec<Stretch>, DbError> {
    tx.rows(
        "SELECT at, text FROM job_log WHERE job = ?1 AND at >=
            (SELECT COALESCE(max(at), 0) FROM job_log WHERE job = ?1 AND at <= ?2)
         ORDER BY at LIMIT ?3",
        values![job, from, limit],
        |row| Ok(Stretch { at: row.num(0)?, text: row.text(1)? }),
    )
}

/// How far a look for old logs came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Jobs whose logs were dropped.
    pub jobs: usize,
    /// The next look goes on after this job; `None`: there is no log behind it.
    pub next: Option<JobNo>,
}

/// Drops the logs of jobs that ended before `before` and whose artifact, if any, was collected:
/// what can still be deployed, or runs, keeps the log of its build. Looks at the first `limit`
/// jobs with logs after `after`; none goes after the one with which they have `bytes` or more.
///
/// # Errors
/// When the database fails.
pub fn forget(
    tx: &mut Tx,
    before: UnixMillis,
    after: JobNo,
    limit: usize,
    bytes: u64,
) -> Result<Forgotten, DbError> {
    // In the order of the key, so that only what is looked at is read.
    let first = "SELECT DISTINCT job FROM job_log WHERE job > ?1 ORDER BY job LIMIT ?2";
    let first: Vec<u64> = tx.rows(first, values![after, limit], |row| row.num(0))?;
    let keys: Vec<_> = first.iter().map(|job| values![*job].to_vec()).collect();
    // What is only marked may come back.
    let ended = "SELECT id, ended_at, log_bytes FROM jobs WHERE id IN ({rows})
        AND NOT EXISTS (SELECT 1 FROM artifacts WHERE artifacts.artifact = jobs.artifact)
        AND NOT EXISTS (SELECT 1 FROM collected
                        WHERE collected.artifact = jobs.artifact AND collected.state = 'marked')";
    let mut ended: Vec<(u64, Option<UnixMillis>, u64)> =
        tx.rows_of(ended, &keys, |row| Ok((row.num(0)?, row.opt_time(1)?, row.num(2)?)))?;
    ended.retain(|(_, ended, _)| ended.is_some_and(|ended| ended < before));
    ended.sort_unstable();
    let (mut taken, mut old) = (0, vec![]);
    for (job, _, more) in &ended {
        if taken >= bytes {
            break;
        }
        taken += more;
        old.push(*job);
    }
    let keys: Vec<_> = old.iter().map(|job| values![*job].to_vec()).collect();
    tx.exec_rows(None, "DELETE FROM job_log WHERE job IN ({rows})", &[], &keys)?;
    let last = if old.len() < ended.len() { old.last() } else { first.last() };
    let more = old.len() < ended.len() || first.len() == limit;
    Ok(Forgotten { jobs: old.len(), next: last.filter(|_| more).map(|job| JobNo(*job)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::conformance::both;

    #[tokio::test]
    async fn old_logs_go_a_few_and_a_few_bytes_at_a_time() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
                for (job, ended) in
                    [(1, Some(10)), (2, Some(10)), (3, Some(99)), (4, None), (5, Some(9))]
                {
                    tx.exec(
                        "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt,
                             max_attempts, not_before, queued_at, actor, subject, repo, trunk,
                             recipe, ended_at)
                         VALUES (?1, 'web', 'c', ?3, 'FAILED', 1, 3, 0, 0, '', '', '',
                             '', '', ?2)",
                        values![job, ended, format!("r{job}")],
                    )?;
                    append(tx, JobNo(u64::try_from(job).unwrap_or(0)), 1, "0123456789")?;
                }
                tx.settle()?;
                let (before, first) = (UnixMillis(50), JobNo(0));
                // The bytes of the first are enough.
                let went = forget(tx, before, first, 9, 10)?;
                assert_eq!(went, Forgotten { jobs: 1, next: Some(JobNo(1)) });
                assert_eq!(read(tx, JobNo(1), 0, 9)?, []);
                assert_eq!(read(tx, JobNo(2), 0, 9)?.len(), 1);
                assert_eq!(forget(tx, before, JobNo(1), 9, 11)?, Forgotten { jobs: 2, next: None });
                assert_eq!(forget(tx, before, first, 9, 11)?, Forgotten { jobs: 0, next: None });
                assert_eq!(tx.number("SELECT CAST(sum(job) AS BIGINT) FROM job_log", &[])?, 3 + 4);
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }

    #[tokio::test]
    async fn logs_of_what_is_there_stay_and_do_not_stand_in_the_way() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
                for job in 1..=8_i64 {
                    // 1 and 2 run still, 3 has its artifact, that of 4 is marked, 5 and 6 lost
                    // theirs, 7 and 8 never had one.
                    let ended = (job > 2).then_some(10);
                    let artifact = (3..=6).contains(&job).then(|| format!("a{job}"));
                    tx.exec(
                        "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt,
                             max_attempts, not_before, queued_at, actor, subject, repo, trunk,
                             recipe, ended_at, artifact)
                         VALUES (?1, 'web', 'c', ?3, 'FAILED', 1, 3, 0, 0, '', '', '',
                             '', '', ?2, ?4)",
                        values![job, ended, format!("r{job}"), artifact],
                    )?;
                    append(tx, JobNo(job.unsigned_abs()), 1, "0123456789")?;
                }
                tx.exec(
                    "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces,
                         entries, manifest_bytes, replication_status, created_at)
                     VALUES ('a3', 'web', 'c', 3, 9, 9, 1, 1, 1, 'complete', 1)",
                    &[],
                )?;
                for (artifact, state) in [("a4", "marked"), ("a5", "going"), ("a6", "gone")] {
                    tx.exec(
                        "INSERT INTO collected (artifact, wire_size, state, marked_at, due_at)
                         VALUES (?1, 1, ?2, 1, 1)",
                        values![artifact, state],
                    )?;
                }
                tx.settle()?;
                let (mut after, mut went) = (JobNo(0), vec![]);
                loop {
                    let done = forget(tx, UnixMillis(50), after, 2, 1 << 20)?;
                    went.push(done.jobs);
                    let Some(next) = done.next else { break };
                    assert!(next > after, "it goes on");
                    after = next;
                }
                assert_eq!(went, [0, 0, 2, 2, 0]);
                let left =
                    tx.rows("SELECT job FROM job_log ORDER BY job", &[], |row| row.int(0))?;
                assert_eq!(left, [1, 2, 3, 4]);
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }
}
