//! Opening the database, and the handle on it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::clock::Clock;
use super::postgres::{Address, Listener, Postgres};
use super::sqlite::Sqlite;
use super::writer::{self, Order, Topics};
use super::{DbError, Place, Topic, Tx, schema};
use crate::model::time::UnixMillis;

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
    /// A server's clock.
    clock: Option<Arc<Clock>>,
    /// Ends what listens to a server.
    closed: watch::Sender<bool>,
}

impl Db {
    /// Opens the SQLite file at `path`, making it and its tables if missing. Holds an
    /// exclusive lock on `<path>.lock` until closed.
    ///
    /// # Errors
    /// [`DbError::InUse`], [`DbError::NewerSchema`], [`DbError::OtherSchema`],
    /// [`DbError::OldEngine`], or when the file can't be opened.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut tx = Tx::from(Sqlite::writer(path)?);
        schema::migrate(&mut tx)?;
        let reader = |_| Sqlite::reader(path).map(Tx::from);
        let readers = (0..READERS).map(reader).collect::<Result<Vec<_>, _>>()?;
        Self::start(tx, readers, Arc::new(Topics::new()), None)
    }

    /// Opens the database at `place`, and makes its tables if they are missing.
    ///
    /// # Errors
    /// As [`Db::open`]; of a server also [`DbError::Unreachable`], [`DbError::Unfit`] and
    /// what [`DbError::is_busy`].
    pub async fn open_at(place: &Place) -> Result<Self, DbError> {
        let place = place.clone();
        let open = move || match place {
            Place::File(path) => Self::open(&path),
            Place::Server(address) => Self::open_server(&address),
        };
        // A thread that whoever does not wait any more can end without.
        let (opened, told) = oneshot::channel();
        std::thread::Builder::new()
            .name("db-open".into())
            .spawn(move || drop(opened.send(open())))
            .map_err(|source| DbError::Io { path: "db-open".into(), source })?;
        told.await.unwrap_or(Err(DbError::Panicked))
    }

    /// Not to be called by async code: it waits for the server.
    fn open_server(address: &Address) -> Result<Self, DbError> {
        let starter = Postgres::starter(address)?;
        starter.check()?;
        schema::migrate(&mut starter.into())?;
        let mut writer = Postgres::writer(address)?;
        let clock = Arc::new(Clock::at(writer.check()?));
        let topics = Arc::new(Topics::new());
        let listener = Listener::new(topics.clone(), clock.clone());
        writer.tell(listener.clone());
        let readers = (0..READERS).map(|_| Postgres::reader(address).into()).collect();
        let db = Self::start(writer.into(), readers, topics, Some(clock))?;
        listener.start(address.clone(), db.0.closed.subscribe())?;
        Ok(db)
    }

    fn start(
        tx: Tx,
        readers: Vec<Tx>,
        topics: Arc<Topics>,
        clock: Option<Arc<Clock>>,
    ) -> Result<Self, DbError> {
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let of_writer = topics.clone();
        std::thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || writer::run(tx, inbox, &of_writer))
            .map_err(|source| DbError::Io { path: "db-writer".into(), source })?;
        let (free, readers) = (Arc::new(Semaphore::new(READERS)), Mutex::new(readers));
        let closed = watch::Sender::new(false);
        Ok(Self(Arc::new(Inner { orders, topics, readers, free, clock, closed })))
    }

    /// Whether other coordinators may have the database open too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.clock.is_some()
    }

    /// The time by the server's clock, which all coordinators share; `None`: the database
    /// is a file of this process. It never goes back.
    #[must_use]
    pub fn shared_now(&self) -> Option<UnixMillis> {
        self.0.clock.as_ref().map(|clock| clock.now())
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
            let mut borrowed = Borrowed::take(&inner)?;
            let tx = borrowed.tx()?;
            tx.begin_read()?;
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
        self.0.closed.send_replace(true);
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

    fn tx(&mut self) -> Result<&mut Tx, DbError> {
        self.tx.as_mut().ok_or(DbError::Closed)
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(mut tx) = self.tx.take() {
            tx.roll_back();
            self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(tx);
        }
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
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch("UPDATE schema_version SET version = 1, sha256 = 'x' WHERE version = 9999 OR version = 1")
            .unwrap_err();
        raw.execute_batch("DELETE FROM schema_version WHERE version = 9999; UPDATE schema_version SET sha256 = 'x' WHERE version = 1").unwrap();
        drop(raw);
        assert!(matches!(Db::open(&path), Err(DbError::OtherSchema(1))));
    }
}
