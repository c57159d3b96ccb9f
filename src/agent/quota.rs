//! The agent's own use of the disk, kept under a quota.
//!
//! Counts releases, packs and what is being fetched. Before a fetch that would pass the
//! high watermark, what no goal and no rollback needs goes, oldest first; a fetch that
//! still does not fit is refused. What is needed is told by what is on disk alone, so
//! that a goal which came a moment ago counts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::agent::paths::Paths;
use crate::agent::state::AppFolder;
use crate::model::digest::ArtifactId;
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::rules::activation::Fallback;
use crate::rules::retention::{self, Idle, Needs};

/// A fetch that is about to begin.
pub(super) struct Incoming {
    /// What is fetched.
    pub(super) artifact: ArtifactId,
    /// Bytes that it takes on disk in all.
    pub(super) bytes: u64,
    /// What is being fetched or served now, and so stays.
    pub(super) busy: BTreeSet<ArtifactId>,
}

/// Makes room for `incoming` under a quota of `quota` bytes on the agent's `root`. Blocks.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] when it does not fit; nothing was removed for nothing.
pub(super) fn make_room(root: &Path, quota: u64, incoming: &Incoming) -> io::Result<()> {
    let paths = Paths::new(root);
    let begun = taken(&paths.staging().join(incoming.artifact.to_string()))
        + taken(&paths.packs().join(incoming.artifact.to_string()));
    let apps = paths.apps();
    let releases: u64 = apps.iter().map(|app| taken(&paths.releases(app))).sum();
    let now = releases + taken(&paths.packs()) + taken(&paths.staging());
    let then = now + incoming.bytes.saturating_sub(begun);
    let idle = idle(root, &paths, &apps, &incoming.busy);
    let spare: u64 = idle.iter().map(|(idle, _)| idle.bytes).sum();
    if then - spare.min(then) > quota {
        let why = format!(
            "no room in the disk quota: {} MiB needed, {} of {} MiB taken",
            incoming.bytes.saturating_sub(begun).div_ceil(1 << 20),
            now >> 20,
            quota >> 20
        );
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    let listed: Vec<Idle> = idle.iter().map(|(idle, _)| *idle).collect();
    for gone in retention::evictable(quota, then, &listed) {
        let owner = idle.iter().find(|(idle, _)| idle.artifact == gone);
        tracing::info!(artifact = %gone.short(), "removed, as the disk quota is nearly taken");
        remove(root, &paths, gone, owner.and_then(|(_, app)| app.as_ref()))?;
    }
    Ok(())
}

/// What nothing needs: releases, with their app, and fetches that were given up.
fn idle(
    root: &Path,
    paths: &Paths,
    apps: &[AppName],
    busy: &BTreeSet<ArtifactId>,
) -> Vec<(Idle, Option<AppName>)> {
    let (mut found, mut wanted) = (vec![], busy.clone());
    for app in apps {
        let Ok((unneeded, named)) = unneeded(root, app) else {
            // What can't be read can't be judged.
            return vec![];
        };
        wanted.extend(named);
        for (artifact, since) in unneeded {
            let bytes = taken(&paths.releases(app).join(artifact.to_string()))
                + taken(&paths.packs().join(artifact.to_string()));
            found.push((Idle { artifact, bytes, since }, Some(app.clone())));
        }
    }
    for entry in fs::read_dir(paths.staging()).into_iter().flatten().flatten() {
        let artifact = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(artifact) = artifact else { continue };
        let pack = paths.packs().join(entry.file_name());
        let bytes = taken(&entry.path()) + taken(&pack);
        found.push((Idle { artifact, bytes, since: written(&pack.join("journal")) }, None));
    }
    found.retain(|(idle, _)| !wanted.contains(&idle.artifact));
    found
}

type Unneeded = Vec<(ArtifactId, UnixMillis)>;

/// An app's releases that nothing needs, and what its goal names.
fn unneeded(root: &Path, app: &AppName) -> io::Result<(Unneeded, Vec<ArtifactId>)> {
    let folder = AppFolder::open(root, app)?;
    let (state, goal) = (folder.state()?, folder.goal()?.map(|(goal, _)| goal));
    let journal = crate::agent::journal::read(&folder)?;
    let known = folder.all_known();
    let held: Vec<ArtifactId> = known.iter().map(|known| known.artifact).collect();
    let needs = Needs {
        running: folder.running(&state, journal.as_ref()),
        good: &state.good,
        goal: goal.as_ref(),
        hold: folder.hold().map(|hold| hold.target),
        failed: state.failed.as_ref().map(crate::rules::reconcile::Failed::bits),
    };
    let mut gone = retention::prunable(&held, &needs);
    // An activation under way needs both its ends, also when the goal has moved on.
    let ends = journal.iter().flat_map(|journal| match journal.fallback {
        Fallback::Back(back) => vec![journal.to, back],
        Fallback::Remove | Fallback::Keep => vec![journal.to],
    });
    let ends: Vec<ArtifactId> = ends.map(|target| target.artifact).collect();
    gone.retain(|artifact| !ends.contains(artifact));
    let since = |artifact: &ArtifactId| known.iter().find(|known| known.artifact == *artifact);
    let dated = gone.iter().filter_map(since).map(|known| (known.artifact, known.since)).collect();
    let named = goal.into_iter().flat_map(|goal| goal.artifacts().collect::<Vec<_>>());
    Ok((dated, named.collect()))
}

fn remove(
    root: &Path,
    paths: &Paths,
    artifact: ArtifactId,
    app: Option<&AppName>,
) -> io::Result<()> {
    if let Some(app) = app {
        AppFolder::open(root, app)?.forget(artifact)?;
    }
    for folder in [paths.staging(), paths.packs()] {
        match fs::remove_dir_all(folder.join(artifact.to_string())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Bytes that a folder takes on the disk.
fn taken(folder: &Path) -> u64 {
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => bytes += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

fn written(path: &Path) -> UnixMillis {
    let at = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    UnixMillis(since.map_or(0, |since| since.as_millis() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::state::{AppState, Known};
    use crate::model::digest::Digest;
    use crate::model::fleet::Sources;
    use crate::model::goal::Target;
    use crate::model::id::ReleaseNo;

    const MIB: usize = 1 << 20;

    fn id(n: u8) -> ArtifactId {
        Digest::of(&[n])
    }

    /// An app whose release 1 runs, 2 is wanted by nobody, 3 is an abandoned fetch.
    fn host() -> (tempfile::TempDir, AppFolder) {
        let root = tempfile::tempdir().unwrap();
        let folder = AppFolder::open(root.path(), &"api".parse().unwrap()).unwrap();
        for n in [1, 2] {
            fs::create_dir_all(folder.release(id(n))).unwrap();
            fs::write(folder.release(id(n)).join("a"), vec![n; 4 * MIB]).unwrap();
            let since = UnixMillis(i64::from(n));
            let sources = Sources::default();
            folder
                .save_known(&Known { artifact: id(n), run: None, pieces: 1, sources, since })
                .unwrap();
        }
        let running = Target { release: ReleaseNo(1), artifact: id(1), config: None };
        let state = AppState { running: Some(running), good: vec![running], failed: None };
        folder.save_state(&state).unwrap();
        folder.switch(Some(id(1).into())).unwrap();
        let staged = root.path().join("staging").join(id(3).to_string());
        fs::create_dir_all(&staged).unwrap();
        fs::write(staged.join("a"), vec![3; 4 * MIB]).unwrap();
        (root, folder)
    }

    fn ask(root: &Path, quota: usize, mib: usize, busy: &[u8]) -> io::Result<()> {
        let busy = busy.iter().map(|n| id(*n)).collect();
        let bytes = (mib * MIB) as u64;
        make_room(root, (quota * MIB) as u64, &Incoming { artifact: id(9), bytes, busy })
    }

    #[test]
    fn only_what_nobody_needs_goes_and_only_when_it_helps() {
        let (root, folder) = host();
        let staged = root.path().join("staging").join(id(3).to_string());
        ask(root.path(), 40, 4, &[]).unwrap();
        let refused = ask(root.path(), 40, 37, &[]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert!(refused.to_string().starts_with("no room in the disk quota: 37 MiB needed, "));
        assert!(folder.known(id(2)).is_some() && staged.exists(), "nothing went for nothing");
        // 30 of 35 MiB: the oldest goes, then the next.
        ask(root.path(), 35, 18, &[3]).unwrap();
        assert!(folder.known(id(2)).is_none() && folder.known(id(1)).is_some());
        assert!(staged.exists(), "what is being fetched stays");
        ask(root.path(), 35, 22, &[]).unwrap();
        assert!(!staged.exists() && folder.known(id(1)).is_some());
    }
}
