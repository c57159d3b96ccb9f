//! The coordinators that share this database, and what they agree on.

use super::{DbError, Row, Tx, meta, schema, values};
use crate::model::id::RegionName;
use crate::model::time::UnixMillis;

/// Key in the table `meta` of the keys' fingerprint.
const KEYS: &str = "keys";
/// The schema version that made the table `coordinators`.
pub(super) const SINCE_SCHEMA: i64 = 11;

/// A coordinator, as it last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorRow {
    /// Random, of one start of one process.
    pub id: String,
    /// Its release.
    pub version: String,
    /// Where it listens, as it knows itself.
    pub url: String,
    /// When it started.
    pub started_at: UnixMillis,
    /// When it last said so.
    pub seen_at: UnixMillis,
}

/// Says that a coordinator works, and what it can do: words in between spaces.
///
/// # Errors
/// When the database fails.
pub fn seen(tx: &mut Tx, row: &CoordinatorRow, features: &str) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO coordinators (id, version, url, started_at, seen_at, features)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, features = excluded.features",
        values![&row.id, &row.version, &row.url, row.started_at, row.seen_at, features],
    )?;
    Ok(())
}

/// Coordinators heard of since `since`, the one that started first first.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx, since: UnixMillis) -> Result<Vec<CoordinatorRow>, DbError> {
    let sql = "SELECT id, version, url, started_at, seen_at FROM coordinators
               WHERE seen_at >= ?1 ORDER BY started_at, id LIMIT 1000";
    tx.rows(sql, values![since], read)
}

/// The same, each with what it can do; empty: it is of a release that does not say so.
///
/// # Errors
/// When the database fails.
pub fn features(tx: &Tx, since: UnixMillis) -> Result<Vec<(CoordinatorRow, String)>, DbError> {
    let sql = "SELECT id, version, url, started_at, seen_at, features FROM coordinators
               WHERE seen_at >= ?1 ORDER BY started_at, id LIMIT 1000";
    tx.rows(sql, values![since], |row| Ok((read(row)?, row.text(5)?)))
}

fn read(row: &Row) -> Result<CoordinatorRow, DbError> {
    Ok(CoordinatorRow {
        id: row.text(0)?,
        version: row.text(1)?,
        url: row.text(2)?,
        started_at: row.time(3)?,
        seen_at: row.time(4)?,
    })
}

/// From now on no coordinator starts on this database that does not know schema `version`.
///
/// # Errors
/// When the database fails.
pub fn raise_floor(tx: &mut Tx, version: i64) -> Result<(), DbError> {
    schema::raise_floor(tx, version)
}

/// A coordinator stops, and with it whoever was not heard of since `before` is forgotten.
///
/// # Errors
/// When the database fails.
pub fn gone(tx: &mut Tx, id: &str, before: UnixMillis) -> Result<(), DbError> {
    let sql = "DELETE FROM coordinators WHERE id = ?1 OR seen_at < ?2";
    tx.exec(sql, values![id, before]).map(drop)
}

/// The fingerprint of the keys that this installation was set up with.
///
/// # Errors
/// When the database fails.
pub fn keys(tx: &Tx) -> Result<Option<String>, DbError> {
    tx.row("SELECT value FROM meta WHERE key = ?1", values![KEYS], |row| row.text(0))
}

/// Sets the installation up with these keys, unless it was before; returns its keys'.
///
/// # Errors
/// When the database fails.
pub fn adopt_keys(tx: &mut Tx, fingerprint: &str) -> Result<String, DbError> {
    tx.exec(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
        values![KEYS, fingerprint],
    )?;
    keys(tx)?.ok_or(DbError::Missing("the keys' fingerprint"))
}

/// The collector's round, as [`take_round`] knows it: no region has such a name.
pub const COLLECTOR: &str = "/collector";
/// The round in which old rows are dropped.
pub const PRUNER: &str = "/pruner";
/// The round in which the main store's owner writes that it is.
pub const OWNER: &str = "/owner";
/// A round that began further ahead than this was noted by a clock that was wrong.
const AHEAD: std::time::Duration = std::time::Duration::from_secs(3600);

/// Takes the next whole round of `what`, the looks at a region's store or one of the collector's,
/// which is due when the last began at `before` or earlier, or so far ahead of `now` that the
/// clock was wrong; false: another coordinator has it.
///
/// # Errors
/// When the database fails.
pub fn take_round(
    tx: &mut Tx,
    what: &str,
    now: UnixMillis,
    before: UnixMillis,
) -> Result<bool, DbError> {
    let changed = tx.exec(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value
         WHERE CAST(meta.value AS BIGINT) <= ?3 OR CAST(meta.value AS BIGINT) > ?4",
        values![format!("round/{what}"), now.0.to_string(), before, now + AHEAD],
    )?;
    Ok(changed > 0)
}

/// Writes down that a round over the store of `region` ended well at `now`.
///
/// # Errors
/// When the database fails.
pub fn note_round(tx: &mut Tx, region: &RegionName, now: UnixMillis) -> Result<(), DbError> {
    meta::put(tx, &format!("checked/{region}"), &now.0)
}

/// When the store of `region` was last compared with what is known, by any coordinator.
///
/// # Errors
/// When the database fails.
pub fn last_round(tx: &Tx, region: &RegionName) -> Result<Option<UnixMillis>, DbError> {
    tx.row(
        "SELECT CAST(value AS BIGINT) FROM meta WHERE key = ?1",
        values![format!("checked/{region}")],
        |row| row.time(0),
    )
}
