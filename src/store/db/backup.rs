//! The SQLite file as a backup: copied while it is in use, and taken up again.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{DbError, owner};

/// By how much a restored feed's revisions are raised: more than any history between a
/// backup and now has, so that every region is told everything again.
const FEED_AHEAD: i64 = 1_000_000_000;

/// Copies the database at `from` to the new file `to`: one state of it, whole and
/// compact. It may be in use meanwhile.
///
/// # Errors
/// When `from` is no database, or `to` is there or can't be written.
pub fn copy(from: &Path, to: &Path) -> Result<(), DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(from, flags)?;
    db.execute_batch("PRAGMA busy_timeout = 5000")?;
    db.execute("VACUUM INTO ?1", [to.display().to_string()])?;
    drop(db);
    check(to)
}

/// Whether the file at `path` is a whole database.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path) -> Result<(), DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    let found: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(damage, Some(found)).into())
}

/// The epoch of the database at `path`; what is in its log is brought into the file.
///
/// # Errors
/// When it can't be opened or read.
pub fn settle(path: &Path) -> Result<u64, DbError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    epoch(&db)
}

fn epoch(db: &Connection) -> Result<u64, DbError> {
    let sql = "SELECT coalesce(max(CAST(value AS INTEGER)), 1) FROM meta WHERE key = 'epoch'";
    Ok(db.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs().max(1))
}

/// Makes the restored copy at `path` ready to be used in place of a newer one: its
/// epoch is greater than its own and than `above`, and its feed tells everything again.
/// Returns the epoch.
///
/// # Errors
/// When it can't be written; it is as before then.
pub fn revive(path: &Path, above: u64) -> Result<u64, DbError> {
    let mut db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let tx = db.transaction()?;
    let next = epoch(&tx)?.max(above) + 1;
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('epoch', ?1)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [next.to_string()],
    )?;
    tx.execute("UPDATE feed SET revision = revision + ?1", [FEED_AHEAD])?;
    tx.execute("UPDATE goals SET revision = revision + ?1", [FEED_AHEAD])?;
    tx.execute("UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'feed'", [FEED_AHEAD])?;
    // What it is a copy of may live: it is another installation to the main store.
    tx.execute(owner::FORGET, [])?;
    tx.commit()?;
    Ok(next)
}
