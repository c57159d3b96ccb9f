//! Patches between artifacts: what workers said of each, and which are there.

use std::collections::BTreeSet;

use super::{DbError, Row, Tx, values};
use crate::model::digest::ArtifactId;
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::rules::patch::BASES_MAX;
use crate::wire::v1::patch::{Between, PatchOutcome};

/// Releases that are looked through for distinct bases: enough for many envs that
/// are deployed the same build one after another.
const RELEASES_MAX: u32 = 64;

/// A patch, made or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchRow {
    /// Between which artifacts.
    pub between: Between,
    /// What became of it.
    pub outcome: PatchOutcome,
    /// When that was last said.
    pub updated_at: UnixMillis,
}

const SELECT: &str =
    "SELECT from_artifact, to_artifact, state, patch, wire_size, reason, updated_at
    FROM patches LEFT JOIN artifacts ON artifacts.artifact = patches.patch";

fn read(row: &Row) -> Result<PatchRow, DbError> {
    let outcome = match row.opt_parse(3)? {
        Some(patch) => PatchOutcome::Made { patch, wire_bytes: row.num(4)? },
        None if row.text(2)? == "making" => PatchOutcome::Making,
        None => PatchOutcome::None { reason: row.text(5)? },
    };
    let between = Between { from: row.parse(0)?, to: row.parse(1)? };
    Ok(PatchRow { between, outcome, updated_at: row.time(6)? })
}

/// What is known of the patch `between` two artifacts.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, between: Between) -> Result<Option<PatchRow>, DbError> {
    let sql = format!("{SELECT} WHERE to_artifact = ?1 AND from_artifact = ?2");
    tx.row(&sql, values![between.to, between.from], read)
}

/// Every patch that leads to `to`, made or not.
///
/// # Errors
/// When the database fails.
pub fn to(tx: &Tx, to: &ArtifactId) -> Result<Vec<PatchRow>, DbError> {
    tx.rows(&format!("{SELECT} WHERE to_artifact = ?1 ORDER BY from_artifact"), values![to], read)
}

/// Between which artifacts `artifact` leads; `None`: it is no patch.
///
/// # Errors
/// When the database fails.
pub fn between(tx: &Tx, artifact: &ArtifactId) -> Result<Option<Between>, DbError> {
    let sql = "SELECT from_artifact, to_artifact FROM patches WHERE patch = ?1";
    tx.row(sql, values![artifact], |row| Ok(Between { from: row.parse(0)?, to: row.parse(1)? }))
}

/// Writes what became of a patch, whose artifact is known already; one that was made
/// stays as it is. Returns whether anything is new.
///
/// # Errors
/// When the database fails.
pub fn put(
    tx: &mut Tx,
    between: Between,
    outcome: &PatchOutcome,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let (state, patch, reason) = match outcome {
        PatchOutcome::Making => ("making", None, ""),
        PatchOutcome::Made { patch, .. } => ("made", Some(*patch), ""),
        PatchOutcome::None { reason } => ("none", None, reason.as_str()),
    };
    let changed = tx.exec(
        "INSERT INTO patches (to_artifact, from_artifact, state, patch, reason, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (to_artifact, from_artifact) DO UPDATE SET state = excluded.state,
             patch = excluded.patch, reason = excluded.reason, updated_at = excluded.updated_at
         WHERE patches.state <> 'made'",
        values![between.to, between.from, state, patch, reason, now],
    )?;
    Ok(changed > 0)
}

/// The last artifacts of each app that were deployed anywhere, newest first, each once; those
/// that were collected since are no bases.
///
/// # Errors
/// When the database fails.
pub fn bases(tx: &Tx, apps: &[&AppName]) -> Result<Vec<Vec<ArtifactId>>, DbError> {
    let sql = "SELECT artifact FROM releases
               WHERE app = ?1 AND artifact IS NOT NULL AND state NOT IN ('pending', 'expired')
                   AND EXISTS (SELECT 1 FROM artifacts WHERE artifact = releases.artifact)
               ORDER BY created_at DESC LIMIT ?2";
    let each: Vec<_> = apps.iter().map(|app| values![*app, RELEASES_MAX].to_vec()).collect();
    let mut all = tx.rows_for_each(sql, &each, |row| row.parse::<ArtifactId>(0))?;
    for bases in &mut all {
        let mut known = BTreeSet::new();
        bases.retain(|base| known.len() < BASES_MAX && known.insert(*base));
    }
    Ok(all)
}
