//! The newest counts of each app, env and region.

use std::collections::BTreeMap;

use super::{DbError, Tx, envs, json, values};
use crate::model::fleet::Tally;
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::time::UnixMillis;
use crate::wire::v1::region::EnvTally;

/// Counts of an app and env, by region.
///
/// # Errors
/// When the database fails.
pub fn of(tx: &Tx, app: &AppName, env: &EnvName) -> Result<BTreeMap<RegionName, Tally>, DbError> {
    let sql = "SELECT region, tally FROM tallies WHERE app = ?1 AND env = ?2";
    let rows = tx.rows(sql, values![app, env], |row| Ok((row.parse(0)?, row.json(1)?)))?;
    Ok(rows.into_iter().collect())
}

/// The same, with when each region told them last: exact only while a rollout is under way,
/// see [`repeat`].
///
/// # Errors
/// When the database fails.
pub fn told(
    tx: &Tx,
    app: &AppName,
    env: &EnvName,
) -> Result<BTreeMap<RegionName, (Tally, UnixMillis)>, DbError> {
    let sql = "SELECT region, tally, updated_at FROM tallies WHERE app = ?1 AND env = ?2";
    let rows =
        tx.rows(sql, values![app, env], |row| Ok((row.parse(0)?, (row.json(1)?, row.time(2)?))))?;
    Ok(rows.into_iter().collect())
}

/// Takes down that `region` told the counts once more that it told before. Only for what a
/// rollout is judged on: of each app and env it would be a write with every report.
///
/// # Errors
/// When the database fails.
pub fn repeat(
    tx: &mut Tx,
    region: &RegionName,
    (app, env): (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<(), DbError> {
    let sql = "UPDATE tallies SET updated_at = ?4 WHERE app = ?1 AND env = ?2 AND region = ?3";
    tx.exec(sql, values![app, env, region, now]).map(drop)
}

/// Takes down counts of `region`; returns whether they are new.
///
/// # Errors
/// When the database fails.
pub fn put(
    tx: &mut Tx,
    region: &RegionName,
    counts: &EnvTally,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let text = json(&counts.tally);
    let changed = tx.exec(
        "INSERT INTO tallies (app, env, region, tally, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (app, env, region) DO UPDATE SET tally = excluded.tally,
             updated_at = excluded.updated_at
         WHERE tallies.tally <> excluded.tally",
        values![&counts.app, &counts.env, region, text, now],
    )?;
    if changed > 0 {
        envs::stamp(tx, &counts.app, &counts.env)?;
    }
    Ok(changed > 0)
}
