//! How the commits of an app stand to each other, as workers reported it.

use std::collections::{BTreeMap, BTreeSet};

use super::jobs::{JobRow, NewJob};
use super::{DbError, Row, Tx, values};
use crate::model::ancestry::{Relation, Relative};
use crate::model::commit::CommitId;
use crate::model::id::{AppName, JobNo};

/// Builds of an app whose comparisons are kept. What an env runs is compared with every
/// new build, however long ago it was built itself.
const BUILDS_KEPT: u32 = 200;
/// Builds before a new one that it is compared with, by one process of git.
const BUILDS_COMPARED: usize = 16;
/// Commits that a build is compared with at most.
pub const RELATIVES_MAX: usize = 32;

/// Builds that are remembered of an app, at most twice as many: those that are given out
/// together, and what stands before the first of them.
const BUILDS_REMEMBERED: usize = 256 + BUILDS_COMPARED;
/// Apps whose builds are remembered.
const APPS_REMEMBERED: usize = 256;
/// Builds that are read to go on from those remembered; past it the memory begins anew.
const GAP_MAX: u64 = 4096;

/// What stands before builds, which never changes once they were asked for: the queue is
/// not read again for it with each that is given out.
#[derive(Default)]
pub struct Recent {
    /// Up to here nothing is missing of the apps below.
    upto: u64,
    of: BTreeMap<AppName, Builds>,
}

struct Builds {
    /// Oldest first.
    list: Vec<(JobNo, CommitId)>,
    /// Whether there are none before them.
    whole: bool,
}

impl Recent {
    /// Makes sure that the apps of `given` are known up to the last of them.
    ///
    /// # Errors
    /// When the database fails.
    pub fn follow(&mut self, tx: &Tx, given: &[JobRow]) -> Result<(), DbError> {
        let after = |upto: u64| -> BTreeMap<JobNo, &NewJob> {
            let rows = given.iter().filter(|row| row.no.0 > upto);
            rows.map(|row| (row.no, &row.asked)).collect()
        };
        let mut fresh = after(self.upto);
        let (Some(first), Some(last)) = (fresh.keys().next(), fresh.keys().next_back()) else {
            return Ok(());
        };
        let (first, last) = (first.0, last.0);
        if last - self.upto > GAP_MAX || self.of.len() > APPS_REMEMBERED {
            // A build that is tried again may be far older than the others.
            let upto = (first - 1).max(last.saturating_sub(GAP_MAX));
            *self = Self { upto, of: BTreeMap::new() };
            fresh = after(upto);
        }
        let new: BTreeSet<&AppName> = given.iter().map(|row| &row.asked.app).collect();
        let new: Vec<_> = new.into_iter().filter(|app| !self.of.contains_key(*app)).collect();
        let before = |app: &&AppName| values![*app, self.upto + 1, BUILDS_COMPARED].to_vec();
        let before =
            tx.rows_for_each(BEFORE, &new.iter().map(before).collect::<Vec<_>>(), build)?;
        for (app, mut list) in new.into_iter().zip(before) {
            list.reverse();
            let whole = list.len() < BUILDS_COMPARED;
            self.of.insert(app.clone(), Builds { list, whole });
        }
        let mut push = |app: &AppName, build: (JobNo, CommitId)| {
            let Some(known) = self.of.get_mut(app) else { return };
            known.list.push(build);
            if known.list.len() > 2 * BUILDS_REMEMBERED {
                known.list.drain(..BUILDS_REMEMBERED);
                known.whole = false;
            }
        };
        if fresh.len() as u64 == last - self.upto {
            fresh.iter().for_each(|(no, asked)| push(&asked.app, (*no, asked.commit.clone())));
        } else {
            let sql = "SELECT id, commit_id, app FROM jobs WHERE id > ?1 AND id <= ?2 ORDER BY id";
            let all =
                tx.rows(sql, values![self.upto, last], |row| Ok((build(row)?, row.parse(2)?)));
            all?.into_iter().for_each(|(build, app)| push(&app, build));
        }
        self.upto = last;
        Ok(())
    }

    /// What a build is compared with: what its app's envs run or move to, as `standing`
    /// says, and what was asked for just before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn to_compare(
        &self,
        tx: &Tx,
        (no, asked): (JobNo, &NewJob),
        standing: &[CommitId],
    ) -> Result<Vec<CommitId>, DbError> {
        let (mut known, mut whole, read) = (&[][..], false, &mut vec![]);
        if let Some(builds) = self.of.get(&asked.app) {
            known = &builds.list[..builds.list.partition_point(|(other, _)| *other < no)];
            whole = builds.whole;
        }
        if known.len() < BUILDS_COMPARED && !whole {
            *read = tx.rows(BEFORE, values![&asked.app, no, BUILDS_COMPARED], build)?;
            read.reverse();
            known = read;
        }
        let known = known.iter().rev().take(BUILDS_COMPARED).map(|(_, commit)| commit);
        let mut each: Vec<CommitId> = vec![];
        for other in standing.iter().chain(known) {
            if *other != asked.commit && !each.contains(other) && each.len() < RELATIVES_MAX {
                each.push(other.clone());
            }
        }
        Ok(each)
    }
}

/// The commits that each app's envs run or move to, and those that the newest builds of
/// other apps need of it.
///
/// # Errors
/// When the database fails.
pub fn standing(tx: &Tx, apps: &[&AppName]) -> Result<Vec<Vec<CommitId>>, DbError> {
    let sql = "SELECT DISTINCT r.commit_id FROM releases r
         JOIN envs e ON e.app = r.app AND e.env = r.env
         WHERE r.app = ?1 AND (r.release = e.goal_release
             OR r.state IN ('pending', 'running', 'paused', 'reverting'))
         UNION SELECT commit_id FROM (SELECT commit_id FROM requirements WHERE needs = ?1
             GROUP BY commit_id ORDER BY max(build) DESC LIMIT 8) AS needed";
    let each: Vec<_> = apps.iter().map(|app| values![*app].to_vec()).collect();
    tx.rows_for_each(sql, &each, |row| row.parse(0))
}

const BEFORE: &str =
    "SELECT id, commit_id FROM jobs WHERE app = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";

fn build(row: &Row) -> Result<(JobNo, CommitId), DbError> {
    Ok((JobNo(row.num(0)?), row.parse(1)?))
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
