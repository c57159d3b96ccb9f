//! After the release is complete: the pack stays for peers a while, then goes.
//!
//! Also over a restart: what an earlier process kept is verified again and served
//! for the rest of its time; what is too old, or belongs to nothing, is swept.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::agent::assemble::Files;
use crate::agent::membership::{Membership, Saying};
use crate::agent::pack::Pack;
use crate::agent::paths::Paths;
use crate::agent::serve::Shelf;
use crate::model::digest::ArtifactId;
use crate::model::id::AppName;

/// Unfinished downloads that nobody took up again for this long are swept.
const UNFINISHED_KEEP: Duration = Duration::from_secs(24 * 3600);
/// Wait after the tracker failed.
const RETRY: Duration = Duration::from_secs(2);

/// Serves a complete pack for `time`, then leaves the swarm and removes it. Ends
/// at once when another fetch has put its own pack on the shelf, and without
/// removing anything when the agent stops.
pub(super) async fn serve_on(
    shelf: Shelf,
    pack: Arc<Pack>,
    membership: Arc<Membership>,
    (time, mut stop): (Duration, watch::Receiver<bool>),
) {
    let end = Instant::now() + time;
    let ours = || shelf.get(pack.artifact).is_some_and(|there| Arc::ptr_eq(&there, &pack));
    while Instant::now() < end && ours() {
        let served = pack.have.borrow().served.clone();
        let wait = match membership.call(Saying { have: served, ..Saying::default() }).await {
            Ok(word) => {
                if let Some(ticket) = word.ticket {
                    pack.set_ticket(&ticket);
                }
                Duration::from_millis(word.reply.beat_ms.max(50))
            }
            Err(_) => RETRY,
        };
        let left = end.saturating_duration_since(Instant::now());
        if tokio::time::timeout(wait.min(left), stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
    }
    if ours() {
        membership.leave().await;
        shelf.remove(&pack);
        let _ = tokio::task::spawn_blocking(move || pack.remove()).await;
    }
}

/// Removes what nobody needs; the packs of complete releases that still have
/// time, to be verified, each with the time left. Before any fetch begins: what a
/// fetch has just made looks like a leftover.
pub(super) fn sweep(paths: &Paths, keep: Duration) -> Vec<(Arc<Pack>, Duration)> {
    let mut kept = vec![];
    for (path, artifact) in artifacts(&paths.packs()) {
        let age = age(&path.join("journal"));
        let owner = owner(paths, artifact);
        let staging = paths.staging().join(artifact.to_string());
        match owner {
            Some(app) if age < keep => {
                let pack = paths.manifest(&app, artifact).and_then(|manifest| {
                    let release = paths.releases(&app).join(artifact.to_string());
                    let files = Files::open(&release, &manifest).ok()?;
                    Pack::open(path.clone(), artifact, Arc::new(manifest), files).ok()
                });
                if let Some(pack) = pack {
                    kept.push((Arc::new(pack), keep - age));
                }
            }
            None if staging.is_dir() && age < UNFINISHED_KEEP => {}
            _ => remove(&path),
        }
    }
    for (path, artifact) in artifacts(&paths.staging()) {
        if !paths.packs().join(artifact.to_string()).is_dir() {
            remove(&path);
        }
    }
    paths.sweep_manifests();
    kept
}

/// The app whose release the artifact is, if it is complete here.
fn owner(paths: &Paths, artifact: ArtifactId) -> Option<AppName> {
    paths.apps().into_iter().find(|app| paths.releases(app).join(artifact.to_string()).is_dir())
}

/// The folders in `folder` that are named for an artifact.
fn artifacts(folder: &Path) -> Vec<(std::path::PathBuf, ArtifactId)> {
    let named = |entry: fs::DirEntry| {
        let artifact = entry.file_name().to_str()?.parse().ok()?;
        Some((entry.path(), artifact))
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(named).collect()
}

/// Time since `path` was written; long when it is not there.
fn age(path: &Path) -> Duration {
    let written = fs::metadata(path).and_then(|meta| meta.modified());
    let elapsed = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    elapsed.unwrap_or(Duration::MAX)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, path = %path.display(), "leftover not removed");
    }
}
