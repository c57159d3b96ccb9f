//! Whether a release that was kept on disk is still what its manifest says.
//!
//! Reads all of it; changes nothing. Files that the manifest does not name are the
//! app's own business.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::agent::assemble::Layout;
use crate::agent::paths::Paths;
use crate::model::digest::{ArtifactId, PieceDigest};
use crate::model::id::AppName;
use crate::model::manifest::{Entry, Manifest, Node};

/// The first thing of a kept release that is not as it was fetched; `None`: it is whole,
/// or no manifest was kept to tell. Blocks for as long as reading it takes.
pub(super) fn damage(root: &Path, app: &AppName, artifact: ArtifactId) -> Option<String> {
    let paths = Paths::new(root);
    let Some(manifest) = paths.manifest(app, artifact) else {
        let kept = paths.manifests(app).join(artifact.to_string()).exists();
        return kept.then(|| "its manifest".to_owned());
    };
    let release = paths.releases(app).join(artifact.to_string());
    let entries = manifest.entries.iter();
    let changed = |entry: &&Entry| !is_as_made(&release.join(&entry.path), &entry.node);
    let entry = entries.filter(changed).map(|entry| entry.path.clone()).next();
    entry.or_else(|| damaged_piece(&release, &manifest).map(|piece| format!("piece {piece}")))
}

fn is_as_made(path: &Path, node: &Node) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    match node {
        Node::File { size, exec } => {
            let may_run = meta.permissions().mode() & 0o111 != 0;
            meta.is_file() && meta.len() == *size && (may_run || !exec)
        }
        Node::Link { target } => fs::read_link(path).is_ok_and(|to| to == Path::new(target)),
        Node::Dir => meta.is_dir(),
    }
}

fn damaged_piece(release: &Path, manifest: &Manifest) -> Option<usize> {
    let layout = Layout::new(manifest);
    let is_damaged = |piece: &usize| {
        let start = *piece as u64 * u64::from(manifest.piece_bytes);
        let raw = layout.read(release, start..start + manifest.raw_len(*piece));
        raw.map_or(true, |raw| PieceDigest::of(&raw) != manifest.pieces[*piece].raw)
    };
    (0..manifest.pieces.len()).find(is_damaged)
}
