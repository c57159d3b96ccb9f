//! Forward-only migrations, each with the digest of its text.
//!
//! To add one: put `schema/NNNN_name.sql` beside the others and one line in
//! [`MIGRATIONS`]. A migration that was released is never edited again.

use super::{DbError, Tx, values};
use crate::model::digest::Digest;

/// Version, name, text; ascending.
const MIGRATIONS: &[(i64, &str, &str)] = &[
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
];

/// Brings the file to the newest schema; each migration in one transaction.
pub(super) fn migrate(tx: &mut Tx) -> Result<(), DbError> {
    tx.script(
        "CREATE TABLE IF NOT EXISTS schema_version (
            version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL)",
    )?;
    let applied =
        tx.rows("SELECT version, sha256 FROM schema_version ORDER BY version", &[], |row| {
            Ok((row.int(0)?, row.text(1)?))
        })?;
    for (version, sha256) in &applied {
        let known = MIGRATIONS.iter().find(|migration| migration.0 == *version);
        let text = known.ok_or(DbError::NewerSchema(*version))?.2;
        if Digest::of(text.as_bytes()).to_string() != *sha256 {
            return Err(DbError::OtherSchema(*version));
        }
    }
    for (version, name, text) in MIGRATIONS {
        if applied.iter().any(|(done, _)| done == version) {
            continue;
        }
        tx.script("BEGIN IMMEDIATE")?;
        let done = tx.script(text).and_then(|()| {
            tx.exec(
                "INSERT INTO schema_version (version, name, sha256) VALUES (?1, ?2, ?3)",
                values![*version, *name, Digest::of(text.as_bytes())],
            )
        });
        if let Err(error) = done {
            let _ = tx.script("ROLLBACK");
            return Err(error);
        }
        tx.script("COMMIT")?;
    }
    Ok(())
}
