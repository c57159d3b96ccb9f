//! Names for TAB as they were told last: one small file for each coordinator.
//!
//! Whatever is wrong with the file, it is as if there were none. Holds names and
//! subjects, never a token.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::discover::folder;
use crate::model::digest::{Digest, to_hex};
use crate::model::time::UnixMillis;

/// Largest file that is read, bytes: `LISTS_MAX` lists of 50 names stay far below.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Lists that are kept; the oldest goes first.
const LISTS_MAX: usize = 64;
/// From this age on a list is asked for anew, in the background.
pub const FRESH: Duration = Duration::from_secs(30);
/// From this age on a list is not used.
pub const OLD: Duration = Duration::from_secs(24 * 3600);

/// A list of names, and when it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// When.
    pub at: UnixMillis,
    /// Whether these are all that there are.
    pub whole: bool,
    /// Names with a short help text each.
    pub names: Vec<(String, String)>,
}

/// Every list of one coordinator, by kind, app and env.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names(BTreeMap<String, List>);

impl Names {
    /// What the file holds; nothing when it can't be read.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let small = std::fs::metadata(file).is_ok_and(|meta| meta.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(file).ok()).flatten();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// The list of `key` that is not older than [`OLD`].
    #[must_use]
    pub fn find(&self, key: &str, now: UnixMillis) -> Option<&List> {
        self.0.get(key).filter(|list| now.since(list.at) < OLD)
    }

    /// Puts a list in the place of the one before.
    pub fn put(&mut self, key: String, list: List) {
        self.0.insert(key, list);
        while self.0.len() > LISTS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, list)| list.at).map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
    }

    /// Writes the file as a whole: who reads meanwhile sees the one before.
    ///
    /// # Errors
    /// When the folder can't be written; it is only a cache.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let folder = file.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(folder)?;
        let mut next = tempfile::NamedTempFile::new_in(folder)?;
        next.write_all(&serde_json::to_vec(self)?)?;
        next.persist(file).map(drop).map_err(|e| e.error)
    }
}

/// The key of a list.
#[must_use]
pub fn key(kind: &str, app: Option<&str>, env: &str) -> String {
    // What does not depend on the app or the env is kept once.
    match kind {
        "app" | "region" => kind.to_owned(),
        "env" => format!("env {}", app.unwrap_or_default()),
        "host" => format!("host {env}"),
        _ => format!("{kind} {} {env}", app.unwrap_or_default()),
    }
}

/// The file of the coordinator at `server`.
#[must_use]
pub fn file(server: &str) -> Option<PathBuf> {
    let id = &to_hex(&Digest::of(server.trim_end_matches('/').as_bytes()).0)[..16];
    let folder = folder("XDG_CACHE_HOME", ".cache")?;
    Some(folder.join("deployctl").join(format!("names-{id}.json")))
}

/// Whether nobody began to renew `file` within the last seconds; marks that we do.
#[must_use]
pub fn may_renew(file: &Path) -> bool {
    const AT_MOST_EVERY: Duration = Duration::from_secs(5);
    let mark = file.with_extension("renewing");
    let touched = std::fs::metadata(&mark).and_then(|meta| meta.modified()).ok();
    let recent = touched.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < AT_MOST_EVERY);
    let marked = || {
        let folder = mark.parent().map(std::fs::create_dir_all);
        folder.is_some_and(|made| made.is_ok()) && std::fs::write(&mark, b"").is_ok()
    };
    !recent && marked()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(at: i64) -> List {
        List { at: UnixMillis(at), whole: true, names: vec![("r1".into(), "First".into())] }
    }

    #[test]
    fn lists_come_back_until_they_are_old_and_the_oldest_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache/names.json");
        let mut names = Names::default();
        for n in 0..70 {
            names.put(format!("release {n} prod"), list(n));
        }
        names.write(&file).unwrap();
        let again = Names::read(&file);
        assert_eq!(again, names);
        assert_eq!(again.find("release 0 prod", UnixMillis(0)), None);
        assert!(again.find("release 69 prod", UnixMillis(100)).is_some());
        let later = UnixMillis(69) + OLD;
        assert_eq!(again.find("release 69 prod", later), None);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Names::read(&file), Names::default());
    }

    #[test]
    fn only_one_of_many_tabs_renews() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        assert!(may_renew(&file));
        assert!(!may_renew(&file));
    }
}
