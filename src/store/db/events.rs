//! Events: written in the transaction of their effect, read in order, never changed.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::model::time::UnixMillis;
use crate::wire::v1::event::Event;

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

impl Tx {
    /// Writes an event; whoever waits for events is woken after the commit.
    ///
    /// # Errors
    /// When the database fails.
    pub fn event(&mut self, event: &NewEvent) -> Result<(), DbError> {
        self.exec(
            "INSERT INTO events (at, kind, app, env, build, release, region, actor, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            values![
                event.at,
                event.kind,
                event.app.as_ref(),
                event.env.as_ref(),
                event.build,
                event.release,
                event.region.as_ref(),
                &event.actor,
                &event.message
            ],
        )?;
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
    const COLUMNS: &str = "seq, at, kind, app, env, build, release, region, actor, message";
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
