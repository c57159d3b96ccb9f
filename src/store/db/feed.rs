//! What changed for the regions, in order. Artifacts and tokens enter by triggers
//! of the schema, goals by `goals::put`.

use super::{DbError, Topic, Tx, values};
use crate::model::digest::ArtifactId;
use crate::wire::v1::patch::Between;

/// Most changes of one answer; more are told in the next.
const CHANGES_MAX: u32 = 5000;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of all.
    pub revision: u64,
    /// `goal`, `artifact` or `tokens`.
    pub kind: String,
    /// `app/env`, the artifact, or the region.
    pub key: String,
}

/// The newest revision; 0 when nothing ever changed.
///
/// # Errors
/// When the database fails.
pub fn revision(tx: &Tx) -> Result<u64, DbError> {
    // A row goes only when a newer one takes its place, so the newest is always there.
    Ok(tx.number("SELECT max(revision) FROM feed", &[])?.unsigned_abs())
}

/// Changes after `since`, in order, at most 5,000.
///
/// # Errors
/// When the database fails.
pub fn after(tx: &Tx, since: u64) -> Result<Vec<Change>, DbError> {
    let sql = "SELECT revision, kind, key FROM feed WHERE revision > ?1 ORDER BY revision LIMIT ?2";
    tx.rows(sql, values![since, CHANGES_MAX], |row| {
        Ok(Change { revision: row.num(0)?, kind: row.text(1)?, key: row.text(2)? })
    })
}

/// Says that `key` changed; returns the revision. Regions are woken after the commit.
///
/// # Errors
/// When the database fails.
pub fn changed(tx: &mut Tx, kind: &'static str, key: &str) -> Result<u64, DbError> {
    tx.exec("DELETE FROM feed WHERE kind = ?1 AND key = ?2", values![kind, key])?;
    tx.exec("INSERT INTO feed (kind, key) VALUES (?1, ?2)", values![kind, key])?;
    tx.touch(Topic::Feed);
    revision(tx)
}

/// Every artifact that regions must hold, and between which it leads if it is a patch.
///
/// # Errors
/// When the database fails.
pub fn artifacts(tx: &Tx) -> Result<Vec<(ArtifactId, Option<Between>)>, DbError> {
    let sql = "SELECT artifact, from_artifact, to_artifact
               FROM artifacts LEFT JOIN patches ON patch = artifact ORDER BY created_at";
    tx.rows(sql, &[], |row| {
        let ends = row.opt_parse(1)?.zip(row.opt_parse(2)?);
        Ok((row.parse(0)?, ends.map(|(from, to)| Between { from, to })))
    })
}

/// Artifacts that are gone, the last first, at most 5,000: a region that lost its memory
/// may hold them still.
///
/// # Errors
/// When the database fails.
pub fn gone(tx: &Tx) -> Result<Vec<ArtifactId>, DbError> {
    let sql = "SELECT key FROM feed WHERE kind = 'artifact'
                   AND NOT EXISTS (SELECT 1 FROM artifacts WHERE artifact = feed.key)
               ORDER BY revision DESC LIMIT ?1";
    tx.rows(sql, values![CHANGES_MAX], |row| row.parse(0))
}

/// Whether an artifact is wanted still.
///
/// # Errors
/// When the database fails.
pub fn is_wanted(tx: &Tx, artifact: &str) -> Result<bool, DbError> {
    let sql = "SELECT count(*) FROM artifacts WHERE artifact = ?1";
    Ok(tx.number(sql, values![artifact])? > 0)
}
