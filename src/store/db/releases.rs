//! Releases: one row each, with the rollout that tries it.

use std::collections::BTreeMap;

use super::{DbError, Row, Topic, Tx, Value, envs, json, values};
use crate::model::commit::CommitId;
use crate::model::config::Bits;
use crate::model::digest::ArtifactId;
use crate::model::fleet::Tally;
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::model::plan::PlanFile;
use crate::model::rollout::{Release, RolloutKind, RolloutState};
use crate::model::time::UnixMillis;
use crate::rules::rollout::Rollout;

/// A release's row.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseRow {
    /// The release that this one restores, or whose bits it took.
    pub same_as: Option<ReleaseNo>,
    /// The build that made its artifact.
    pub build: JobNo,
    /// The commit.
    pub commit: CommitId,
    /// The commit's subject.
    pub subject: String,
    /// The artifact; `None` while the build is not done.
    pub artifact: Option<ArtifactId>,
    /// Marked bad by a rollback or a revert.
    pub bad: bool,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub message: String,
    /// When it was admitted.
    pub created_at: UnixMillis,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// The rollout.
    pub rollout: Rollout,
    /// Counts by region, as they were when it ended.
    pub tallies: BTreeMap<RegionName, Tally>,
    /// Grows with each write of the row.
    pub stamp: u64,
}

impl ReleaseRow {
    /// As it is shown.
    #[must_use]
    pub fn view(&self) -> Release {
        let rollout = &self.rollout;
        Release {
            app: rollout.app.clone(),
            env: rollout.env.clone(),
            release: rollout.release,
            kind: rollout.kind,
            same_as: self.same_as,
            build: self.build,
            commit: self.commit.clone(),
            subject: self.subject.clone(),
            artifact: self.artifact,
            config: rollout.config,
            plan: rollout.plan,
            plan_file: rollout.plan_file.as_ref().map(PlanFile::reference),
            canary: rollout.canary.clone(),
            regions: rollout.regions.clone(),
            no_auto_revert: rollout.no_auto_revert,
            state: rollout.state,
            reason: rollout.reason.clone(),
            max_unavailable: rollout.permits.most,
            approvals: rollout.approvals,
            approved: rollout.approved.clone(),
            blocked: rollout.blocked,
            version: rollout.version,
            bad: self.bad,
            actor: self.actor.clone(),
            message: self.message.clone(),
            created_at: self.created_at,
            ended_at: self.ended_at,
        }
    }
}

const COLUMNS: &str = "same_as, build, commit_id, subject, artifact, bad, actor, message, \
                       created_at, ended_at, rollout, tallies, stamp";
const OPEN: &str = "state IN ('pending', 'running', 'paused', 'reverting')";

fn read(row: &Row) -> Result<ReleaseRow, DbError> {
    Ok(ReleaseRow {
        same_as: row.opt_int(0)?.map(|n| ReleaseNo(n.unsigned_abs())),
        build: JobNo(row.num(1)?),
        commit: row.parse(2)?,
        subject: row.text(3)?,
        artifact: row.opt_parse(4)?,
        bad: row.flag(5)?,
        actor: row.text(6)?,
        message: row.text(7)?,
        created_at: row.time(8)?,
        ended_at: row.opt_time(9)?,
        rollout: row.json(10)?,
        tallies: row.json(11)?,
        stamp: row.num(12)?,
    })
}

/// One release.
///
/// # Errors
/// When the database fails.
pub fn find(
    tx: &Tx,
    app: &AppName,
    env: &EnvName,
    release: ReleaseNo,
) -> Result<Option<ReleaseRow>, DbError> {
    let sql =
        format!("SELECT {COLUMNS} FROM releases WHERE app = ?1 AND env = ?2 AND release = ?3");
    tx.row(&sql, values![app, env, release], read)
}

/// The open rollout of an app and env.
///
/// # Errors
/// When the database fails.
pub fn open(tx: &Tx, app: &AppName, env: &EnvName) -> Result<Option<ReleaseRow>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM releases WHERE app = ?1 AND env = ?2 AND {OPEN}");
    tx.row(&sql, values![app, env], read)
}

/// Every open rollout that the clock or a report may change: all but paused ones.
///
/// # Errors
/// When the database fails.
pub fn moving(tx: &Tx) -> Result<Vec<ReleaseRow>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE {OPEN} AND state <> 'paused'
         ORDER BY kind DESC, created_at"
    );
    tx.rows(&sql, &[], read)
}

