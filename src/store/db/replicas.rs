//! Copies of artifacts in regions: what each region says, and what was found there.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::rules::replication::{Claim, claimed_status};
use crate::wire::v1::build::RegionReplica;
use crate::wire::v1::region::ReplicaReport;

/// Most artifacts that a region is told to fetch again at once.
const HEAL_MAX: u32 = 1000;

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The artifact.
    pub artifact: ArtifactId,
    /// The region.
    pub region: RegionName,
    /// Where it stands.
    pub status: ReplicationStatus,
    /// The region's own word.
    pub claim: Claim,
    /// What stops the region; empty: nothing.
    pub error: String,
    /// When the synchronizer last looked.
    pub checked_at: Option<UnixMillis>,
    /// What it found wrong; empty: nothing.
    pub reason: String,
}

impl Replica {
    /// As it is shown.
    #[must_use]
    pub fn view(self) -> RegionReplica {
        let reason = if self.reason.is_empty() { self.error } else { self.reason };
        RegionReplica {
            region: self.region,
            status: self.status,
            bytes: self.claim.bytes,
            checked_at: self.checked_at,
            reason,
        }
    }
}

const COLUMNS: &str = "artifact, region, status, bytes, claimed, error, checked_at, reason";

fn read(row: &Row) -> Result<Replica, DbError> {
    Ok(Replica {
        artifact: row.parse(0)?,
        region: row.parse(1)?,
        status: row.word(2, ReplicationStatus::from_word)?,
        claim: Claim { bytes: row.num(3)?, complete: row.flag(4)? },
        error: row.text(5)?,
        checked_at: row.opt_time(6)?,
        reason: row.text(7)?,
    })
}

/// The copy of `artifact` in `region`; `None`: nothing was heard or found yet.
///
/// # Errors
/// When the database fails.
pub fn find(
    tx: &Tx,
    artifact: &ArtifactId,
    region: &RegionName,
) -> Result<Option<Replica>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM replicas WHERE artifact = ?1 AND region = ?2");
    tx.row(&sql, values![artifact, region], read)
}

/// Every copy of `artifact`, by region.
///
/// # Errors
/// When the database fails.
pub fn of_artifact(tx: &Tx, artifact: &ArtifactId) -> Result<Vec<Replica>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM replicas WHERE artifact = ?1 ORDER BY region");
    tx.rows(&sql, values![artifact], read)
}

/// Every copy in `region`.
///
/// # Errors
/// When the database fails.
pub fn of_region(tx: &Tx, region: &RegionName) -> Result<Vec<Replica>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM replicas WHERE region = ?1 ORDER BY artifact");
    tx.rows(&sql, values![region], read)
}

/// Artifacts that `region` lost and must fetch again.
///
/// # Errors
/// When the database fails.
pub fn lost(tx: &Tx, region: &RegionName) -> Result<Vec<ArtifactId>, DbError> {
    let sql = "SELECT artifact FROM replicas WHERE region = ?1 AND status = 'lost' LIMIT ?2";
    tx.rows(sql, values![region, HEAL_MAX], |row| row.parse(0))
}

/// How many artifacts `region` holds, checked.
///
/// # Errors
/// When the database fails.
pub fn complete(tx: &Tx, region: &RegionName) -> Result<u64, DbError> {
    let sql = "SELECT count(*) FROM replicas WHERE region = ?1 AND status = 'complete'";
    Ok(tx.number(sql, values![region])?.unsigned_abs())
}

/// Takes down what `region` says of one copy; returns whether anything is new.
/// Artifacts that are not known are passed over.
///
/// # Errors
/// When the database fails.
pub fn claim(
    tx: &mut Tx,
    region: &RegionName,
    report: &ReplicaReport,
    now: UnixMillis,
) -> Result<bool, DbError> {
    if !is_known(tx, &report.artifact)? {
        return Ok(false);
    }
    let before = find(tx, &report.artifact, region)?;
    let claim = Claim { bytes: report.bytes, complete: report.complete };
    if before.as_ref().is_some_and(|b| b.claim == claim && b.error == report.error) {
        return Ok(false);
    }
    let was = before.map_or(ReplicationStatus::Pending, |replica| replica.status);
    tx.exec(
        "INSERT INTO replicas (artifact, region, status, bytes, claimed, error, reported_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (artifact, region) DO UPDATE SET status = excluded.status,
             bytes = excluded.bytes, claimed = excluded.claimed, error = excluded.error,
             reported_at = excluded.reported_at",
        values![
            report.artifact,
            region,
            claimed_status(was, claim).word(),
            claim.bytes,
            claim.complete,
            &report.error,
            now
        ],
    )?;
    if claim.complete {
        tx.touch(Topic::Replicas);
    }
    Ok(true)
}

fn is_known(tx: &Tx, artifact: &ArtifactId) -> Result<bool, DbError> {
    let known = "SELECT count(*) FROM artifacts WHERE artifact = ?1";
    Ok(tx.number(known, values![artifact])? > 0)
}

