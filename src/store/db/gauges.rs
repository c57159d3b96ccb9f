//! Counts over whole tables, for metrics: read at each scrape.

use std::time::Duration;

use super::{DbError, Tx, values};
use crate::model::time::UnixMillis;

/// Build jobs by status.
///
/// # Errors
/// When the database fails.
pub fn jobs(tx: &Tx) -> Result<Vec<(String, i64)>, DbError> {
    let sql = "SELECT status, count(*) FROM jobs GROUP BY status";
    tx.rows(sql, &[], |row| Ok((row.text(0)?, row.int(1)?)))
}

/// When the oldest queued job was queued; `None`: none is.
///
/// # Errors
/// When the database fails.
pub fn oldest_queued(tx: &Tx) -> Result<Option<UnixMillis>, DbError> {
    let sql = "SELECT queued_at FROM jobs WHERE status = 'QUEUED' ORDER BY queued_at LIMIT 1";
    tx.row(sql, &[], |row| row.time(0))
}

/// Jobs that wait, and jobs that run.
///
/// # Errors
/// When the database fails.
pub fn jobs_waiting_and_running(tx: &Tx) -> Result<(i64, i64), DbError> {
    let count = |state: &str| {
        // As a literal, so that the indexes of these states alone are read.
        tx.number(&format!("SELECT count(*) FROM jobs WHERE status = '{state}'"), &[])
    };
    Ok((count("QUEUED")?, count("RUNNING")?))
}

/// Jobs that were asked for after `since`, of the last 10,000.
///
/// # Errors
/// When the database fails.
pub fn arrived(tx: &Tx, since: UnixMillis) -> Result<i64, DbError> {
    tx.number(
        "SELECT count(*) FROM (SELECT queued_at FROM jobs ORDER BY id DESC LIMIT 10000) AS late
         WHERE queued_at >= ?1",
        values![since],
    )
}

/// How long the last 100 attempts took on average; `None`: none has ended.
///
/// # Errors
/// When the database fails.
pub fn service(tx: &Tx) -> Result<Option<Duration>, DbError> {
    let sql = "SELECT ended_at - started_at FROM attempts WHERE ended_at IS NOT NULL
         ORDER BY job DESC, attempt DESC LIMIT 100";
    let took: Vec<u64> = tx.rows(sql, &[], |row| Ok(row.int(0)?.max(0).unsigned_abs()))?;
    let mean = took.iter().sum::<u64>().checked_div(took.len() as u64);
    Ok(mean.map(Duration::from_millis))
}

/// Rollouts by state.
///
/// # Errors
/// When the database fails.
pub fn rollouts(tx: &Tx) -> Result<Vec<(String, i64)>, DbError> {
    let sql = "SELECT state, count(*) FROM releases GROUP BY state";
    tx.rows(sql, &[], |row| Ok((row.text(0)?, row.int(1)?)))
}

/// Goals that were decided and are not in the goal store yet.
///
/// # Errors
/// When the database fails.
pub fn goals_waiting(tx: &Tx) -> Result<i64, DbError> {
    tx.number("SELECT count(*) FROM goal_outbox", &[])
}
