//! `deployctl.toml`: the recipe of a repository, and what its commands are about.
//!
//! One file, two readers: the worker takes `[build]` and `[run]` at the commit, the
//! command line takes `app`, `env` and `server` from the working copy. Unknown keys
//! are refused with the nearest known one. Never holds a token.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::instead::nearest;
use crate::model::id::{AppName, EnvName, InvalidId};
use crate::model::recipe::{BuildSpec, Recipe, Requirement, RunSpec};

/// The file's name at the root of a repository.
pub const PROJECT_FILE: &str = "deployctl.toml";
/// Largest configuration file that is read, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Folders that the search goes up at most.
const DEPTH_MAX: usize = 64;

/// A configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("{path} can't be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is over `FILE_BYTES_MAX`.
    #[error("{path} is over {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Its text is not what is read there.
    #[error("{path} is not valid")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why, with the nearest known key.
        why: String,
        /// The same in one line.
        brief: String,
    },
}

impl ConfigError {
    /// What lies beneath, for a person.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. } => Some(source.to_string()),
            Self::TooLarge { .. } => None,
            Self::Invalid { why, .. } => Some(why.clone()),
        }
    }

    /// The file that can't be used.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path }
            | Self::Invalid { path, .. } => path,
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Unreadable { source, .. } => format!("{self}: {source}"),
            Self::TooLarge { .. } => self.to_string(),
            Self::Invalid { brief, .. } => format!("{self}: {brief}"),
        }
    }

    /// With one more line about what may be meant.
    fn adding(self, line: &str) -> Self {
        match self {
            Self::Invalid { path, why, brief } => {
                Self::Invalid { path, why: format!("{why}\n{line}"), brief }
            }
            other => other,
        }
    }
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectFile {
    /// The app that commands are about.
    pub app: Option<AppName>,
    /// The env that commands are about; `prod` when it is silent.
    pub env: Option<EnvName>,
    /// The coordinator. A token is sent there only if the user tied one to it.
    pub server: Option<String>,
    /// How to build.
    pub build: Option<BuildSpec>,
    /// How to run.
    pub run: Option<RunSpec>,
    /// What it needs of other apps.
    #[serde(default)]
    pub requires: Vec<Requirement>,
}

/// The part that says what commands are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// [`ProjectFile::app`].
    pub app: Option<AppName>,
    /// [`ProjectFile::env`].
    pub env: Option<EnvName>,
    /// [`ProjectFile::server`].
    pub server: Option<String>,
}

impl ProjectFile {
    /// Reads a file's text, whose name is only for the error.
    ///
    /// # Errors
    /// When it is not TOML, a key is unknown, or a value is out of bounds.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: Self = parse_toml(text, path).map_err(|error| {
            match error.cause().and_then(|why| meant(&why)) {
                Some(line) => error.adding(line),
                None => error,
            }
        })?;
        let invalid = |e: InvalidId| {
            let why = e.to_string();
            ConfigError::Invalid { path: path.into(), brief: why.clone(), why }
        };
        file.recipe().check().map_err(invalid)?;
        Ok(file)
    }

    /// The part that says what commands are about.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { app: self.app.clone(), env: self.env.clone(), server: self.server.clone() }
    }

    /// The part that says how to build and run.
    #[must_use]
    pub fn recipe(&self) -> Recipe {
        Recipe { build: self.build.clone(), run: self.run.clone(), requires: self.requires.clone() }
    }
}

/// What to write in place of a mistake that TOML's own words leave open.
fn meant(why: &str) -> Option<&'static str> {
    const REQUIRES: &str = "what is needed of another app is written:\n  [[requires]]\n  \
        app = \"NAME\"\n  min = \"COMMIT\"   all 40 digits, of that app's repository: git rev-parse REV";
    let has = |text: &str| why.contains(text);
    if has("unknown field `requires`") || has("[requires]") && has("expected a sequence") {
        return Some(REQUIRES);
    }
    if has("[[requires]]") && has("missing field") || has("valid commit id") || has("| min =") {
        return Some(REQUIRES);
    }
    if has("unknown field `app`") || has("unknown field `server`") {
        return Some("app, env and server stand at the top, above the first [table]");
    }
    (has("| probe") && has("exactly 1 element")).then_some("a probe is one of http, tcp and exec")
}

