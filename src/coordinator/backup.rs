//! The coordinator's truth as a folder: its database, keys and tokens, with a list of
//! digests; and back.
//!
//! A backup is made while the coordinator runs. A restore wants it stopped, keeps what it
//! replaces, and raises the epoch: hosts then follow the restored decisions, though
//! they have seen newer ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::coordinator::first_start::DATABASE;
use crate::host::{clock, fs};
use crate::model::digest::Digest;
use crate::store::db::{DbError, backup};

/// The list of what a backup holds.
const LIST: &str = "backup.json";
/// Files and folders beside the database.
const SECRETS: [&str; 3] = ["token.key", "keys", "tokens"];
/// Most files of a backup: two keys, and three tokens for each of 64 regions at most.
const FILES_MAX: usize = 1_000;

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// There is nothing to back up.
    #[error("{0} holds no coordinator's database; one on PostgreSQL is backed up with pg_dump")]
    NoDatabase(PathBuf),
    /// There is something where the backup is to be made.
    #[error("{0} is there already; a backup is made in a new folder")]
    Exists(PathBuf),
    /// The backup is not what was made.
    #[error("{path} is not as it was backed up: {why}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The coordinator runs.
    #[error("a coordinator runs on {0}; stop it first")]
    Running(PathBuf),
}

/// What a backup is: the content of its list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The release that made it.
    pub version: String,
    /// When, Unix milliseconds.
    pub made_at: i64,
    /// SHA-256 of each file, by its path in the folder.
    pub files: BTreeMap<String, Digest>,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// When the backup was made, Unix milliseconds.
    pub made_at: i64,
    /// The epoch of all goals from now on.
    pub epoch: u64,
    /// Where what was replaced is kept; `None`: there was nothing.
    pub kept: Option<PathBuf>,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path: path.clone(), source }
}

