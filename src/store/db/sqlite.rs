//! The embedded engine: one SQLite file, owned by one process.

use std::fmt::Write;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::tx::Raw;
use super::{DbError, Row, Value};

/// The first SQLite without the WAL-reset bug [reliability-security 1.1].
const ENGINE_VERSION_MIN: i32 = 3_051_003;
/// Statements kept prepared per connection; there are fewer than this in all.
const STATEMENTS_KEPT: usize = 256;
/// Rows that one statement carries; more gain nothing.
const ROWS_MAX: usize = 256;
/// How long a file must be locked to be in use: a program that its former owner was just
/// starting holds the lock, too, between its fork and its exec.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A connection is one thread's at a time: it needs no lock of its own.
const WRITER: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_CREATE)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// One connection to the file.
pub(super) struct Sqlite {
    connection: Connection,
    /// Held by the connection that writes, as long as it lives.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the file to write, making it if missing, and locks `<path>.lock`.
    pub(super) fn writer(path: &Path) -> Result<Self, DbError> {
        if rusqlite::version_number() < ENGINE_VERSION_MIN {
            return Err(DbError::OldEngine(rusqlite::version_number()));
        }
        let lock = lock(path)?;
        let connection = Connection::open_with_flags(path, WRITER)?;
        // FULL: an answered write survives power loss, not only a crash. What the savepoint of each
        // write may have to undo is kept in memory: in a file it was a sixth of the writer's time.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 67108864;
             PRAGMA temp_store = MEMORY;
             PRAGMA busy_timeout = 5000; PRAGMA cache_size = -16384;
             PRAGMA wal_autocheckpoint = 4096;",
        )?;
        Self::keeping(connection, Some(lock))
    }

    /// Opens the file to read only.
    pub(super) fn reader(path: &Path) -> Result<Self, DbError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;")?;
        Self::keeping(connection, None)
    }

    fn keeping(connection: Connection, lock: Option<File>) -> Result<Self, DbError> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        // Or it prepares a statement anew for other parameters, for a plan that is the same.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(Self { connection, _lock: lock })
    }

    pub(super) fn exec(&self, sql: &str, values: &[Value]) -> Result<usize, DbError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params_from_iter(values))?)
    }

    /// Changes rows; `guard` says what must change as often as there are rows.
    pub(super) fn exec_rows(
        &self,
        guard: Option<&'static str>,
        sql: &str,
        fixed: &[Value],
        rows: &[Vec<Value>],
    ) -> Result<(), DbError> {
        for (rows, sql, values) in in_brackets(sql, fixed, rows) {
            let changed = self.exec(&sql, &values)?;
            if let Some(what) = guard.filter(|_| changed < rows) {
                return Err(DbError::Raced(what));
            }
        }
        Ok(())
    }

    /// What a query finds for many keys, in no order.
    pub(super) fn rows_of<T>(
        &self,
        sql: &str,
        keys: &[Vec<Value>],
        mut read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        let mut all = Vec::with_capacity(keys.len());
        for (_, sql, values) in in_brackets(sql, &[], keys) {
            self.each(&sql, &values, |row| {
                all.push(read(row)?);
                Ok(true)
            })?;
        }
        Ok(all)
    }

    /// Hands rows to `take` until it wants no more.
    pub(super) fn each(
        &self,
        sql: &str,
        values: &[Value],
        mut take: impl FnMut(&Row) -> Result<bool, DbError>,
    ) -> Result<(), DbError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            if !take(&Row(Raw::Sqlite(row)))? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn script(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.connection.execute_batch(sql)?)
    }

    /// Whether no transaction is open: the engine may have ended it (disk full, I/O error).
    pub(super) fn is_over(&self) -> bool {
        self.connection.is_autocommit()
    }
}

/// `sql` with its `{rows}` written out, how many they are, and all parameters: once for as
/// many rows as a statement carries. Powers of two, so that few statements are prepared.
fn in_brackets(
    sql: &str,
    fixed: &[Value],
    rows: &[Vec<Value>],
) -> impl Iterator<Item = (usize, String, Vec<Value>)> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (now, later) = rest.split_at(1 << rest.len().min(ROWS_MAX).checked_ilog2()?);
        rest = later;
        let (mut values, mut brackets) = (fixed.to_vec(), String::new());
        for row in now {
            for (i, value) in row.iter().enumerate() {
                let before = if i > 0 { ", " } else { "(" };
                values.push(value.clone());
                let n = values.len();
                let _ = write!(brackets, "{before}?{n}");
            }
            brackets.push_str("), ");
        }
        brackets.truncate(brackets.len().saturating_sub(", ".len()));
        Some((now.len(), sql.replace("{rows}", &brackets), values))
    })
}

fn lock(path: &Path) -> Result<File, DbError> {
    let name = format!("{}.lock", path.display());
    let io = |source| DbError::Io { path: name.clone(), source };
    let file = File::options().create(true).write(true).truncate(false).open(&name).map_err(io)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err(DbError::InUse(path.display().to_string()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