/// What the head of a file says of which not all can be used: the lines above its first
/// table. `None` when they can't be read either, or hold a key that is not known: it may be
/// `env`, misspelt.
#[must_use]
pub fn head_of(path: &Path) -> Option<Head> {
    let text = read_bounded(path).ok()??;
    let head = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let head: ProjectFile = toml::from_str(&head.collect::<Vec<_>>().join("\n")).ok()?;
    Some(head.head())
}

/// Whether a file that can't be read may name a coordinator: a line of it begins so.
#[must_use]
pub fn may_name_server(path: &Path) -> bool {
    let text = read_bounded(path).ok().flatten();
    text.is_none_or(|text| text.lines().any(|line| line.trim_start().starts_with("server")))
}

/// The nearest [`PROJECT_FILE`] from `dir` upwards, not above the folder that holds `.git`.
///
/// # Errors
/// When a file is there and can't be used.
pub fn find(dir: &Path) -> Result<Option<(PathBuf, ProjectFile)>, ConfigError> {
    for folder in dir.ancestors().take(DEPTH_MAX) {
        let path = folder.join(PROJECT_FILE);
        if let Some(text) = read_bounded(&path)? {
            return Ok(Some((path.clone(), ProjectFile::parse(&text, &path)?)));
        }
        if folder.join(".git").exists() {
            break;
        }
    }
    Ok(None)
}

/// A file's text; `None` when there is none.
///
/// # Errors
/// When it is there and can't be read, or is over its limit.
pub fn read_bounded(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(None),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return Err(ConfigError::TooLarge { path: path.into() });
        }
        Ok(_) => {}
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(unreadable(e)),
    }
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read.map_err(unreadable)? {
        bytes if bytes as u64 > FILE_BYTES_MAX => Err(ConfigError::TooLarge { path: path.into() }),
        _ => Ok(Some(text)),
    }
}

/// Reads TOML; an unknown key is answered with the nearest known one.
///
/// # Errors
/// [`ConfigError::Invalid`].
pub fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let mut why = e.to_string().trim_end().to_owned();
        let mut quoted = e.message().split('`').skip(1).step_by(2);
        if let Some(unknown) = quoted.next().filter(|_| e.message().starts_with("unknown field")) {
            let near = nearest(unknown, quoted);
            why.extend(near.map(|key| format!("\ndid you mean {key:?}?")));
        }
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| format!("line {}: ", before.split('\n').count()));
        let brief = line.unwrap_or_default() + &e.message().replace('\n', ", ");
        ConfigError::Invalid { path: path.into(), why, brief }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read_and_silence_means_defaults() {
        let text = "app = \"hello\"\nenv = \"staging\"\n[build]\ncommand = \"make\"\nartifact = \"out\"\n[run]\nstart = \"./out\"\n";
        let file = ProjectFile::parse(text, Path::new("deployctl.toml")).unwrap();
        assert_eq!(file.app.unwrap().as_str(), "hello");
        assert_eq!(file.run.unwrap().deadline_s, crate::model::recipe::PROBE_DEADLINE_S);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        for (text, near) in [("aap = \"x\"", "app"), ("[build]\ncomand = \"x\"", "command")] {
            let error = ProjectFile::parse(text, Path::new("deployctl.toml")).unwrap_err();
            let cause = error.cause().unwrap();
            assert!(cause.contains(&format!("did you mean \"{near}\"")), "{cause}");
        }
    }

    #[test]
    fn the_search_stops_at_the_root_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROJECT_FILE), "app = \"outer\"").unwrap();
        let inner = dir.path().join("repo/src");
        std::fs::create_dir_all(&inner).unwrap();
        assert!(find(&inner).unwrap().is_some());
        std::fs::create_dir(dir.path().join("repo/.git")).unwrap();
        assert!(find(&inner).unwrap().is_none());
    }
}
