//! Moving an installation from its SQLite file to a PostgreSQL server, whole or not at all.
//!
//! Tables are made, filled, read back from the server and compared row by row in one
//! transaction. The file is locked meanwhile, and all that is written into it is that it is not
//! who it was to the main store: what it would collect the server may need.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::owner;
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{Address, DbError, Tx, Value, schema, values};
use crate::model::digest::to_hex;

/// Rows read at a time. A piece of a job's log is its longest, a few dozen KiB.
const PAGE: usize = 256;
/// The table that migrations fill; it is made, not copied.
const VERSIONS: &str = "schema_version";

/// What to do when nobody knows whether the copy is there.
const AGAIN: &str = "; copy it again, to a fresh database: until then a coordinator that runs on \
                     another copy of the file may go on to delete from the main store";

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// SHA-256 of all of them, the same on both sides.
    pub sha256: String,
}

/// What was copied, and who the file was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Every table.
    pub tables: Vec<Copied>,
    /// The installation that the main store may still name as its owner: neither side is it any
    /// more. `None`: the file was no installation yet.
    pub former: Option<String>,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// There is no file to copy.
    #[error("{0} is not there; name the data folder of a coordinator on SQLite")]
    NoFile(String),
    /// The file is not what this release makes.
    #[error("{path}: {why}")]
    Unfit {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server's database is in use.
    #[error("{place} is not empty: its table {table} {what}; name a fresh database")]
    NotEmpty {
        /// Which, without the password.
        place: String,
        /// The first table that should not be so.
        table: String,
        /// What is with it.
        what: &'static str,
    },
    /// What was read back is not what was written.
    #[error("the table {0} reads otherwise on the server than in the file; nothing was kept")]
    Differs(String),
}

/// A table as the file has it.
struct Table {
    name: String,
    columns: Vec<String>,
    /// Columns of its primary key, in order.
    key: Vec<String>,
    /// The column that the server gives numbers for.
    numbered: Option<String>,
}

/// Copies the file at `from` to the fresh database at `to`; durable when it returns. No
/// coordinator may run on either. Waits for the disk and the server: not for async code.
///
/// # Errors
/// See [`CopyError`]; nothing was changed then, but for [`DbError::Unknown`].
pub fn copy(from: &Path, to: &Address) -> Result<Moved, CopyError> {
    if !from.exists() {
        return Err(CopyError::NoFile(from.display().to_string()));
    }
    let mut source = Tx::from(Sqlite::writer(from)?);
    source.begin_read()?;
    let (_, _, problems) = schema::compare(&source)?;
    if let Some(why) = problems.into_iter().next() {
        return Err(CopyError::Unfit { path: from.display().to_string(), why });
    }
    let server = Postgres::writer(to)?;
    server.check()?;
    let mut target = Tx::from(server);
    target.begin()?;
    let copied = copy_all(&source, &mut target, to);
    let done = copied.and_then(|tables| {
        let former = hand_over(&mut source, &mut target)?;
        Ok(Moved { tables, former })
    });
    if done.is_err() {
        target.roll_back();
    }
    source.roll_back();
    done
}

/// Commits the copy. The file stays and may be started again, so neither of them is the
/// installation that the file was: none collects before a person says which it is. The file
/// forgets first, so that at no moment it owns what the copy needs. Returns the id that the file
/// had, also when an earlier copy took it and it is not known what became of that one.
fn hand_over(source: &mut Tx, target: &mut Tx) -> Result<Option<String>, CopyError> {
    owner::forget(target)?;
    source.roll_back();
    source.begin()?;
    let known = owner::find(source)?;
    let former = known.as_ref().map(|known| known.id.clone()).or(owner::left(source)?);
    owner::forget(source)?;
    if let Some(former) = &former {
        owner::leave(source, former)?;
    }
    source.commit()?;
    match (target.commit(), &known) {
        (Ok(()), _) => {}
        // The copy may be there.
        (Err(DbError::Unknown(why)), _) => {
            return Err(DbError::Unknown(format!("{why}{AGAIN}")).into());
        }
        (Err(error), None) => return Err(error.into()),
        (Err(error), Some(known)) => {
            source.begin()?;
            owner::remember(source, known)?;
            source.commit()?;
            return Err(error.into());
        }
    }
    Ok(former)
}

fn copy_all(source: &Tx, target: &mut Tx, to: &Address) -> Result<Vec<Copied>, CopyError> {
    let tables = tables(source)?;
    let refused = |table: String, what| CopyError::NotEmpty { place: to.to_string(), table, what };
    let there = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1";
    for name in target.rows(there, &[], |row| row.text(0))? {
        if name != VERSIONS && tables.iter().all(|table| table.name != name) {
            return Err(refused(name, "is not deployctl's"));
        }
    }
    schema::apply(target)?;
    for Table { name, .. } in &tables {
        if target.number(&format!("SELECT count(*) FROM {name}"), &[])? > 0 {
            return Err(refused(name.clone(), "has rows"));
        }
    }
    tables.iter().map(|table| copy_one(source, target, table)).collect()
}

