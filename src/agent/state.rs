//! What the agent remembers of one app, on disk, in the app's folder.
//!
//! | file | holds | written |
//! |---|---|---|
//! | `goal.json` | the newest goal accepted, as it was signed | before it is acted on |
//! | `state.json` | what runs, what worked, what failed | after each activation |
//! | `journal` | the activation under way | before each of its stages |
//! | `hold.json` | a rollback on the host itself | by `deployctl-agent rollback` |
//! | `known/<artifact>.json` | how a complete release is run | when it is complete |
//! | `releases/<artifact>/` | the release's files | by the fetcher, whole |
//! | `manifests/<artifact>` | its manifest, and the signature | by the fetcher |
//! | `configs/<config>` | a configuration, verified | when it was fetched, whole |
//! | `configured/<artifact>+<config>` | link to a release: it with that configuration | before `current` leads to it |
//! | `current` | link to the live one | by an activation, in one step |
//!
//! All durable when a function returns. A release counts as held only when both its
//! folder and its `known` file are there.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::fs;
use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId, Digest};
use crate::model::fleet::Sources;
use crate::model::goal::{Goal, Target};
use crate::model::id::{AppName, RegionName};
use crate::model::recipe::{RunKind, RunSpec};
use crate::model::time::UnixMillis;
use crate::rules::activation::{Activation, Fallback};
use crate::rules::reconcile::{Failed, Hold};
use crate::wire::seal::Sealed;

/// What lasts of an app beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppState {
    /// What `current` points to.
    pub running: Option<Target>,
    /// Releases that worked, newest first, at most `retention::GOOD_MAX`.
    pub good: Vec<Target>,
    /// What failed last.
    pub failed: Option<Failed>,
}

/// The newest goal accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedGoal {
    /// As it was signed.
    pub sealed: Sealed,
    /// When this host accepted it.
    pub accepted_at: UnixMillis,
    /// The region it came from: what a host should run depends on it.
    pub region: RegionName,
}

/// A release that is complete on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which.
    pub artifact: ArtifactId,
    /// How it is run; `None`: only files.
    pub run: Option<RunSpec>,
    /// Its pieces.
    pub pieces: u32,
    /// Where its bytes came from.
    pub sources: Sources,
    /// When it was complete.
    pub since: UnixMillis,
}

impl Known {
    /// Whether it has a process that should always be there.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.kind == RunKind::Service && run.start.is_some())
    }
}

/// One app's folder.
#[derive(Debug, Clone)]
pub struct AppFolder {
    path: PathBuf,
}

