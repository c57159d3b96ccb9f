//! Small documents by key, in the table `meta`: what an installation knows of itself.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DbError, Tx, json, values};

/// What stands at `key`; `None`: nothing does.
///
/// # Errors
/// When the database fails, or something else stands there.
pub(super) fn get<T: DeserializeOwned>(tx: &Tx, key: &str) -> Result<Option<T>, DbError> {
    tx.row("SELECT value FROM meta WHERE key = ?1", values![key], |row| row.json(0))
}

/// Writes `value` at `key`, in the place of what stood there.
///
/// # Errors
/// When the database fails.
pub(super) fn put<T: Serialize>(tx: &mut Tx, key: &str, value: &T) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        values![key, json(value)],
    )
    .map(drop)
}
