//! Goal documents: the outbox, written with the decision, and the stored ones.

use super::{DbError, Row, Topic, Tx, feed, values};
use crate::model::goal::GoalVersion;
use crate::model::id::{AppName, EnvName};
use crate::wire::seal::Sealed;

/// A goal document under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoalRow {
    /// `app/env`.
    pub key: String,
    /// Its place in the order of all.
    pub version: GoalVersion,
    /// The signed bytes.
    pub sealed: Sealed,
    /// The store's revision when it was stored; 0 in the outbox.
    pub revision: u64,
}

/// The key of an app and env's goal.
#[must_use]
pub fn key(app: &AppName, env: &EnvName) -> String {
    format!("{app}/{env}")
}

fn read(row: &Row) -> Result<GoalRow, DbError> {
    Ok(GoalRow {
        key: row.text(0)?,
        version: GoalVersion { epoch: row.num(1)?, generation: row.num(2)?, step: row.num(3)? },
        sealed: Sealed { payload: row.text(4)?, signature: row.text(5)? },
        revision: row.num(6)?,
    })
}

const COLUMNS: &str = "key, epoch, generation, step, payload, signature";

/// Puts a goal on its way, in the transaction of the decision.
///
/// # Errors
/// When the database fails.
pub fn send(tx: &mut Tx, key: &str, version: GoalVersion, sealed: &Sealed) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO goal_outbox (key, epoch, generation, step, payload, signature)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        values![
            key,
            version.epoch,
            version.generation,
            version.step,
            &sealed.payload,
            &sealed.signature
        ],
    )?;
    tx.touch(Topic::Rollouts);
    Ok(())
}

/// The oldest goals on their way, with their place in the queue.
///
/// # Errors
/// When the database fails.
pub fn outbox(tx: &Tx, limit: u32) -> Result<Vec<(i64, GoalRow)>, DbError> {
    let sql = format!("SELECT {COLUMNS}, 0, seq FROM goal_outbox ORDER BY seq LIMIT ?1");
    tx.rows(&sql, values![limit], |row| Ok((row.int(7)?, read(row)?)))
}

/// The documents of `app` that have not arrived yet.
///
/// # Errors
/// When the database fails.
pub fn on_their_way(tx: &Tx, app: &AppName) -> Result<Vec<String>, DbError> {
    // '0' follows '/'.
    let sql = "SELECT payload FROM goal_outbox WHERE key >= ?1 AND key < ?2";
    tx.rows(sql, values![format!("{app}/"), format!("{app}0")], |row| row.text(0))
}

/// A goal and all that were sent before it have arrived.
///
/// # Errors
/// When the database fails.
pub fn arrived(tx: &mut Tx, seq: i64) -> Result<(), DbError> {
    tx.exec("DELETE FROM goal_outbox WHERE seq <= ?1", values![seq])?;
    Ok(())
}

/// Stores a goal unless one at or past its version is there; the revision, or the
/// version that stands in its way.
///
/// # Errors
/// When the database fails.
pub fn put(
    tx: &mut Tx,
    key: &str,
    version: GoalVersion,
    sealed: &Sealed,
) -> Result<Result<u64, GoalVersion>, DbError> {
    if let Some(stored) = find(tx, key)?
        && stored.version >= version
    {
        let same = stored.version == version && stored.sealed == *sealed;
        return Ok(if same { Ok(stored.revision) } else { Err(stored.version) });
    }
    let revision = feed::changed(tx, "goal", key)?;
    tx.exec(
        "INSERT INTO goals (key, epoch, generation, step, payload, signature, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch,
             generation = excluded.generation, step = excluded.step,
             payload = excluded.payload, signature = excluded.signature,
             revision = excluded.revision",
        values![
            key,
            version.epoch,
            version.generation,
            version.step,
            &sealed.payload,
            &sealed.signature,
            revision
        ],
    )?;
    Ok(Ok(revision))
}

/// The goal stored under `key`.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, key: &str) -> Result<Option<GoalRow>, DbError> {
    let sql = format!("SELECT {COLUMNS}, revision FROM goals WHERE key = ?1");
    tx.row(&sql, values![key], read)
}

/// Goals stored after revision `since`, in order.
///
/// # Errors
/// When the database fails.
pub fn after(tx: &Tx, since: u64) -> Result<Vec<GoalRow>, DbError> {
    let sql =
        format!("SELECT {COLUMNS}, revision FROM goals WHERE revision > ?1 ORDER BY revision");
    tx.rows(&sql, values![since], read)
}

/// The highest version stored; zero when there is none.
///
/// # Errors
/// When the database fails.
pub fn newest(tx: &Tx) -> Result<GoalVersion, DbError> {
    let sql = "SELECT epoch, generation, step FROM goals
               ORDER BY epoch DESC, generation DESC, step DESC LIMIT 1";
    let version = tx.row(sql, &[], |row| {
        Ok(GoalVersion { epoch: row.num(0)?, generation: row.num(1)?, step: row.num(2)? })
    })?;
    Ok(version.unwrap_or_default())
}
