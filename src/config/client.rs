//! What a user or a coordinator on the same machine says to the command line.
//!
//! Owns the shapes of `config.toml` (the user's) and `client.json` (written by a
//! coordinator at its first start) and where they lie. Never reads the environment:
//! folders are arguments.

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
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| ConfigError::Invalid { path, why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

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
