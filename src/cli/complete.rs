//! Names for TAB: what is known from last time, else what the coordinator says within
//! 80 ms, in silence.
//!
//! A completer gets only the word under the cursor, so the flags before it are read
//! again from the process's own arguments. Whatever goes wrong, there are no names
//! and no text. A list of some age is answered as it is and asked for anew by a
//! process that nobody waits for.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap_complete::CompletionCandidate;

use super::discover::{self, Endpoint, Said, variable};
use super::names::{self, FRESH, List, Names};
use crate::config::client::Contexts;
use crate::config::project;
use crate::host::clock;
use crate::host::repo::Repo;
use crate::net::client::CallError;
use crate::wire::v1::fleet::Completions;

/// A shell that hangs on TAB is worse than one that offers nothing [orchestration 4.10].
const DEADLINE_MS: u64 = 80;
/// Longest deadline that a person on a slow line may choose.
const DEADLINE_MS_MAX: u64 = 10_000;
/// When the first question was asked: all questions of one TAB share the deadline.
static BEGAN: OnceLock<Instant> = OnceLock::new();
/// Names that the coordinator tells at most: a shorter list is whole.
const NAMES_MAX: usize = 50;
/// Commits of the checked out branch that are offered.
const COMMITS_MAX: usize = 15;

/// Names with a short help text each.
type Told = Vec<(String, String)>;

/// Installations that the user has named.
#[must_use]
pub fn contexts(word: &OsStr) -> Vec<CompletionCandidate> {
    let folder = discover::folder("XDG_CONFIG_HOME", ".config");
    let known = folder.and_then(|folder| Contexts::read(&folder).ok()).unwrap_or_default();
    let mut names: Told =
        known.contexts.into_iter().map(|(name, entry)| (name, entry.server)).collect();
    names.retain(|(name, _)| word.to_str().is_some_and(|typed| name.starts_with(typed)));
    candidates(names)
}

/// Apps.
#[must_use]
pub fn apps(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("app", word))
}

/// Envs of the app.
#[must_use]
pub fn envs(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("env", word))
}

/// Regions.
#[must_use]
pub fn regions(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("region", word))
}

/// Releases of the app and env.
#[must_use]
pub fn releases(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("release", word))
}

/// Releases that succeeded: where a rollback can go.
#[must_use]
pub fn known_good(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(in_state(word, &["succeeded"]))
}

/// Rollouts that are not over.
#[must_use]
pub fn open(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(in_state(word, &["pending", "running", "paused", "reverting"]))
}

/// Rollouts that wait for a person.
#[must_use]
pub fn paused(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(in_state(word, &["paused"]))
}

/// Builds of the app.
#[must_use]
pub fn builds(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("build", word))
}

/// Hosts.
#[must_use]
pub fn hosts(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(ask("host", word))
}

/// Hosts, one after the other with commas between.
#[must_use]
pub fn host_list(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = word.to_str() else { return vec![] };
    let (before, last) = typed.split_at(typed.rfind(',').map_or(0, |comma| comma + 1));
    let mut names = ask("host", OsStr::new(last));
    names.retain(|(name, _)| !before.split(',').any(|taken| taken == name));
    candidates(names.into_iter().map(|(name, help)| (format!("{before}{name}"), help)).collect())
}

/// What can be deployed: the head commit, commits that are built, by number what has one.
#[must_use]
pub fn targets(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = word.to_str() else { return vec![] };
    let mut names = match typed.chars().next() {
        Some('@') => fixed(
            typed,
            &[
                ("@", "what runs now"),
                ("@~", "the last known-good release before it"),
                ("@latest", "the newest build that can be deployed"),
            ],
        ),
        Some('b') => ask("build", word),
        Some('r') => ask("release", word),
        _ => fixed(typed, &[("HEAD", "the commit that is checked out")]),
    };
    names.extend(built_commits(typed));
    if names.is_empty() {
        names = branches(typed);
    }
    candidates(names)
}

/// What can be built: the newest commits of this branch, and other branches.
#[must_use]
pub fn commits(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = word.to_str() else { return vec![] };
    let mut names = fixed(typed, &[("HEAD", "the commit that is checked out")]);
    if let Some(repo) = repository() {
        let commits = repo.recent(COMMITS_MAX).into_iter();
        names.extend(commits.map(|commit| (commit.id.short().to_owned(), commit.subject)));
    }
    names.retain(|(name, _)| name.starts_with(typed));
    if names.is_empty() {
        names = branches(typed);
    }
    candidates(names)
}

