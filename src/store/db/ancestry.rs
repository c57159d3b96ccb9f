//! How the commits of an app stand to each other, as workers reported it.

use super::{DbError, Tx, requirements, values};
use crate::model::ancestry::{Relation, Relative};
use crate::model::commit::CommitId;
use crate::model::id::{AppName, JobNo};

/// Builds of an app whose comparisons are kept. What an env runs is compared with every
/// new build, however long ago it was built itself.
const BUILDS_KEPT: u32 = 200;
/// Builds before a new one that it is compared with. One process of git each.
const BUILDS_COMPARED: usize = 16;
/// Builds that are read at once for those given out together.
const NEIGHBOURS: usize = 64;
/// Commits that other apps need, with which it is compared.
const NEEDED_COMPARED: usize = 8;
/// Commits that a build is compared with at most.
pub const RELATIVES_MAX: usize = 32;

/// What an app's builds are compared with: what its envs run or move to, what other apps
/// need of it, and what was asked for just before. Read once for builds that are given out together.
pub struct Neighbours {
    standing: Vec<CommitId>,
    /// Builds and their commits, newest first, without a gap.
    before: Vec<(JobNo, CommitId)>,
}

impl Neighbours {
    /// Of builds of `app` up to `last`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn of(tx: &Tx, app: &AppName, last: JobNo) -> Result<Self, DbError> {
        let standing = "SELECT DISTINCT r.commit_id FROM releases r
             JOIN envs e ON e.app = r.app AND e.env = r.env
             WHERE r.app = ?1 AND (r.release = e.goal_release
                 OR r.state IN ('pending', 'running', 'paused', 'reverting'))";
        let mut standing: Vec<_> = tx.rows(standing, values![app], |row| row.parse(0))?;
        standing.extend(requirements::needed_of(tx, app, NEEDED_COMPARED)?);
        Ok(Self { standing, before: before(tx, app, last, NEIGHBOURS)? })
    }

    /// What `build` of `app` at `commit` is compared with.
    ///
    /// # Errors
    /// When the database fails.
    pub fn to_compare(
        &self,
        tx: &Tx,
        app: &AppName,
        (build, commit): (JobNo, &CommitId),
    ) -> Result<Vec<CommitId>, DbError> {
        let known: Vec<_> = self.before.iter().filter(|(no, _)| *no < build).cloned().collect();
        let whole = known.len() >= BUILDS_COMPARED || self.before.len() < NEIGHBOURS;
        let known = if whole { known } else { before(tx, app, build, BUILDS_COMPARED)? };
        let known = known.into_iter().take(BUILDS_COMPARED).map(|(_, commit)| commit);
        let mut each: Vec<CommitId> = vec![];
        for other in self.standing.iter().cloned().chain(known) {
            if other != *commit && !each.contains(&other) && each.len() < RELATIVES_MAX {
                each.push(other);
            }
        }
        Ok(each)
    }
}

fn before(
    tx: &Tx,
    app: &AppName,
    build: JobNo,
    limit: usize,
) -> Result<Vec<(JobNo, CommitId)>, DbError> {
    let sql = "SELECT id, commit_id FROM jobs WHERE app = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    tx.rows(sql, values![app, build, limit], |row| Ok((JobNo(row.num(0)?), row.parse(1)?)))
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
    if relatives.is_empty() {
        return Ok(());
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
