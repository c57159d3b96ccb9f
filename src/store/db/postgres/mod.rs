//! The engine for more than one coordinator: a PostgreSQL server.
//!
//! Writers of all coordinators take turns: each transaction first takes one advisory
//! lock, so that what holds on SQLite (revisions become visible in their order, a read
//! and the write that rests on it are one) holds here. A connection that is lost is
//! made anew at the next transaction, never within one.

mod address;
mod columns;
mod dialect;
mod listen;
mod session;
mod value;

use std::time::{Duration, Instant};

pub use address::Address;
pub(super) use dialect::schema;
pub(super) use listen::Listener;
pub(super) use value::Number;

use self::columns::Param;
use self::session::{Guard, Mark, Session};
use super::tx::Raw;
use super::{DbError, Row, ServerError, Topic, Value, values};

/// The lock that writers take turns by; one database is one installation.
const TURN: i64 = 0x6465_706c_6f79_6374;
/// The first server that tells what became of a transaction by its number.
const VERSION_MIN: i64 = 130_000;
/// How long the outcome of a commit is asked for after its connection was lost.
const OUTCOME_ASKED: Duration = Duration::from_secs(10);
/// Pause between two such questions.
const OUTCOME_PAUSE: Duration = Duration::from_millis(100);

/// Limits of a writer: a stuck one gives its turn up. An operator who lets answered
/// commits be lost would break fencing, so that one setting is put right.
const WRITER: &str = "SET client_min_messages = warning; SET statement_timeout = '30s';
    SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '15s';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'";
/// Limits of a start: it says sooner that it waits for its turn, and what waits for a
/// table holds up whoever reads it for less long.
const STARTER: &str = "SET client_min_messages = warning; SET statement_timeout = '30s';
    SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '15s'";
/// Limits of a reader; it can't write.
const READER: &str = "SET client_min_messages = warning; SET statement_timeout = '30s';
    SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '30s';
    SET default_transaction_read_only = on";

const FACTS: &str = "SELECT CAST(current_setting('server_version_num') AS INTEGER),
    current_setting('server_version'), current_setting('server_encoding'),
    CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)";
const TAKE_TURN: &str = "SELECT CAST(pg_current_xact_id() AS TEXT) FROM pg_advisory_xact_lock(?1)";
const SAVEPOINT: &str = "SAVEPOINT one";
const RELEASE: &str = "RELEASE SAVEPOINT one";
const UNDO: &str = "ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one";

/// A connection that comes back after it was lost.
pub(super) struct Postgres {
    address: Address,
    writes: bool,
    /// What a new connection is set up with.
    settings: &'static str,
    session: Option<Session>,
    /// The open transaction's number, by which its outcome can be asked for; of a
    /// reader's, nothing.
    open: Option<String>,
    /// Where the present write begins.
    savepoint: Option<Mark>,
    listener: Option<Listener>,
}

impl Postgres {
    /// Connects to write.
    pub(super) fn writer(address: &Address) -> Result<Self, DbError> {
        Self::to_write(address, WRITER)
    }

    /// Connects to bring the schema up to date.
    pub(super) fn starter(address: &Address) -> Result<Self, DbError> {
        Self::to_write(address, STARTER)
    }

    fn to_write(address: &Address, settings: &'static str) -> Result<Self, DbError> {
        let session = Some(Session::connect(address, "writer", settings)?);
        let mut postgres = Self::reader(address);
        (postgres.writes, postgres.settings, postgres.session) = (true, settings, session);
        Ok(postgres)
    }

