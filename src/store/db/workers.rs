//! Workers that were heard of, for people to see.

use super::{DbError, Tx, values};
use crate::model::id::WorkerId;
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::WorkerRow;

/// Records that a worker asked for work.
///
/// # Errors
/// When the database fails.
pub fn seen(
    tx: &mut Tx,
    worker: &WorkerId,
    (machine, slots): (&str, u32),
    token: &str,
    now: UnixMillis,
) -> Result<(), DbError> {
    tx.exec_later(
        "INSERT INTO workers (id, machine, slots, token, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET machine = excluded.machine, slots = excluded.slots,
            token = excluded.token, seen_at = excluded.seen_at",
        values![worker, machine, slots, token, now],
    )
}

/// Records that a known worker beat.
///
/// # Errors
/// When the database fails.
pub fn beat(tx: &mut Tx, worker: &WorkerId, now: UnixMillis) -> Result<(), DbError> {
    tx.exec_later("UPDATE workers SET seen_at = ?2 WHERE id = ?1", values![worker, now])
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
            })
        },
    )
}

/// Forgets workers not heard of since `before`.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx, before: UnixMillis) -> Result<(), DbError> {
    tx.exec("DELETE FROM workers WHERE seen_at < ?1", values![before]).map(drop)
}
