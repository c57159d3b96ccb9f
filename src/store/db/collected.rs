//! Artifacts that were taken away: marked first, then their objects are deleted.
//!
//! Marked is not lost: whoever builds the same again brings it back. Once its objects are
//! being deleted an artifact never comes back under its name, so that a delete that comes
//! late, from a coordinator that stood still, meets nothing that anybody needs.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::commit::CommitId;
use crate::model::digest::ArtifactId;
use crate::model::id::{AppName, RegionName};
use crate::model::time::UnixMillis;
use crate::store::db::replicas;

/// Where an artifact that was taken away stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its objects are there still.
    Marked,
    /// Its objects are being deleted, or are deleted. Its name is used up.
    Given,
}

/// Artifacts and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub artifacts: u64,
    /// Bytes of their packs and manifests in one store.
    pub bytes: u64,
}

/// One whose objects are to be deleted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub artifact: ArtifactId,
    /// Bytes of its pack and its manifest.
    pub bytes: u64,
}

fn due(row: &Row) -> Result<Due, DbError> {
    Ok(Due { artifact: row.parse(0)?, bytes: row.num(1)? })
}

/// Takes an artifact away with the patches that start from it or lead to it; its objects are
/// deleted from `due_at` on. Returns what went; nothing when it was gone before.
///
/// # Errors
/// When the database fails.
pub fn mark(
    tx: &mut Tx,
    artifact: &ArtifactId,
    now: UnixMillis,
    due_at: UnixMillis,
) -> Result<Sum, DbError> {
    let patches = "SELECT patch FROM patches
                   WHERE (to_artifact = ?1 OR from_artifact = ?1) AND patch IS NOT NULL";
    let patches: Vec<ArtifactId> = tx.rows(patches, values![artifact], |row| row.parse(0))?;
    let is_patch = "SELECT count(*) FROM patches WHERE patch = ?1";
    let commit = if tx.number(is_patch, values![artifact])? > 0 { "NULL" } else { "commit_id" };
    let sql = "DELETE FROM patches WHERE to_artifact = ?1 OR from_artifact = ?1 OR patch = ?1";
    tx.exec(sql, values![artifact])?;
    let mut sum = Sum::default();
    for patch in &patches {
        let went = mark_one(tx, patch, "NULL", now, due_at)?;
        sum.artifacts += went.artifacts;
        sum.bytes += went.bytes;
    }
    let went = mark_one(tx, artifact, commit, now, due_at)?;
    Ok(Sum { artifacts: sum.artifacts + went.artifacts, bytes: sum.bytes + went.bytes })
}

fn mark_one(
    tx: &mut Tx,
    artifact: &ArtifactId,
    commit: &str,
    now: UnixMillis,
    due_at: UnixMillis,
) -> Result<Sum, DbError> {
    let sql = format!(
        "INSERT INTO collected (artifact, app, commit_id, job, size, wire_size, pieces, entries,
             manifest_bytes, state, marked_at, due_at)
         SELECT artifact, app, {commit}, job, size, wire_size, pieces, entries, manifest_bytes,
             'marked', CAST(?2 AS BIGINT), CAST(?3 AS BIGINT)
         FROM artifacts WHERE artifact = ?1
         ON CONFLICT (artifact) DO UPDATE SET due_at = excluded.due_at,
             state = CASE collected.state WHEN 'marked' THEN 'marked' ELSE 'going' END
         RETURNING wire_size + manifest_bytes"
    );
    let bytes = tx.row(&sql, values![artifact, now, due_at], |row| row.num(0))?;
    let Some(bytes) = bytes else { return Ok(Sum::default()) };
    tx.exec("DELETE FROM replicas WHERE artifact = ?1", values![artifact])?;
    tx.exec("DELETE FROM artifacts WHERE artifact = ?1", values![artifact])?;
    tx.touch(Topic::Feed);
    Ok(Sum { artifacts: 1, bytes })
}

