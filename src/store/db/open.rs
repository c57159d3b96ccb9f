//! Opening one SQLite file, and the handle on it.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::writer::{self, Order, Topics};
use super::{DbError, Topic, Tx, schema};

/// The first SQLite without the WAL-reset bug [reliability-security 1.1].
const ENGINE_VERSION_MIN: i32 = 3_051_003;
/// Connections for reads; more only wait for each other on few cores.
const READERS: usize = 4;
/// Writes waiting for the writer thread; past it callers wait for room.
const ORDERS_MAX: usize = 4096;

/// A handle on the database; cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    orders: mpsc::Sender<Order>,
    topics: Arc<Topics>,
    readers: Mutex<Vec<Tx>>,
    free: Arc<Semaphore>,
}

impl Db {
    /// Opens the file at `path`, making it and its tables if missing. Holds an
    /// exclusive lock on `<path>.lock` until closed.
    ///
    /// # Errors
    /// [`DbError::InUse`], [`DbError::NewerSchema`], [`DbError::OtherSchema`],
    /// [`DbError::OldEngine`], or when the file can't be opened.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        if rusqlite::version_number() < ENGINE_VERSION_MIN {
            return Err(DbError::OldEngine(rusqlite::version_number()));
        }
        let lock = lock(path)?;
        let connection = Connection::open(path)?;
        // FULL: an answered write survives power loss, not only a crash.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 67108864;
             PRAGMA busy_timeout = 5000;",
        )?;
        let mut tx = Tx::new(connection);
        schema::migrate(&mut tx)?;
        let readers = (0..READERS).map(|_| reader(path)).collect::<Result<Vec<_>, _>>()?;
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let topics = Arc::new(Topics::new());
        let of_writer = topics.clone();
        std::thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || writer::run(tx, inbox, &of_writer, lock))
            .map_err(|source| DbError::Io { path: path.display().to_string(), source })?;
        let free = Arc::new(Semaphore::new(READERS));
        Ok(Self(Arc::new(Inner { orders, topics, readers: Mutex::new(readers), free })))
    }

    /// Runs `work` in a transaction of its own and answers once it is durable.
    /// When `work` errs or panics, nothing of it is kept. Keep `work` short and
    /// free of I/O: all writers wait for it. Dropping the future does not undo it.
    ///
    /// # Errors
    /// Whatever `work` returns, or why it could not be committed.
    pub async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut Tx) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let (order, answer) = writer::order(work);
        self.0.orders.send(order).await.map_err(|_| DbError::Closed)?;
        let lost = || DbError::NotCommitted("the transaction could not be begun".into());
        answer.await.unwrap_or_else(|_| Err(lost().into()))
    }

    /// Runs `work` on a read-only snapshot: it sees one state and blocks nobody.
    ///
    /// # Errors
    /// Whatever `work` returns, or why the snapshot could not be taken.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&Tx) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let permit = self.0.free.clone().acquire_owned().await.map_err(|_| DbError::Closed)?;
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let borrowed = Borrowed::take(&inner)?;
            let tx = borrowed.tx()?;
            tx.script("BEGIN")?;
            work(tx)
        });
        done.await.unwrap_or_else(|_| Err(DbError::Panicked.into()))
    }

    /// Counts the commits that touched `topic`; wakes with each.
    #[must_use]
    pub fn watch(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0.topics.watch(topic)
    }

    /// Commits what was asked for before, then closes the file for writing and
    /// gives up its lock. Later writes fail with [`DbError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.0.orders.send(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// A read connection on loan; ends its transaction and goes back on drop, also
/// when the reader panics.
struct Borrowed<'a> {
    inner: &'a Inner,
    tx: Option<Tx>,
}

impl<'a> Borrowed<'a> {
    fn take(inner: &'a Inner) -> Result<Self, DbError> {
        let tx = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Self { inner, tx: Some(tx.ok_or(DbError::Closed)?) })
    }

    fn tx(&self) -> Result<&Tx, DbError> {
        self.tx.as_ref().ok_or(DbError::Closed)
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(tx) = self.tx.take() {
            if !tx.is_over() {
                let _ = tx.script("ROLLBACK");
            }
            self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(tx);
        }
    }
}

fn reader(path: &Path) -> Result<Tx, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;")?;
    Ok(Tx::new(connection))
}

