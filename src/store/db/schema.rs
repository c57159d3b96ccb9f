//! Forward-only migrations, each with the digest of its text.
//!
//! To add one: put `schema/NNNN_name.sql` beside the others and one line in
//! [`MIGRATIONS`]. A migration that was released is never edited again.

use super::{DbError, Tx, values};
use crate::model::digest::Digest;

/// Version, name, text; ascending.
pub(super) const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("schema/0001_core.sql")),
    (2, "rollouts", include_str!("schema/0002_rollouts.sql")),
    (3, "replication", include_str!("schema/0003_replication.sql")),
    (4, "patches", include_str!("schema/0004_patches.sql")),
    (5, "freezes", include_str!("schema/0005_freezes.sql")),
    (6, "sessions", include_str!("schema/0006_sessions.sql")),
    (7, "forgotten", include_str!("schema/0007_forgotten.sql")),
    (8, "curves", include_str!("schema/0008_curves.sql")),
    (9, "ancestry", include_str!("schema/0009_ancestry.sql")),
    (10, "webhooks", include_str!("schema/0010_webhooks.sql")),
    (11, "coordinators", include_str!("schema/0011_coordinators.sql")),
    (12, "holds", include_str!("schema/0012_holds.sql")),
    (13, "requirements", include_str!("schema/0013_requirements.sql")),
    (14, "configs", include_str!("schema/0014_configs.sql")),
    (15, "tellers", include_str!("schema/0015_tellers.sql")),
    (16, "attempts", include_str!("schema/0016_attempts.sql")),
    (18, "goal_stores", include_str!("schema/0018_goal_stores.sql")),
    (19, "drains", include_str!("schema/0019_drains.sql")),
    (20, "features", include_str!("schema/0020_features.sql")),
    (21, "collected", include_str!("schema/0021_collected.sql")),
    (22, "gates", include_str!("schema/0022_gates.sql")),
    (23, "plan_files", include_str!("schema/0023_plan_files.sql")),
    (25, "releases_by_time", include_str!("schema/0025_releases_by_time.sql")),
    (26, "named_canaries", include_str!("schema/0026_named_canaries.sql")),
    (27, "hosts_walked", include_str!("schema/0027_hosts_walked.sql")),
];

/// Key in the table `meta` of the oldest schema version that a release must know to work
/// on this database. A migration that older releases can't work beside raises it.
const FLOOR: &str = "schema_floor";

/// Brings the database to the newest schema, in one transaction.
///
/// A server is migrated by the first coordinator of a newer release while older ones go
/// on: so a newer schema is no error there, unless it says so (see [`FLOOR`]).
pub(super) fn migrate(tx: &mut Tx) -> Result<(), DbError> {
    tx.begin()?;
    let done = apply(tx).and_then(|()| tx.commit());
    if done.is_err() {
        tx.roll_back();
    }
    done
}

/// The same within the transaction that is open.
pub(super) fn apply(tx: &mut Tx) -> Result<(), DbError> {
    tx.schema(
        "CREATE TABLE IF NOT EXISTS schema_version (
            version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL)",
    )?;
    let applied = applied(tx)?;
    for (version, sha256) in &applied {
        let Some((_, _, text)) = MIGRATIONS.iter().find(|known| known.0 == *version) else {
            check_newer(tx, *version)?;
            continue;
        };
        if Digest::of(text.as_bytes()).to_string() != *sha256 {
            return Err(DbError::OtherSchema(*version));
        }
    }
    for (version, name, text) in MIGRATIONS {
        if applied.iter().any(|(done, _)| done == version) {
            continue;
        }
        tx.schema(text)?;
        tx.exec(
            "INSERT INTO schema_version (version, name, sha256) VALUES (?1, ?2, ?3)",
            values![*version, *name, Digest::of(text.as_bytes())],
        )?;
    }
    Ok(())
}

/// Versions that were applied, with the digest of their text, ascending.
fn applied(tx: &Tx) -> Result<Vec<(i64, String)>, DbError> {
    tx.rows("SELECT version, sha256 FROM schema_version ORDER BY version", &[], |row| {
        Ok((row.int(0)?, row.text(1)?))
    })
}

/// From now on no release works on this database that does not know schema `version`.
pub(super) fn raise_floor(tx: &mut Tx, version: i64) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value
         WHERE CAST(meta.value AS BIGINT) < ?3",
        values![FLOOR, version.to_string(), version],
    )?;
    Ok(())
}

/// Whether this release may work on a database with a version that it does not know.
fn check_newer(tx: &Tx, version: i64) -> Result<(), DbError> {
    let known = MIGRATIONS.last().map_or(0, |newest| newest.0);
    let floor =
        tx.row("SELECT value FROM meta WHERE key = ?1", values![FLOOR], |row| row.text(0))?;
    let floor = floor.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if tx.is_shared() && floor <= known { Ok(()) } else { Err(DbError::NewerSchema(version)) }
}

/// The newest version that was applied (0: none), the newest that this release knows, and
/// what of it is not as this release would have it.
pub(super) fn compare(tx: &Tx) -> Result<(i64, i64, Vec<String>), DbError> {
    let known = MIGRATIONS.last().map_or(0, |newest| newest.0);
    let there = if tx.is_shared() {
        "SELECT count(*) FROM pg_class WHERE oid = to_regclass('schema_version')"
    } else {
        "SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'"
    };
    let applied = if tx.number(there, &[])? > 0 { applied(tx)? } else { vec![] };
    let mut problems = Vec::new();
    for (version, name, text) in MIGRATIONS {
        let digest = applied.iter().find(|(done, _)| done == version).map(|(_, sha256)| sha256);
        if digest.is_some_and(|sha256| Digest::of(text.as_bytes()).to_string() != *sha256) {
            problems.push(DbError::OtherSchema(*version).to_string());
        } else if digest.is_none() {
            problems.push(format!("schema version {version} ({name}) is not applied: migrate it"));
        }
    }
    let newest = applied.last().map_or(0, |(version, _)| *version);
    if newest > known
        && let Err(error) = check_newer(tx, newest)
    {
        problems.push(error.to_string());
    }
    Ok((newest, known, problems))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::conformance::on_server;

    #[tokio::test]
    async fn the_floor_only_rises_and_keeps_out_who_does_not_know_it() {
        let known = MIGRATIONS.last().unwrap().0;
        let db = on_server().await;
        let asked = db.write(move |tx| {
            let newer = |tx: &Tx| check_newer(tx, known + 7).is_ok();
            let mut may = vec![newer(tx)];
            for floor in [known - 1, known, known + 1, known] {
                raise_floor(tx, floor)?;
                may.push(newer(tx));
            }
            Ok::<_, DbError>(may)
        });
        assert_eq!(asked.await.unwrap(), [true, true, true, false, false]);
    }
}
