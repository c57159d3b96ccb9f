//! Freezes. What is over is kept: it says why something did not happen.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::freeze::Freeze;
use crate::model::id::{AppName, EnvName, FreezeNo};
use crate::model::time::UnixMillis;

const COLUMNS: &str = "id, app, env, reason, actor, from_at, until_at, ended_at, ended_by";

fn read(row: &Row) -> Result<Freeze, DbError> {
    Ok(Freeze {
        freeze: FreezeNo(row.num(0)?),
        app: row.opt_parse(1)?,
        env: row.opt_parse(2)?,
        reason: row.text(3)?,
        actor: row.text(4)?,
        from: row.time(5)?,
        until: row.time(6)?,
        ended_at: row.opt_time(7)?,
        ended_by: row.opt_text(8)?,
    })
}

/// Adds a freeze; its number is given here, whatever `freeze` says.
///
/// # Errors
/// When the database fails.
pub fn insert(tx: &mut Tx, freeze: Freeze) -> Result<Freeze, DbError> {
    tx.exec(
        "INSERT INTO freezes (app, env, reason, actor, from_at, until_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        values![
            freeze.app.as_ref(),
            freeze.env.as_ref(),
            &freeze.reason,
            &freeze.actor,
            freeze.from,
            freeze.until
        ],
    )?;
    tx.touch(Topic::Rollouts);
    let no = tx.number("SELECT max(id) FROM freezes", &[])?.unsigned_abs();
    Ok(Freeze { freeze: FreezeNo(no), ..freeze })
}

/// One freeze, over or not.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, freeze: FreezeNo) -> Result<Option<Freeze>, DbError> {
    tx.row(&format!("SELECT {COLUMNS} FROM freezes WHERE id = ?1"), values![freeze.0], read)
}

/// Those that are not over at `now`, by their beginning.
///
/// # Errors
/// When the database fails.
pub fn standing(tx: &Tx, now: UnixMillis) -> Result<Vec<Freeze>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM freezes WHERE ended_at IS NULL AND until_at > ?1
         ORDER BY from_at, id"
    );
    tx.rows(&sql, values![now], read)
}

/// The freeze that stops a deploy of `app` to `env` at `now` the longest.
///
/// # Errors
/// When the database fails.
pub fn stopping(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<Option<Freeze>, DbError> {
    let stops = |freeze: &Freeze| freeze.stops(app, env, now);
    Ok(standing(tx, now)?.into_iter().filter(stops).max_by_key(|freeze| freeze.until))
}

/// Ends a freeze now; one that is over already stays as it is.
///
/// # Errors
/// When the database fails.
pub fn end(tx: &mut Tx, freeze: FreezeNo, by: &str, now: UnixMillis) -> Result<(), DbError> {
    tx.exec(
        "UPDATE freezes SET ended_at = ?2, ended_by = ?3
         WHERE id = ?1 AND ended_at IS NULL AND until_at > ?2",
        values![freeze.0, now, by],
    )?;
    tx.touch(Topic::Rollouts);
    Ok(())
}