/// Backs the data folder `data` up into the new folder `out`. Complete and durable when
/// it returns; a backup that was cut off has another name and no list.
///
/// # Errors
/// [`BackupError`].
pub fn backup(data: &Path, out: &Path) -> Result<Made, BackupError> {
    if !data.join(DATABASE).exists() {
        return Err(BackupError::NoDatabase(data.to_owned()));
    }
    if out.exists() {
        return Err(BackupError::Exists(out.to_owned()));
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(io(&partial))?;
    }
    fs::make_folder(&partial, 0o700).map_err(io(&partial))?;
    backup::copy(&data.join(DATABASE), &partial.join(DATABASE))?;
    for name in secrets(data)? {
        place(&data.join(&name), &partial.join(&name))?;
    }
    let mut files = BTreeMap::new();
    for name in secrets(&partial)?.into_iter().chain([DATABASE.to_owned()]) {
        let path = partial.join(&name);
        std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
        files.insert(name, digest(&path)?);
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let made = Made { version, made_at: clock::now().0, files };
    let list = serde_json::to_vec_pretty(&made).expect("plain values are plain JSON");
    fs::write_durable(&partial.join(LIST), &list, 0o600).map_err(io(&partial))?;
    std::fs::rename(&partial, out).map_err(io(out))?;
    Ok(made)
}

/// Puts the backup in `from` in the place of whatever `data` holds. `above` is an epoch
/// that the new one must pass, for when the newest database is lost; else 0.
///
/// # Errors
/// [`BackupError`]. Nothing is replaced before the whole backup was checked; a restore
/// that is cut off is run again.
pub fn restore(from: &Path, data: &Path, above: u64) -> Result<Restored, BackupError> {
    let made = checked(from)?;
    fs::make_folder(data, 0o700).map_err(io(data))?;
    let database = data.join(DATABASE);
    let lock = data.join(format!("{DATABASE}.lock"));
    let lock = fs::lock(&lock).map_err(io(&lock))?;
    let _lock = lock.ok_or_else(|| BackupError::Running(data.to_owned()))?;
    let (mut above, mut kept) = (above, None);
    if database.exists() {
        // One that can't be read any more is replaced all the same, and kept.
        match backup::settle(&database) {
            Ok(epoch) => above = above.max(epoch),
            Err(error) => tracing::warn!(%error, "the replaced database does not tell its epoch"),
        }
        kept = Some(keep(data)?);
    }
    let fresh = data.join("restoring.db");
    place(&from.join(DATABASE), &fresh)?;
    let epoch = backup::revive(&fresh, above)?;
    for name in made.files.keys().filter(|name| *name != DATABASE) {
        place(&from.join(name), &data.join(name))?;
    }
    for log in ["-wal", "-shm"] {
        let path = data.join(format!("{DATABASE}{log}"));
        fs::remove_durable(&path).map_err(io(&path))?;
    }
    std::fs::File::open(&fresh).and_then(|file| file.sync_all()).map_err(io(&fresh))?;
    std::fs::rename(&fresh, &database).map_err(io(&database))?;
    fs::sync_folder(data).map_err(io(data))?;
    Ok(Restored { made_at: made.made_at, epoch, kept })
}

/// The list of the backup in `from`, once every file was found to be as it says.
fn checked(from: &Path) -> Result<Made, BackupError> {
    let list = from.join(LIST);
    let made: Option<Made> = fs::read_json(&list).map_err(io(&list))?;
    let damaged =
        |path: &Path, why: &str| BackupError::Damaged { path: path.into(), why: why.into() };
    let made = made.ok_or_else(|| damaged(&list, "it is missing; this is no whole backup"))?;
    if made.files.len() > FILES_MAX || !made.files.contains_key(DATABASE) {
        return Err(damaged(&list, "it lists no database, or too many files"));
    }
    for (name, wanted) in &made.files {
        let path = from.join(name);
        let parts: Vec<&str> = name.split('/').collect();
        let own = name == DATABASE || (SECRETS.contains(&parts[0]) && parts.len() <= 2);
        if !own || parts.contains(&"..") || digest(&path)? != *wanted {
            return Err(damaged(&path, "its digest is another"));
        }
    }
    backup::check(&from.join(DATABASE))?;
    Ok(made)
}

/// Copies what is about to be replaced into a new folder beside it.
fn keep(data: &Path) -> Result<PathBuf, BackupError> {
    let kept = data.join(format!("replaced-{}", clock::now().0));
    fs::make_folder(&kept, 0o700).map_err(io(&kept))?;
    for name in secrets(data)?.into_iter().chain([DATABASE.to_owned()]) {
        place(&data.join(&name), &kept.join(&name))?;
    }
    fs::sync_folder(&kept).map_err(io(&kept))?;
    Ok(kept)
}

/// The files beside the database, by their paths in `folder`.
fn secrets(folder: &Path) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    for name in SECRETS {
        let path = folder.join(name);
        if path.is_file() {
            found.push(name.to_owned());
        } else if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(io(&path))? {
                let entry = entry.map_err(io(&path))?;
                let file = entry.file_name().into_string().ok().filter(|_| entry.path().is_file());
                found.extend(file.map(|file| format!("{name}/{file}")));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a file, readable for its owner alone, and replaces `to` whole.
fn place(from: &Path, to: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::PermissionsExt;
    let folder = to.parent().unwrap_or(to);
    fs::make_folder(folder, 0o700).map_err(io(folder))?;
    let mut next = to.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    std::fs::copy(from, &next).map_err(io(from))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&next, mode).map_err(io(&next))?;
    std::fs::File::open(&next).and_then(|file| file.sync_all()).map_err(io(&next))?;
    std::fs::rename(&next, to).map_err(io(to))?;
    fs::sync_folder(folder).map_err(io(folder))
}

fn digest(path: &Path) -> Result<Digest, BackupError> {
    use std::io::Read;

    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    let mut file = std::fs::File::open(path).map_err(io(path))?;
    let mut part = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut part).map_err(io(path))?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        hash.update(&part[..read]);
    }
}
