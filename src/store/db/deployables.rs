//! Builds as a deploy looks at them: what they made, and where that stands.

use super::{DbError, Row, Tx, values};
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, JobNo};
use crate::model::job::JobState;
use crate::model::replication::ReplicationStatus;

/// Commits that an ambiguous prefix is answered with, at most.
const CANDIDATES_MAX: u32 = 5;

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployable {
    /// Its number.
    pub build: JobNo,
    /// The commit.
    pub commit: CommitId,
    /// The commit's subject.
    pub subject: String,
    /// Where its job stands.
    pub state: JobState,
    /// Why it failed; empty: it did not.
    pub failure: String,
    /// What it made.
    pub artifact: Option<ArtifactId>,
    /// Bytes of its pack.
    pub wire_size: u64,
    /// Where its copies stand.
    pub replication: ReplicationStatus,
    /// Whether what it made was collected since.
    pub collected: bool,
}

const SELECT: &str = "SELECT jobs.id, jobs.commit_id, jobs.subject, jobs.status,
        jobs.failure_reason, jobs.artifact, artifacts.wire_size, artifacts.replication_status,
        artifacts.artifact
    FROM jobs LEFT JOIN artifacts ON artifacts.artifact = jobs.artifact";

fn read(row: &Row) -> Result<Deployable, DbError> {
    let replication = row.opt_text(7)?.unwrap_or_default();
    let state = row.word(3, JobState::from_word)?;
    Ok(Deployable {
        build: JobNo(row.num(0)?),
        commit: row.parse(1)?,
        subject: row.text(2)?,
        state,
        failure: row.opt_text(4)?.unwrap_or_default(),
        artifact: row.opt_parse(5)?,
        wire_size: row.opt_int(6)?.unwrap_or(0).unsigned_abs(),
        replication: ReplicationStatus::from_word(&replication).unwrap_or_default(),
        collected: state == JobState::Succeeded && row.opt_text(8)?.is_none(),
    })
}

/// The build `build` of `app`.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, app: &AppName, build: JobNo) -> Result<Option<Deployable>, DbError> {
    let sql = format!("{SELECT} WHERE jobs.id = ?1 AND jobs.app = ?2");
    tx.row(&sql, values![build, app], read)
}

/// Commits of `app` that begin with `prefix` (hexadecimal digits only), at most 5.
///
/// # Errors
/// When the database fails.
pub fn commits(tx: &Tx, app: &AppName, prefix: &str) -> Result<Vec<CommitId>, DbError> {
    let sql = "SELECT DISTINCT commit_id FROM jobs
               WHERE app = ?1 AND commit_id >= ?2 AND commit_id < ?3 ORDER BY commit_id LIMIT ?4";
    // 'g' follows every hexadecimal digit.
    tx.rows(sql, values![app, prefix, format!("{prefix}g"), CANDIDATES_MAX], |row| row.parse(0))
}

/// The build of `commit` that is most worth deploying: one that succeeded, else one
/// under way, else one that failed or was collected; the newest of those.
///
/// # Errors
/// When the database fails.
pub fn of_commit(tx: &Tx, app: &AppName, commit: &CommitId) -> Result<Option<Deployable>, DbError> {
    let sql = format!(
        "{SELECT} WHERE jobs.app = ?1 AND jobs.commit_id = ?2
         ORDER BY CASE WHEN artifacts.artifact IS NOT NULL THEN 0
                 WHEN jobs.status IN ('SUCCEEDED', 'FAILED') THEN 2 ELSE 1 END,
             jobs.id DESC LIMIT 1"
    );
    tx.row(&sql, values![app, commit], read)
}

/// The newest build of `app` that is replicated everywhere.
///
/// # Errors
/// When the database fails.
pub fn latest(tx: &Tx, app: &AppName) -> Result<Option<Deployable>, DbError> {
    let sql = format!(
        "{SELECT} WHERE jobs.app = ?1 AND jobs.status = 'SUCCEEDED'
             AND artifacts.replication_status = 'complete' ORDER BY jobs.id DESC LIMIT 1"
    );
    tx.row(&sql, values![app], read)
}

/// Builds whose number begins so, newest first, for completion.
///
/// # Errors
/// When the database fails.
pub fn newest(tx: &Tx, app: &AppName, limit: u32) -> Result<Vec<Deployable>, DbError> {
    let sql = format!("{SELECT} WHERE jobs.app = ?1 ORDER BY jobs.id DESC LIMIT ?2");
    tx.rows(&sql, values![app, limit], read)
}
