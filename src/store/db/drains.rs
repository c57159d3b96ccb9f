//! Workers that are given nothing new, by the name of their machine or their own.

use std::collections::BTreeSet;

use super::{DbError, Tx, values};
use crate::model::time::UnixMillis;

/// Most names that stand at once, more are refused: more than an installation has machines
/// for builds.
pub const DRAINS_MAX: i64 = 10_000;

/// Puts `name` down.
///
/// # Errors
/// When the database fails.
pub fn put(
    tx: &mut Tx,
    name: &str,
    (actor, reason): (&str, &str),
    now: UnixMillis,
) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO drains (name, actor, reason, at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET actor = excluded.actor, reason = excluded.reason,
            at = excluded.at",
        values![name, actor, reason, now],
    )
    .map(drop)
}

/// How many stand.
///
/// # Errors
/// When the database fails.
pub fn count(tx: &Tx) -> Result<i64, DbError> {
    tx.number("SELECT count(*) FROM drains", values![])
}

/// Takes `name` away; whether it stood there.
///
/// # Errors
/// When the database fails.
pub fn remove(tx: &mut Tx, name: &str) -> Result<bool, DbError> {
    Ok(tx.exec("DELETE FROM drains WHERE name = ?1", values![name])? > 0)
}

/// Every name.
///
/// # Errors
/// When the database fails.
pub fn names(tx: &Tx) -> Result<BTreeSet<String>, DbError> {
    let sql = "SELECT name FROM drains LIMIT ?1";
    Ok(tx.rows(sql, values![DRAINS_MAX], |row| row.text(0))?.into_iter().collect())
}
