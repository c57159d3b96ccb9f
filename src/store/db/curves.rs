//! Completion curves: how many hosts had a release's bytes, and how many ran it, as its
//! rollout went.

use super::{DbError, Row, Tx, values};
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::wire::v1::rollout::CurvePoint;

/// Points of one rollout that are ever read; the coordinator keeps fewer.
const POINTS_MAX: u32 = 2_000;

/// A rollout's place.
pub type Place<'a> = (&'a AppName, &'a EnvName, ReleaseNo);

/// Adds a point; a second one at the same instant takes the place of the first.
///
/// # Errors
/// When the database fails.
pub fn add(tx: &mut Tx, (app, env, release): Place, point: &CurvePoint) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO curves (app, env, release, at, hosts, staged, healthy)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (app, env, release, at) DO UPDATE SET hosts = excluded.hosts,
             staged = excluded.staged, healthy = excluded.healthy",
        values![app, env, release, point.at, point.hosts, point.staged, point.healthy],
    )?;
    Ok(())
}

/// The first point and the last; `None`: there is none.
///
/// # Errors
/// When the database fails.
pub fn ends(
    tx: &Tx,
    (app, env, release): Place,
) -> Result<Option<(CurvePoint, CurvePoint)>, DbError> {
    let end = |order| {
        let sql = format!(
            "SELECT at, hosts, staged, healthy FROM curves
             WHERE app = ?1 AND env = ?2 AND release = ?3 ORDER BY at {order} LIMIT 1"
        );
        tx.row(&sql, values![app, env, release], read)
    };
    Ok(end("ASC")?.zip(end("DESC")?))
}

/// The points, oldest first.
///
/// # Errors
/// When the database fails.
pub fn of(tx: &Tx, (app, env, release): Place) -> Result<Vec<CurvePoint>, DbError> {
    let sql = "SELECT at, hosts, staged, healthy FROM curves
               WHERE app = ?1 AND env = ?2 AND release = ?3 ORDER BY at LIMIT ?4";
    tx.rows(sql, values![app, env, release, POINTS_MAX], read)
}

fn read(row: &Row) -> Result<CurvePoint, DbError> {
    let (at, hosts) = (row.time(0)?, row.num(1)?);
    Ok(CurvePoint { at, hosts, staged: row.num(2)?, healthy: row.num(3)? })
}
