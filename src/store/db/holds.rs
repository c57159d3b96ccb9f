//! Holds and pins. What is over is kept: it says why something did not happen.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, HoldNo};
use crate::model::time::UnixMillis;

const COLUMNS: &str = "id, app, env, host, region, coalesce(target, 'null'), reason, actor, \
                       from_at, until_at, ended_at, ended_by";

fn read(row: &Row) -> Result<Hold, DbError> {
    Ok(Hold {
        hold: HoldNo(row.num(0)?),
        app: row.opt_parse(1)?,
        env: row.opt_parse(2)?,
        host: row.opt_parse(3)?,
        region: row.opt_parse(4)?,
        at: row.json(5)?,
        reason: row.text(6)?,
        actor: row.text(7)?,
        from: row.time(8)?,
        until: row.time(9)?,
        ended_at: row.opt_time(10)?,
        ended_by: row.opt_text(11)?,
    })
}

/// Adds a hold; its number is given here, whatever `hold` says.
///
/// # Errors
/// When the database fails.
pub fn insert(tx: &mut Tx, hold: Hold) -> Result<Hold, DbError> {
    let target = hold.at.map(|at| serde_json::to_string(&at).expect("a target is plain JSON"));
    tx.exec(
        "INSERT INTO holds (app, env, host, region, target, reason, actor, from_at, until_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        values![
            hold.app.as_ref(),
            hold.env.as_ref(),
            hold.host.as_ref(),
            hold.region.as_ref(),
            target,
            &hold.reason,
            &hold.actor,
            hold.from,
            hold.until
        ],
    )?;
    tx.touch(Topic::Rollouts);
    let no = tx.number("SELECT max(id) FROM holds", &[])?.unsigned_abs();
    Ok(Hold { hold: HoldNo(no), ..hold })
}

/// One hold, over or not.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, hold: HoldNo) -> Result<Option<Hold>, DbError> {
    tx.row(&format!("SELECT {COLUMNS} FROM holds WHERE id = ?1"), values![hold.0], read)
}

/// Those that count at `now`, by number.
///
/// # Errors
/// When the database fails.
pub fn standing(tx: &Tx, now: UnixMillis) -> Result<Vec<Hold>, DbError> {
    let sql =
        format!("SELECT {COLUMNS} FROM holds WHERE ended_at IS NULL AND until_at > ?1 ORDER BY id");
    tx.rows(&sql, values![now], read)
}

/// Those whose time is over and of which nobody was told yet, by number.
///
/// # Errors
/// When the database fails.
pub fn lapsed(tx: &Tx, now: UnixMillis) -> Result<Vec<Hold>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM holds WHERE ended_at IS NULL AND until_at <= ?1 ORDER BY id"
    );
    tx.rows(&sql, values![now], read)
}

/// The hold that stops a deploy of `app` to `env` at `now` the longest.
///
/// # Errors
/// When the database fails.
pub fn stopping(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<Option<Hold>, DbError> {
    let stops = |hold: &Hold| hold.stops(app, env, now);
    Ok(standing(tx, now)?.into_iter().filter(stops).max_by_key(|hold| hold.until))
}

/// What keeps hosts of `app` in `env` where they are at `now`; the newest first, which
/// goes before older ones of the same host or region.
///
/// # Errors
/// When the database fails.
pub fn placed(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<Vec<Hold>, DbError> {
    let mut holds = standing(tx, now)?;
    holds.retain(|hold| hold.is_placed() && hold.is_of(app, env));
    holds.reverse();
    Ok(holds)
}

/// Ends a hold; one that is over already stays as it is.
///
/// # Errors
/// When the database fails.
pub fn end(tx: &mut Tx, hold: HoldNo, by: &str, now: UnixMillis) -> Result<(), DbError> {
    tx.exec(
        "UPDATE holds SET ended_at = ?2, ended_by = ?3 WHERE id = ?1 AND ended_at IS NULL",
        values![hold.0, now, by],
    )?;
    tx.touch(Topic::Rollouts);
    Ok(())
}
