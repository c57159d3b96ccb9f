//! Configurations: kept once for each app, for as long as its releases.

use super::{DbError, Row, Tx, values};
use crate::model::digest::ConfigId;
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::wire::v1::config::Config;

const COLUMNS: &str = "app, config, text, actor, created_at";

fn read(row: &Row) -> Result<Config, DbError> {
    Ok(Config {
        app: row.parse(0)?,
        config: row.parse(1)?,
        text: row.text(2)?,
        actor: row.text(3)?,
        created_at: row.time(4)?,
    })
}

/// Keeps a configuration; nothing happens when the app has it already.
///
/// # Errors
/// When the database fails.
pub fn keep(
    tx: &mut Tx,
    app: &AppName,
    (config, text): (ConfigId, &str),
    (actor, now): (&str, UnixMillis),
) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO configs (app, config, text, actor, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (app, config) DO NOTHING",
        values![app, config, text, actor, now],
    )?;
    Ok(())
}

/// An app's configuration.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, app: &AppName, config: ConfigId) -> Result<Option<Config>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM configs WHERE app = ?1 AND config = ?2");
    tx.row(&sql, values![app, config], read)
}

/// The configuration with that digest, of whatever app.
///
/// # Errors
/// When the database fails.
pub fn of_any_app(tx: &Tx, config: ConfigId) -> Result<Option<Config>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM configs WHERE config = ?1 ORDER BY app LIMIT 1");
    tx.row(&sql, values![config], read)
}
