//! Where things lie under the agent's root, and the manifests kept there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::{make_folder, write_durable};
use crate::model::digest::{ArtifactId, Digest};
use crate::model::id::AppName;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};

/// Where things lie under the agent's root.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Every app with a folder here.
    pub(super) fn apps(&self) -> Vec<AppName> {
        let folders = fs::read_dir(self.root.join("apps")).into_iter().flatten().flatten();
        folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn releases(&self, app: &AppName) -> PathBuf {
        self.root.join("apps").join(app.as_str()).join("releases")
    }

    /// Whether a release of the app is here.
    pub(super) fn has_releases(&self, app: &AppName) -> bool {
        fs::read_dir(self.releases(app)).is_ok_and(|mut found| found.next().is_some())
    }

    pub(super) fn manifests(&self, app: &AppName) -> PathBuf {
        self.root.join("apps").join(app.as_str()).join("manifests")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// The manifest kept for a release, checked against its name; `None` when
    /// there is none, or it is damaged.
    pub(super) fn manifest(&self, app: &AppName, artifact: ArtifactId) -> Option<Manifest> {
        let path = self.manifests(app).join(artifact.to_string());
        let size = fs::metadata(&path).ok()?.len();
        let bytes = (size <= MANIFEST_BYTES_MAX as u64).then(|| fs::read(&path).ok())??;
        (Digest::of(&bytes) == artifact).then(|| Manifest::decode(&bytes).ok())?
    }

    /// Keeps a manifest and its signature, durably.
    pub(super) fn keep_manifest(
        &self,
        app: &AppName,
        artifact: ArtifactId,
        bytes: &[u8],
        signature: &str,
    ) -> io::Result<()> {
        let folder = self.manifests(app);
        make_folder(&folder, 0o755)?;
        let path = folder.join(artifact.to_string());
        write_durable(&path.with_extension("sig"), signature.as_bytes(), 0o644)?;
        write_durable(&path, bytes, 0o644)
    }

    /// Removes manifests that no release and no fetch needs.
    pub(super) fn sweep_manifests(&self) {
        for app in self.apps() {
            for entry in fs::read_dir(self.manifests(&app)).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.file_stem().unwrap_or_default();
                if !self.releases(&app).join(name).is_dir() && !self.staging().join(name).is_dir() {
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }

    /// The signature kept beside a manifest.
    pub(super) fn signature(&self, app: &AppName, artifact: ArtifactId) -> Option<String> {
        let path = self.manifests(app).join(artifact.to_string()).with_extension("sig");
        fs::read_to_string(path).ok().filter(|text| text.len() < 1024)
    }
}
