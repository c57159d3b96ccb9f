//! Every table and every kind of value is in the copy, or nothing is kept.

use super::*;
use crate::store::db::conformance::both_places;
use crate::store::db::{Db, Place};

/// Words that a `CHECK` wants.
const WORDS: &[(&str, &str)] = &[
    ("jobs.status", "QUEUED"),
    ("releases.kind", "deploy"),
    ("feed.kind", "goal"),
    ("patches.state", "making"),
    ("ancestry.relation", "apart"),
    ("collected.state", "marked"),
];

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A row of `table` with the number `n` and a text of its own in each column, but for
/// what a reference or a `CHECK` wants.
fn put(tx: &mut Tx, table: &Table, n: i64) -> Result<(), DbError> {
    let name = &table.name;
    let facts = tx.rows(
        "SELECT c.name, c.type, c.\"notnull\" + c.pk, f.\"table\", f.\"to\" FROM pragma_table_info(?1) AS c
         LEFT JOIN pragma_foreign_key_list(?1) AS f ON f.\"from\" = c.name ORDER BY c.cid",
        values![name],
        |row| {
            let refers = row.opt_text(3)?.zip(row.opt_text(4)?);
            Ok((row.text(0)?, row.text(1)?, row.int(2)? == 0, refers))
        },
    )?;
    let mut row = Vec::new();
    for (column, kind, may_lack, refers) in facts {
        let word = WORDS.iter().find(|(at, _)| *at == format!("{name}.{column}"));
        row.push(match (word, refers) {
            (Some((_, word)), _) => Value::from(*word),
            (None, Some((table, to))) => {
                let sql = format!("SELECT {to} FROM {table} ORDER BY 1 DESC LIMIT 1");
                tx.row(&sql, &[], |row| row.value(0))?.unwrap_or(Value::Null)
            }
            // Numbers as large as they get, and NULL where it may be.
            (None, None) if may_lack && n % 2 == 1 => Value::Null,
            (None, None) if kind == "INTEGER" => Value::Int(n),
            (None, None) => format!("{name}.{column} {n} \u{e4}\u{1F980}").into(),
        });
    }
    let places: Vec<String> = (1..=row.len()).map(|n| format!("?{n}")).collect();
    tx.exec(&format!("INSERT INTO {name} VALUES ({})", places.join(", ")), &row)?;
    Ok(())
}

/// Two rows and more in every table of a new file.
async fn fill(path: &Path) {
    let db = Db::open(path).unwrap();
    db.write(|tx| {
        for n in [100, i64::MAX / 2] {
            for table in tables(tx)? {
                put(tx, &table, n)?;
            }
        }
        for n in 101..=2500_i64 {
            tx.exec(
                "INSERT INTO events (at, kind, actor, message) VALUES (?1, 'k', 'a', ?2)",
                values![n, format!("line {n}\0")],
            )?;
        }
        owner::ensure(tx)?;
        tx.exec("DELETE FROM events WHERE at = 2500 OR at > 3000", &[])
    })
    .await
    .unwrap();
    db.close().await;
}

#[tokio::test]
async fn every_table_is_copied_whole_and_goes_on_where_it_was() {
    let (_folder, [file, server]) = both_places().await;
    let (Place::File(path), Place::Server(address)) = (file, server.clone()) else {
        panic!("a file and a server")
    };
    fill(&path).await;
    let (from, to) = (path.clone(), address.clone());
    let Moved { tables: copied, former } = run(move || copy(&from, &to)).await.unwrap();

    let db = Db::open_at(&server).await.unwrap();
    let there = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let there = db.read(move |tx| tx.rows(there, &[], |row| row.text(0))).await.unwrap();
    let mut names: Vec<String> = copied.iter().map(|one| one.table.clone()).collect();
    names.push(VERSIONS.into());
    names.sort();
    assert_eq!(names, there, "every table of the schema is in the copy");
    // To the main store the copy is another installation than the file, which stays.
    let asked = db.write(|tx| Ok::<_, DbError>((owner::find(tx)?, owner::ensure(tx)?)));
    let (known, drawn) = asked.await.unwrap();
    assert!(known.is_none() && !drawn.sure);
    // The file is not who it was either: started again it owns nothing.
    let file = Db::open(&path).unwrap();
    let again = file.write(|tx| Ok::<_, DbError>((owner::find(tx)?, owner::ensure(tx)?)));
    let (known, again) = again.await.unwrap();
    assert!(known.is_none() && !again.sure && Some(again.id) != former && former.is_some());
    file.close().await;
    for one in copied {
        assert!(one.rows > 0, "{} had nothing to copy", one.table);
        let sql = format!("SELECT count(*) FROM {}", one.table);
        let rows = db.read(move |tx| tx.number(&sql, &[])).await.unwrap();
        assert_eq!(u64::try_from(rows).unwrap(), one.rows, "{}", one.table);
    }

    let last = |sql: &'static str| db.write(move |tx| tx.number(sql, &[]));
    let insert =
        "INSERT INTO events (at, kind, actor, message) VALUES (1, 'k', 'a', 'm') RETURNING seq";
    let given = i64::MAX / 2 + 2400;
    assert_eq!(last(insert).await.unwrap(), given + 1, "no number is given again");
    let text = "SELECT message FROM events WHERE at = 107";
    let text = db.read(move |tx| tx.row(text, &[], |row| row.text(0))).await.unwrap();
    assert_eq!(text.unwrap(), "line 107\u{fffd}");
    // What is deleted now is told in the feed, past all that was told.
    last("DELETE FROM patches RETURNING 1").await.unwrap();
    last("DELETE FROM artifacts RETURNING 1").await.unwrap();
    let told = format!(
        "SELECT count(*) FROM feed WHERE kind = 'artifact' AND revision > {}",
        i64::MAX / 2
    );
    let told = db.read(move |tx| tx.number(&told, &[])).await.unwrap();
    assert_eq!(told, 2, "triggers work again");
    db.close().await;
}

