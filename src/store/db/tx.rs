//! One transaction as callers see it: statements in, rows out, whatever the engine.
//!
//! Parameters are `?1`, `?2`, …; never text pasted into SQL. Statements are
//! prepared once and kept.

use std::str::FromStr;

use rusqlite::types::ValueRef;
use serde::de::DeserializeOwned;
use tokio_postgres::types::Type;

use super::postgres::{self, Postgres};
use super::sqlite::Sqlite;
use super::{DbError, ServerError, Topic, Value};
use crate::model::time::UnixMillis;

/// A transaction. Made by [`super::Db::write`] and [`super::Db::read`], which also end it.
pub struct Tx {
    engine: Engine,
    touched: u32,
}

enum Engine {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

impl From<Sqlite> for Tx {
    fn from(sqlite: Sqlite) -> Self {
        Self { engine: Engine::Sqlite(sqlite), touched: 0 }
    }
}

impl From<Postgres> for Tx {
    fn from(postgres: Postgres) -> Self {
        Self { engine: Engine::Postgres(Box::new(postgres)), touched: 0 }
    }
}

impl Tx {
    /// Changes rows; returns how many.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn exec(&mut self, sql: &str, values: &[Value]) -> Result<usize, DbError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.exec(sql, values),
            Engine::Postgres(postgres) => postgres.exec(sql, values),
        }
    }

    /// Changes rows, and tells of a failure with a later statement or at the end of this
    /// write: for statements whose outcome decides nothing, where a round trip to the
    /// server each would cost more than their work.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn exec_later(&mut self, sql: &str, values: &[Value]) -> Result<(), DbError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.exec(sql, values).map(drop),
            Engine::Postgres(postgres) => postgres.exec_later(sql, values, None),
        }
    }

    /// Changes many rows by few statements, told of as by [`Tx::exec_later`]: `{rows}` in `sql`,
    /// after `VALUES` or between the brackets of `IN`, stands for all of `rows`. Parameters
    /// beside them are `fixed`. With `guard`, as many rows as are given must change.
    ///
    /// # Errors
    /// [`DbError::Raced`] naming `guard` when fewer did, else when the engine refuses.
    pub fn exec_rows(
        &mut self,
        guard: Option<&'static str>,
        sql: &str,
        fixed: &[Value],
        rows: &[Vec<Value>],
    ) -> Result<(), DbError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.exec_rows(guard, sql, fixed, rows),
            Engine::Postgres(postgres) => postgres.exec_rows(guard, sql, fixed, rows),
        }
    }

    /// What a query finds for many keys, in no order: `{rows}` in `sql` is as for
    /// [`Tx::exec_rows`].
    ///
    /// # Errors
    /// When the engine refuses or `read` does.
    pub fn rows_of<T>(
        &self,
        sql: &str,
        keys: &[Vec<Value>],
        read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.rows_of(sql, keys, read),
            Engine::Postgres(postgres) => postgres.rows_of(sql, keys, read),
        }
    }

    /// The rows of one query for each set of parameters, in their order: on a server in one
    /// round trip.
    ///
    /// # Errors
    /// When the engine refuses or `read` does.
    pub fn rows_for_each<T>(
        &self,
        sql: &str,
        all: &[Vec<Value>],
        mut read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<Vec<T>>, DbError> {
        match &self.engine {
            Engine::Sqlite(_) => {
                all.iter().map(|values| self.rows(sql, values, &mut read)).collect()
            }
            Engine::Postgres(postgres) => postgres.rows_for_each(sql, all, read),
        }
    }

    /// [`Tx::exec_guarded`], told of as by [`Tx::exec_later`].
    ///
    /// # Errors
    /// As [`Tx::exec_guarded`].
    pub fn exec_guarded_later(
        &mut self,
        what: &'static str,
        sql: &str,
        values: &[Value],
    ) -> Result<(), DbError> {
        match &self.engine {
            Engine::Sqlite(_) => self.exec_guarded(what, sql, values),
            Engine::Postgres(postgres) => postgres.exec_later(sql, values, Some((what, 1))),
        }
    }

    /// Changes exactly the rows that a guard allows; none is an error.
    ///
    /// # Errors
    /// [`DbError::Raced`] naming `what` when no row matched, else when the engine refuses.
    pub fn exec_guarded(
        &mut self,
        what: &'static str,
        sql: &str,
        values: &[Value],
    ) -> Result<(), DbError> {
        if self.exec(sql, values)? == 0 { Err(DbError::Raced(what)) } else { Ok(()) }
    }

    /// The first row of a query or of a `RETURNING` clause; `None` when there is none.
    ///
    /// # Errors
    /// When the engine refuses or `read` does.
    pub fn row<T>(
        &self,
        sql: &str,
        values: &[Value],
        read: impl FnOnce(&Row) -> Result<T, DbError>,
    ) -> Result<Option<T>, DbError> {
        let (mut read, mut found) = (Some(read), None);
        self.each(sql, values, |row| {
            if let Some(read) = read.take() {
                found = Some(read(row)?);
            }
            Ok(false)
        })?;
        Ok(found)
    }

    /// Every row of a query, in its order. The SQL carries the `LIMIT`.
    ///
    /// # Errors
    /// When the engine refuses or `read` does.
    pub fn rows<T>(
        &self,
        sql: &str,
        values: &[Value],
        mut read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        let mut all = Vec::new();
        self.each(sql, values, |row| {
            all.push(read(row)?);
            Ok(true)
        })?;
        Ok(all)
    }

    fn each(
        &self,
        sql: &str,
        values: &[Value],
        take: impl FnMut(&Row) -> Result<bool, DbError>,
    ) -> Result<(), DbError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.each(sql, values, take),
            Engine::Postgres(postgres) => postgres.each(sql, values, take),
        }
    }

    /// The number in the first column of the first row; 0 when there is no row or it is `NULL`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn number(&self, sql: &str, values: &[Value]) -> Result<i64, DbError> {
        Ok(self.row(sql, values, |row| row.opt_int(0))?.flatten().unwrap_or(0))
    }

    /// Wakes whoever waits for `topic`, once this transaction is committed.
    pub fn touch(&mut self, topic: Topic) {
        self.touched |= topic.bit();
    }

    pub(super) fn touched(&self) -> u32 {
        self.touched
    }

    pub(super) fn set_touched(&mut self, touched: u32) {
        self.touched = touched;
    }

    /// Begins a transaction that can write, once no other writer has one open.
    pub(super) fn begin(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("BEGIN IMMEDIATE"),
            Engine::Postgres(postgres) => postgres.begin(),
        }
    }

    /// Begins a snapshot on a connection that reads.
    pub(super) fn begin_read(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("BEGIN"),
            Engine::Postgres(postgres) => postgres.begin(),
        }
    }

    /// Takes back all that was done since [`Tx::begin`], and begins again.
    pub(super) fn start_over(&mut self) -> Result<(), DbError> {
        if !self.roll_back() {
            return Err(DbError::NotCommitted("a transaction can't be ended".into()));
        }
        self.begin()
    }

    /// Begins a write of its own within the transaction.
    pub(super) fn begin_one(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("SAVEPOINT one"),
            Engine::Postgres(postgres) => postgres.savepoint(),
        }
    }

    /// Keeps what the present write did.
    pub(super) fn keep_one(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("RELEASE one"),
            Engine::Postgres(postgres) => postgres.keep(),
        }
    }

    /// Takes back what the present write did.
    pub(super) fn undo_one(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("ROLLBACK TO one; RELEASE one"),
            Engine::Postgres(postgres) => postgres.undo(),
        }
    }

    /// Waits for statements that were told to be later.
    pub(super) fn settle(&self) -> Result<(), DbError> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(postgres) => postgres.flush(),
        }
    }

    /// Commits.
    pub(super) fn commit(&mut self) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script("COMMIT"),
            Engine::Postgres(postgres) => postgres.commit(&Topic::of_bits(self.touched)),
        }
    }

    /// Ends the transaction without a trace; false: it can't be ended.
    pub(super) fn roll_back(&mut self) -> bool {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => {
                if !sqlite.is_over() {
                    let _ = sqlite.script("ROLLBACK");
                }
                sqlite.is_over()
            }
            Engine::Postgres(postgres) => {
                postgres.roll_back();
                true
            }
        }
    }

    /// Whether the engine ended the transaction by itself: disk full, I/O error, or the
    /// connection was lost.
    pub(super) fn is_over(&self) -> bool {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.is_over(),
            Engine::Postgres(postgres) => postgres.is_over(),
        }
    }

    /// Runs a part of the schema, as its file says it, however long it takes.
    pub(super) fn schema(&mut self, sql: &str) -> Result<(), DbError> {
        match &mut self.engine {
            Engine::Sqlite(sqlite) => sqlite.script(sql),
            Engine::Postgres(postgres) => {
                postgres.script("SET LOCAL statement_timeout = 0")?;
                postgres.script(&postgres::schema(sql))
            }
        }
    }

    /// Whether several coordinators may have the database open.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }
}

