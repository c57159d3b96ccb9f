//! Many rows in one statement, as one array for each column.
//!
//! With a parameter for each value, PostgreSQL takes longer to read and to plan a statement
//! of 256 rows than to work it off, and each number of rows is a statement of its own.

use std::error::Error;
use std::fmt::Write;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::dialect;
use crate::store::db::Value;

/// A parameter as the server is given it.
#[derive(Debug)]
pub(super) enum Param {
    One(Value),
    /// One column of many rows.
    Column(Vec<Value>),
}

impl ToSql for Param {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::One(value) => value.to_sql_checked(ty, out),
            Self::Column(values) => values.to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// `sql` and its parameters when `{rows}` in it stands for `rows`.
pub(super) fn with_rows(sql: &str, fixed: &[Value], rows: &[Vec<Value>]) -> (String, Vec<Param>) {
    let mut params: Vec<Param> = fixed.iter().cloned().map(Param::One).collect();
    let Table { columns, arrays, names } = table(rows, &mut params);
    let select = format!("SELECT {columns} FROM unnest({arrays}) AS rows({names})");
    // In brackets after IN, or in the place of a VALUES.
    let place = if sql.contains("VALUES {rows}") { "VALUES {rows}" } else { "{rows}" };
    (sql.replace(place, &select), params)
}

/// A query that answers `sql` for each of `keys`, and its parameters. The last column says
/// for which, counted from 1.
pub(super) fn for_each(sql: &str, keys: &[Vec<Value>]) -> (String, Vec<Param>) {
    let mut params = Vec::new();
    let Table { columns, arrays, names } = table(keys, &mut params);
    let sql = dialect::parameters(sql, "key.column");
    let each = format!(
        "SELECT found.*, key.nth
         FROM (SELECT {columns}, nth FROM unnest({arrays}) WITH ORDINALITY AS key({names}, nth)) AS key
         CROSS JOIN LATERAL ({sql}) AS found"
    );
    (each, params)
}

struct Table {
    /// What is selected of it.
    columns: String,
    /// The parameters that it is made of.
    arrays: String,
    /// What these are called.
    names: String,
}

/// The columns of `rows`, put after the other `params`.
fn table(rows: &[Vec<Value>], params: &mut Vec<Param>) -> Table {
    let mut table = Table { columns: String::new(), arrays: String::new(), names: String::new() };
    let width = rows.first().map_or(0, Vec::len);
    for i in 0..width {
        let n = i + 1;
        let column = || rows.iter().filter_map(move |row| row.get(i));
        let comma = |text: &str| if text.is_empty() { "" } else { ", " };
        let kind = column().find_map(kind);
        // Of a column that is nowhere set nobody knows the type: an INSERT gives it that of
        // where it goes, an UPDATE takes it for text. There, whoever writes a number that may
        // be missing says `CAST(column3 AS BIGINT)`.
        let selected = if kind.is_some() { "" } else { "NULL AS " };
        let _ = write!(table.columns, "{}{selected}column{n}", comma(&table.columns));
        let Some(kind) = kind else { continue };
        params.push(Param::Column(column().cloned().collect()));
        let nth = params.len();
        let _ = write!(table.arrays, "{}CAST(?{nth} AS {kind}[])", comma(&table.arrays));
        let _ = write!(table.names, "{}column{n}", comma(&table.names));
    }
    table
}

fn kind(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Int(_) => Some("BIGINT"),
        Value::Text(_) => Some("TEXT"),
        Value::Bytes(_) => Some("BYTEA"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::values;

    #[test]
    fn rows_become_a_column_each_and_one_that_is_nowhere_set_is_none() {
        let rows = [values![1, None::<i64>, "a"].to_vec(), values![2, None::<i64>, "b"].to_vec()];
        let (sql, params) = with_rows("INSERT INTO t (a, b, c) VALUES {rows}", values![9], &rows);
        assert_eq!(
            sql,
            "INSERT INTO t (a, b, c) SELECT column1, NULL AS column2, column3 \
             FROM unnest(CAST(?2 AS BIGINT[]), CAST(?3 AS TEXT[])) AS rows(column1, column3)"
        );
        assert_eq!(params.len(), 3);
        let (sql, _) = with_rows("DELETE FROM t WHERE id IN ({rows})", &[], &rows[..1]);
        assert!(sql.starts_with("DELETE FROM t WHERE id IN (SELECT column1, "), "{sql}");
    }

    #[test]
    fn a_query_for_many_keys_names_their_columns() {
        let (sql, params) = for_each("SELECT a FROM t WHERE b = ?1", &[values!["x"].to_vec()]);
        assert!(sql.contains("(SELECT a FROM t WHERE b = key.column1) AS found"), "{sql}");
        assert_eq!(params.len(), 1);
    }
}
