//! How an app is built, run and probed: what `deployctl.toml` says.
//!
//! The part that a host needs ([`RunSpec`]) travels inside the manifest, under
//! the artifact's identity and signature; the part that a worker needs
//! ([`BuildSpec`]) stays with the job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::commit::CommitId;
use super::id::{AppName, InvalidId};

/// Longest command line or path in a recipe, bytes.
pub const COMMAND_BYTES_MAX: usize = 4096;
/// Default limit of one build's wall time, seconds: the mission's 15 minutes.
pub const BUILD_LIMIT_S: u32 = 15 * 60;
/// Longest build limit that an app may ask for, seconds.
pub const BUILD_LIMIT_S_MAX: u32 = 6 * 3600;
const LIMIT_RULE: &str = "1 to 21600 seconds";
const _: () = assert!(BUILD_LIMIT_S_MAX == 21_600, "LIMIT_RULE says it in words");

/// Most other apps that a commit may need.
pub const REQUIRES_MAX: usize = 16;

/// A whole recipe. Every part may be missing in one source (the repository's
/// file, the app's stored recipe) and be filled in from the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// How to build; `None`: said elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    /// How to run; `None`: said elsewhere, or the app is only files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSpec>,
    /// What it needs of other apps, at most [`REQUIRES_MAX`]; empty: nothing, or said elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
}

/// Another app that must run where this commit is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The other app.
    pub app: AppName,
    /// The oldest commit of it that will do, whole: what runs must be it or contain it.
    pub min: CommitId,
}

/// How a worker turns a commit into files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// Given to `sh -c` at the root of a clean checkout.
    pub command: String,
    /// File or folder to deploy, relative to the root of the checkout.
    pub artifact: String,
    /// Wall time limit, seconds, 1 to [`BUILD_LIMIT_S_MAX`].
    #[serde(default = "default_limit")]
    pub limit_s: u32,
    /// Extra environment of the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl BuildSpec {
    /// A build with the default limit and no extra environment.
    #[must_use]
    pub fn new(command: String, artifact: String) -> Self {
        Self { command, artifact, limit_s: BUILD_LIMIT_S, env: BTreeMap::new() }
    }
}

fn default_limit() -> u32 {
    BUILD_LIMIT_S
}

/// How a host runs and probes what it was given. All commands are given to
/// `sh -c` in the release's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// Whether `start` stays (a service) or ends (a one-shot hook).
    #[serde(rename = "type")]
    pub kind: RunKind,
    /// Starts the app. `None`: only files are switched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Stops the app before the switch. Default for a service: SIGTERM, 10 s, SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Whether the new release works; `None`: the process stays up `min_healthy_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// How long the app must stay up and its probe pass, seconds, 0 to 3600.
    pub min_healthy_s: u32,
    /// When a probe that has not settled becomes a failure, seconds, 1 to 3600.
    pub deadline_s: u32,
    /// Extra environment of the app.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Whether the start command stays or ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// `start` stays in the foreground; the agent supervises it.
    #[default]
    Service,
    /// `start` ends by itself within 60 s; exit 0 is success.
    Oneshot,
}

/// One health check; `${NAME}` is replaced by the host's variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// A URL that answers 200 to 399 within 5 s.
    Http(String),
    /// An `address:port` that accepts within 5 s.
    Tcp(String),
    /// A command that exits 0 within 5 s.
    Exec(String),
}

/// Default of [`RunSpec::min_healthy_s`], seconds [orchestration 6.6].
pub const MIN_HEALTHY_S: u32 = 30;
/// Default of [`RunSpec::deadline_s`], seconds [orchestration 6.11].
pub const PROBE_DEADLINE_S: u32 = 300;

impl Recipe {
    /// This recipe where it says something, `fallback` where it does not.
    #[must_use]
    pub fn or(self, fallback: &Recipe) -> Recipe {
        Recipe {
            build: self.build.or_else(|| fallback.build.clone()),
            run: self.run.or_else(|| fallback.run.clone()),
            requires: if self.requires.is_empty() {
                fallback.requires.clone()
            } else {
                self.requires
            },
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds, by name.
    pub fn check(&self) -> Result<(), InvalidId> {
        if let Some(build) = &self.build {
            check_command("build.command", &build.command)?;
            check_artifact_path(&build.artifact)?;
            check_range("build.limit_s", build.limit_s, (1, BUILD_LIMIT_S_MAX), LIMIT_RULE)?;
            check_env("build.env", &build.env)?;
        }
        check_requires(&self.requires)?;
        self.run.as_ref().map_or(Ok(()), RunSpec::check)
    }
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            kind: RunKind::default(),
            start: None,
            stop: None,
            probe: None,
            min_healthy_s: MIN_HEALTHY_S,
            deadline_s: PROBE_DEADLINE_S,
            env: BTreeMap::new(),
        }
    }
}