fn copy_one(source: &Tx, target: &mut Tx, table: &Table) -> Result<Copied, CopyError> {
    let name = &table.name;
    // What triggers made in the file is copied as it is.
    target.schema(&format!("ALTER TABLE {name} DISABLE TRIGGER USER"))?;
    let places: Vec<String> = (1..=table.columns.len()).map(|n| format!("?{n}")).collect();
    let columns = table.columns.join(", ");
    let insert = format!("INSERT INTO {name} ({columns}) VALUES ({})", places.join(", "));
    let mut sum = Sum::default();
    each_row(source, table, |row| {
        sum.add(&row);
        target.exec_later(&insert, &row)
    })?;
    target.settle()?;
    target.schema(&format!("ALTER TABLE {name} ENABLE TRIGGER USER"))?;
    let mut back = Sum::default();
    each_row(target, table, |row| {
        back.add(&row);
        Ok(())
    })?;
    let (written, read_back) = (sum.finish(), back.finish());
    if written != read_back {
        return Err(CopyError::Differs(name.clone()));
    }
    if let Some(column) = &table.numbered {
        let last = last_number(source, table, column)?;
        if last > 0 {
            let sql = "SELECT setval(CAST(pg_get_serial_sequence(?1, ?2) AS regclass), ?3)";
            target.number(sql, values![name, column, last])?;
        }
    }
    Ok(Copied { table: name.clone(), rows: written.0, sha256: written.1 })
}

/// The highest number that was ever given in the file, so that none is given again.
fn last_number(source: &Tx, table: &Table, column: &str) -> Result<i64, DbError> {
    let there = source.number(&format!("SELECT max({column}) FROM {}", table.name), &[])?;
    let given = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
    Ok(there.max(source.number(given, values![&table.name])?))
}

/// Every table of the file, those that others refer to first.
fn tables(source: &Tx) -> Result<Vec<Table>, DbError> {
    let names = source.rows(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> ?1
         AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY rowid",
        values![VERSIONS],
        |row| row.text(0),
    )?;
    names.into_iter().map(|name| table(source, name)).collect()
}

fn table(source: &Tx, name: String) -> Result<Table, DbError> {
    let facts = source.rows(
        "SELECT name, type, pk FROM pragma_table_info(?1) ORDER BY cid",
        values![&name],
        |row| Ok((row.text(0)?, row.text(1)?, row.int(2)?)),
    )?;
    let mut key: Vec<_> = facts.iter().filter(|fact| fact.2 > 0).collect();
    key.sort_by_key(|fact| fact.2);
    let numbered = match key.as_slice() {
        [(column, kind, _)] if kind == "INTEGER" => Some(column.clone()),
        _ => None,
    };
    let key = key.into_iter().map(|fact| fact.0.clone()).collect();
    Ok(Table { name, columns: facts.into_iter().map(|fact| fact.0).collect(), key, numbered })
}

/// Hands every row to `take`, ordered by key: both engines order text by its bytes.
fn each_row(
    tx: &Tx,
    table: &Table,
    mut take: impl FnMut(Vec<Value>) -> Result<(), DbError>,
) -> Result<(), DbError> {
    let (name, columns, key) = (&table.name, table.columns.join(", "), table.key.join(", "));
    let at: Vec<usize> =
        table.key.iter().filter_map(|k| table.columns.iter().position(|c| c == k)).collect();
    let mut last: Vec<Value> = Vec::new();
    loop {
        let places: Vec<String> = (1..=last.len()).map(|n| format!("?{n}")).collect();
        let after = match last.len() {
            0 => String::new(),
            _ => format!("WHERE ({key}) > ({})", places.join(", ")),
        };
        let sql = format!("SELECT {columns} FROM {name} {after} ORDER BY {key} LIMIT {PAGE}");
        let page = tx.rows(&sql, &last, |row| {
            (0..table.columns.len()).map(|column| row.value(column)).collect::<Result<Vec<_>, _>>()
        })?;
        let Some(end) = page.last() else { return Ok(()) };
        last = at.iter().map(|i| end[*i].clone()).collect();
        for row in page {
            take(row)?;
        }
    }
}

/// The number and the digest of rows as they come.
#[derive(Default)]
struct Sum(u64, Sha256);

impl Sum {
    fn add(&mut self, row: &[Value]) {
        self.0 += 1;
        for value in row {
            let (kind, bytes) = match value {
                Value::Null => (0_u8, Vec::new()),
                Value::Int(n) => (1, n.to_be_bytes().into()),
                // A server can't hold the character 0 and has a mark in its place.
                Value::Text(text) => (2, text.replace('\0', "\u{fffd}").into_bytes()),
                Value::Bytes(bytes) => (3, bytes.clone()),
            };
            self.1.update([kind]);
            self.1.update((bytes.len() as u64).to_be_bytes());
            self.1.update(bytes);
        }
    }

    fn finish(self) -> (u64, String) {
        (self.0, to_hex(&self.1.finalize()))
    }
}

#[cfg(test)]
mod tests;