/// Gives up the name of an artifact that no row names, whose objects are left over.
/// Returns whether they may be deleted.
///
/// # Errors
/// When the database fails.
pub fn give_up(
    tx: &mut Tx,
    artifact: &ArtifactId,
    bytes: u64,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let known = "SELECT count(*) FROM artifacts WHERE artifact = ?1";
    if tx.number(known, values![artifact])? > 0 {
        return Ok(false);
    }
    let changed = tx.exec(
        "INSERT INTO collected (artifact, wire_size, state, marked_at, due_at)
         VALUES (?1, ?2, 'going', ?3, ?3)
         ON CONFLICT (artifact) DO UPDATE SET state = 'going', due_at = excluded.due_at
         WHERE collected.state = 'gone'",
        values![artifact, bytes, now],
    )?;
    Ok(changed > 0)
}

/// Where `artifact` stands; `None`: it was never taken away, or long ago.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, artifact: &ArtifactId) -> Result<Option<Taken>, DbError> {
    let sql = "SELECT state FROM collected WHERE artifact = ?1";
    let word = tx.row(sql, values![artifact], |row| row.text(0))?;
    Ok(word.map(|word| if word == "marked" { Taken::Marked } else { Taken::Given }))
}

/// Notes of which build an artifact is that was given up: the next build of it must have
/// another name.
///
/// # Errors
/// When the database fails.
pub fn belongs(
    tx: &mut Tx,
    artifact: &ArtifactId,
    app: &AppName,
    commit: &CommitId,
) -> Result<(), DbError> {
    let sql = "UPDATE collected SET app = ?2, commit_id = ?3
               WHERE artifact = ?1 AND app IS NULL";
    tx.exec(sql, values![artifact, app, commit]).map(drop)
}

/// How many artifacts of each app and commit were given up.
///
/// # Errors
/// When the database fails.
pub fn times(tx: &Tx, builds: &[(&AppName, &CommitId)]) -> Result<Vec<u32>, DbError> {
    let sql = "SELECT count(*) FROM collected
               WHERE app = ?1 AND commit_id = ?2 AND state <> 'marked'";
    let each: Vec<_> = builds.iter().map(|(app, commit)| values![*app, *commit].to_vec()).collect();
    let all = tx.rows_for_each(sql, &each, |row| row.num(0))?;
    Ok(all.into_iter().map(|rows| rows.into_iter().next().unwrap_or(0)).collect())
}

/// Brings a marked artifact back as it was, built `now`. Returns whether it was marked.
///
/// # Errors
/// When the database fails.
pub fn revive(
    tx: &mut Tx,
    artifact: &ArtifactId,
    regions: &[RegionName],
    now: UnixMillis,
) -> Result<bool, DbError> {
    let back = tx.exec(
        "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces, entries,
             manifest_bytes, created_at)
         SELECT artifact, app, commit_id, job, size, wire_size, pieces, entries, manifest_bytes,
             CAST(?2 AS BIGINT)
         FROM collected WHERE artifact = ?1 AND state = 'marked' AND commit_id IS NOT NULL",
        values![artifact, now],
    )?;
    if back > 0 {
        unmark(tx, artifact)?;
        replicas::expect_anew(tx, artifact, regions, now)?;
        tx.touch(Topic::Feed);
    }
    Ok(back > 0)
}

/// Forgets that an artifact was marked. Returns whether it was.
///
/// # Errors
/// When the database fails.
pub fn unmark(tx: &mut Tx, artifact: &ArtifactId) -> Result<bool, DbError> {
    let sql = "DELETE FROM collected WHERE artifact = ?1 AND state = 'marked'";
    Ok(tx.exec(sql, values![artifact])? > 0)
}

