//! Counts over whole tables, for metrics: read at each scrape.

use super::{DbError, Tx};
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