fn lock(path: &Path) -> Result<File, DbError> {
    let name = format!("{}.lock", path.display());
    let io = |source| DbError::Io { path: name.clone(), source };
    let file = File::options().create(true).write(true).truncate(false).open(&name).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DbError::InUse(path.display().to_string())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::values;

    fn open() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db.sqlite")).unwrap();
        (folder, db)
    }

    fn put(tx: &mut Tx, key: &str) -> Result<(), DbError> {
        tx.exec("INSERT INTO meta (key, value) VALUES (?1, 'x')", values![key]).map(drop)
    }

    async fn count(db: &Db) -> i64 {
        db.read(|tx| tx.number("SELECT count(*) FROM meta", &[])).await.unwrap()
    }

    #[tokio::test]
    async fn a_write_that_errs_or_panics_takes_only_itself_back() {
        let (_folder, db) = open();
        let mut feed = db.watch(Topic::Feed);
        let bad = db.write(|tx| {
            put(tx, "bad")?;
            tx.touch(Topic::Feed);
            Err::<(), _>(DbError::Missing("on purpose"))
        });
        let worse = db.write(|tx| {
            put(tx, "worse")?;
            if tx.touched() == 0 { panic!("on purpose") } else { Ok::<_, DbError>(()) }
        });
        let good = db.write(|tx| {
            tx.touch(Topic::Jobs);
            put(tx, "good")
        });
        let mut jobs = db.watch(Topic::Jobs);
        let (bad, worse, good) = tokio::join!(bad, worse, good);
        assert!(matches!(bad, Err(DbError::Missing(_))));
        assert!(matches!(worse, Err(DbError::Panicked)));
        good.unwrap();
        assert_eq!(count(&db).await, 1);
        assert!(*jobs.borrow_and_update() == 1 && *feed.borrow_and_update() == 0);
    }

    #[tokio::test]
    async fn many_writes_at_once_are_all_answered_and_all_there() {
        let (folder, db) = open();
        let writes = (0..1000).map(|i| {
            let db = db.clone();
            async move { db.write(move |tx| put(tx, &i.to_string())).await }
        });
        for answer in futures_util::future::join_all(writes).await {
            answer.unwrap();
        }
        db.close().await;
        assert!(matches!(db.write(|tx| put(tx, "late")).await, Err(DbError::Closed)));
        let again = Db::open(&folder.path().join("db.sqlite")).unwrap();
        assert_eq!(count(&again).await, 1000);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_for_now_and_loses_nothing_that_was_answered() {
        let (folder, db) = open();
        db.write(|tx| put(tx, "before")).await.unwrap();
        let limit = |pages: u32| {
            let sql = format!("PRAGMA max_page_count = {pages}");
            db.write(move |tx: &mut Tx| tx.number(&sql, &[]))
        };
        // Not under what the file has: the engine takes that as the limit.
        limit(1).await.unwrap();
        let fill = |i: usize| {
            let text = "x".repeat(5000);
            db.write(move |tx: &mut Tx| {
                tx.exec("INSERT INTO meta VALUES (?1, ?2)", values![i, text])
            })
        };
        let answers = futures_util::future::join_all((0..20).map(fill)).await;
        let kept = answers.iter().filter(|answer| answer.is_ok()).count();
        for refused in answers.into_iter().filter_map(Result::err) {
            let again = refused.is_passing() || matches!(refused, DbError::NotCommitted(_));
            assert!(again, "{refused}");
        }
        assert!(kept < 20);
        assert_eq!(count(&db).await, 1 + i64::try_from(kept).unwrap());
        limit(1_000_000).await.unwrap();
        fill(1000).await.unwrap();
        db.close().await;
        let again = Db::open(&folder.path().join("db.sqlite")).unwrap();
        assert_eq!(count(&again).await, 2 + i64::try_from(kept).unwrap());
    }

    #[tokio::test]
    async fn readers_can_not_write_and_come_back_after_a_panic() {
        let (_folder, db) = open();
        for _ in 0..2 * READERS {
            let panicked = db.read(|tx| match tx.number("SELECT 1", &[])? {
                1 => panic!("on purpose"),
                n => Ok::<_, DbError>(n),
            });
            assert!(matches!(panicked.await, Err(DbError::Panicked)));
        }
        let sql = "INSERT INTO meta (key, value) VALUES ('a', 'b') RETURNING 1";
        assert!(db.read(|tx| tx.number(sql, &[])).await.is_err());
        assert_eq!(count(&db).await, 0);
    }

    #[tokio::test]
    async fn one_owner_and_no_schema_that_is_not_known() {
        let (folder, db) = open();
        let path = folder.path().join("db.sqlite");
        assert!(matches!(Db::open(&path), Err(DbError::InUse(_))));
        db.write(|tx| {
            tx.exec("INSERT INTO schema_version VALUES (9999, 'future', '')", &[])?;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap();
        db.close().await;
        assert!(matches!(Db::open(&path), Err(DbError::NewerSchema(9999))));
        let raw = Connection::open(&path).unwrap();
        raw.execute_batch("UPDATE schema_version SET version = 1, sha256 = 'x' WHERE version = 9999 OR version = 1")
            .unwrap_err();
        raw.execute_batch("DELETE FROM schema_version WHERE version = 9999; UPDATE schema_version SET sha256 = 'x' WHERE version = 1").unwrap();
        drop(raw);
        assert!(matches!(Db::open(&path), Err(DbError::OtherSchema(1))));
    }

    #[tokio::test]
    async fn duplicates_are_told_apart_from_other_errors() {
        let (_folder, db) = open();
        db.write(|tx| put(tx, "a")).await.unwrap();
        assert!(db.write(|tx| put(tx, "a")).await.unwrap_err().is_duplicate());
    }
}
