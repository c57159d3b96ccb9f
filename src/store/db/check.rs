//! A look at a database that changes nothing: what it is, and whether it is sound.

use super::coordinators::{self, CoordinatorRow};
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{DbError, Place, Tx, schema};
use crate::model::time::UnixMillis;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The engine and its version.
    pub engine: String,
    /// The newest schema version that was applied; 0: none.
    pub schema: i64,
    /// The newest that this release knows.
    pub known: i64,
    /// Coordinators that worked on it and did not say goodbye.
    pub coordinators: Vec<CoordinatorRow>,
    /// What is wrong; empty: nothing.
    pub problems: Vec<String>,
}

/// Looks at the database at `place`; a coordinator may work on it meanwhile. Waits for the
/// disk or the server: not for async code.
///
/// # Errors
/// When it can't be opened or read.
pub fn check(place: &Place) -> Result<Health, DbError> {
    let mut tx = match place {
        Place::File(path) => Tx::from(Sqlite::reader(path)?),
        Place::Server(address) => {
            let mut server = Postgres::reader(address);
            server.begin()?;
            server.check()?;
            server.roll_back();
            Tx::from(server)
        }
    };
    tx.begin_read()?;
    let engine = match place {
        Place::File(_) => "SELECT 'SQLite ' || sqlite_version()",
        Place::Server(_) => "SELECT 'PostgreSQL ' || current_setting('server_version')",
    };
    let engine = tx.row(engine, &[], |row| row.text(0))?.unwrap_or_default();
    let (schema, known, mut problems) = schema::compare(&tx)?;
    if let Place::File(_) = place {
        problems.extend(damage(&tx)?);
    }
    let coordinators = if schema >= coordinators::SINCE_SCHEMA {
        coordinators::list(&tx, UnixMillis(0))?
    } else {
        vec![]
    };
    tx.roll_back();
    Ok(Health { engine, schema, known, coordinators, problems })
}

/// What SQLite finds wrong with its file.
fn damage(tx: &Tx) -> Result<Vec<String>, DbError> {
    let mut found = tx.rows("PRAGMA integrity_check(10)", &[], |row| row.text(0))?;
    found.retain(|line| line != "ok");
    let orphans = "SELECT \"table\" FROM pragma_foreign_key_check LIMIT 10";
    let orphans = tx.rows(orphans, &[], |row| row.text(0))?;
    found.extend(orphans.into_iter().map(|table| format!("a row of {table} refers to nothing")));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::conformance::both_places;
    use crate::store::db::{Db, values};

    async fn looked_at(place: &Place) -> Health {
        let place = place.clone();
        tokio::task::spawn_blocking(move || check(&place).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn both_engines_tell_their_schema_and_what_is_wrong_with_it() {
        let (_folder, places) = both_places().await;
        for (place, name) in places.iter().zip(["SQLite 3.", "PostgreSQL 1"]) {
            let db = Db::open_at(place).await.unwrap();
            let health = looked_at(place).await;
            assert!(health.engine.starts_with(name), "{health:?}");
            assert_eq!(health.schema, health.known);
            assert_eq!((health.problems, health.coordinators), (vec![], vec![]));

            let now = UnixMillis(5);
            let row = CoordinatorRow {
                id: "c".into(),
                version: "1".into(),
                url: "u".into(),
                started_at: now,
                seen_at: now,
            };
            let said = row.clone();
            db.write(move |tx| {
                coordinators::seen(tx, &said, "")?;
                tx.exec("UPDATE schema_version SET sha256 = 'x' WHERE version = 1", &[])?;
                tx.exec("DELETE FROM schema_version WHERE version = ?1", values![health.known])
            })
            .await
            .unwrap();
            db.write(|tx| {
                let sql = "INSERT INTO schema_version VALUES (9999, 'future', '')";
                tx.exec(sql, &[])
            })
            .await
            .unwrap();
            let health = looked_at(place).await;
            assert_eq!((health.schema, &health.coordinators), (9999, &vec![row]));
            let told = health.problems.join("\n");
            assert!(told.contains("version 1 of this database was made by a different"), "{told}");
            assert!(told.contains(&format!("version {} (", health.known)), "{told}");
            // A file has one release; a server's older ones go on beside a newer.
            assert_eq!(told.contains("9999"), !place.is_shared(), "{told}");
            db.close().await;
        }
    }

    #[tokio::test]
    async fn an_empty_server_is_one_that_was_not_migrated() {
        let (_folder, places) = both_places().await;
        let health = looked_at(&places[1]).await;
        assert_eq!(health.schema, 0);
        assert_eq!(health.problems.len(), schema::MIGRATIONS.len());
    }

    #[tokio::test]
    async fn a_row_that_refers_to_nothing_is_found() {
        let (_folder, places) = both_places().await;
        let Place::File(path) = &places[0] else { panic!("the first is a file") };
        Db::open(path).unwrap().close().await;
        let raw = rusqlite::Connection::open(path).unwrap();
        let orphan = "PRAGMA foreign_keys = OFF; INSERT INTO job_log VALUES (7, 0, 1, 1, 'x')";
        raw.execute_batch(orphan).unwrap();
        let problems = looked_at(&places[0]).await.problems;
        assert_eq!(problems, ["a row of job_log refers to nothing"]);
    }
}
