//! The recipe of a commit: what its `deployctl.toml` says, and the app's stored
//! recipe for the parts that it leaves out.

use std::path::Path;

use serde::Deserialize;

use crate::model::recipe::{BuildSpec, Recipe, Requirement, RunSpec};
use crate::worker::failure::Failure;

/// The file's name at the root of a repository.
pub const RECIPE_FILE: &str = "deployctl.toml";
/// Largest recipe file, bytes.
const RECIPE_BYTES_MAX: u64 = 64 << 10;
/// What to write when nobody said how to build.
const WRITE_THIS: &str = "write deployctl.toml with [build] command = \"make\" and artifact = \"path/of/what/to/deploy\"";

/// The parts of the file that a worker reads. The other keys are the command
/// line's own; it checks them.
#[derive(Deserialize)]
struct RecipeFile {
    build: Option<BuildSpec>,
    run: Option<RunSpec>,
    #[serde(default)]
    requires: Vec<Requirement>,
}

/// What is built, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// How to build.
    pub build: BuildSpec,
    /// How to run; `None`: only files.
    pub run: Option<RunSpec>,
    /// What it needs of other apps.
    pub requires: Vec<Requirement>,
}

/// The recipe of a checkout; `None` when there is no such regular file.
///
/// # Errors
/// Refused: it is too large. Infra: it can't be read.
pub fn read(checkout: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = checkout.join(RECIPE_FILE);
    let bytes = match path.symlink_metadata() {
        Ok(file) if file.is_file() => file.len(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::infra(error));
        }
        _ => return Ok(None),
    };
    if bytes > RECIPE_BYTES_MAX {
        let most = RECIPE_BYTES_MAX;
        let why = format!("{RECIPE_FILE} has {bytes} bytes, over the limit of {most}");
        return Err(Failure::refused(why));
    }
    std::fs::read(path).map(Some).map_err(Failure::infra)
}

/// Merges the file's bytes (`None`: no file) with the stored recipe.
///
/// # Errors
/// Refused: it does not parse, is out of bounds, or nobody says how to build.
pub fn resolve(file: Option<&[u8]>, stored: &Recipe) -> Result<Resolved, Failure> {
    let recipe = match file {
        Some(bytes) => parse(bytes)?.or(stored),
        None => stored.clone(),
    };
    recipe.check().map_err(|e| Failure::refused(format!("{RECIPE_FILE}: {e}")))?;
    let missing = match file {
        Some(_) => format!("{RECIPE_FILE} has no [build]"),
        None => format!("there is no {RECIPE_FILE} in this commit"),
    };
    let build = recipe.build.ok_or_else(|| {
        Failure::refused(format!("{missing} and the app has no stored recipe: {WRITE_THIS}"))
    })?;
    Ok(Resolved { build, run: recipe.run, requires: recipe.requires })
}

fn parse(bytes: &[u8]) -> Result<Recipe, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::refused(format!("{RECIPE_FILE} is not UTF-8 text")))?;
    let file: RecipeFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        Failure::refused(format!("{RECIPE_FILE}, line {line}: {}", e.message()))
    })?;
    Ok(Recipe { build: file.build, run: file.run, requires: file.requires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_wins_part_by_part_and_other_keys_are_left_alone() {
        let stored: Recipe =
            toml::from_str("[build]\ncommand='old'\nartifact='old'\n[run]\nstart='./old'").unwrap();
        let text = b"app = 'api'\nenv = 'prod'\n[build]\ncommand = 'make'\nartifact = 'out'\n";
        let merged = resolve(Some(text), &stored).unwrap();
        assert_eq!((merged.build.command.as_str(), merged.build.limit_s), ("make", 900));
        assert_eq!(merged.run.unwrap().start.as_deref(), Some("./old"));
        assert_eq!(resolve(None, &stored).unwrap().build.command, "old");
    }

    #[test]
    fn what_can_not_be_built_is_refused_with_what_to_write() {
        let check = |file: Option<&[u8]>, expected: &str| {
            let failure = resolve(file, &Recipe::default()).unwrap_err();
            assert_eq!(failure.class, crate::model::job::BuildFailure::Refused);
            assert!(failure.reason.contains(expected), "{}", failure.reason);
        };
        check(None, "write deployctl.toml with [build]");
        check(Some(b"app = 'x'"), "deployctl.toml has no [build]");
        check(Some(b"\n[build\n"), "deployctl.toml, line 2: ");
        check(Some(b"[build]\ncommand='make'"), "missing field `artifact`");
        check(Some(b"[build]\ncommand='make'\nartifact='../x'"), "build.artifact");
        check(Some(b"[build]\ncommand='make'\nartifact='x'\nlimits=1"), "unknown field `limits`");
        check(Some(b"\xff"), "UTF-8");
    }
}
