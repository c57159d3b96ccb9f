//! One transaction as callers see it: statements in, rows out.
//!
//! Parameters are `?1`, `?2`, …; never text pasted into SQL. Statements are
//! prepared once and kept.

use std::str::FromStr;

use rusqlite::{Connection, params_from_iter};
use serde::de::DeserializeOwned;

use super::{DbError, Topic, Value};
use crate::model::time::UnixMillis;

/// Statements kept prepared per connection; there are fewer than this in all.
const STATEMENTS_KEPT: usize = 256;

/// A transaction. Made by [`super::Db::write`] and [`super::Db::read`], which also end it.
pub struct Tx {
    connection: Connection,
    touched: u32,
}

impl Tx {
    pub(super) fn new(connection: Connection) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Self { connection, touched: 0 }
    }

    /// Changes rows; returns how many.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn exec(&mut self, sql: &str, values: &[Value]) -> Result<usize, DbError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params_from_iter(values))?)
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
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        rows.next()?.map(|row| read(&Row(row))).transpose()
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
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(&Row(row))?);
        }
        Ok(all)
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

    pub(super) fn script(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.connection.execute_batch(sql)?)
    }

    /// Whether the engine ended the transaction by itself (disk full, I/O error).
    pub(super) fn is_over(&self) -> bool {
        self.connection.is_autocommit()
    }
}

/// One row; columns count from 0.
pub struct Row<'a>(&'a rusqlite::Row<'a>);

impl Row<'_> {
    /// A number.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn int(&self, column: usize) -> Result<i64, DbError> {
        Ok(self.0.get(column)?)
    }

    /// A number or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, DbError> {
        Ok(self.0.get(column)?)
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
        Ok(self.0.get(column)?)
    }

    /// Text or `NULL`.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn opt_text(&self, column: usize) -> Result<Option<String>, DbError> {
        Ok(self.0.get(column)?)
    }

    /// Bytes.
    ///
    /// # Errors
    /// When the column holds something else.
    pub fn bytes(&self, column: usize) -> Result<Vec<u8>, DbError> {
        Ok(self.0.get(column)?)
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
