//! What builds need of other apps, as their commits said it.

use super::{DbError, Tx, values};
use crate::model::id::JobNo;
use crate::model::recipe::{REQUIRES_MAX, Requirement};

/// Writes down what `build` needs; the first [`REQUIRES_MAX`] of it.
///
/// # Errors
/// When the database fails.
pub fn record(tx: &mut Tx, build: JobNo, requires: &[Requirement]) -> Result<(), DbError> {
    for Requirement { app, min } in requires.iter().take(REQUIRES_MAX) {
        tx.exec(
            "INSERT INTO requirements (build, needs, commit_id) VALUES (?1, ?2, ?3)
             ON CONFLICT (build, needs) DO UPDATE SET commit_id = excluded.commit_id",
            values![build, app, min],
        )?;
    }
    Ok(())
}

/// What `build` needs, by app.
///
/// # Errors
/// When the database fails.
pub fn of(tx: &Tx, build: JobNo) -> Result<Vec<Requirement>, DbError> {
    let sql = "SELECT needs, commit_id FROM requirements WHERE build = ?1 ORDER BY needs";
    tx.rows(sql, values![build], |row| Ok(Requirement { app: row.parse(0)?, min: row.parse(1)? }))
}
