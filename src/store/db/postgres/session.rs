//! One connection, driven by whoever waits for it.
//!
//! Statements that nobody waits for are sent with the next one that somebody does: a
//! write of five statements costs one round trip. The server works them off in order,
//! so that is also the order of their effects.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::poll;
use tokio::runtime::Runtime;
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Connection, NoTls, Row, Statement};

use super::address::Address;
use super::columns::Param;
use super::dialect;
use crate::store::db::{DbError, ServerError, Value};

/// Statements kept prepared; there are fewer than this in all.
const STATEMENTS_KEPT: usize = 512;
/// Statements that nobody waits for and that are sent together, at most.
const LATER_MAX: usize = 256;

/// A statement that nobody waits for.
enum Later {
    /// Of the transaction itself: `BEGIN`, a savepoint.
    Control(&'static str),
    /// Changes rows.
    Exec(Statement, Vec<Param>, Option<Guard>),
}

/// What is guarded, and how many rows must change: fewer mean that somebody was faster.
pub(super) type Guard = (&'static str, usize);

/// A statement that is kept prepared.
struct Prepared {
    statement: Statement,
    uses: u64,
}

/// Whether a statement is to be prepared anew, after so many uses. The server keeps its plan from
/// the sixth on, and for a table that was empty then the plan is to read all of it. Powers of
/// eight: a table that grew eightfold is worth another plan, and in the end autovacuum sees to it.
fn is_outgrown(uses: u64) -> bool {
    uses >= 64 && uses.is_power_of_two() && uses.trailing_zeros().is_multiple_of(3)
}

/// A connection.
pub(super) struct Session {
    /// Taken only when the session is dropped.
    runtime: Option<Runtime>,
    client: Client,
    statements: RefCell<HashMap<String, Prepared>>,
    later: RefCell<Vec<Later>>,
    /// How often what waited was sent.
    sent: Cell<u64>,
}

/// A place in what waits to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    sent: u64,
    waiting: usize,
}

impl Session {
    /// Connects and sets the session up with `settings`, a script.
    pub(super) fn connect(address: &Address, name: &str, settings: &str) -> Result<Self, DbError> {
        let io = |source| DbError::Io { path: address.to_string(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let config = address.config(name);
        let failed = |error| unreachable(address, &ServerError::from(error));
        let tls = address.tls()?;
        let client = runtime.block_on(async {
            Ok::<_, DbError>(match tls {
                None => spawn(config.connect(NoTls).await.map_err(failed)?),
                Some(tls) => spawn(config.connect(tls).await.map_err(failed)?),
            })
        })?;
        let (statements, later, sent) = (RefCell::default(), RefCell::default(), Cell::new(0));
        let session = Self { runtime: Some(runtime), client, statements, later, sent };
        session.script(settings)?;
        Ok(session)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a script, after what waits to be sent.
    pub(super) fn script(&self, sql: &str) -> Result<(), DbError> {
        self.after_later(self.client.batch_execute(sql))
    }

    /// Changes rows; returns how many.
    pub(super) fn exec(&self, sql: &str, values: &[Value]) -> Result<usize, DbError> {
        let statement = self.prepared(sql)?;
        let changed = self.after_later(self.client.execute_raw(&statement, values))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Every row of a query.
    pub(super) fn query<P: ToSql + Sync>(
        &self,
        sql: &str,
        values: &[P],
    ) -> Result<Vec<Row>, DbError> {
        let statement = self.prepared(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.after_later(self.client.query(&statement, &values))
    }

    /// Changes rows with the next statement that somebody waits for.
    pub(super) fn exec_later(
        &self,
        sql: &str,
        params: Vec<Param>,
        guard: Option<Guard>,
    ) -> Result<(), DbError> {
        let statement = self.prepared(sql)?;
        self.put_later(Later::Exec(statement, params, guard))
    }

    /// Sends `sql` with the next statement that somebody waits for.
    pub(super) fn control_later(&self, sql: &'static str) -> Result<(), DbError> {
        self.put_later(Later::Control(sql))
    }

    fn put_later(&self, later: Later) -> Result<(), DbError> {
        self.later.borrow_mut().push(later);
        if self.later.borrow().len() < LATER_MAX { Ok(()) } else { self.flush() }
    }

    /// The end of what waits to be sent.
    pub(super) fn mark(&self) -> Mark {
        Mark { sent: self.sent.get(), waiting: self.later.borrow().len() }
    }

    /// Forgets what waits to be sent from `mark` on; false: some of it was sent.
    pub(super) fn forget_from(&self, mark: Mark) -> bool {
        let unsent = mark.sent == self.sent.get();
        self.later.borrow_mut().truncate(if unsent { mark.waiting } else { 0 });
        unsent
    }

    /// Forgets all that waits to be sent.
    pub(super) fn forget(&self) {
        self.later.borrow_mut().clear();
    }

    /// Sends what waits, and waits for it.
    pub(super) fn flush(&self) -> Result<(), DbError> {
        if self.later.borrow().is_empty() { Ok(()) } else { self.after_later(async { Ok(()) }) }
    }

    fn prepared(&self, sql: &str) -> Result<Statement, DbError> {
        let mut uses = 0;
        if let Some(kept) = self.statements.borrow_mut().get_mut(sql) {
            uses = kept.uses + 1;
            if !is_outgrown(uses) {
                kept.uses = uses;
                return Ok(kept.statement.clone());
            }
        }
        let text = dialect::statement(sql);
        let statement = self.after_later(self.client.prepare(&text))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS_KEPT {
            statements.clear();
        }
        statements.insert(sql.to_owned(), Prepared { statement: statement.clone(), uses });
        Ok(statement)
    }

    /// Sends what waits and then `last`, without waiting in between. The first that the
    /// server refuses is what is told: all after it were refused because of it.
    fn after_later<T>(
        &self,
        last: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        let later = self.later.take();
        self.sent.set(self.sent.get() + 1);
        let runtime = self.runtime.as_ref().ok_or(DbError::Closed)?;
        runtime.block_on(async {
            let mut sent = Vec::with_capacity(later.len());
            for later in &later {
                let (mut future, guard) = self.send(later);
                // The first poll sends.
                let answer = poll!(&mut future);
                sent.push((future, answer, guard));
            }
            let mut last = pin!(last);
            let answer = poll!(&mut last);
            let mut outcome = Ok(());
            for (future, answer, guard) in sent {
                let answer = match answer {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => future.await,
                };
                outcome = outcome.and(match (answer, guard) {
                    (Err(error), _) => Err(ServerError::from(error).into()),
                    (Ok(changed), Some((what, rows))) if changed < rows as u64 => {
                        Err(DbError::Raced(what))
                    }
                    (Ok(_), _) => Ok(()),
                });
            }
            let answer = match answer {
                Poll::Ready(answer) => answer,
                Poll::Pending => last.await,
            };
            outcome.and(answer.map_err(|error| ServerError::from(error).into()))
        })
    }

    fn send<'a>(&'a self, later: &'a Later) -> (Sent<'a>, Option<Guard>) {
        match later {
            Later::Control(sql) => {
                let done = self.client.batch_execute(sql);
                (Box::pin(async { done.await.map(|()| 0) }), None)
            }
            Later::Exec(statement, params, guard) => {
                (Box::pin(self.client.execute_raw(statement, params)), *guard)
            }
        }
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + 'a>>;

impl Drop for Session {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, which async callers may not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn spawn<S, T>((client, connection): (Client, Connection<S, T>)) -> Client
where
    Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    // Its error is also the answer of whatever statement is under way.
    tokio::spawn(async { drop(connection.await) });
    client
}

/// Why a connection was not made, as whoever wrote the URL would put it.
fn unreachable(address: &Address, error: &ServerError) -> DbError {
    // The server is there, and says: not now.
    let busy = DbError::Server(error.clone());
    if busy.is_busy() {
        return busy;
    }
    let (user, database) = (address.user(), address.database());
    let why = match error.code() {
        Some("28P01") => format!("the password of {user} is wrong or missing"),
        None if error.message.contains("password missing") => {
            format!("the password of {user} is wrong or missing")
        }
        None if error.message.contains("does not support TLS") => {
            format!("{error}; sslmode=disable speaks in the clear")
        }
        None if error.message.contains("invalid peer certificate") => {
            format!("{error}; sslrootcert=FILE names a private authority")
        }
        Some("28000") => format!("{user} may not connect: {error}"),
        Some("3D000") => format!("there is no database {database}; make it with createdb"),
        _ => error.to_string(),
    };
    let wrong = matches!(error.code(), Some("28P01" | "28000" | "3D000"));
    DbError::Unreachable { place: address.to_string(), why, passing: !wrong }
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(refusal) = error.as_db_error() {
            let lost =
                matches!(refusal.parsed_severity(), Some(Severity::Fatal | Severity::Panic) | None);
            let code = Some(refusal.code().code().to_owned());
            return Self { code, message: refusal.message().to_owned(), lost };
        }
        let lost = error.is_closed() || has_io(&error);
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Self { code: None, message, lost }
    }
}

fn has_io(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_prepared_anew_ever_more_seldom() {
        let anew: Vec<u64> = (0..100_000).filter(|uses| is_outgrown(*uses)).collect();
        assert_eq!(anew, [64, 512, 4096, 32_768]);
    }
}