/// What `logs` takes: builds, releases and hosts.
#[must_use]
pub fn logged(word: &OsStr) -> Vec<CompletionCandidate> {
    let kinds = match word.to_string_lossy().chars().next() {
        Some('b') => ["build", "host"],
        Some('r') => ["release", "host"],
        _ => ["build", "release"],
    };
    candidates(kinds.into_iter().flat_map(|kind| ask(kind, word)).collect())
}

/// What `why` takes: hosts, releases and builds.
#[must_use]
pub fn explained(word: &OsStr) -> Vec<CompletionCandidate> {
    let kinds: &[&str] = match word.to_string_lossy().chars().next() {
        Some('b') => &["build", "host"],
        Some('r') => &["release", "host"],
        _ => &["host"],
    };
    candidates(kinds.iter().flat_map(|kind| ask(kind, word)).collect())
}

/// Shells keep the order: newest first is more use than the alphabet.
fn candidates(names: Told) -> Vec<CompletionCandidate> {
    let candidate = |(place, (name, help)): (usize, (String, String))| {
        let help = (!help.is_empty()).then(|| help.into());
        CompletionCandidate::new(name).help(help).display_order(Some(place))
    };
    names.into_iter().enumerate().map(candidate).collect()
}

fn fixed(typed: &str, names: &[(&str, &str)]) -> Told {
    let known = names.iter().filter(|(name, _)| name.starts_with(typed));
    known.map(|(name, help)| ((*name).to_owned(), (*help).to_owned())).collect()
}

/// The coordinator's help text of a release begins with its state.
fn in_state(word: &OsStr, states: &[&str]) -> Told {
    let mut names = ask("release", word);
    names.retain(|(_, help)| help.split(' ').next().is_some_and(|state| states.contains(&state)));
    names
}

/// Commits that have a build: its help text is the commit's digits and subject.
fn built_commits(typed: &str) -> Told {
    let digits = typed.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digits {
        return vec![];
    }
    let commit = |(build, help): (String, String)| {
        let (commit, subject) = help.split_once(' ').unwrap_or((&help, ""));
        (commit.to_owned(), format!("{build} {subject}"))
    };
    let mut names: Told = ask("build", OsStr::new("")).into_iter().map(commit).collect();
    names.retain(|(commit, _)| commit.starts_with(typed));
    names
}

fn branches(typed: &str) -> Told {
    let names = repository().map(|repo| repo.names()).unwrap_or_default();
    let known = names.into_iter().filter(|name| name.starts_with(typed));
    known.map(|name| (name, String::new())).take(NAMES_MAX).collect()
}

fn repository() -> Option<Repo> {
    Repo::discover(&Typed::of_this_process().folder()?).ok()
}

fn ask(kind: &str, word: &OsStr) -> Told {
    let Some(prefix) = word.to_str() else { return vec![] };
    let mut names = ask_names(kind, prefix).unwrap_or_default();
    names.retain(|(name, _)| name.starts_with(prefix));
    names.truncate(NAMES_MAX);
    names
}

fn ask_names(kind: &str, prefix: &str) -> Option<Told> {
    let place = Typed::of_this_process().place()?;
    let key = names::key(kind, place.app.as_deref(), &place.env);
    let file = names::file(&place.endpoint.server)?;
    let known = Names::read(&file).find(&key, clock::now()).cloned();
    match known {
        Some(list) if list.whole => {
            if clock::now().since(list.at) >= FRESH {
                renew_behind(kind, &file);
            }
            Some(list.names)
        }
        known => {
            let told = ask_now(&place, kind, prefix, deadline());
            if told.is_some() {
                renew_behind(kind, &file);
            }
            told.or(known.map(|list| list.names))
        }
    }
}

fn deadline() -> Duration {
    let chosen = variable("DEPLOYCTL_COMPLETION_MS").and_then(|ms| ms.parse::<u64>().ok());
    Duration::from_millis(chosen.unwrap_or(DEADLINE_MS).min(DEADLINE_MS_MAX))
}

/// Asks within what is left of `within`; `None` when there was no answer.
fn ask_now(place: &Place, kind: &str, prefix: &str, within: Duration) -> Option<Told> {
    let client = place.endpoint.clone().client().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let left = within.saturating_sub(BEGAN.get_or_init(Instant::now).elapsed());
    let names = runtime.block_on(async {
        let request = client.request(reqwest::Method::GET, "/v1/complete");
        let request = request.query(&place.query(kind, prefix));
        let reply = client.send::<Completions>(request, left);
        tokio::time::timeout(left, reply).await.ok()?.ok()
    });
    // A resolver that hangs must not hold the shell.
    runtime.shutdown_background();
    names.map(|reply| reply.names)
}

