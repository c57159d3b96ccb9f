//! The project file as commands go by it. One that can't be used stops only commands that
//! are about the file: a way back must not wait for a comma.
//!
//! Its head (app, env, server, above the first table) is often sound where the rest is
//! not; what it says then still counts. Warns once.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output::Output;
use crate::config::project::{self, ConfigError, Head, ProjectFile};

/// The nearest project file, whatever its state.
pub struct Project {
    found: Result<Option<(PathBuf, ProjectFile)>, Broken>,
    warned: Cell<bool>,
}

struct Broken {
    error: ConfigError,
    head: Option<Head>,
}

impl Project {
    /// The nearest from `dir` upwards.
    #[must_use]
    pub fn find(dir: &Path) -> Self {
        let found = project::find(dir);
        let found = found.map_err(|error| Broken { head: project::head_of(error.path()), error });
        Self { found, warned: Cell::new(false) }
    }

    /// All of it, for a command that is about the file.
    ///
    /// # Errors
    /// Exit code 2 when it is there and can't be used.
    pub fn whole(&self) -> Result<Option<&(PathBuf, ProjectFile)>, Failure> {
        self.found.as_ref().map(Option::as_ref).map_err(|broken| (&broken.error).into())
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.found {
            Ok(found) => found.as_ref().map(|(path, _)| path.as_path()),
            Err(broken) => Some(broken.error.path()),
        }
    }

    /// Why it can't be used, in one line.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.found.as_ref().err().map(|broken| broken.error.brief())
    }

    /// What commands are about, as far as it says so; warns when it is only the half.
    ///
    /// # Errors
    /// As [`Project::whole`], when not even that can be read.
    pub fn head(&self, out: &Output) -> Result<Head, Failure> {
        match &self.found {
            Ok(found) => Ok(found.as_ref().map(|(_, file)| file.head()).unwrap_or_default()),
            Err(broken) => {
                self.warn(out, broken);
                broken.head.clone().ok_or_else(|| (&broken.error).into())
            }
        }
    }

    /// As [`Project::head`]; nothing where that can't be read.
    #[must_use]
    pub fn head_if_any(&self, out: &Output) -> Head {
        self.head(out).unwrap_or_default()
    }

    /// Refuses to go on with whatever coordinator is found elsewhere, when the file may name one
    /// and can't be read: it may be another installation.
    ///
    /// # Errors
    /// As [`Project::head`].
    pub fn check_server(&self, out: &Output) -> Result<(), Failure> {
        match &self.found {
            Err(broken) if project::may_name_server(broken.error.path()) => {
                self.head(out).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn warn(&self, out: &Output, broken: &Broken) {
        if self.warned.replace(true) {
            return;
        }
        let used = match broken.head {
            Some(_) => "only its app, env and server count",
            None => "going on without it",
        };
        out.warning(&format!("{}; {used}", broken.error.brief()));
    }
}
