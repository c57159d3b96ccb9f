//! Workers that were heard of, for people to see.

use std::collections::BTreeSet;

use super::{DbError, Tx, drains, values};
use crate::model::id::WorkerId;
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::WorkerRow;

/// How exact the time is that a worker was last heard of, milliseconds: a busy one speaks
/// many times a second, and people and autoscalers look at seconds.
const SEEN_EVERY_MS: i64 = 1000;

/// A worker that asked for work.
#[derive(Debug, Clone)]
pub struct Seen {
    /// This start of it.
    pub worker: WorkerId,
    /// The machine's name.
    pub machine: String,
    /// Jobs that it runs at a time.
    pub slots: u32,
    /// Whose token it has.
    pub token: String,
}

/// Records who asked for work; each worker once.
///
/// # Errors
/// When the database fails.
pub fn seen(tx: &mut Tx, asked: &[&Seen], now: UnixMillis) -> Result<(), DbError> {
    let row = |seen: &&Seen| {
        let Seen { worker, machine, slots, token } = seen;
        values![worker, machine, *slots, token, now].to_vec()
    };
    let rows: Vec<_> = asked.iter().map(row).collect();
    tx.exec_rows(
        None,
        "INSERT INTO workers (id, machine, slots, token, seen_at) VALUES {rows}
         ON CONFLICT (id) DO UPDATE SET machine = excluded.machine, slots = excluded.slots,
            token = excluded.token, seen_at = excluded.seen_at
            WHERE workers.seen_at < excluded.seen_at - ?1 OR workers.slots <> excluded.slots",
        values![SEEN_EVERY_MS],
        &rows,
    )
}

/// Records that known workers beat.
///
/// # Errors
/// When the database fails.
pub fn beat(tx: &mut Tx, workers: &BTreeSet<&WorkerId>, now: UnixMillis) -> Result<(), DbError> {
    tx.exec_rows(
        None,
        "UPDATE workers SET seen_at = ?1 WHERE seen_at < ?2 AND id IN ({rows})",
        values![now, now.0 - SEEN_EVERY_MS],
        &workers.iter().map(|worker| values![*worker].to_vec()).collect::<Vec<_>>(),
    )
}

/// Workers heard of since `since`, by machine; at most 10,000.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx, since: UnixMillis) -> Result<Vec<WorkerRow>, DbError> {
    tx.rows(
        "SELECT id, machine, slots, seen_at,
            (SELECT count(*) FROM jobs WHERE status = 'RUNNING' AND worker_id = workers.id)
         FROM workers WHERE seen_at >= ?1 ORDER BY machine, id LIMIT 10000",
        values![since],
        |row| {
            Ok(WorkerRow {
                worker: row.text(0)?,
                machine: row.text(1)?,
                slots: row.num(2)?,
                seen_at: row.time(3)?,
                running: row.num(4)?,
                draining: false,
            })
        },
    )
    .and_then(|mut workers| {
        let drained = drains::names(tx)?;
        let is_drained =
            |row: &WorkerRow| drained.contains(&row.worker) || drained.contains(&row.machine);
        workers.iter_mut().for_each(|row| row.draining = is_drained(row));
        Ok(workers)
    })
}

/// Workers that are remembered and their slots, those that left included.
///
/// # Errors
/// When the database fails.
pub fn known(tx: &Tx) -> Result<(u64, u64), DbError> {
    let sql = "SELECT count(*), CAST(COALESCE(sum(slots), 0) AS BIGINT) FROM workers";
    Ok(tx.row(sql, &[], |row| Ok((row.num(0)?, row.num(1)?)))?.unwrap_or((0, 0)))
}

/// Forgets workers not heard of since `before`.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx, before: UnixMillis) -> Result<(), DbError> {
    tx.exec("DELETE FROM workers WHERE seen_at < ?1", values![before]).map(drop)
}