/// Starts this program once more to ask for the whole list; nobody waits for it.
fn renew_behind(kind: &str, file: &std::path::Path) {
    let Ok(program) = std::env::current_exe() else { return };
    if !names::may_renew(file) {
        return;
    }
    let mut command = std::process::Command::new(program);
    command.args(["plumbing", "complete", kind]).args(Typed::of_this_process().flags());
    command.env_remove("COMPLETE").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    // A shell that is interrupted leaves it alone.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    // Without it the list grows older, and that is all.
    drop(command.spawn());
}

/// Asks the coordinator for every name of `kind`, and keeps the answer for TAB.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn renew(
    endpoint: Endpoint,
    (kind, prefix): (&str, &str),
    (app, env): (Option<String>, String),
    timeout: Duration,
) -> Result<Told, CallError> {
    let server = endpoint.server.clone();
    let key = names::key(kind, app.as_deref(), &env);
    let place = Place { endpoint, app, env };
    let unusable = |why: String| CallError::BadReply { url: server.clone(), why };
    let client = place.endpoint.clone().client().map_err(|e| unusable(e.title))?;
    let request = client.request(reqwest::Method::GET, "/v1/complete");
    let request = request.query(&place.query(kind, prefix));
    let names = client.send::<Completions>(request, timeout).await?.names;
    if let Some(file) = names::file(&server).filter(|_| prefix.is_empty()) {
        let mut all = Names::read(&file);
        let whole = names.len() < NAMES_MAX;
        all.put(key, List { at: clock::now(), whole, names: names.clone() });
        // It is only a cache: a full disk is somebody else's news.
        drop(all.write(&file));
    }
    Ok(names)
}

/// Whose names are asked for.
struct Place {
    endpoint: Endpoint,
    app: Option<String>,
    env: String,
}

impl Place {
    fn query(&self, kind: &str, prefix: &str) -> Vec<(&'static str, String)> {
        let mut query = vec![
            ("kind", kind.to_owned()),
            ("prefix", prefix.to_owned()),
            ("env", self.env.clone()),
        ];
        query.extend(self.app.iter().map(|app| ("app", app.clone())));
        query
    }
}

/// The flags before the cursor that change what names there are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    app: Option<String>,
    env: Option<String>,
    context: Option<String>,
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    directory: Option<PathBuf>,
}

impl Typed {
    fn of_this_process() -> Self {
        Self::read(std::env::args_os().map(|word| word.to_string_lossy().into_owned()))
    }

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
                "--context" => typed.context = value,
                "--server" => typed.server = value,
                "--token-file" => typed.token_file = value.map(PathBuf::from),
                "--ca" => typed.ca = value.map(PathBuf::from),
                "-C" | "--directory" => typed.directory = value.map(PathBuf::from),
                _ => {}
            }
        }
        typed
    }

    /// The same flags, for another process.
    fn flags(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("--app", self.app.clone()),
            ("--env", self.env.clone()),
            ("--context", self.context.clone()),
            ("--server", self.server.clone()),
            ("--token-file", path(&self.token_file)),
            ("--ca", path(&self.ca)),
            ("--directory", path(&self.directory)),
        ];
        let flags = flags.into_iter().filter_map(|(flag, value)| Some((flag, value?)));
        flags.map(|(flag, value)| format!("{flag}={value}")).collect()
    }

    fn folder(&self) -> Option<PathBuf> {
        self.directory.clone().map_or_else(std::env::current_dir, Ok).ok()
    }

    fn place(self) -> Option<Place> {
        let file = project::find(&self.folder()?).ok()?.map(|(_, file)| file).unwrap_or_default();
        let app = self.app.or_else(|| variable("DEPLOYCTL_APP")).or(file.app.map(String::from));
        let env = self.env.or_else(|| variable("DEPLOYCTL_ENV")).or(file.env.map(String::from));
        let said = Said {
            context: self.context,
            server: self.server,
            token_file: self.token_file,
            ca: self.ca,
            project: file.server,
        };
        let endpoint = discover::endpoint(&said).ok()?;
        Some(Place { endpoint, app, env: env.unwrap_or_else(|| "prod".into()) })
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
        assert_eq!(typed.flags(), ["--app=web", "--env=staging"]);
    }
}
