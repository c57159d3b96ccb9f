//! `--plan`: one of the named plans, or a file with one of the user's own.
//!
//! What is no name is a file when it looks like one (`/` or `.` in it) or is there.
//! Everything that can be seen without a coordinator is checked before anything is sent.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap_complete::CompletionCandidate;
use clap_complete::engine::{PathCompleter, ValueCompleter};

use super::failure::Failure;
use crate::config::instead::nearest;
use crate::config::plan::{self, Written};
use crate::model::rollout::PlanName;

/// Files of a folder that are looked through for a name that was likely meant.
const LOOKED_AT_MAX: usize = 1000;

/// The plans by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Named {
    /// A few hosts, then everybody
    Fast,
    /// Canary, then region by region
    Standard,
    /// As standard, slower, held after the first wave
    Careful,
    /// Every host at once
    AllAtOnce,
}

/// A plan as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanArg {
    /// By name.
    Named(PlanName),
    /// In a file.
    File(PathBuf),
}

impl From<Named> for PlanName {
    fn from(named: Named) -> Self {
        match named {
            Named::Fast => Self::Fast,
            Named::Standard => Self::Standard,
            Named::Careful => Self::Careful,
            Named::AllAtOnce => Self::AllAtOnce,
        }
    }
}

impl PlanArg {
    /// The plan in the file, if it is one; read and checked.
    ///
    /// # Errors
    /// Exit code 2 when there is no such file, or no sound plan in it.
    pub fn written(&self) -> Result<Option<Written>, Failure> {
        let Self::File(path) = self else { return Ok(None) };
        let read = plan::read(path).map_err(|error| Failure::from(&error).hint(HELP))?;
        read.map(Some).ok_or_else(|| missing(path))
    }
}

const HELP: &str = "deployctl help plan-file";

fn missing(path: &Path) -> Failure {
    let failure = Failure::usage(format!("there is no plan at {}", path.display()));
    let meant = path.file_name().and_then(OsStr::to_str).and_then(|name| {
        let files = files_beside(path);
        nearest(name, files.iter().map(String::as_str)).map(|near| path.with_file_name(near))
    });
    match meant {
        Some(meant) => failure.hint(format!("did you mean: {}", meant.display())),
        None => failure.hint(HELP),
    }
}

/// The names of the TOML files in the folder of `path`.
fn files_beside(path: &Path) -> Vec<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(folder.unwrap_or(Path::new("."))) else { return vec![] };
    let names =
        entries.take(LOOKED_AT_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".toml")).collect()
}

/// Reads `--plan`.
#[derive(Debug, Clone, Copy)]
pub struct PlanParser;

impl TypedValueParser for PlanParser {
    type Value = PlanArg;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<PlanArg, clap::Error> {
        let path = Path::new(value);
        match EnumValueParser::<Named>::new().parse_ref(command, arg, value) {
            Ok(named) => Ok(PlanArg::Named(named.into())),
            Err(_) if value.to_string_lossy().contains(['/', '.']) || path.is_file() => {
                Ok(PlanArg::File(path.to_owned()))
            }
            Err(mut error) => {
                let file = path.with_extension("toml");
                if file.is_file() {
                    let file = ContextValue::String(file.display().to_string());
                    error.insert(ContextKind::SuggestedValue, file);
                }
                Err(error)
            }
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Named::value_variants().iter().filter_map(Named::to_possible_value)))
    }
}

/// The named plans, and folders and TOML files.
#[must_use]
pub fn complete(word: &OsStr) -> Vec<CompletionCandidate> {
    let typed = word.to_string_lossy();
    let mut found: Vec<CompletionCandidate> = Named::value_variants()
        .iter()
        .filter_map(Named::to_possible_value)
        .filter(|value| value.get_name().starts_with(typed.as_ref()))
        .map(|value| CompletionCandidate::new(value.get_name()).help(value.get_help().cloned()))
        .collect();
    let is_plan = |path: &Path| path.extension().is_some_and(|end| end == "toml");
    found.extend(PathCompleter::file().filter(is_plan).complete(word));
    found
}