/// One row; columns count from 0.
pub struct Row<'a>(pub(super) Raw<'a>);

/// A row as its engine has it.
pub(super) enum Raw<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// A number.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn int(&self, column: usize) -> Result<i64, DbError> {
        self.opt_int(column)?.ok_or_else(|| corrupt("a number", "NULL"))
    }

    /// A number or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, DbError> {
        match self.0 {
            Raw::Sqlite(row) => Ok(row.get(column)?),
            Raw::Postgres(row) => {
                let number: Option<postgres::Number> = row.try_get(column).map_err(server)?;
                Ok(number.map(|number| number.0))
            }
        }
    }

    /// A number that fits `T`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn num<T: TryFrom<i64>>(&self, column: usize) -> Result<T, DbError> {
        let n = self.int(column)?;
        T::try_from(n).map_err(|_| corrupt("a number in range", &n.to_string()))
    }

    /// A boolean, stored as 0 or 1.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn flag(&self, column: usize) -> Result<bool, DbError> {
        Ok(self.int(column)? != 0)
    }

    /// An instant.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn time(&self, column: usize) -> Result<UnixMillis, DbError> {
        self.int(column).map(UnixMillis)
    }

    /// An instant or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_time(&self, column: usize) -> Result<Option<UnixMillis>, DbError> {
        Ok(self.opt_int(column)?.map(UnixMillis))
    }

    /// Text.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn text(&self, column: usize) -> Result<String, DbError> {
        self.opt_text(column)?.ok_or_else(|| corrupt("text", "NULL"))
    }

    /// Text or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_text(&self, column: usize) -> Result<Option<String>, DbError> {
        match self.0 {
            Raw::Sqlite(row) => Ok(row.get(column)?),
            Raw::Postgres(row) => row.try_get(column).map_err(server),
        }
    }

    /// Whatever the column holds.
    ///
    /// # Errors
    /// When it holds what no table of ours does.
    pub(super) fn value(&self, column: usize) -> Result<Value, DbError> {
        match self.0 {
            Raw::Sqlite(row) => Ok(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => Value::Int(n),
                ValueRef::Text(_) => row.get::<_, String>(column)?.into(),
                ValueRef::Blob(bytes) => bytes.into(),
                ValueRef::Real(n) => return Err(corrupt("no fraction", &n.to_string())),
            }),
            Raw::Postgres(row) => match *row.columns()[column].type_() {
                Type::TEXT => Ok(self.opt_text(column)?.into()),
                Type::BYTEA => {
                    let bytes: Option<Vec<u8>> = row.try_get(column).map_err(server)?;
                    Ok(bytes.into())
                }
                _ => Ok(self.opt_int(column)?.into()),
            },
        }
    }

    /// Text that reads as `T`: a name, a digest, a commit.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn parse<T: FromStr>(&self, column: usize) -> Result<T, DbError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| corrupt(std::any::type_name::<T>(), &text))
    }

    /// Text that reads as `T`, or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_parse<T: FromStr>(&self, column: usize) -> Result<Option<T>, DbError> {
        let Some(text) = self.opt_text(column)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| corrupt(std::any::type_name::<T>(), &text))
    }

    /// A word that `read` knows, such as a state's.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn word<T>(
        &self,
        column: usize,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, DbError> {
        let text = self.text(column)?;
        read(&text).ok_or_else(|| corrupt(std::any::type_name::<T>(), &text))
    }

    /// JSON text that reads as `T`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn json<T: DeserializeOwned>(&self, column: usize) -> Result<T, DbError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|_| corrupt(std::any::type_name::<T>(), &text))
    }
}

fn corrupt(what: &'static str, text: &str) -> DbError {
    DbError::Corrupt { what, text: text.chars().take(80).collect() }
}

fn server(error: tokio_postgres::Error) -> DbError {
    ServerError::from(error).into()
}
