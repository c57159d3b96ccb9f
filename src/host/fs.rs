//! Files that must survive a crash: written whole, or not at all.
//!
//! Every function that writes returns only when the bytes and the folder entry
//! are durable. Reads are bounded. Knows nothing of apps or releases.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest small file (state, trust, journal), bytes.
pub const SMALL_FILE_BYTES_MAX: u64 = 4 << 20;

/// Makes a folder's entries durable.
///
/// # Errors
/// When the folder can't be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Replaces `path` by `bytes`, whole and durable; the mode is `mode`.
///
/// # Errors
/// When the folder is missing, full or not writable; `path` is then as before.
pub fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let next = beside(path, ".new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&next)?;
    // The file may have been left by a crash, with another mode.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    sync_folder(parent(path))
}

/// Replaces `path` by `value` as JSON, whole and durable, mode 0600.
///
/// # Errors
/// As [`write_durable`].
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_durable(path, &serde_json::to_vec(value)?, 0o600)
}

/// Replaces `path` by `value` as JSON, whole but not synced: for files that only tell.
///
/// # Errors
/// When the folder is missing, full or not writable.
pub fn write_json_volatile(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let next = beside(path, ".new");
    fs::write(&next, serde_json::to_vec(value)?)?;
    fs::rename(&next, path)
}

/// Reads JSON of at most [`SMALL_FILE_BYTES_MAX`]; `None` when there is no file.
///
/// # Errors
/// When it can't be read, is too large or is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match read_small(path)? {
        Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        None => Ok(None),
    }
}

/// Reads at most [`SMALL_FILE_BYTES_MAX`]; `None` when there is no file.
///
/// # Errors
/// When it can't be read or is larger.
pub fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("{} is too large", path.display())));
    }
    Ok(Some(bytes))
}

/// Points the symbolic link `link` at `target` in one step, durably: a reader sees
/// the old or the new one, never neither.
///
/// # Errors
/// When the folder is full or not writable; the link is then as before.
pub fn switch_link(link: &Path, target: &Path) -> io::Result<()> {
    let next = beside(link, ".new");
    remove_file(&next)?;
    std::os::unix::fs::symlink(target, &next)?;
    fs::rename(&next, link)?;
    sync_folder(parent(link))
}

/// Removes a file or link durably; no error when there is none.
///
/// # Errors
/// When the folder is not writable.
pub fn remove_durable(path: &Path) -> io::Result<()> {
    remove_file(path)?;
    sync_folder(parent(path))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it with `mode`, durably; fine when it is there.
///
/// # Errors
/// When it can't be made.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    sync_folder(parent(folder))
}

/// Takes the one lock on `path` for as long as the file returned lives, also
/// across a crash; `None` when another process has it.
///
/// # Errors
/// When the file can't be made.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether some process holds the lock on `path`.
#[must_use]
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_replaces_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        for value in [vec![1, 2], vec![3]] {
            write_json(&path, &value).unwrap();
            assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_switched_over_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("current");
        std::os::unix::fs::symlink("half", folder.path().join("current.new")).unwrap();
        switch_link(&link, Path::new("releases/a")).unwrap();
        switch_link(&link, Path::new("releases/b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("releases/b"));
        remove_durable(&link).unwrap();
        remove_durable(&link).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn only_one_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        assert!(is_locked(&path));
        drop(held);
        assert!(!is_locked(&path));
        assert!(lock(&path).unwrap().is_some());
    }
}