/// Apps and envs where a deploy admits hosts or is paused, in their order; and of each whether
/// it is judged on its hosts now, which a paused one is not.
///
/// # Errors
/// When the database fails.
pub fn under_way(tx: &Tx) -> Result<BTreeMap<(AppName, EnvName), bool>, DbError> {
    let sql = format!(
        "SELECT app, env, state FROM releases
         WHERE {OPEN} AND state IN ('running', 'paused') AND kind = 'deploy'"
    );
    let rows = tx.rows(&sql, &[], |row| {
        let is_judged = row.text(2)? == RolloutState::Running.word();
        Ok(((row.parse(0)?, row.parse(1)?), is_judged))
    })?;
    Ok(rows.into_iter().collect())
}

/// Releases before `before` (or all), newest first.
///
/// # Errors
/// When the database fails.
pub fn list(
    tx: &Tx,
    app: &AppName,
    env: &EnvName,
    before: Option<ReleaseNo>,
    limit: u32,
) -> Result<Vec<ReleaseRow>, DbError> {
    let before = before.map_or(i64::MAX.unsigned_abs(), |release| release.0);
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE app = ?1 AND env = ?2 AND release < ?3
         ORDER BY release DESC LIMIT ?4"
    );
    tx.rows(&sql, values![app, env, before, limit], read)
}

/// Which releases of the installation are asked for; the default is all of them.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this app.
    pub app: Option<AppName>,
    /// Only of this env.
    pub env: Option<EnvName>,
    /// Only what was admitted then or later.
    pub since: UnixMillis,
}

/// Up to `limit` releases of all apps and envs, newest first.
///
/// # Errors
/// When the database fails.
pub fn newest(tx: &Tx, filter: &Filter, limit: u32) -> Result<Vec<ReleaseRow>, DbError> {
    let mut wanted = String::from("created_at >= ?1");
    let mut values = vec![Value::from(filter.since), limit.into()];
    let (app, env) = (filter.app.as_ref().map(Value::from), filter.env.as_ref().map(Value::from));
    for (column, value) in [("app", app), ("env", env)] {
        let Some(value) = value else { continue };
        values.push(value);
        wanted.push_str(&format!(" AND {column} = ?{}", values.len()));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE {wanted}
         ORDER BY created_at DESC, app, env, release DESC LIMIT ?2"
    );
    tx.rows(&sql, &values, read)
}

/// Whether these bits were marked bad in the env.
///
/// # Errors
/// When the database fails.
pub fn is_bad(tx: &Tx, app: &AppName, env: &EnvName, bits: &Bits) -> Result<bool, DbError> {
    let sql = "SELECT count(*) FROM releases WHERE app = ?1 AND env = ?2 AND artifact = ?3
                   AND coalesce(config, '') = ?4 AND bad = 1";
    Ok(tx.number(sql, values![app, env, bits.artifact, word(bits)])? > 0)
}

/// The configuration as it is compared in SQL: no digest is empty.
fn word(bits: &Bits) -> String {
    bits.config.map_or_else(String::new, |config| config.to_string())
}

/// Marks every release of these bits in the env bad, or good again.
///
/// # Errors
/// When the database fails.
pub fn mark(
    tx: &mut Tx,
    (app, env): (&AppName, &EnvName),
    bits: &Bits,
    bad: bool,
) -> Result<(), DbError> {
    tx.exec(
        "UPDATE releases SET bad = ?5 WHERE app = ?1 AND env = ?2 AND artifact = ?3
             AND coalesce(config, '') = ?4",
        values![app, env, bits.artifact, word(bits), bad],
    )?;
    Ok(())
}

/// Adds a release.
///
/// # Errors
/// When the database fails, or another rollout of the env is open.
pub fn insert(tx: &mut Tx, row: &ReleaseRow) -> Result<(), DbError> {
    let rollout = &row.rollout;
    tx.exec(
        "INSERT INTO releases (app, env, release, kind, same_as, build, commit_id, subject,
             artifact, state, bad, actor, message, rollout, created_at, ended_at, config, stamp)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, 1)",
        values![
            &rollout.app,
            &rollout.env,
            rollout.release,
            rollout.kind.word(),
            row.same_as,
            row.build,
            &row.commit,
            &row.subject,
            row.artifact,
            rollout.state.word(),
            row.bad,
            &row.actor,
            &row.message,
            json(rollout),
            row.created_at,
            row.ended_at,
            rollout.config
        ],
    )?;
    changed(tx, rollout)
}

