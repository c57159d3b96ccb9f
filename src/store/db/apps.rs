//! Registered apps.

use super::{DbError, Row, Tx, values};
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::wire::v1::app::{App, AppSpec};

const COLUMNS: &str = "spec, created_at";

fn read(row: &Row) -> Result<App, DbError> {
    Ok(App { spec: row.json(0)?, created_at: row.time(1)? })
}

/// The app `name`.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, name: &AppName) -> Result<Option<App>, DbError> {
    tx.row(&format!("SELECT {COLUMNS} FROM apps WHERE name = ?1"), values![name], read)
}

/// Every app, by name.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx) -> Result<Vec<App>, DbError> {
    tx.rows(&format!("SELECT {COLUMNS} FROM apps ORDER BY name"), &[], read)
}

/// How many apps there are.
///
/// # Errors
/// When the database fails.
pub fn count(tx: &Tx) -> Result<i64, DbError> {
    tx.number("SELECT count(*) FROM apps", &[])
}

/// Registers an app, or replaces what is registered under its name.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &mut Tx, spec: &AppSpec, now: UnixMillis) -> Result<(), DbError> {
    let text = serde_json::to_string(spec).expect("a spec is plain JSON");
    tx.exec(
        "INSERT INTO apps (name, spec, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at",
        values![&spec.name, text, now],
    )?;
    Ok(())
}
