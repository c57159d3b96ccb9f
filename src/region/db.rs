//! The region's own small database: what it must still know after a crash with
//! every coordinator down.
//!
//! Holds the mirror (goals, wanted artifacts, verifiers, trust, revision) and a
//! coarse copy of the host table. One writer, `synchronous=FULL`: a change is
//! durable when the call returns. Calls block; callers leave the async threads.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::id::{AppName, EnvName, HostId};
use crate::region::configs::IDLE_CONFIGS_MAX;
use crate::wire::seal::Sealed;
use crate::wire::v1::fleet::HostRow;
use crate::wire::v1::patch::Between;
use crate::wire::v1::region::{Sibling, Trust, Verifiers};

/// Format of the file; an unknown one is refused rather than guessed at.
const FORMAT: i64 = 3;
const SCHEMA: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE goals(env TEXT NOT NULL, app TEXT NOT NULL, revision INTEGER NOT NULL,
        payload TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY(env, app)) STRICT;
    CREATE TABLE artifacts(seq INTEGER PRIMARY KEY, artifact TEXT NOT NULL UNIQUE,
        gone INTEGER NOT NULL, patch_from TEXT, patch_to TEXT) STRICT;
    CREATE TABLE hosts(host TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT;";
/// What format 3 added to format 2.
const CONFIGS: &str = "
    CREATE TABLE configs(seq INTEGER PRIMARY KEY, config TEXT NOT NULL UNIQUE,
        text TEXT NOT NULL) STRICT;";
/// What format 2 added to format 1.
const PATCHES: &str = "
    ALTER TABLE artifacts ADD COLUMN patch_from TEXT;
    ALTER TABLE artifacts ADD COLUMN patch_to TEXT;";

/// Why the region's database did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite failed: disk full, I/O error, or not a database.
    #[error("region database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A newer release wrote the file.
    #[error("region database has format {0}, this release reads {FORMAT}")]
    Format(i64),
    /// A value in it is not what was written.
    #[error("region database: {what} does not parse")]
    Damaged {
        /// Which.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

impl DbError {
    /// Whether the file's content is at fault, rather than the disk or this release.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Sqlite(rusqlite::Error::FromSqlConversionFailure(..)) => true,
            Self::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            }
            Self::Damaged { .. } => true,
            Self::Format(_) => false,
        }
    }
}

/// A goal as it is kept.
#[derive(Debug, Clone)]
pub struct SavedGoal {
    /// Its env.
    pub env: EnvName,
    /// Its app.
    pub app: AppName,
    /// The mirror's revision that brought it.
    pub revision: u64,
    /// The signed bytes.
    pub sealed: Sealed,
}

/// A wanted or dropped artifact as it is kept.
#[derive(Debug, Clone, Copy)]
pub struct SavedArtifact {
    /// Order of arrival.
    pub seq: u64,
    /// Which.
    pub artifact: ArtifactId,
    /// Whether it is to be deleted.
    pub gone: bool,
    /// Between which artifacts it leads, if it is a patch.
    pub patch: Option<Between>,
}

/// What changed in the mirror, to be made durable at once.
#[derive(Debug, Default)]
pub struct Change {
    /// The feed's revision after it.
    pub revision: u64,
    /// Goals to replace.
    pub goals: Vec<SavedGoal>,
    /// Artifacts to add or mark.
    pub artifacts: Vec<SavedArtifact>,
    /// New verifiers.
    pub verifiers: Option<Verifiers>,
    /// New trust.
    pub trust: Option<Trust>,
    /// New siblings.
    pub siblings: Option<Vec<Sibling>>,
}

/// Everything in the database.
#[derive(Debug, Default)]
pub struct Saved {
    /// The mirror, as one change from nothing.
    pub mirror: Change,
    /// The host table as it was last saved.
    pub hosts: Vec<HostRow>,
}

/// The open database.
pub struct RegionDb(Mutex<Connection>);