#[tokio::test]
async fn what_can_not_be_copied_leaves_nothing_behind() {
    let (folder, [file, server]) = both_places().await;
    let (Place::File(path), Place::Server(address)) = (file, server.clone()) else {
        panic!("a file and a server")
    };
    let attempt = async |path: &Path| {
        let (from, to) = (path.to_owned(), address.clone());
        run(move || copy(&from, &to)).await
    };
    let nowhere = attempt(&folder.path().join("nowhere")).await;
    assert!(matches!(nowhere, Err(CopyError::NoFile(_))), "{nowhere:?}");

    let db = Db::open(&path).unwrap();
    let busy = attempt(&path).await;
    assert!(matches!(busy, Err(CopyError::Db(DbError::InUse(_)))), "{busy:?}");
    db.close().await;

    let raw = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    raw("UPDATE schema_version SET version = 999 WHERE version = 1");
    let older = attempt(&path).await;
    assert!(matches!(older, Err(CopyError::Unfit { .. })), "{older:?}");
    raw("UPDATE schema_version SET version = 1 WHERE version = 999");

    // A value in the last table that the server refuses: those before it are written by then.
    raw("INSERT INTO meta VALUES ('a', 'b')");
    raw("INSERT INTO coordinators VALUES ('c', '1', 'u', 'no number', 2, '')");
    let known = "SELECT value FROM meta WHERE key = 'store_owner'";
    raw("INSERT INTO meta VALUES ('store_owner', '{\"id\": \"7\"}')");
    let refused = attempt(&path).await;
    assert!(matches!(refused, Err(CopyError::Db(_))), "{refused:?}");
    let db = rusqlite::Connection::open(&path).unwrap();
    let known: String = db.query_row(known, [], |row| row.get(0)).unwrap();
    assert_eq!(known, "{\"id\": \"7\"}", "it is who it was");
    drop(db);
    raw("DELETE FROM coordinators; DELETE FROM meta WHERE key = 'store_owner'");
    let count = |sql: &'static str| {
        let place = server.clone();
        run(move || {
            let Place::Server(address) = place else { panic!("a server") };
            let mut tx = Tx::from(Postgres::reader(&address));
            tx.begin_read().unwrap();
            tx.number(sql, &[]).unwrap()
        })
    };
    let made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(count(made).await, 0, "not even a table");

    // As after a try whose last commit was not answered: whoever it was is to lose the store.
    raw("INSERT INTO meta VALUES ('store_owner', 'null'), ('store_owner_left', '\"7\"')");
    assert_eq!(attempt(&path).await.unwrap().former.as_deref(), Some("7"));
    let again = attempt(&path).await.unwrap_err().to_string();
    assert!(again.contains("table meta has rows"), "{again}");
}

#[tokio::test]
async fn a_database_of_something_else_is_left_alone() {
    let (_folder, [file, server]) = both_places().await;
    let (Place::File(path), Place::Server(address)) = (file, server) else {
        panic!("a file and a server")
    };
    Db::open(&path).unwrap().close().await;
    let refused = run(move || {
        let mut tx = Tx::from(Postgres::writer(&address).unwrap());
        tx.begin().unwrap();
        tx.schema("CREATE TABLE shop (n INTEGER)").unwrap();
        tx.commit().unwrap();
        copy(&path, &address).unwrap_err().to_string()
    });
    let refused = refused.await;
    assert!(refused.contains("its table shop is not deployctl's"), "{refused}");
}
