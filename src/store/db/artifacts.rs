//! Artifacts that are whole in the main blob store, and where their copies stand.

use super::{DbError, Row, Topic, Tx, collected, replicas, values};
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, JobNo, RegionName};
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::wire::v1::build::ArtifactView;

/// An artifact, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRow {
    /// Its identity.
    pub artifact: ArtifactId,
    /// The app it was built for.
    pub app: AppName,
    /// The commit it was built from.
    pub commit: CommitId,
    /// The job that built it.
    pub job: JobNo,
    /// Raw bytes.
    pub size: u64,
    /// Bytes of its pack.
    pub wire_size: u64,
    /// Pieces.
    pub pieces: u32,
    /// Paths.
    pub entries: u32,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
    /// Where its copies stand in all.
    pub replication: ReplicationStatus,
}

impl ArtifactRow {
    /// The part that people see.
    #[must_use]
    pub fn view(&self) -> ArtifactView {
        ArtifactView {
            artifact: self.artifact,
            size: self.size,
            wire_size: self.wire_size,
            pieces: self.pieces,
            entries: self.entries,
        }
    }
}

fn read(row: &Row) -> Result<ArtifactRow, DbError> {
    Ok(ArtifactRow {
        artifact: row.parse(0)?,
        app: row.parse(1)?,
        commit: row.parse(2)?,
        job: JobNo(row.num(3)?),
        size: row.num(4)?,
        wire_size: row.num(5)?,
        pieces: row.num(6)?,
        entries: row.num(7)?,
        manifest_bytes: row.num(8)?,
        replication: row.word(9, ReplicationStatus::from_word)?,
    })
}

/// Records an artifact that was checked in the main store, and that its copies in `regions`
/// are expected. The same again is no error: it is as young as if it were new. One that was
/// marked comes back; one whose name was given up must not get here.
///
/// # Errors
/// When the database fails.
pub fn insert(
    tx: &mut Tx,
    row: &ArtifactRow,
    regions: &[RegionName],
    now: UnixMillis,
) -> Result<(), DbError> {
    let back = collected::unmark(tx, &row.artifact)?;
    tx.exec(
        "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces, entries,
            manifest_bytes, replication_status, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (artifact) DO UPDATE SET created_at = excluded.created_at",
        values![
            row.artifact,
            &row.app,
            &row.commit,
            row.job,
            row.size,
            row.wire_size,
            row.pieces,
            row.entries,
            row.manifest_bytes,
            row.replication.word(),
            now
        ],
    )?;
    tx.touch(Topic::Feed);
    match back {
        true => replicas::expect_anew(tx, &row.artifact, regions, now),
        false => replicas::expect(tx, &row.artifact, regions),
    }
}

/// The artifact with this identity.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, artifact: ArtifactId) -> Result<Option<ArtifactRow>, DbError> {
    tx.row(
        "SELECT artifact, app, commit_id, job, size, wire_size, pieces, entries, manifest_bytes,
            replication_status
         FROM artifacts WHERE artifact = ?1",
        values![artifact],
        read,
    )
}

/// Writes where the copies of an artifact stand in all.
///
/// # Errors
/// When the database fails.
pub fn set_replication(
    tx: &mut Tx,
    artifact: ArtifactId,
    status: ReplicationStatus,
) -> Result<(), DbError> {
    let sql = "UPDATE artifacts SET replication_status = ?2 WHERE artifact = ?1";
    tx.exec(sql, values![artifact, status.word()]).map(drop)
}

/// Every artifact with the bytes of its pack, in no order, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn wire_sizes(tx: &Tx, limit: u32) -> Result<Vec<(ArtifactId, u64)>, DbError> {
    let sql = "SELECT artifact, wire_size FROM artifacts LIMIT ?1";
    tx.rows(sql, values![limit], |row| Ok((row.parse(0)?, row.num(1)?)))
}

/// Identities of every artifact, in no order, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn all(tx: &Tx, limit: u32) -> Result<Vec<ArtifactId>, DbError> {
    tx.rows("SELECT artifact FROM artifacts LIMIT ?1", values![limit], |row| row.parse(0))
}