impl RegionDb {
    /// Opens the file at `path` with all that it holds. A damaged one is put aside and
    /// begun anew: whatever it held comes again with the next feed and reports.
    ///
    /// # Errors
    /// As [`RegionDb::open`].
    pub fn open_or_renew(path: &Path) -> Result<(Self, Saved), DbError> {
        let opened = Self::open(path).and_then(|db| {
            db.check()?;
            let saved = db.load()?;
            Ok((db, saved))
        });
        let error = match opened {
            Err(error) if error.is_damage() => error,
            other => return other,
        };
        tracing::error!(%error, path = %path.display(), "region database is damaged, begun anew");
        for suffix in ["", "-wal", "-shm"] {
            let [from, to] = ["", ".damaged"].map(|end| {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                name.push(end);
                name
            });
            if let Err(error) = std::fs::rename(&from, &to)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!(%error, "damaged database not put aside");
            }
        }
        Ok((Self::open(path)?, Saved::default()))
    }

    fn check(&self) -> Result<(), DbError> {
        let db = self.connection();
        let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        match found.as_str() {
            "ok" => Ok(()),
            _ => Err(rusqlite::Error::SqliteFailure(damage, Some(found)).into()),
        }
    }

    /// Opens or makes the file at `path`.
    ///
    /// # Errors
    /// [`DbError`] when it can't be opened or has another format.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        let format: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match format {
            0..FORMAT => {
                let tx = db.transaction()?;
                match format {
                    0 => tx.execute_batch(SCHEMA)?,
                    1 => tx.execute_batch(PATCHES)?,
                    _ => {}
                }
                tx.execute_batch(CONFIGS)?;
                tx.pragma_update(None, "user_version", FORMAT)?;
                tx.commit()?;
            }
            FORMAT => {}
            other => return Err(DbError::Format(other)),
        }
        Ok(Self(Mutex::new(db)))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A transaction of a thread that panicked was rolled back when it was dropped.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`DbError`] when it can't be read or a value does not parse.
    pub fn load(&self) -> Result<Saved, DbError> {
        let db = self.connection();
        let mirror = Change {
            revision: read_meta(&db, "revision")?.unwrap_or(0),
            verifiers: read_meta(&db, "verifiers")?,
            trust: read_meta(&db, "trust")?,
            siblings: read_meta(&db, "siblings")?,
            goals: read_goals(&db)?,
            artifacts: read_artifacts(&db)?,
        };
        let mut rows = db.prepare("SELECT document FROM hosts")?;
        let rows = rows.query_map([], |row| row.get::<_, String>(0))?;
        // A row that does not parse is one host that will report again.
        let hosts = rows.filter_map(|row| serde_json::from_str(&row.ok()?).ok()).collect();
        Ok(Saved { mirror, hosts })
    }

    /// Makes a change of the mirror durable, whole or not at all.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn save(&self, change: &Change) -> Result<(), DbError> {
        let mut db = self.connection();
        let tx = db.transaction()?;
        for goal in &change.goals {
            tx.prepare_cached(
                "INSERT INTO goals(env, app, revision, payload, signature) VALUES(?1,?2,?3,?4,?5)
                 ON CONFLICT DO UPDATE SET revision=?3, payload=?4, signature=?5",
            )?
            .execute(params![
                goal.env.as_str(),
                goal.app.as_str(),
                goal.revision as i64,
                goal.sealed.payload,
                goal.sealed.signature
            ])?;
        }
        for SavedArtifact { seq, artifact, gone, patch } in &change.artifacts {
            let [from, to] = [patch.map(|p| p.from), patch.map(|p| p.to)];
            let [from, to] = [from, to].map(|end| end.map(|artifact| artifact.to_string()));
            tx.prepare_cached(
                "INSERT INTO artifacts(seq, artifact, gone, patch_from, patch_to)
                 VALUES(?1,?2,?3,?4,?5)
                 ON CONFLICT(artifact) DO UPDATE SET gone=?3, patch_from=?4, patch_to=?5",
            )?
            .execute(params![*seq as i64, artifact.to_string(), gone, from, to])?;
        }
        if let Some(verifiers) = &change.verifiers {
            write_meta(&tx, "verifiers", verifiers)?;
        }
        if let Some(trust) = &change.trust {
            write_meta(&tx, "trust", trust)?;
        }
        if let Some(siblings) = &change.siblings {
            write_meta(&tx, "siblings", siblings)?;
        }
        write_meta(&tx, "revision", &change.revision)?;
        Ok(tx.commit()?)
    }

    /// The text of a configuration.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn config(&self, config: &ConfigId) -> Result<Option<String>, DbError> {
        let db = self.connection();
        let sql = "SELECT text FROM configs WHERE config=?1";
        Ok(db.query_row(sql, [config.to_string()], |row| row.get(0)).optional()?)
    }

    /// Keeps the text of a configuration, durably.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn save_config(&self, config: &ConfigId, text: &str) -> Result<(), DbError> {
        let db = self.connection();
        let sql = "INSERT OR REPLACE INTO configs(config, text) VALUES(?1, ?2)";
        db.execute(sql, [config.to_string().as_str(), text])?;
        Ok(())
    }

    /// Drops the oldest configurations that are not `named`, but for the newest
    /// [`IDLE_CONFIGS_MAX`] of them.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn prune_configs(&self, named: &BTreeSet<ConfigId>) -> Result<(), DbError> {
        let db = self.connection();
        let mut rows = db.prepare_cached("SELECT seq, config FROM configs ORDER BY seq DESC")?;
        let rows = rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, parsed(row, 1)?)))?;
        let idle = rows.filter(|row| row.as_ref().map_or(true, |(_, id)| !named.contains(id)));
        let gone: Result<Vec<(i64, ConfigId)>, _> = idle.skip(IDLE_CONFIGS_MAX).collect();
        for (seq, _) in gone? {
            db.execute("DELETE FROM configs WHERE seq=?1", [seq])?;
        }
        Ok(())
    }

    /// Forgets an artifact whose objects are deleted.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn forget_artifact(&self, artifact: &ArtifactId) -> Result<(), DbError> {
        let db = self.connection();
        db.execute("DELETE FROM artifacts WHERE artifact=?1 AND gone", [artifact.to_string()])?;
        Ok(())
    }

    /// Saves rows of the host table and removes others.
    ///
    /// # Errors
    /// [`DbError::Sqlite`].
    pub fn save_hosts(&self, rows: &[HostRow], forgotten: &[HostId]) -> Result<(), DbError> {
        let mut db = self.connection();
        let tx = db.transaction()?;
        for row in rows {
            let document = serde_json::to_string(row)
                .map_err(|source| DbError::Damaged { what: "a host row", source })?;
            tx.prepare_cached("INSERT OR REPLACE INTO hosts(host, document) VALUES(?1,?2)")?
                .execute(params![row.info.host.as_str(), document])?;
        }
        for host in forgotten {
            tx.execute("DELETE FROM hosts WHERE host=?1", [host.as_str()])?;
        }
        Ok(tx.commit()?)
    }
}