/// Up to `limit` artifacts whose objects are to be deleted now. From here on their names are
/// used up; whoever asks after `again_at` gets what is not done then.
///
/// # Errors
/// When the database fails.
pub fn take(
    tx: &mut Tx,
    now: UnixMillis,
    again_at: UnixMillis,
    limit: usize,
) -> Result<Vec<Due>, DbError> {
    let sql = "SELECT artifact, wire_size + manifest_bytes FROM collected
               WHERE state <> 'gone' AND due_at <= ?1 ORDER BY due_at LIMIT ?2";
    let all = tx.rows(sql, values![now, limit], due)?;
    let rows: Vec<_> = all.iter().map(|due| values![due.artifact].to_vec()).collect();
    tx.exec_rows(
        None,
        "UPDATE collected SET state = 'going', due_at = ?1 FROM (VALUES {rows}) AS due
         WHERE artifact = column1 AND state <> 'gone'",
        values![again_at],
        &rows,
    )?;
    Ok(all)
}

/// Whether any is due.
///
/// # Errors
/// When the database fails.
pub fn any_due(tx: &Tx, now: UnixMillis) -> Result<bool, DbError> {
    let sql = "SELECT 1 FROM collected WHERE state <> 'gone' AND due_at <= ?1 LIMIT 1";
    Ok(tx.row(sql, values![now], |row| row.int(0))?.is_some())
}

/// Its objects are deleted, or not: why. Returns whether that is news.
///
/// # Errors
/// When the database fails.
pub fn ended(
    tx: &mut Tx,
    artifact: &ArtifactId,
    failed: Option<&str>,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let changed = match failed {
        None => tx.exec(
            "UPDATE collected SET state = 'gone', gone_at = ?2, error = ''
             WHERE artifact = ?1 AND state = 'going'",
            values![artifact, now],
        )?,
        Some(why) => tx.exec(
            "UPDATE collected SET error = ?2 WHERE artifact = ?1 AND state = 'going'",
            values![artifact, why],
        )?,
    };
    Ok(changed > 0)
}

/// What is marked or going, and why the oldest that could not be deleted was not.
///
/// # Errors
/// When the database fails.
pub fn waiting(tx: &Tx) -> Result<(Sum, Option<String>), DbError> {
    // A server's sum of whole numbers is none of its whole numbers.
    let sql = "SELECT count(*), CAST(coalesce(sum(wire_size + manifest_bytes), 0) AS BIGINT)
               FROM collected WHERE state <> 'gone'";
    let sum = tx.row(sql, &[], |row| Ok(Sum { artifacts: row.num(0)?, bytes: row.num(1)? }))?;
    let sql = "SELECT error FROM collected WHERE state <> 'gone' AND error <> ''
               ORDER BY due_at LIMIT 1";
    Ok((sum.unwrap_or_default(), tx.row(sql, &[], |row| row.text(0))?))
}

/// Which are marked or going.
///
/// # Errors
/// When the database fails.
pub fn names_waiting(tx: &Tx) -> Result<Vec<ArtifactId>, DbError> {
    tx.rows("SELECT artifact FROM collected WHERE state <> 'gone'", &[], |row| row.parse(0))
}

/// Which of `artifacts` no row names: they were never known, or were taken away whole.
///
/// # Errors
/// When the database fails.
pub fn unnamed(tx: &Tx, artifacts: &[ArtifactId]) -> Result<Vec<ArtifactId>, DbError> {
    let sql = "SELECT 1 FROM artifacts WHERE artifact = ?1
               UNION ALL SELECT 1 FROM collected WHERE artifact = ?1 AND state <> 'gone'";
    without(tx, artifacts, sql)
}

/// Which of `artifacts` this database never knew, or not for a year.
///
/// # Errors
/// When the database fails.
pub fn unknown(tx: &Tx, artifacts: &[ArtifactId]) -> Result<Vec<ArtifactId>, DbError> {
    let sql = "SELECT 1 FROM artifacts WHERE artifact = ?1
               UNION ALL SELECT 1 FROM collected WHERE artifact = ?1";
    without(tx, artifacts, sql)
}

