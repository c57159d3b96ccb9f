//! The SQL truth: jobs, artifacts, tokens, events and what the other roles add.
//!
//! One writer thread commits many writes in one transaction (see `writer`);
//! reads run beside it on connections of their own. Callers speak SQL in the
//! subset that SQLite and PostgreSQL share, through [`Tx`], so that a second
//! engine is a second adapter and no caller changes. Queries of one noun live in
//! one file. No decision is taken here: that is what `rules` is for.

pub mod ancestry;
pub mod apps;
pub mod artifacts;
pub mod backup;
pub mod check;
mod clock;
pub mod collectable;
pub mod collected;
pub mod configs;
#[cfg(test)]
pub(crate) mod conformance;
pub mod coordinators;
pub mod copy;
pub mod curves;
pub mod deployables;
pub mod drains;
pub mod envs;
pub mod events;
pub mod feed;
pub mod forgotten;
pub mod freezes;
pub mod gate_runs;
pub mod gauges;
pub mod goals;
pub mod holds;
pub mod hosts;
pub mod job_log;
pub mod jobs;
pub mod looks;
mod meta;
mod open;
pub mod owner;
pub mod patches;
mod place;
mod postgres;
pub mod regions;
pub mod releases;
pub mod replicas;
pub mod requirements;
mod schema;
pub mod sessions;
mod sqlite;
pub mod steadiness;
pub mod tallies;
#[cfg(test)]
#[path = "../../../tests/postgres/server.rs"]
mod test_server;
pub mod tokens;
mod tx;
mod value;
pub mod webhooks;
pub mod workers;
mod writer;

use rusqlite::ErrorCode;

pub use open::Db;
pub use place::{BadPlace, Place};
pub use postgres::Address;
pub use tx::{Row, Tx};
pub use value::Value;
pub(crate) use value::{json, values};
pub use writer::Topic;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The engine refused or failed.
    #[error("database: {0}")]
    Engine(#[from] rusqlite::Error),
    /// A server refused or failed.
    #[error("database: {0}")]
    Server(#[from] ServerError),
    /// A server can't be reached, or does not let this user in.
    #[error("{place}: {why}")]
    Unreachable {
        /// Which, without the password.
        place: String,
        /// Why.
        why: String,
        /// Whether the same may succeed later.
        passing: bool,
    },
    /// A server that this release can't work with.
    #[error("{place}: {why}")]
    Unfit {
        /// Which, without the password.
        place: String,
        /// Why, and what is needed.
        why: String,
    },
    /// The connection was lost during a commit, and the server can't be asked what became
    /// of it.
    #[error("it is not known whether the write was committed: {0}")]
    Unknown(String),
    /// Other writers did not give the turn to write up in time.
    #[error("the turn to write did not come: another coordinator, or what hangs, holds it")]
    NoTurn,
    /// A row holds something that no release of this program wrote.
    #[error("the database holds {text:?} where {what} is expected")]
    Corrupt {
        /// What was expected.
        what: &'static str,
        /// What is there, cut to 80 characters.
        text: String,
    },
    /// A row that must exist does not.
    #[error("a row is missing: {0}")]
    Missing(&'static str),
    /// A guarded write changed no row: somebody else changed it first.
    #[error("{0} changed in between")]
    Raced(&'static str),
    /// The transaction that held this write could not be committed; nothing of it is there.
    #[error("the write was not committed: {0}")]
    NotCommitted(String),
    /// The write's own code panicked; nothing of it is there.
    #[error("a write panicked; it was rolled back")]
    Panicked,
    /// The database is closed.
    #[error("the database is closed")]
    Closed,
    /// Another process owns the file.
    #[error("{0} is in use by another coordinator")]
    InUse(String),
    /// The file was written by a newer release.
    #[error(
        "the database has schema version {0}, which this release does not know; use a newer release"
    )]
    NewerSchema(i64),
    /// A migration's text is not the one that was applied to this file.
    #[error("schema version {0} of this database was made by a different build of this program")]
    OtherSchema(i64),
    /// The SQLite linked in has the WAL-reset bug [reliability-security 1.1].
    #[error("SQLite {0} is too old; 3.51.3 is needed")]
    OldEngine(i32),
    /// A file could not be made or opened.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What a server refused, or how the connection to it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The server's own code, such as `23505`; `None`: it did not answer.
    code: Option<String>,
    message: String,
    /// Whether the connection is lost with it.
    lost: bool,
}

impl ServerError {
    /// The server's own code.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl std::error::Error for ServerError {}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl DbError {
    /// Whether a unique index refused the write.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        if let Self::Server(error) = self {
            return error.code() == Some("23505");
        }
        let Self::Engine(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        let unique =
            [rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE, rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY];
        unique.contains(&error.extended_code)
    }

    /// Whether the same may succeed later: the disk is full or failing, the file is busy,
    /// or the server is away. Whoever asked is to ask again, not to give up.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::NoTurn => return true,
            Self::Unreachable { passing, .. } => return *passing,
            Self::Server(error) => return error.lost || error.code().is_some_and(is_passing_code),
            _ => {}
        }
        let Self::Engine(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(
            error.code,
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
        )
    }

    /// Whether a server that is the right one can't do it now, and nothing was done: others
    /// write, it starts, it has too many connections.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::NoTurn | Self::NotCommitted(_) => true,
            Self::Server(error) => error.code().is_some_and(is_passing_code),
            _ => false,
        }
    }

    /// Whether a lock was not had in time.
    fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Server(error) if error.code() == Some("55P03"))
    }

    /// Whether the connection to the server is lost.
    pub(super) fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Server(error) if error.lost)
    }

    /// Whether a flush failed: the page cache can't be trusted any more, only a
    /// restart from the log can [reliability-security 1.1].
    pub(crate) fn is_lost_flush(&self) -> bool {
        let Self::Engine(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        let flush = [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC];
        flush.contains(&error.extended_code)
    }
}

/// Codes of PostgreSQL that say "not now": resources (53), an operator (57), a system
/// error (58), a lock that was not had in time, a conflict with another transaction (40),
/// an idle transaction that was ended (25P03), a server that only reads (25006).
fn is_passing_code(code: &str) -> bool {
    ["53", "57", "58", "40"].iter().any(|class| code.starts_with(class))
        || ["55P03", "25P03", "25006"].contains(&code)
}
