//! `[[gates]]`: programs of the operator that judge bakes.
//!
//! Only the coordinator's own configuration names them: they run on its machine, and no
//! commit's file may have anything run there.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::config::daemon::InvalidConfig;
use crate::model::id::{AppName, EnvName, GateName};

/// Most programs of one installation.
pub const GATES_MAX: usize = 16;
/// Most words of a command.
const WORDS_MAX: usize = 32;
/// Longest word of a command, bytes.
const WORD_BYTES_MAX: usize = 4096;
/// Longest time that a run may take, and between the beginnings of two, seconds
/// [orchestration 6.6].
pub const SECONDS_MAX: u32 = 30;

/// One of `[[gates]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// How it is called; each once.
    pub name: GateName,
    /// The program, by its whole path, and its arguments; no shell reads it.
    pub command: Vec<String>,
    /// Only deploys of these apps; empty: of all.
    #[serde(default)]
    pub apps: Vec<AppName>,
    /// Only deploys to these envs; empty: to all.
    #[serde(default)]
    pub envs: Vec<EnvName>,
    /// How long a run may take, seconds, 1 to [`SECONDS_MAX`].
    #[serde(default = "longest")]
    pub timeout_s: u32,
    /// How often it is run while a step bakes, seconds, 1 to [`SECONDS_MAX`].
    #[serde(default = "longest")]
    pub every_s: u32,
}

fn longest() -> u32 {
    SECONDS_MAX
}

impl Gate {
    /// Its keys, for hints.
    pub(super) const KEYS: &'static [&'static str] =
        &["name", "command", "apps", "envs", "timeout_s", "every_s"];

    /// Whether it judges deploys of `app` to `env`.
    #[must_use]
    pub fn covers(&self, app: &AppName, env: &EnvName) -> bool {
        (self.apps.is_empty() || self.apps.contains(app))
            && (self.envs.is_empty() || self.envs.contains(env))
    }

    /// [`Gate::timeout_s`] as a duration.
    #[must_use]
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout_s.into())
    }

    /// [`Gate::every_s`] as a duration.
    #[must_use]
    pub fn every(&self) -> Duration {
        Duration::from_secs(self.every_s.into())
    }
}

/// Checks what the shape of the file does not.
pub(super) fn check(gates: &[Gate]) -> Result<(), InvalidConfig> {
    let range = |key, value: String, rule| Err(InvalidConfig::Range { key, value, rule });
    if gates.len() > GATES_MAX {
        return range("gates", gates.len().to_string(), "at most 16 gates");
    }
    for (at, gate) in gates.iter().enumerate() {
        if gates[..at].iter().any(|other| other.name == gate.name) {
            return range("gates.name", gate.name.to_string(), "each name once");
        }
        let long = |word: &String| word.len() > WORD_BYTES_MAX;
        if gate.command.len() > WORDS_MAX || gate.command.iter().any(long) {
            let rule = "at most 32 words of 4096 bytes";
            return range("gates.command", gate.name.to_string(), rule);
        }
        if !gate.command.first().is_some_and(|program| Path::new(program).is_absolute()) {
            let rule = "a list of words, and first the program's whole path";
            return range("gates.command", gate.command.join(" "), rule);
        }
        for (key, value) in [("gates.timeout_s", gate.timeout_s), ("gates.every_s", gate.every_s)] {
            if !(1..=SECONDS_MAX).contains(&value) {
                return range(key, value.to_string(), "1 to 30 seconds");
            }
        }
    }
    Ok(())
}
