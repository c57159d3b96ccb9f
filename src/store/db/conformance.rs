//! What both engines must do alike, told once and run on each.

use std::future::Future;

use super::writer::Topic;
use super::{Db, DbError, Place, Tx, values};

/// A database of the embedded engine, and one on a server. The folder lives as long as
/// the first.
pub(crate) async fn both() -> (tempfile::TempDir, [Db; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let file = Db::open(&folder.path().join("db.sqlite")).unwrap();
    (folder, [file, on_server().await])
}

/// A fresh database on a server.
pub(crate) async fn on_server() -> Db {
    Db::open_at(&server_place().await).await.unwrap()
}

async fn server_place() -> Place {
    let place = tokio::task::spawn_blocking(|| {
        Place::parse(&crate::store::db::test_server::fresh_database()).unwrap()
    });
    place.await.unwrap()
}

/// A file that is not there yet and an empty database of a server. The folder lives as
/// long as the first.
pub(crate) async fn both_places() -> (tempfile::TempDir, [Place; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let file = Place::File(folder.path().join("db.sqlite"));
    (folder, [file, server_place().await])
}

async fn on_both<F: Future<Output = ()>>(test: impl Fn(Db) -> F) {
    let (_folder, databases) = both().await;
    for db in databases {
        test(db).await;
    }
}

fn put(tx: &mut Tx, key: &str) -> Result<(), DbError> {
    tx.exec("INSERT INTO meta (key, value) VALUES (?1, 'x')", values![key]).map(drop)
}

async fn count(db: &Db) -> i64 {
    db.read(|tx| tx.number("SELECT count(*) FROM meta", &[])).await.unwrap()
}

#[tokio::test]
async fn a_write_that_errs_or_panics_takes_only_itself_back() {
    on_both(async |db| {
        let feed = db.watch(Topic::Feed);
        let feed_before = *feed.borrow();
        let bad = db.write(|tx| {
            put(tx, "bad")?;
            tx.touch(Topic::Feed);
            Err::<(), _>(DbError::Missing("on purpose"))
        });
        let worse = db.write(|tx| {
            put(tx, "worse")?;
            if tx.touched() == 0 { panic!("on purpose") } else { Ok::<_, DbError>(()) }
        });
        let refused = db.write(|tx| put(tx, "good"));
        let good = db.write(|tx| {
            tx.touch(Topic::Jobs);
            put(tx, "good")
        });
        let jobs = db.watch(Topic::Jobs);
        let jobs_before = *jobs.borrow();
        let (bad, worse, good, refused) = tokio::join!(bad, worse, good, refused);
        assert!(matches!(bad, Err(DbError::Missing(_))));
        assert!(matches!(worse, Err(DbError::Panicked)));
        good.unwrap();
        assert!(refused.unwrap_err().is_duplicate());
        assert_eq!(count(&db).await, 1);
        assert!(*jobs.borrow() > jobs_before, "a commit wakes");
        let _ = feed_before;
    })
    .await;
}

#[tokio::test]
async fn whichever_of_a_batch_fails_the_others_stay() {
    on_both(async |db| {
        for failing in 0..4_i64 {
            // All four wait while this one runs, so they are one batch.
            let busy = db.write(|tx| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                tx.exec("DELETE FROM meta", &[])
            });
            let write = |n: i64| {
                db.write(move |tx| {
                    put(tx, &n.to_string())?;
                    if n == failing { Err(DbError::Missing("on purpose")) } else { Ok(()) }
                })
            };
            let (busy, a, b, c, d) = tokio::join!(busy, write(0), write(1), write(2), write(3));
            busy.unwrap();
            for (n, done) in (0..).zip([a, b, c, d]) {
                assert_eq!(done.is_ok(), n != failing, "{n} of {failing}");
            }
            let there = "SELECT count(*) FROM meta WHERE key <> ?1";
            let lost = failing.to_string();
            let others = db.read(move |tx| tx.number(there, values![lost])).await.unwrap();
            assert_eq!((others, count(&db).await), (3, 3), "{failing}");
        }
    })
    .await;
}

#[tokio::test]
async fn many_writes_at_once_are_all_answered_and_all_there() {
    on_both(async |db| {
        let writes = (0..1000).map(|i| {
            let db = db.clone();
            async move { db.write(move |tx| put(tx, &i.to_string())).await }
        });
        for answer in futures_util::future::join_all(writes).await {
            answer.unwrap();
        }
        assert_eq!(count(&db).await, 1000);
        db.close().await;
        assert!(matches!(db.write(|tx| put(tx, "late")).await, Err(DbError::Closed)));
    })
    .await;
}

#[tokio::test]
async fn readers_can_not_write_and_come_back_after_a_panic() {
    on_both(async |db| {
        for _ in 0..8 {
            let panicked = db.read(|tx| match tx.number("SELECT 1", &[])? {
                1 => panic!("on purpose"),
                n => Ok::<_, DbError>(n),
            });
            assert!(matches!(panicked.await, Err(DbError::Panicked)));
        }
        let sql = "INSERT INTO meta (key, value) VALUES ('a', 'b') RETURNING 1";
        assert!(db.read(|tx| tx.number(sql, &[])).await.is_err());
        assert_eq!(count(&db).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_statement_whose_answer_is_late_fails_its_write_and_no_other() {
    on_both(async |db| {
        let later = |tx: &mut Tx, key: &str| {
            tx.exec_later("INSERT INTO meta (key, value) VALUES (?1, 'x')", values![key])
        };
        let fine = db.write(move |tx| later(tx, "a").and_then(|()| later(tx, "b")));
        let twice = db.write(move |tx| later(tx, "c").and_then(|()| later(tx, "c")));
        let guard = "UPDATE meta SET value = 'y' WHERE key = 'nobody'";
        let raced = db.write(move |tx| {
            later(tx, "d")?;
            tx.exec_guarded_later("the row", guard, &[])
        });
        let seen = db.write(move |tx| {
            later(tx, "e")?;
            tx.number("SELECT count(*) FROM meta WHERE key = 'e'", &[])
        });
        let (fine, twice, raced, seen) = tokio::join!(fine, twice, raced, seen);
        fine.unwrap();
        assert!(twice.unwrap_err().is_duplicate());
        assert!(matches!(raced, Err(DbError::Raced("the row"))));
        assert_eq!(seen.unwrap(), 1, "a later statement is seen by the next");
        assert_eq!(count(&db).await, 3);
    })
    .await;
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    on_both(async |db| {
        let odd = "ä\n'; -- ?1 $1 \u{1F980}";
        db.write(move |tx| {
            tx.exec(
                "INSERT INTO events (at, kind, app, actor, message) VALUES (?1, ?2, ?3, ?4, ?5)",
                values![i64::MAX, "k", None::<&str>, "a", odd],
            )
        })
        .await
        .unwrap();
        let sql = "SELECT at, app, message FROM events WHERE message = ?1";
        let row = db.read(move |tx| {
            tx.row(sql, values![odd], |row| Ok((row.int(0)?, row.opt_text(1)?, row.text(2)?)))
        });
        assert_eq!(row.await.unwrap(), Some((i64::MAX, None, odd.to_owned())));
        let wrong = db.read(|tx| tx.row("SELECT app FROM events", &[], |row| row.text(0)));
        assert!(matches!(wrong.await, Err(DbError::Corrupt { .. })));
    })
    .await;
}

#[tokio::test]
async fn rows_of_one_statement_and_answers_for_each_key_are_the_same_on_both() {
    on_both(async |db| {
        let event = |n: i64, build: Option<i64>, app: Option<&str>| {
            values![n, "kind", app, None::<i64>, build, None::<i64>, None::<&str>, "me", "said"]
                .to_vec()
        };
        // Columns of numbers and of text that are nowhere set, that some rows set, and that all do.
        let rows = [event(1, None, Some("a")), event(2, Some(7), None), event(3, None, Some("a"))];
        let insert =
            "INSERT INTO events (at, kind, app, env, build, release, region, actor, message)
            VALUES {rows}";
        db.write(move |tx| {
            tx.exec_rows(None, insert, &[], &rows)?;
            tx.exec_rows(None, insert, &[], &rows[..1])?;
            tx.exec_rows(None, insert, &[], &[])
        })
        .await
        .unwrap();

        let update = |rows: Vec<Vec<super::Value>>| {
            db.write(move |tx| {
                let set = "UPDATE events SET message = column3, region = column4, actor = ?1,
                        release = CAST(column5 AS BIGINT)
                    FROM (VALUES {rows}) AS said WHERE seq = column1 AND at = column2";
                tx.exec_rows(Some("an event"), set, values!["you"], &rows)
            })
        };
        let row = |seq: i64, at: i64, region: Option<&str>| {
            values![seq, at, "new", region, None::<i64>].to_vec()
        };
        update(vec![row(1, 1, None), row(2, 2, Some("eu"))]).await.unwrap();
        let raced = update(vec![row(3, 3, Some("us")), row(4, 9, None)]).await;
        assert!(matches!(raced, Err(DbError::Raced("an event"))), "one row did not match");
        let said = "SELECT message, region, actor FROM events ORDER BY seq";
        let said = db.read(move |tx| {
            tx.rows(said, &[], |row| Ok((row.text(0)?, row.opt_text(1)?, row.text(2)?)))
        });
        let line = |message: &str, region: Option<&str>, actor: &str| {
            (message.to_owned(), region.map(str::to_owned), actor.to_owned())
        };
        let old = || line("said", None, "me");
        let new = [line("new", None, "you"), line("new", Some("eu"), "you"), old(), old()];
        assert_eq!(said.await.unwrap(), new);

        let keys =
            |all: &[&str]| all.iter().map(|key| values![*key, 1].to_vec()).collect::<Vec<_>>();
        let asked = keys(&["b", "a", "b?", "a"]);
        let each = "SELECT seq FROM events WHERE app = ?1 AND seq > ?2 AND kind <> '?1'
            ORDER BY seq DESC LIMIT ?2";
        let found = db.read(move |tx| tx.rows_for_each(each, &asked, |row| row.int(0)));
        assert_eq!(found.await.unwrap(), [vec![], vec![4], vec![], vec![4]]);
        let of = db.read(|tx| {
            let sql = "SELECT seq FROM events WHERE build IN ({rows})";
            let found =
                tx.rows_of(sql, &[values![7].to_vec(), values![8].to_vec()], |row| row.int(0))?;
            let nobody = tx.rows_of(sql, &[], |row| row.int(0))?;
            let numbers = "SELECT count(*) FROM events WHERE app = ?1";
            let counts = tx.rows_for_each(
                numbers,
                &[values!["a"].to_vec(), values!["b"].to_vec()],
                |row| row.int(0),
            )?;
            Ok::<_, DbError>((found, nobody, counts))
        });
        assert_eq!(of.await.unwrap(), (vec![2], vec![], vec![vec![3], vec![0]]));
    })
    .await;
}

#[tokio::test]
async fn text_is_ordered_by_its_bytes() {
    on_both(async |db| {
        let words = ["b", "a", "B", "A-1", "A1", "_"];
        db.write(move |tx| words.iter().try_for_each(|word| put(tx, word))).await.unwrap();
        let sql = "SELECT key FROM meta ORDER BY key";
        let sorted = db.read(|tx| tx.rows(sql, &[], |row| row.text(0))).await.unwrap();
        assert_eq!(sorted, ["A-1", "A1", "B", "_", "a", "b"]);
    })
    .await;
}

/// Every statement of the other files runs on both engines: their tests say what they
/// do, this one that each is in the common subset.
#[tokio::test]
async fn every_look_at_an_empty_database_finds_nothing() {
    use crate::model::time::UnixMillis;
    use crate::store::db::{
        apps, artifacts, events, feed, freezes, goals, hosts, jobs, regions, releases, tokens,
        workers,
    };
    on_both(async |db| {
        let look = |tx: &Tx| {
            let all = hosts::Filter {
                app: Some("a".parse().unwrap()),
                env: Some("e".parse().unwrap()),
                region: None,
                host: Some("h_%".into()),
            };
            let jobs_of = jobs::Filter { commit: Some("ab".into()), ..Default::default() };
            let now = UnixMillis(5);
            Ok::<_, DbError>(
                apps::count(tx)? == 0
                    && artifacts::all(tx, 5)?.is_empty()
                    && events::newest(tx)? == 0
                    && events::before(tx, u64::MAX, &events::Filter::default(), 5)?.is_empty()
                    && feed::revision(tx)? == 0
                    && feed::artifacts(tx)?.is_empty()
                    && freezes::standing(tx, now)?.is_empty()
                    && goals::newest(tx)? == Default::default()
                    && hosts::list(tx, &all, 5)?.1 == 0
                    && hosts::list(tx, &hosts::Filter::default(), 5)?.1 == 0
                    && hosts::count(tx, &"e".parse().unwrap(), &Default::default())?.is_empty()
                    && jobs::list(tx, &jobs_of, 5)?.is_empty()
                    && jobs::next_due(tx, UnixMillis(0))?.is_none()
                    && regions::list(tx)?.is_empty()
                    && releases::moving(tx)?.is_empty()
                    && tokens::count(tx)? == 0
                    && workers::list(tx, now)?.is_empty(),
            )
        };
        assert!(db.read(look).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_drained_worker_stands_once_until_it_is_taken_away() {
    use crate::model::time::UnixMillis;
    use crate::store::db::drains;
    on_both(async |db| {
        let write = |tx: &mut Tx| {
            for at in 1..=2 {
                drains::put(tx, "m", ("ann", "new disk"), UnixMillis(at))?;
            }
            let names = drains::names(tx)?;
            let (first, again) = (drains::remove(tx, "m")?, drains::remove(tx, "m")?);
            Ok::<_, DbError>((names.into_iter().collect::<Vec<_>>(), first, again))
        };
        assert_eq!(db.write(write).await.unwrap(), (vec!["m".to_owned()], true, false));
    })
    .await;
}

#[tokio::test]
async fn picked_hosts_are_found_by_name_by_pattern_and_by_label() {
    use crate::store::db::hosts;
    on_both(async |db| {
        let put = |tx: &mut Tx| {
            for (host, env, rack, label) in [
                ("web-1", "prod", "14", "fast"),
                ("web-12", "prod", "", "fast"),
                ("web-2", "staging", "14", "fast"),
                ("web.3", "prod", "15", "slow_%"),
                ("db-1", "prod", "14", "slow"),
            ] {
                let row = serde_json::json!({
                    "info": {"host": host, "env": env, "rack": rack, "labels": {"disk": label},
                             "peer_port": 1, "agent_version": "0"},
                    "region": "eu", "address": "10.0.0.1", "reachable": true, "apps": [],
                    "seen_at": "2026-11-21T00:00:00.000Z",
                });
                let row = serde_json::from_value(row).unwrap();
                hosts::put(tx, &"eu".parse().unwrap(), &row)?;
            }
            Ok::<_, DbError>(())
        };
        db.write(put).await.unwrap();
        for (selector, all) in [
            ("web-1", &["web-1"][..]),
            ("web-1,db-1,web-2", &["db-1", "web-1"]),
            ("web-*", &["web-1", "web-12"]),
            ("web-1,web-1*", &["web-1", "web-12"]),
            ("web?*", &["web-1", "web-12", "web.3"]),
            ("*-1", &["db-1", "web-1"]),
            ("rack=14", &["db-1", "web-1"]),
            ("rack=1", &[]),
            ("disk=slow", &["db-1"]),
            ("rack=14,disk=fast", &["web-1"]),
            // Not picked, and told: a person named them.
            ("db-1,web-1*,disk=fast", &["-db-1", "web-1", "web-12"]),
            ("db-1,*-12,disk=fast", &["-db-1", "web-12"]),
        ] {
            let (wanted, named) = (selector.parse().unwrap(), selector.contains("db-1,"));
            let look = move |tx: &Tx| {
                let mut picked = Vec::new();
                let which = (&Default::default(), &wanted);
                hosts::each_picked(
                    tx,
                    &"prod".parse().unwrap(),
                    which,
                    |_, host, _, is_picked| match is_picked {
                        true => picked.push(host.to_string()),
                        false if named && host.as_str() == "db-1" => {
                            picked.push(format!("-{host}"))
                        }
                        false => {}
                    },
                )?;
                picked.sort();
                Ok::<_, DbError>(picked)
            };
            assert_eq!(db.read(look).await.unwrap(), all, "{selector}");
        }
    })
    .await;
}