impl RunSpec {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds, by name.
    pub fn check(&self) -> Result<(), InvalidId> {
        let probe = match &self.probe {
            Some(Probe::Http(text) | Probe::Tcp(text) | Probe::Exec(text)) => Some(text),
            None => None,
        };
        let commands = [("run.start", self.start.as_ref()), ("run.stop", self.stop.as_ref())];
        for (field, command) in commands.into_iter().chain([("run.probe", probe)]) {
            command.map_or(Ok(()), |text| check_command(field, text))?;
        }
        check_range("run.min_healthy_s", self.min_healthy_s, (0, 3600), "0 to 3600 seconds")?;
        check_range("run.deadline_s", self.deadline_s, (1, 3600), "1 to 3600 seconds")?;
        check_env("run.env", &self.env)
    }
}

fn check_command(field: &'static str, text: &str) -> Result<(), InvalidId> {
    if (1..=COMMAND_BYTES_MAX).contains(&text.len()) && !text.contains('\0') {
        return Ok(());
    }
    Err(InvalidId::new(field, text, "1 to 4096 bytes without NUL"))
}

fn check_range(
    field: &'static str,
    value: u32,
    (low, high): (u32, u32),
    rule: &'static str,
) -> Result<(), InvalidId> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(InvalidId::new(field, &value.to_string(), rule))
}

fn check_requires(requires: &[Requirement]) -> Result<(), InvalidId> {
    if requires.len() > REQUIRES_MAX {
        return Err(InvalidId::new("requires", "", "at most 16 apps"));
    }
    let twice = |(n, one): &(usize, &Requirement)| requires[..*n].iter().any(|r| r.app == one.app);
    match requires.iter().enumerate().find(twice) {
        Some((_, one)) => Err(InvalidId::new(
            "app of [[requires]]",
            one.app.as_str(),
            "it stands there twice; keep the newer min",
        )),
        None => Ok(()),
    }
}

fn check_artifact_path(path: &str) -> Result<(), InvalidId> {
    let sound = |part: &str| !part.is_empty() && part != ".." && part != ".git";
    if path.len() <= COMMAND_BYTES_MAX && !path.contains('\0') && path.split('/').all(sound) {
        return Ok(());
    }
    Err(InvalidId::new("build.artifact", path, "a path inside the repository, without '..'"))
}

fn check_env(field: &'static str, env: &BTreeMap<String, String>) -> Result<(), InvalidId> {
    let name = |key: &str| {
        (1..=128).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !key.as_bytes()[0].is_ascii_digit()
    };
    let value = |text: &str| text.len() <= COMMAND_BYTES_MAX && !text.contains('\0');
    match env.iter().find(|(k, v)| !name(k) || !value(v)) {
        _ if env.len() > 64 => Err(InvalidId::new(field, "", "at most 64 variables")),
        Some((key, _)) => {
            Err(InvalidId::new(field, key, "letters, digits and '_'; values of at most 4096 bytes"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(artifact: &str) -> Recipe {
        let spec = BuildSpec {
            command: "make".into(),
            artifact: artifact.into(),
            limit_s: 900,
            env: BTreeMap::new(),
        };
        Recipe { build: Some(spec), ..Recipe::default() }
    }

    #[test]
    fn paths_out_of_the_checkout_are_refused() {
        for bad in ["", "/etc", "../x", "a/../b", "a//b", ".git", "a\0"] {
            assert!(build(bad).check().is_err(), "{bad:?}");
        }
        for good in ["app", "dist/app", "./app", "."] {
            assert!(build(good).check().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_repository_wins_over_the_stored_recipe_part_by_part() {
        let stored = Recipe { run: Some(RunSpec::default()), ..build("old") };
        let merged = build("new").or(&stored);
        assert_eq!(merged.build.unwrap().artifact, "new");
        assert!(merged.run.is_some());
    }
}
