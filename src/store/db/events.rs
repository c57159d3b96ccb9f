//! Events: written in the transaction of their effect, read in order, never changed.

use super::{DbError, Row, Topic, Tx, Value, values};
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::model::time::UnixMillis;
use crate::wire::v1::event::Event;

const INSERT: &str =
    "INSERT INTO events (at, kind, app, env, build, release, region, actor, message)
    VALUES {rows}";
const COLUMNS: &str = "seq, at, kind, app, env, build, release, region, actor, message";
/// Longest message, bytes.
const MESSAGE_BYTES_MAX: usize = 1000;

/// An event to be written.
#[derive(Debug, Clone)]
pub struct NewEvent {
    at: UnixMillis,
    kind: &'static str,
    actor: String,
    message: String,
    app: Option<AppName>,
    env: Option<EnvName>,
    build: Option<JobNo>,
    release: Option<ReleaseNo>,
    region: Option<RegionName>,
}

impl NewEvent {
    /// Who did what; `actor` is a token's name, or `deployctl` itself.
    #[must_use]
    pub fn new(
        at: UnixMillis,
        kind: &'static str,
        actor: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let (actor, mut message) = (actor.into(), message.into());
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        let (app, env, build, release, region) = (None, None, None, None, None);
        Self { at, kind, actor, message, app, env, build, release, region }
    }

    /// Concerns this app.
    #[must_use]
    pub fn app(mut self, app: &AppName) -> Self {
        self.app = Some(app.clone());
        self
    }

    /// Concerns this env.
    #[must_use]
    pub fn env(mut self, env: &EnvName) -> Self {
        self.env = Some(env.clone());
        self
    }

    /// Concerns this build.
    #[must_use]
    pub fn build(mut self, build: JobNo) -> Self {
        self.build = Some(build);
        self
    }

    /// Concerns this release.
    #[must_use]
    pub fn release(mut self, release: ReleaseNo) -> Self {
        self.release = Some(release);
        self
    }

    /// Concerns this region.
    #[must_use]
    pub fn region(mut self, region: &RegionName) -> Self {
        self.region = Some(region.clone());
        self
    }
}

impl NewEvent {
    fn row(&self) -> Vec<Value> {
        vec![
            self.at.into(),
            self.kind.into(),
            self.app.as_ref().into(),
            self.env.as_ref().into(),
            self.build.into(),
            self.release.into(),
            self.region.as_ref().into(),
            (&self.actor).into(),
            (&self.message).into(),
        ]
    }
}

impl Tx {
    /// Writes an event; whoever waits for events is woken after the commit.
    ///
    /// # Errors
    /// When the database fails.
    pub fn event(&mut self, event: &NewEvent) -> Result<(), DbError> {
        self.events(std::slice::from_ref(event))
    }

    /// Writes several.
    ///
    /// # Errors
    /// When the database fails.
    pub fn events(&mut self, events: &[NewEvent]) -> Result<(), DbError> {
        let rows: Vec<_> = events.iter().map(NewEvent::row).collect();
        self.exec_rows(None, INSERT, &[], &rows)?;
        self.touch(Topic::Events);
        Ok(())
    }
}

/// Up to `limit` events after `since`, in order; only of `app` when given.
///
/// # Errors
/// When the database fails.
pub fn after(
    tx: &Tx,
    since: u64,
    app: Option<&AppName>,
    limit: usize,
) -> Result<Vec<Event>, DbError> {
    match app {
        None => tx.rows(
            &format!("SELECT {COLUMNS} FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
            values![since, limit],
            read,
        ),
        Some(app) => tx.rows(
            &format!(
                "SELECT {COLUMNS} FROM events WHERE app = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2"
            ),
            values![since, limit, app],
            read,
        ),
    }
}

/// Which events are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this app.
    pub app: Option<AppName>,
    /// Only of this env.
    pub env: Option<EnvName>,
    /// Only of this release.
    pub release: Option<ReleaseNo>,
}

/// Up to `limit` events before `before`, newest first.
///
/// # Errors
/// When the database fails.
pub fn before(tx: &Tx, before: u64, filter: &Filter, limit: usize) -> Result<Vec<Event>, DbError> {
    let before = before.min(i64::MAX.unsigned_abs());
    let mut wanted = String::from("seq < ?1");
    let mut values: Vec<Value> = vec![before.into(), limit.into()];
    let parts: [(&str, Option<Value>); 3] = [
        ("app", filter.app.as_ref().map(Value::from)),
        ("env", filter.env.as_ref().map(Value::from)),
        ("release", filter.release.map(Value::from)),
    ];
    for (column, value) in parts {
        if let Some(value) = value {
            values.push(value);
            wanted.push_str(&format!(" AND {column} = ?{}", values.len()));
        }
    }
    let sql = format!("SELECT {COLUMNS} FROM events WHERE {wanted} ORDER BY seq DESC LIMIT ?2");
    tx.rows(&sql, &values, read)
}

/// Drops events from before `before`, the oldest first, at most `limit`; returns how many.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx, before: UnixMillis, limit: u32) -> Result<usize, DbError> {
    let first = "SELECT seq, at FROM events ORDER BY seq LIMIT ?1";
    let first: Vec<(u64, UnixMillis)> =
        tx.rows(first, values![limit], |row| Ok((row.num(0)?, row.time(1)?)))?;
    let old = first.iter().take_while(|(_, at)| *at < before);
    let Some((last, _)) = old.last() else { return Ok(0) };
    tx.exec("DELETE FROM events WHERE seq <= ?1", values![*last])
}

/// The newest event's number; 0 when there is none.
///
/// # Errors
/// When the database fails.
pub fn newest(tx: &Tx) -> Result<u64, DbError> {
    Ok(tx.number("SELECT max(seq) FROM events", &[])?.unsigned_abs())
}

fn read(row: &Row) -> Result<Event, DbError> {
    Ok(Event {
        seq: row.num(0)?,
        at: row.time(1)?,
        kind: row.text(2)?,
        app: row.opt_parse(3)?,
        env: row.opt_parse(4)?,
        build: row.opt_int(5)?.map(|n| JobNo(n.unsigned_abs())),
        release: row.opt_int(6)?.map(|n| ReleaseNo(n.unsigned_abs())),
        region: row.opt_parse(7)?,
        actor: row.text(8)?,
        message: row.text(9)?,
    })
}