/// Those of `artifacts` for which `sql` finds nothing.
fn without(tx: &Tx, artifacts: &[ArtifactId], sql: &str) -> Result<Vec<ArtifactId>, DbError> {
    let each: Vec<_> = artifacts.iter().map(|artifact| values![*artifact].to_vec()).collect();
    let found = tx.rows_for_each(sql, &each, |row| row.int(0))?;
    let both = artifacts.iter().zip(found);
    Ok(both.filter(|(_, rows)| rows.is_empty()).map(|(artifact, _)| *artifact).collect())
}

/// Makes everything that is marked due at once.
///
/// # Errors
/// When the database fails.
pub fn hasten(tx: &mut Tx, now: UnixMillis) -> Result<usize, DbError> {
    let sql = "UPDATE collected SET due_at = ?1 WHERE state = 'marked' AND due_at > ?1";
    tx.exec(sql, values![now])
}

/// Forgets up to `limit` that were gone before `before`, with what regions are told of them.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx, before: UnixMillis, limit: u32) -> Result<usize, DbError> {
    let sql = "SELECT artifact FROM collected WHERE state = 'gone' AND gone_at < ?1 LIMIT ?2";
    let old: Vec<String> = tx.rows(sql, values![before, limit], |row| row.text(0))?;
    let rows: Vec<_> = old.iter().map(|artifact| values![artifact].to_vec()).collect();
    let feed = "DELETE FROM feed WHERE kind = 'artifact' AND key IN ({rows})";
    tx.exec_rows(None, feed, &[], &rows)?;
    tx.exec_rows(None, "DELETE FROM collected WHERE artifact IN ({rows})", &[], &rows)?;
    Ok(old.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::store::db::conformance::both;
    use crate::store::db::{artifacts, feed, patches};
    use crate::wire::v1::patch::{Between, PatchOutcome};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn id(n: u8) -> ArtifactId {
        Digest::of(&[n])
    }

    fn commit() -> CommitId {
        "a".repeat(40).parse().unwrap()
    }

    fn row(n: u8) -> artifacts::ArtifactRow {
        artifacts::ArtifactRow {
            artifact: id(n),
            app: "web".parse().unwrap(),
            commit: commit(),
            job: crate::model::id::JobNo(1),
            size: 900,
            wire_size: 90,
            pieces: 3,
            entries: 1,
            manifest_bytes: 10,
            replication: crate::model::replication::ReplicationStatus::Pending,
        }
    }

    fn regions() -> [RegionName; 1] {
        ["eu".parse().unwrap()]
    }

    /// Artifacts 1 and 2, and 3, a patch between them.
    fn fill(tx: &mut Tx) -> Result<(), DbError> {
        tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
        tx.exec(
            "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt, max_attempts,
                 not_before, queued_at, actor, subject, repo, trunk, recipe)
             VALUES (1, 'web', ?1, '', 'SUCCEEDED', 1, 3, 0, 0, '', '', '', '', '')",
            values![&commit()],
        )?;
        for n in 1..=3 {
            artifacts::insert(tx, &row(n), &regions(), UnixMillis(1))?;
        }
        let between = Between { from: id(1), to: id(2) };
        let made = PatchOutcome::Made { patch: id(3), wire_bytes: 90 };
        patches::put(tx, between, &made, UnixMillis(1)).map(drop)
    }

    #[tokio::test]
    async fn marked_is_gone_for_all_but_who_builds_it_again() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                fill(tx)?;
                let before = feed::revision(tx)?;
                let went = mark(tx, &id(1), NOW, NOW + std::time::Duration::from_secs(60))?;
                // The patch that starts from it goes as well, and regions are told of both.
                assert_eq!(went, Sum { artifacts: 2, bytes: 200 });
                assert_eq!(feed::after(tx, before)?.len(), 2);
                assert!(!feed::is_wanted(tx, &id(1).to_string())?);
                assert_eq!(replicas::of_artifact(tx, &id(1))?, []);
                assert_eq!(mark(tx, &id(1), NOW, NOW)?, Sum::default());
                assert!(!any_due(tx, NOW)?, "not before its time");
                assert_eq!(find(tx, &id(1))?, Some(Taken::Marked));
                assert_eq!(times(tx, &[(&row(1).app, &commit())])?, [0]);
                // A patch does not come back by itself: its row is gone.
                assert!(!revive(tx, &id(3), &regions(), NOW)?);
                assert!(revive(tx, &id(1), &regions(), NOW)?);
                assert!(!revive(tx, &id(1), &regions(), NOW)?);
                assert_eq!(find(tx, &id(1))?, None);
                assert_eq!(artifacts::find(tx, id(1))?, Some(row(1)));
                // A look that began before counts for nothing now.
                let found = replicas::Found {
                    artifact: id(1),
                    status: crate::model::replication::ReplicationStatus::Complete,
                    reason: String::new(),
                    sampled: true,
                    bad_piece: None,
                    at: UnixMillis(NOW.0 - 1),
                };
                assert!(!replicas::found(tx, &regions()[0], &found)?);
                let gone = replicas::Found { artifact: id(3), at: NOW, ..found };
                assert!(!replicas::found(tx, &regions()[0], &gone)?);
                // The same comes back by being built again, too.
                mark(tx, &id(1), NOW, NOW)?;
                artifacts::insert(tx, &row(1), &regions(), NOW)?;
                assert_eq!(find(tx, &id(1))?, None);
                assert_eq!(waiting(tx)?, (Sum { artifacts: 1, bytes: 100 }, None));
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_that_is_given_up_is_never_used_again() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                fill(tx)?;
                mark(tx, &id(2), NOW, NOW)?;
                let later = UnixMillis(NOW.0 + 600_000);
                let mut due: Vec<_> = take(tx, NOW, later, 9)?;
                due.sort_by_key(|due| due.artifact != id(2));
                assert_eq!(due.len(), 2);
                assert_eq!(due[0], Due { artifact: id(2), bytes: 100 });
                assert!(!any_due(tx, NOW)?, "nobody else takes it");
                assert!(!revive(tx, &id(2), &regions(), NOW)? && !unmark(tx, &id(2))?);
                assert_eq!(find(tx, &id(2))?, Some(Taken::Given));
                assert_eq!(times(tx, &[(&row(2).app, &commit())])?, [1]);
                // Whoever took it died or failed: another tries again, and ends it once.
                assert!(ended(tx, &id(2), Some("denied"), NOW)?);
                assert_eq!(waiting(tx)?.1.as_deref(), Some("denied"));
                assert_eq!(take(tx, later, later, 9)?.len(), 2);
                assert!(ended(tx, &id(2), None, later)? && !ended(tx, &id(2), None, later)?);
                assert_eq!(waiting(tx)?, (Sum { artifacts: 1, bytes: 100 }, None));
                assert_eq!(find(tx, &id(2))?, Some(Taken::Given));
                assert_eq!(times(tx, &[(&row(2).app, &commit())])?, [1]);
                // What is left over of it may be deleted again; what is known never.
                assert!(give_up(tx, &id(2), 7, NOW)? && give_up(tx, &id(9), 7, NOW)?);
                assert!(!give_up(tx, &id(1), 7, NOW)? && !give_up(tx, &id(9), 7, NOW)?);
                belongs(tx, &id(9), &row(1).app, &commit())?;
                assert_eq!(times(tx, &[(&row(2).app, &commit())])?, [2]);
                ended(tx, &id(2), None, later)?;
                assert_eq!(forget(tx, UnixMillis(later.0 + 1), 9)?, 1);
                assert_eq!(find(tx, &id(2))?, None);
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }
}