/// A copy that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The artifact.
    pub artifact: ArtifactId,
    /// Bytes of its pack.
    pub wire_size: u64,
    /// Where the copy stood before.
    pub status: ReplicationStatus,
    /// The region's word before the look.
    pub claim: Claim,
    /// When its pieces were last sampled.
    pub sampled_at: UnixMillis,
    /// A piece that was damaged.
    pub bad_piece: Option<u32>,
}

const CANDIDATE: &str = "SELECT artifacts.artifact, wire_size, COALESCE(status, 'pending'),
        COALESCE(bytes, 0), COALESCE(claimed, 0), COALESCE(sampled_at, 0), bad_piece
    FROM artifacts LEFT JOIN replicas
        ON replicas.artifact = artifacts.artifact AND replicas.region = ?1";

fn candidate(row: &Row) -> Result<Candidate, DbError> {
    Ok(Candidate {
        artifact: row.parse(0)?,
        wire_size: row.num(1)?,
        status: row.word(2, ReplicationStatus::from_word)?,
        claim: Claim { bytes: row.num(3)?, complete: row.flag(4)? },
        sampled_at: row.time(5)?,
        bad_piece: row.opt_int(6)?.and_then(|piece| u32::try_from(piece).ok()),
    })
}

/// Every copy that `region` must hold, the one sampled longest ago first, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn required(tx: &Tx, region: &RegionName, limit: u32) -> Result<Vec<Candidate>, DbError> {
    let sql = format!("{CANDIDATE} ORDER BY COALESCE(sampled_at, 0) LIMIT ?2");
    tx.rows(&sql, values![region, limit], candidate)
}

/// Copies to look at now: called complete by `region` and not found so yet, or lost and
/// not looked at since `lost_before`; longest waiting first, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn unsettled(
    tx: &Tx,
    region: &RegionName,
    lost_before: UnixMillis,
    limit: u32,
) -> Result<Vec<Candidate>, DbError> {
    let sql = format!(
        "{CANDIDATE} WHERE (claimed = 1 AND status IN ('pending', 'partial'))
             OR (status = 'lost' AND COALESCE(checked_at, 0) < ?2)
         ORDER BY COALESCE(checked_at, 0) LIMIT ?3"
    );
    tx.rows(&sql, values![region, lost_before, limit], candidate)
}

/// Makes the rows of a new artifact's copies, which nothing was heard of yet.
///
/// # Errors
/// When the database fails.
pub fn expect(tx: &mut Tx, artifact: &ArtifactId, regions: &[RegionName]) -> Result<(), DbError> {
    for region in regions {
        tx.exec(
            "INSERT INTO replicas (artifact, region) VALUES (?1, ?2)
             ON CONFLICT (artifact, region) DO NOTHING",
            values![artifact, region],
        )?;
    }
    Ok(())
}

/// The same for an artifact that comes back: what was seen of its copies before `now` counts
/// for nothing.
///
/// # Errors
/// When the database fails.
pub fn expect_anew(
    tx: &mut Tx,
    artifact: &ArtifactId,
    regions: &[RegionName],
    now: UnixMillis,
) -> Result<(), DbError> {
    tx.exec("DELETE FROM replicas WHERE artifact = ?1", values![artifact])?;
    for region in regions {
        let sql = "INSERT INTO replicas (artifact, region, checked_at) VALUES (?1, ?2, ?3)";
        tx.exec(sql, values![artifact, region, now])?;
    }
    Ok(())
}

/// What the synchronizer found of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The artifact.
    pub artifact: ArtifactId,
    /// Where the copy stands by it.
    pub status: ReplicationStatus,
    /// What is wrong; empty: nothing.
    pub reason: String,
    /// Whether pieces were sampled.
    pub sampled: bool,
    /// A piece that is damaged.
    pub bad_piece: Option<u32>,
    /// When the look began.
    pub at: UnixMillis,
}

/// Writes down what the synchronizer found of one copy; a look that began before the
/// last one that was written changes nothing, nor does one at what was collected since.
/// Returns whether it was written.
///
/// # Errors
/// When the database fails.
pub fn found(tx: &mut Tx, region: &RegionName, found: &Found) -> Result<bool, DbError> {
    let Found { artifact, status, reason, sampled, bad_piece, at } = found;
    if !is_known(tx, artifact)? {
        return Ok(false);
    }
    let sampled_at = if *sampled { *at } else { UnixMillis(0) };
    let changed = tx.exec(
        "INSERT INTO replicas (artifact, region, status, checked_at, reason, sampled_at, bad_piece)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (artifact, region) DO UPDATE SET status = excluded.status,
             checked_at = excluded.checked_at, reason = excluded.reason,
             sampled_at = CASE WHEN excluded.sampled_at > replicas.sampled_at
                 THEN excluded.sampled_at ELSE replicas.sampled_at END, bad_piece = excluded.bad_piece
         WHERE COALESCE(replicas.checked_at, 0) <= excluded.checked_at",
        values![artifact, region, status.word(), *at, reason, sampled_at, *bad_piece],
    )?;
    Ok(changed > 0)
}
