//! How the commits of an app stand to each other, as workers reported it.

use super::{DbError, Tx, values};
use crate::model::ancestry::{Relation, Relative};
use crate::model::commit::CommitId;
use crate::model::id::{AppName, JobNo};

/// Builds of an app whose comparisons are kept. What an env runs is compared with every
/// new build, however long ago it was built itself.
const BUILDS_KEPT: u32 = 200;
/// Builds before a new one that it is compared with. One process of git each.
const BUILDS_COMPARED: u32 = 16;
/// Commits that a build is compared with at most.
pub const RELATIVES_MAX: usize = 32;

/// What a build is compared with: what the app's envs run or move to, and what was asked
/// for just before it.
///
/// # Errors
/// When the database fails.
pub fn to_compare(
    tx: &Tx,
    app: &AppName,
    (build, commit): (JobNo, &CommitId),
) -> Result<Vec<CommitId>, DbError> {
    let standing = "SELECT DISTINCT r.commit_id FROM releases r
         JOIN envs e ON e.app = r.app AND e.env = r.env
         WHERE r.app = ?1 AND (r.release = e.goal_release
             OR r.state IN ('pending', 'running', 'paused', 'reverting'))";
    let before = "SELECT commit_id FROM jobs WHERE app = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    let mut all: Vec<CommitId> = tx.rows(standing, values![app], |row| row.parse(0))?;
    all.extend(tx.rows(before, values![app, build, BUILDS_COMPARED], |row| row.parse(0))?);
    let mut each: Vec<CommitId> = vec![];
    for other in all {
        if other != *commit && !each.contains(&other) && each.len() < RELATIVES_MAX {
            each.push(other);
        }
    }
    Ok(each)
}

/// Writes down what a build was compared with, and forgets old builds.
///
/// # Errors
/// When the database fails.
pub fn record(
    tx: &mut Tx,
    app: &AppName,
    (build, commit): (JobNo, &CommitId),
    relatives: &[Relative],
) -> Result<(), DbError> {
    for relative in relatives.iter().take(RELATIVES_MAX) {
        tx.exec(
            "INSERT INTO ancestry (app, build, commit_id, other, relation)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (app, build, other) DO UPDATE SET relation = excluded.relation",
            values![app, build, commit, &relative.commit, relative.is.word()],
        )?;
    }
    tx.exec(
        "DELETE FROM ancestry WHERE app = ?1 AND build <= (
             SELECT id FROM jobs WHERE app = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        values![app, BUILDS_KEPT],
    )?;
    Ok(())
}

/// All that is known of the app.
///
/// # Errors
/// When the database fails.
pub fn of(tx: &Tx, app: &AppName) -> Result<Vec<(CommitId, Relative)>, DbError> {
    let sql = "SELECT commit_id, other, relation FROM ancestry WHERE app = ?1";
    tx.rows(sql, values![app], |row| {
        let is = Relation::from_word(&row.text(2)?).ok_or(DbError::Missing("a relation"))?;
        Ok((row.parse(0)?, Relative { commit: row.parse(1)?, is }))
    })
}