fn read_meta<T: DeserializeOwned>(
    db: &Connection,
    key: &'static str,
) -> Result<Option<T>, DbError> {
    let text: Option<String> =
        db.query_row("SELECT value FROM meta WHERE key=?1", [key], |row| row.get(0)).optional()?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|source| DbError::Damaged { what: key, source })
}

fn write_meta(
    tx: &Transaction<'_>,
    key: &'static str,
    value: &impl Serialize,
) -> Result<(), DbError> {
    let text =
        serde_json::to_string(value).map_err(|source| DbError::Damaged { what: key, source })?;
    tx.execute("INSERT OR REPLACE INTO meta(key, value) VALUES(?1,?2)", [key, text.as_str()])?;
    Ok(())
}

fn read_goals(db: &Connection) -> Result<Vec<SavedGoal>, DbError> {
    let mut rows = db.prepare("SELECT env, app, revision, payload, signature FROM goals")?;
    let rows = rows.query_map([], |row| {
        Ok(SavedGoal {
            env: parsed(row, 0)?,
            app: parsed(row, 1)?,
            revision: row.get::<_, i64>(2)? as u64,
            sealed: Sealed { payload: row.get(3)?, signature: row.get(4)? },
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_artifacts(db: &Connection) -> Result<Vec<SavedArtifact>, DbError> {
    let sql = "SELECT seq, artifact, gone, patch_from, patch_to FROM artifacts ORDER BY seq";
    let mut rows = db.prepare(sql)?;
    let rows = rows.query_map([], |row| {
        let is_patch = row.get_ref(3)? != ValueRef::Null;
        let between = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Between> {
            Ok(Between { from: parsed(row, 3)?, to: parsed(row, 4)? })
        };
        Ok(SavedArtifact {
            seq: row.get::<_, i64>(0)? as u64,
            artifact: parsed(row, 1)?,
            gone: row.get(2)?,
            patch: is_patch.then(|| between(row)).transpose()?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn parsed<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region.db");
        let goal = SavedGoal {
            env: "prod".parse().unwrap(),
            app: "api".parse().unwrap(),
            revision: 4,
            sealed: Sealed { payload: "{}".into(), signature: "00".into() },
        };
        let between = Between { from: Digest::of(b"x"), to: Digest::of(b"y") };
        let wanted =
            SavedArtifact { seq: 1, artifact: Digest::of(b"a"), gone: false, patch: Some(between) };
        let change = Change {
            revision: 9,
            goals: vec![goal],
            artifacts: vec![
                wanted,
                SavedArtifact { seq: 2, artifact: Digest::of(b"b"), gone: true, patch: None },
            ],
            verifiers: None,
            trust: Some(Trust::default()),
            siblings: Some(vec![]),
        };
        {
            let db = RegionDb::open(&path).unwrap();
            assert!(db.load().unwrap().mirror.goals.is_empty());
            db.save(&change).unwrap();
            db.forget_artifact(&Digest::of(b"a")).unwrap();
            db.forget_artifact(&Digest::of(b"b")).unwrap();
        }
        let saved = RegionDb::open(&path).unwrap().load().unwrap().mirror;
        assert_eq!((saved.revision, saved.goals[0].revision), (9, 4));
        assert_eq!(saved.artifacts.len(), 1, "a wanted artifact is not forgotten");
        assert_eq!(saved.artifacts[0].patch, Some(between));
        assert_eq!(saved.trust, Some(Trust::default()));
    }

    #[test]
    fn a_file_of_the_first_format_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region.db");
        let old = SCHEMA.replace(", patch_from TEXT, patch_to TEXT", "");
        let raw = Connection::open(&path).unwrap();
        raw.execute_batch(&old).unwrap();
        let name = Digest::of(b"a").to_string();
        raw.execute("INSERT INTO artifacts(seq, artifact, gone) VALUES(1, ?1, 0)", [name]).unwrap();
        raw.pragma_update(None, "user_version", 1).unwrap();
        drop(raw);
        for _ in 0..2 {
            let saved = RegionDb::open(&path).unwrap().load().unwrap().mirror;
            assert_eq!((saved.artifacts.len(), saved.artifacts[0].patch), (1, None));
        }
    }

    #[test]
    fn configs_last_while_they_are_named_and_a_while_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region.db");
        let db = RegionDb::open(&path).unwrap();
        let id = |n: usize| Digest::of(n.to_string().as_bytes());
        for n in 0..IDLE_CONFIGS_MAX + 10 {
            db.save_config(&id(n), &n.to_string()).unwrap();
        }
        drop(db);
        let db = RegionDb::open(&path).unwrap();
        db.prune_configs(&BTreeSet::from([id(0), id(3)])).unwrap();
        let kept = |n: usize| db.config(&id(n)).unwrap();
        assert_eq!((kept(0).as_deref(), kept(3).as_deref()), (Some("0"), Some("3")));
        assert_eq!((kept(1), kept(9)), (None, None));
        assert_eq!(kept(10).as_deref(), Some("10"));
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_another_release_s_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region.db");
        let change = Change { revision: 9, ..Change::default() };
        RegionDb::open(&path).unwrap().save(&change).unwrap();
        assert_eq!(RegionDb::open_or_renew(&path).unwrap().1.mirror.revision, 9);
        for at in [0, 4096, 8192] {
            RegionDb::open_or_renew(&path).unwrap().0.save(&change).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at..at + 4096].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            let (db, saved) = RegionDb::open_or_renew(&path).unwrap();
            assert_eq!((saved.mirror.revision, saved.mirror.goals.len()), (0, 0));
            assert!(folder.path().join("region.db.damaged").exists());
            db.save(&change).unwrap();
            drop(db);
            assert_eq!(RegionDb::open_or_renew(&path).unwrap().1.mirror.revision, 9);
        }
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        assert!(matches!(RegionDb::open_or_renew(&path), Err(DbError::Format(7))));
    }
}