impl AppFolder {
    /// The folder of `app` under the agent's `root`, made when it is missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(root: &Path, app: &AppName) -> io::Result<Self> {
        let path = root.join("apps").join(app.as_str());
        for part in ["releases", "known", "configs", "configured", "log"] {
            fs::make_folder(&path.join(part), 0o755)?;
        }
        Ok(Self { path })
    }

    /// The names of the apps that have a folder under `root`.
    #[must_use]
    pub fn all(root: &Path) -> Vec<AppName> {
        let names = std::fs::read_dir(root.join("apps")).into_iter().flatten().flatten();
        let mut names: Vec<AppName> =
            names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        names
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a release.
    #[must_use]
    pub fn release(&self, artifact: ArtifactId) -> PathBuf {
        self.path.join("releases").join(artifact.to_string())
    }

    /// Where a configuration is, when it is here.
    #[must_use]
    pub fn config(&self, config: ConfigId) -> PathBuf {
        self.path.join("configs").join(config.to_string())
    }

    /// Keeps a configuration.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save_config(&self, config: ConfigId, bytes: &[u8]) -> io::Result<()> {
        fs::write_durable(&self.config(config), bytes, 0o644)
    }

    /// The configurations that are here.
    #[must_use]
    pub fn configs(&self) -> Vec<ConfigId> {
        let names = std::fs::read_dir(self.path.join("configs")).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Whether a configuration is what its name says.
    #[must_use]
    pub fn is_config_sound(&self, config: ConfigId) -> bool {
        let bytes = fs::read_small(&self.config(config)).ok().flatten();
        bytes.is_some_and(|bytes| Digest::of(&bytes) == config)
    }

    /// Forgets a configuration.
    ///
    /// # Errors
    /// When the folder is not writable.
    pub fn forget_config(&self, config: ConfigId) -> io::Result<()> {
        self.forget_links(|bits| bits.config == Some(config));
        fs::remove_durable(&self.config(config))
    }

    fn forget_links(&self, gone: impl Fn(&Bits) -> bool) {
        let (links, current) = (self.path.join("configured"), self.current());
        for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
            let bits = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if bits.is_some_and(|bits: Bits| gone(&bits) && Some(bits) != current) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// The folder of the app's output.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The goal on disk. It was checked when it was accepted, and is not checked again:
    /// what runs must not depend on keys that were exchanged since.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn goal(&self) -> io::Result<Option<(Goal, SavedGoal)>> {
        let Some(saved) = fs::read_json::<SavedGoal>(&self.path.join("goal.json"))? else {
            return Ok(None);
        };
        let goal = serde_json::from_str(&saved.sealed.payload).map_err(io::Error::from)?;
        Ok(Some((goal, saved)))
    }

    /// Replaces the goal on disk.
    ///
    /// # Errors
    /// When it can't be written; nothing may then be done by it.
    pub fn save_goal(&self, goal: &SavedGoal) -> io::Result<()> {
        fs::write_json(&self.path.join("goal.json"), goal)
    }

    /// What is remembered.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn state(&self) -> io::Result<AppState> {
        Ok(fs::read_json(&self.path.join("state.json"))?.unwrap_or_default())
    }

    /// Remembers.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save_state(&self, state: &AppState) -> io::Result<()> {
        fs::write_json(&self.path.join("state.json"), state)
    }

    /// The local hold.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        fs::read_json(&self.path.join("hold.json")).ok().flatten()
    }

    /// Sets the local hold, or takes it away.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save_hold(&self, hold: Option<&Hold>) -> io::Result<()> {
        let path = self.path.join("hold.json");
        match hold {
            Some(hold) => fs::write_json(&path, hold),
            None => fs::remove_durable(&path),
        }
    }

    /// How a release on disk is run; `None` when it is not complete there.
    #[must_use]
    pub fn known(&self, artifact: ArtifactId) -> Option<Known> {
        let path = self.path.join("known").join(format!("{artifact}.json"));
        fs::read_json(&path).ok().flatten().filter(|_| self.release(artifact).is_dir())
    }

    /// Notes that a release is complete.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save_known(&self, known: &Known) -> io::Result<()> {
        fs::write_json(&self.path.join("known").join(format!("{}.json", known.artifact)), known)
    }

    /// Every complete release, newest first.
    #[must_use]
    pub fn all_known(&self) -> Vec<Known> {
        let names = std::fs::read_dir(self.path.join("known")).into_iter().flatten().flatten();
        let artifacts = names.filter_map(|entry| {
            entry.file_name().to_str()?.strip_suffix(".json")?.parse::<ArtifactId>().ok()
        });
        let mut known: Vec<Known> = artifacts.filter_map(|artifact| self.known(artifact)).collect();
        known.sort_by_key(|known| (std::cmp::Reverse(known.since), known.artifact));
        known
    }

    /// Forgets a release. It is out of the way, whole, before its files go, so that a
    /// crash leaves no half of it where one would look for it.
    ///
    /// # Errors
    /// When the folder is not writable.
    pub fn forget(&self, artifact: ArtifactId) -> io::Result<()> {
        fs::remove_durable(&self.path.join("known").join(format!("{artifact}.json")))?;
        self.forget_links(|bits| bits.artifact == artifact);
        let folder = self.release(artifact);
        if folder.is_dir() {
            let trash = self.path.join("releases").join(format!(".gone-{artifact}"));
            let _ = std::fs::remove_dir_all(&trash);
            std::fs::rename(&folder, &trash)?;
            std::fs::remove_dir_all(&trash)?;
        }
        let manifest = self.path.join("manifests").join(artifact.to_string());
        for path in [manifest.with_extension("sig"), manifest] {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes what a crash left of releases that were being forgotten.
    pub fn sweep(&self) {
        let names = std::fs::read_dir(self.path.join("releases")).into_iter().flatten().flatten();
        for entry in names.filter(|entry| entry.file_name().to_string_lossy().starts_with(".gone-"))
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }

    /// What `current` points to.
    #[must_use]
    pub fn current(&self) -> Option<Bits> {
        let target = std::fs::read_link(self.path.join("current")).ok()?;
        target.file_name()?.to_str()?.parse().ok()
    }

    /// Points `current` at a release, or removes it, in one step: code and configuration
    /// change together, for the name that it leads to says both.
    ///
    /// # Errors
    /// When the release or its configuration is not there, or the folder is not writable.
    pub fn switch(&self, to: Option<Bits>) -> io::Result<()> {
        let link = self.path.join("current");
        let Some(bits) = to else { return fs::remove_durable(&link) };
        let artifact = bits.artifact;
        if !self.release(artifact).is_dir() {
            return Err(io::Error::other(format!("release {} is not on disk", artifact.short())));
        }
        let Some(config) = bits.config else {
            return fs::switch_link(&link, &Path::new("releases").join(artifact.to_string()));
        };
        if !self.config(config).is_file() {
            return Err(io::Error::other(format!("config {} is not on disk", config.short())));
        }
        let named = Path::new("configured").join(bits.to_string());
        let release = Path::new("../releases").join(artifact.to_string());
        fs::switch_link(&self.path.join(&named), &release)?;
        fs::switch_link(&link, &named)
    }

    /// What `current` points to, with the release's number: `current` is the truth, the
    /// state and the journal only lend it their numbers.
    #[must_use]
    pub fn running(&self, state: &AppState, journal: Option<&Activation>) -> Option<Target> {
        let bits = self.current()?;
        let back = journal.and_then(|journal| match journal.fallback {
            Fallback::Back(back) => Some(back),
            Fallback::Remove | Fallback::Keep => None,
        });
        let journalled = journal.map(|journal| journal.to).into_iter().chain(back);
        let mut named = journalled.chain(state.running).chain(state.good.iter().copied());
        named.find(|target| target.bits() == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ReleaseNo;

    #[test]
    fn a_release_is_held_only_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = AppFolder::open(root.path(), &"api".parse().unwrap()).unwrap();
        let artifact = Digest::of(b"1");
        let since = UnixMillis(1);
        let known = Known { artifact, run: None, pieces: 0, sources: Sources::default(), since };
        folder.save_known(&known).unwrap();
        assert!(folder.all_known().is_empty());
        assert!(folder.switch(Some(artifact.into())).is_err());
        std::fs::create_dir_all(folder.release(artifact).join("a")).unwrap();
        assert_eq!(folder.all_known(), [known]);
        folder.switch(Some(artifact.into())).unwrap();
        assert_eq!(folder.current(), Some(artifact.into()));
        folder.switch(None).unwrap();
        assert_eq!(folder.current(), None);
        folder.forget(artifact).unwrap();
        assert!(folder.all_known().is_empty() && !folder.release(artifact).exists());
        assert_eq!(AppFolder::all(root.path()), ["api".parse().unwrap()]);
    }

    #[test]
    fn one_link_says_which_code_runs_with_which_config() {
        let root = tempfile::tempdir().unwrap();
        let folder = AppFolder::open(root.path(), &"api".parse().unwrap()).unwrap();
        let (artifact, config) = (Digest::of(b"1"), Digest::of(b"level = 1"));
        std::fs::create_dir_all(folder.release(artifact)).unwrap();
        std::fs::write(folder.release(artifact).join("a"), "code").unwrap();
        let bits = Bits { artifact, config: Some(config) };
        assert!(folder.switch(Some(bits)).is_err(), "the config is not there");
        folder.save_config(config, b"level = 1").unwrap();
        assert!(folder.is_config_sound(config));
        folder.switch(Some(bits)).unwrap();
        assert_eq!((folder.current(), folder.configs()), (Some(bits), vec![config]));
        assert_eq!(std::fs::read(folder.path().join("current/a")).unwrap(), b"code");
        let named = |release, config| Target { release, artifact, config };
        let good = vec![named(ReleaseNo(1), None), named(ReleaseNo(2), Some(config))];
        let state = AppState { good, ..AppState::default() };
        assert_eq!(folder.running(&state, None), Some(state.good[1]));
        folder.switch(Some(artifact.into())).unwrap();
        assert_eq!(folder.running(&state, None), Some(state.good[0]));
        folder.save_config(config, b"level = 2").unwrap();
        assert!(!folder.is_config_sound(config));
        folder.forget_config(config).unwrap();
        assert_eq!(folder.configs(), []);
        assert_eq!(std::fs::read_dir(folder.path().join("configured")).unwrap().count(), 0);
    }
}
