//! What each app and env runs: the decision, not the observation.

use super::{DbError, Tx, json, values};
use crate::model::goal::GoalVersion;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::Stable;

/// Key of the newest generation in the table `meta`.
const GENERATION: &str = "generation";
/// Key of the epoch in the table `meta`.
const EPOCH: &str = "epoch";

/// An app and env.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EnvRow {
    /// The newest release's number; 0: none.
    pub last_release: u64,
    /// What runs when no rollout is open.
    pub stable: Stable,
    /// The release that the newest goal leads to.
    pub goal_release: Option<ReleaseNo>,
    /// The newest goal's generation; 0: none.
    pub generation: u64,
    /// Grows with whatever a watcher could see.
    pub stamp: u64,
}

/// The row of an app and env; all zero when it was never deployed to.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, app: &AppName, env: &EnvName) -> Result<EnvRow, DbError> {
    let sql = "SELECT last_release, stable, goal_release, generation, stamp FROM envs
               WHERE app = ?1 AND env = ?2";
    let row = tx.row(sql, values![app, env], |row| {
        Ok(EnvRow {
            last_release: row.num(0)?,
            stable: row.json(1)?,
            goal_release: Some(ReleaseNo(row.num(2)?)).filter(|release| release.0 > 0),
            generation: row.num(3)?,
            stamp: row.num(4)?,
        })
    })?;
    Ok(row.unwrap_or_default())
}

/// Takes the next release number.
///
/// # Errors
/// When the database fails.
pub fn next_release(tx: &mut Tx, app: &AppName, env: &EnvName) -> Result<ReleaseNo, DbError> {
    let stable = json(&Stable::default());
    tx.exec(
        "INSERT INTO envs (app, env, last_release, stable) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT (app, env) DO UPDATE SET last_release = envs.last_release + 1",
        values![app, env, stable],
    )?;
    Ok(ReleaseNo(find(tx, app, env)?.last_release))
}

/// The env runs `stable` from now on.
///
/// # Errors
/// When the database fails.
pub fn settle(tx: &mut Tx, app: &AppName, env: &EnvName, stable: &Stable) -> Result<(), DbError> {
    tx.exec_guarded(
        "the env",
        "UPDATE envs SET stable = ?3 WHERE app = ?1 AND env = ?2",
        values![app, env, json(stable)],
    )
}

/// A goal of `version` that leads to `release` was decided.
///
/// # Errors
/// When the database fails.
pub fn decided(
    tx: &mut Tx,
    (app, env): (&AppName, &EnvName),
    release: ReleaseNo,
    version: GoalVersion,
) -> Result<(), DbError> {
    tx.exec_guarded(
        "the env",
        "UPDATE envs SET goal_release = ?3, generation = ?4 WHERE app = ?1 AND env = ?2",
        values![app, env, release, version.generation],
    )?;
    raise(tx, version)
}

/// Something that a watcher of the env could see has changed.
///
/// # Errors
/// When the database fails.
pub fn stamp(tx: &mut Tx, app: &AppName, env: &EnvName) -> Result<(), DbError> {
    tx.exec("UPDATE envs SET stamp = stamp + 1 WHERE app = ?1 AND env = ?2", values![app, env])?;
    Ok(())
}

/// The version that a generation made now gets.
///
/// # Errors
/// When the database fails.
pub fn fresh(tx: &Tx) -> Result<GoalVersion, DbError> {
    let number = |key: &str| {
        tx.number("SELECT CAST(value AS BIGINT) FROM meta WHERE key = ?1", values![key])
    };
    Ok(GoalVersion {
        epoch: number(EPOCH)?.unsigned_abs().max(1),
        generation: number(GENERATION)?.unsigned_abs() + 1,
        step: 1,
    })
}

/// Generations at or below `version`'s are never given again, whatever this
/// database remembers: a restored backup must not issue what agents refuse.
///
/// # Errors
/// When the database fails.
pub fn raise(tx: &mut Tx, version: GoalVersion) -> Result<(), DbError> {
    for (key, value) in [(EPOCH, version.epoch), (GENERATION, version.generation)] {
        tx.exec(
            "INSERT INTO meta (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value
             WHERE CAST(meta.value AS BIGINT) < CAST(excluded.value AS BIGINT)",
            values![key, value.to_string()],
        )?;
    }
    Ok(())
}
