//! Names for TAB: asked of the coordinator, within 80 ms, in silence.
//!
//! A completer gets only the word under the cursor, so the flags before it are read
//! again from the process's own arguments. Whatever goes wrong, there are no names
//! and no text. Never waits longer than `DEADLINE`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap_complete::CompletionCandidate;

use super::discover::{self, Said, variable};
use crate::config::project;
use crate::wire::v1::fleet::Completions;

/// A shell that hangs on TAB is worse than one that offers nothing [orchestration 4.10].
const DEADLINE: Duration = Duration::from_millis(80);
/// When the first question was asked: all questions of one TAB share the deadline.
static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Apps.
#[must_use]
pub fn apps(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("app", word)
}

/// Envs of the app.
#[must_use]
pub fn envs(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("env", word)
}

/// Regions.
#[must_use]
pub fn regions(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("region", word)
}

/// Releases of the app and env.
#[must_use]
pub fn releases(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("release", word)
}

/// Builds of the app.
#[must_use]
pub fn builds(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("build", word)
}

/// Hosts.
#[must_use]
pub fn hosts(word: &OsStr) -> Vec<CompletionCandidate> {
    ask("host", word)
}

/// What can be deployed: the head commit, builds, releases.
#[must_use]
pub fn targets(word: &OsStr) -> Vec<CompletionCandidate> {
    let fixed =
        [("HEAD", "the commit that is checked out"), ("@latest", "newest deployable build")];
    let word_text = word.to_string_lossy();
    let fixed = fixed.into_iter().filter(|(name, _)| name.starts_with(word_text.as_ref()));
    let mut names: Vec<_> = fixed.map(|(name, help)| candidate(name, help)).collect();
    names.extend(ask("build", word));
    names
}

/// What `logs` takes: builds, releases and hosts.
#[must_use]
pub fn logged(word: &OsStr) -> Vec<CompletionCandidate> {
    let kinds = match word.to_string_lossy().chars().next() {
        Some('b') => ["build", "host"],
        Some('r') => ["release", "host"],
        _ => ["build", "release"],
    };
    kinds.into_iter().flat_map(|kind| ask(kind, word)).collect()
}

/// What `why` takes: hosts, releases and builds.
#[must_use]
pub fn explained(word: &OsStr) -> Vec<CompletionCandidate> {
    let kinds: &[&str] = match word.to_string_lossy().chars().next() {
        Some('b') => &["build", "host"],
        Some('r') => &["release", "host"],
        _ => &["host"],
    };
    kinds.iter().flat_map(|kind| ask(kind, word)).collect()
}

fn candidate(name: &str, help: &str) -> CompletionCandidate {
    let help = (!help.is_empty()).then(|| help.to_owned().into());
    CompletionCandidate::new(name).help(help)
}

fn ask(kind: &str, word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = word.to_str() else { return vec![] };
    let names = ask_names(kind, prefix).unwrap_or_default();
    names.iter().map(|(name, help)| candidate(name, help)).collect()
}

fn ask_names(kind: &str, prefix: &str) -> Option<Vec<(String, String)>> {
    let typed = Typed::read(std::env::args_os().map(|word| word.to_string_lossy().into_owned()));
    let dir = typed.directory.clone().map_or_else(std::env::current_dir, Ok).ok()?;
    let file = project::find(&dir).ok()?.map(|(_, file)| file).unwrap_or_default();
    let app = typed.app.or_else(|| variable("DEPLOYCTL_APP")).or(file.app.map(String::from));
    let env = typed.env.or_else(|| variable("DEPLOYCTL_ENV")).or(file.env.map(String::from));
    let env = env.unwrap_or_else(|| "prod".into());
    let said = Said {
        server: typed.server,
        token_file: typed.token_file,
        ca: typed.ca,
        project: file.server,
    };
    let endpoint = discover::endpoint(&said).ok()?;
    let client = endpoint.client().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let left = DEADLINE.saturating_sub(BEGAN.get_or_init(Instant::now).elapsed());
    let names = runtime.block_on(async {
        let mut query =
            vec![("kind", kind.to_owned()), ("prefix", prefix.to_owned()), ("env", env)];
        query.extend(app.map(|app| ("app", app)));
        let request = client.request(reqwest::Method::GET, "/v1/complete").query(&query);
        let reply = client.send::<Completions>(request, left);
        tokio::time::timeout(left, reply).await.ok()?.ok()
    });
    // A resolver that hangs must not hold the shell.
    runtime.shutdown_background();
    let known = |(name, _): &(String, String)| name.starts_with(prefix);
    Some(names?.names.into_iter().filter(known).take(50).collect())
}

/// The flags before the cursor that change what names there are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    app: Option<String>,
    env: Option<String>,
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    directory: Option<PathBuf>,
}

impl Typed {
    fn read(words: impl Iterator<Item = String>) -> Self {
        let mut typed = Self::default();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                _ => (word.as_str(), words.peek().cloned()),
            };
            match flag {
                "-a" | "--app" => typed.app = value,
                "-e" | "--env" => typed.env = value,
                "--server" => typed.server = value,
                "--token-file" => typed.token_file = value.map(PathBuf::from),
                "--ca" => typed.ca = value.map(PathBuf::from),
                "-C" | "--directory" => typed.directory = value.map(PathBuf::from),
                _ => {}
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_before_the_cursor_are_seen() {
        let words = ["deployctl", "--", "deployctl", "-a", "web", "--env=staging", "deploy", ""];
        let typed = Typed::read(words.into_iter().map(str::to_owned));
        assert_eq!(typed.app.as_deref(), Some("web"));
        assert_eq!(typed.env.as_deref(), Some("staging"));
        assert_eq!(typed.server, None);
    }
}