/// Writes a rollout back; guarded by the row's stamp.
///
/// # Errors
/// [`DbError::Raced`] when it changed since it was read, else when the database fails.
pub fn update(tx: &mut Tx, row: &ReleaseRow) -> Result<(), DbError> {
    let rollout = &row.rollout;
    tx.exec_guarded(
        "the rollout",
        "UPDATE releases SET artifact = ?5, state = ?6, rollout = ?7, tallies = ?8,
             ended_at = ?9, stamp = stamp + 1
         WHERE app = ?1 AND env = ?2 AND release = ?3 AND stamp = ?4",
        values![
            &rollout.app,
            &rollout.env,
            rollout.release,
            row.stamp,
            row.artifact,
            rollout.state.word(),
            json(rollout),
            json(&row.tallies),
            row.ended_at
        ],
    )?;
    changed(tx, rollout)
}

fn changed(tx: &mut Tx, rollout: &Rollout) -> Result<(), DbError> {
    envs::stamp(tx, &rollout.app, &rollout.env)?;
    tx.touch(Topic::Rollouts);
    Ok(())
}

/// The newest release that succeeded, is not bad, is older than `before`, and
/// brings something else than `leaving`.
///
/// # Errors
/// When the database fails.
pub fn known_good(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    before: ReleaseNo,
    leaving: &Bits,
) -> Result<Option<ReleaseRow>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE app = ?1 AND env = ?2 AND release < ?3
             AND state = '{}' AND bad = 0 AND artifact IS NOT NULL
             AND (artifact <> ?4 OR coalesce(config, '') <> ?5)
         ORDER BY release DESC LIMIT 1",
        RolloutState::Succeeded.word()
    );
    tx.row(&sql, values![app, env, before, leaving.artifact, word(leaving)], read)
}

/// What a repeated request with the same key was answered with.
///
/// # Errors
/// When the database fails.
pub fn answered(
    tx: &Tx,
    actor: &str,
    key: &str,
    since: UnixMillis,
) -> Result<Option<(String, AppName, EnvName, ReleaseNo)>, DbError> {
    let sql = "SELECT request, app, env, release FROM idempotency
               WHERE actor = ?1 AND key = ?2 AND at >= ?3 AND env <> ''";
    tx.row(sql, values![actor, key, since], |row| {
        Ok((row.text(0)?, row.parse(1)?, row.parse(2)?, ReleaseNo(row.num(3)?)))
    })
}

/// Remembers what a request was answered with, and forgets what is older than `since`.
///
/// # Errors
/// When the database fails.
pub fn remember(
    tx: &mut Tx,
    (actor, key, request): (&str, &str, &str),
    rollout: &Rollout,
    now: UnixMillis,
    since: UnixMillis,
) -> Result<(), DbError> {
    tx.exec("DELETE FROM idempotency WHERE at < ?1", values![since])?;
    tx.exec(
        "INSERT INTO idempotency (actor, key, request, app, env, release, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        values![actor, key, request, &rollout.app, &rollout.env, rollout.release, now],
    )?;
    Ok(())
}

/// The digest of what was asked under `key`, a rollout or anything else.
///
/// # Errors
/// When the database fails.
pub fn asked(
    tx: &Tx,
    actor: &str,
    key: &str,
    since: UnixMillis,
) -> Result<Option<String>, DbError> {
    let sql = "SELECT request FROM idempotency WHERE actor = ?1 AND key = ?2 AND at >= ?3";
    tx.row(sql, values![actor, key, since], |row| row.text(0))
}

/// Remembers that a change was made, and forgets what is older than `since`.
///
/// # Errors
/// When the database fails.
pub fn remember_asked(
    tx: &mut Tx,
    (actor, key, request): (&str, &str, &str),
    now: UnixMillis,
    since: UnixMillis,
) -> Result<(), DbError> {
    tx.exec("DELETE FROM idempotency WHERE at < ?1", values![since])?;
    tx.exec(
        "INSERT INTO idempotency (actor, key, request, app, env, release, at)
         VALUES (?1, ?2, ?3, '', '', 0, ?4)",
        values![actor, key, request, now],
    )?;
    Ok(())
}

impl ReleaseRow {
    /// What it consists of; `None` while the build is not done.
    #[must_use]
    pub fn bits(&self) -> Option<Bits> {
        Some(Bits { artifact: self.artifact?, config: self.rollout.config })
    }

    /// Whether it is a rollback.
    #[must_use]
    pub fn is_rollback(&self) -> bool {
        self.rollout.kind == RolloutKind::Rollback
    }
}
