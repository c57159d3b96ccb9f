//! What a user or a coordinator on the same machine says to the command line.
//!
//! Owns the shapes of `config.toml` (the user's), `contexts.toml` (written by
//! `deployctl context` and `auth login`) and `client.json` (written by a coordinator
//! at its first start), and where they lie. Never reads the environment: folders are
//! arguments.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::project::{ConfigError, parse_toml, read_bounded};

/// `$XDG_CONFIG_HOME/deployctl/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// The coordinator.
    pub server: Option<String>,
    /// A file that holds one token for it.
    pub token_file: Option<PathBuf>,
    /// The only certificate authority to trust, PEM.
    pub ca: Option<PathBuf>,
}

/// One installation that the user works with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextEntry {
    /// The coordinator.
    pub server: String,
    /// A file that holds the token for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The only certificate authority to trust, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `$XDG_CONFIG_HOME/deployctl/contexts.toml`: installations by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them, at most 100.
    #[serde(default)]
    pub contexts: BTreeMap<String, ContextEntry>,
}

impl Contexts {
    /// The contexts in `folder`; none when there is no file.
    ///
    /// # Errors
    /// When the file is there and can't be used.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let path = Self::file(folder);
        let text = read_bounded(&path)?;
        Ok(text.map(|text| parse_toml(&text, &path)).transpose()?.unwrap_or_default())
    }

    /// Writes the file as a whole; only its owner can read it.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let path = Self::file(folder);
        let parent = folder.join("deployctl");
        std::fs::create_dir_all(&parent)?;
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let mut next = tempfile::NamedTempFile::new_in(parent)?;
        let head = "# Written by `deployctl context` and `deployctl auth login`.\n";
        next.write_all((head.to_owned() + &text).as_bytes())?;
        next.persist(path).map(drop).map_err(|e| e.error)
    }

    /// Where the file lies.
    #[must_use]
    pub fn file(folder: &Path) -> PathBuf {
        folder.join("deployctl").join("contexts.toml")
    }
}

/// `<data>/client.json`: how to reach the coordinator that owns the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCoordinator {
    /// Its URL.
    pub server: String,
    /// A file that holds the administrator's token.
    pub token_file: PathBuf,
}

/// The user's configuration in `folder`; `None` when there is none.
///
/// # Errors
/// When the file is there and can't be used.
pub fn read_user(folder: &Path) -> Result<Option<UserConfig>, ConfigError> {
    let path = folder.join("deployctl").join("config.toml");
    read_bounded(&path)?.map(|text| parse_toml(&text, &path)).transpose()
}

/// The coordinator whose data lies in `folder`; `None` when there is none.
///
/// # Errors
/// When the file is there and can't be used.
pub fn read_local(folder: &Path) -> Result<Option<LocalCoordinator>, ConfigError> {
    let path = folder.join("deployctl").join("client.json");
    let Some(text) = read_bounded(&path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        let why = e.to_string();
        ConfigError::Invalid { path, brief: why.clone(), why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Contexts::read(dir.path()).unwrap(), Contexts::default());
        let entry = ContextEntry { server: "http://x".into(), token_file: None, ca: None };
        let contexts = [("work".to_owned(), entry)].into();
        let all = Contexts { current: Some("work".into()), contexts };
        all.write(dir.path()).unwrap();
        assert_eq!(Contexts::read(dir.path()).unwrap(), all);
        std::fs::write(Contexts::file(dir.path()), "curent = \"x\"").unwrap();
        assert!(Contexts::read(dir.path()).is_err());
    }

    #[test]
    fn absent_files_are_no_error_and_broken_ones_are() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_user(dir.path()).unwrap(), None);
        assert_eq!(read_local(dir.path()).unwrap(), None);
        let folder = dir.path().join("deployctl");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.toml"), "server = \"http://x\"").unwrap();
        assert_eq!(read_user(dir.path()).unwrap().unwrap().server.as_deref(), Some("http://x"));
        std::fs::write(folder.join("client.json"), "{").unwrap();
        assert!(read_local(dir.path()).is_err());
    }
}