    /// From now on, other coordinators are told of commits.
    pub(super) fn tell(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Checks that the server is one to work with; returns its clock, Unix milliseconds.
    pub(super) fn check(&self) -> Result<i64, DbError> {
        let unfit = |why: String| DbError::Unfit { place: self.address.to_string(), why };
        let rows = self.session()?.query::<Value>(FACTS, &[])?;
        let row = rows.first().ok_or(DbError::Missing("the server's version"))?;
        let (version, shown, encoding, now): (i32, String, String, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if i64::from(version) < VERSION_MIN {
            return Err(unfit(format!("PostgreSQL {shown} is too old; 13 or newer is needed")));
        }
        if encoding != "UTF8" {
            let why =
                format!("its encoding is {encoding}; make it with createdb -E UTF8 -T template0");
            return Err(unfit(why));
        }
        Ok(now)
    }

    /// Connects to read, when first used.
    pub(super) fn reader(address: &Address) -> Self {
        Self {
            address: address.clone(),
            writes: false,
            settings: READER,
            session: None,
            open: None,
            savepoint: None,
            listener: None,
        }
    }

    fn session(&self) -> Result<&Session, DbError> {
        self.session.as_ref().ok_or(DbError::Closed)
    }

    pub(super) fn exec(&self, sql: &str, values: &[Value]) -> Result<usize, DbError> {
        self.session()?.exec(sql, values)
    }

    pub(super) fn exec_later(
        &self,
        sql: &str,
        values: &[Value],
        guard: Option<Guard>,
    ) -> Result<(), DbError> {
        let params = values.iter().cloned().map(Param::One).collect();
        self.session()?.exec_later(sql, params, guard)
    }

    /// Changes rows by one statement for all of `rows`, later; `guard` says what must change
    /// as often as there are rows.
    pub(super) fn exec_rows(
        &self,
        guard: Option<&'static str>,
        sql: &str,
        fixed: &[Value],
        rows: &[Vec<Value>],
    ) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let (sql, params) = columns::with_rows(sql, fixed, rows);
        self.session()?.exec_later(&sql, params, guard.map(|what| (what, rows.len())))
    }

    /// What a query finds for many keys, in no order.
    pub(super) fn rows_of<T>(
        &self,
        sql: &str,
        keys: &[Vec<Value>],
        mut read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (sql, params) = columns::with_rows(sql, &[], keys);
        let found = self.session()?.query(&sql, &params)?;
        found.iter().map(|row| read(&Row(Raw::Postgres(row)))).collect()
    }

    /// The rows of one query for each of `keys`. Those of a key are in the query's order, which
    /// the server keeps where the query has a `LIMIT`.
    pub(super) fn rows_for_each<T>(
        &self,
        sql: &str,
        keys: &[Vec<Value>],
        mut read: impl FnMut(&Row) -> Result<T, DbError>,
    ) -> Result<Vec<Vec<T>>, DbError> {
        let mut each: Vec<Vec<T>> = keys.iter().map(|_| Vec::new()).collect();
        if keys.is_empty() {
            return Ok(each);
        }
        let (sql, params) = columns::for_each(sql, keys);
        for row in self.session()?.query(&sql, &params)? {
            let nth: i64 = row.try_get(row.len() - 1).map_err(ServerError::from)?;
            let nth = usize::try_from(nth - 1).ok().and_then(|nth| each.get_mut(nth));
            nth.ok_or(DbError::Missing("a key"))?.push(read(&Row(Raw::Postgres(&row)))?);
        }
        Ok(each)
    }

    pub(super) fn script(&self, sql: &str) -> Result<(), DbError> {
        self.session()?.script(sql)
    }

    /// Hands rows to `take` until it wants no more.
    pub(super) fn each(
        &self,
        sql: &str,
        values: &[Value],
        mut take: impl FnMut(&Row) -> Result<bool, DbError>,
    ) -> Result<(), DbError> {
        for row in self.session()?.query(sql, values)? {
            if !take(&Row(Raw::Postgres(&row)))? {
                break;
            }
        }
        Ok(())
    }

    /// Begins a transaction, on a new connection if the old one was lost.
    pub(super) fn begin(&mut self) -> Result<(), DbError> {
        match self.try_begin() {
            // Nothing was done yet, so the same may be tried on a new connection.
            Err(error) if error.is_lost_connection() => {
                self.session = None;
                self.try_begin()
            }
            done => done,
        }
    }

    fn try_begin(&mut self) -> Result<(), DbError> {
        self.savepoint = None;
        if self.session.as_ref().is_none_or(Session::is_closed) {
            let name = if self.writes { "writer" } else { "reader" };
            self.session = Some(Session::connect(&self.address, name, self.settings)?);
        }
        let session = self.session()?;
        session.forget();
        if !self.writes {
            session.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            self.open = Some(String::new());
            return Ok(());
        }
        session.control_later("BEGIN")?;
        let turn = session.query(TAKE_TURN, &[Value::Int(TURN)]);
        let rows = match turn {
            Ok(rows) => rows,
            Err(error) => {
                let _ = session.script("ROLLBACK");
                return Err(if error.is_lock_timeout() { DbError::NoTurn } else { error });
            }
        };
        let number = rows.first().and_then(|row| row.try_get(0).ok());
        self.open = Some(number.ok_or(DbError::Missing("a transaction's number"))?);
        Ok(())
    }

    /// Marks where the next write begins.
    pub(super) fn savepoint(&mut self) -> Result<(), DbError> {
        self.savepoint = Some(self.session()?.mark());
        self.session()?.control_later(SAVEPOINT)
    }

    /// Keeps what was done since the savepoint.
    pub(super) fn keep(&mut self) -> Result<(), DbError> {
        self.session()?.control_later(RELEASE)
    }

    /// Takes back what was done since the savepoint.
    pub(super) fn undo(&mut self) -> Result<(), DbError> {
        let session = self.session()?;
        match self.savepoint {
            Some(mark) if session.forget_from(mark) => Ok(()),
            _ => session.script(UNDO),
        }
    }

    /// Waits for what was sent without waiting.
    pub(super) fn flush(&self) -> Result<(), DbError> {
        self.session()?.flush()
    }

    /// Commits; wakes other coordinators that wait for `topics`.
    pub(super) fn commit(&mut self, topics: &[Topic]) -> Result<(), DbError> {
        let number = self.open.take().ok_or(DbError::Closed)?;
        let notify = self.listener.as_ref().and_then(|listener| listener.notify(topics));
        // A transaction that the server gave up answers a bare COMMIT with success; the
        // statement before it does not.
        let script = notify.unwrap_or_else(|| "SELECT 1".into()) + "; COMMIT";
        match self.session()?.script(&script) {
            Err(error) if error.is_lost_connection() => self.outcome(&number, &error),
            done => {
                // A refusal left the transaction open.
                self.open = done.is_err().then_some(number);
                done
            }
        }
    }

    /// Asks the server what became of a commit that no answer came to.
    fn outcome(&mut self, number: &str, lost: &DbError) -> Result<(), DbError> {
        const STATUS: &str = "SELECT pg_xact_status(CAST(CAST(?1 AS TEXT) AS xid8))";
        tracing::warn!(error = %lost, "a commit was not answered; asks what became of it");
        let until = Instant::now() + OUTCOME_ASKED;
        self.session = None;
        loop {
            let asked = Session::connect(&self.address, "writer", WRITER)
                .and_then(|session| Ok((session.query(STATUS, values![number])?, session)));
            if let Ok((rows, session)) = asked {
                let status: Option<String> = rows.first().and_then(|row| row.get(0));
                match status.as_deref() {
                    Some("committed") => {
                        self.session = Some(session);
                        return Ok(());
                    }
                    Some("aborted") => return Err(DbError::NotCommitted(lost.to_string())),
                    Some("in progress") => {}
                    _ => return Err(DbError::Unknown(lost.to_string())),
                }
            }
            if Instant::now() >= until {
                return Err(DbError::Unknown(lost.to_string()));
            }
            std::thread::sleep(OUTCOME_PAUSE);
        }
    }

    /// Ends the transaction, whatever its state; a connection on which that fails is
    /// given up, and the server ends it.
    pub(super) fn roll_back(&mut self) {
        self.open = None;
        if let Some(session) = &self.session {
            session.forget();
            if session.script("ROLLBACK").is_err() {
                self.session = None;
            }
        }
    }

    /// Whether no transaction is open, or its connection is lost.
    pub(super) fn is_over(&self) -> bool {
        self.open.is_none() || self.session.as_ref().is_none_or(Session::is_closed)
    }
}
