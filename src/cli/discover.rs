//! Which coordinator, and the token for it.
//!
//! Precedence: flag, environment, project file, the context in use, user's file, the
//! coordinator of this machine. A token from a file is only ever sent to the server
//! that its own source names, so a repository that names a server can't collect tokens.

use std::path::{Path, PathBuf};

use super::failure::{ExitCode, Failure};
use crate::config::client::{ContextEntry, Contexts, read_local, read_user};
use crate::config::instead::nearest;
use crate::net::auth;
use crate::net::client::{Client, http_client_trusting};
use crate::net::trace;

/// A coordinator and how to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its URL.
    pub server: String,
    /// The token, if there is any.
    pub token: Option<String>,
    /// The only certificate authority that is trusted, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
}

impl Endpoint {
    /// A client of it.
    ///
    /// # Errors
    /// Exit code 2 when the certificate authority's file can't be used.
    pub fn client(self) -> Result<Client, Failure> {
        trace::carry(trace::of_this_command);
        let client = Client::new(&self.server, self.token);
        let Some(ca) = self.ca else { return Ok(client) };
        let http = http_client_trusting(&ca).map_err(|e| {
            Failure::usage(format!("{} can't be used as --ca", ca.display())).because(e)
        })?;
        Ok(client.over(http))
    }
}

/// What flags and the project file say.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// `--context`.
    pub context: Option<String>,
    /// `--server`.
    pub server: Option<String>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `server` in the project file.
    pub project: Option<String>,
}

/// Whether a flag or the environment tells which coordinator is meant.
#[must_use]
pub fn is_told(said: &Said) -> bool {
    let set = |name| variable(name).is_some();
    let flag = said.server.is_some() || said.context.is_some();
    flag || set("DEPLOYCTL_SERVER") || set("DEPLOYCTL_CONTEXT")
}

/// A value and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// A flag, a variable, or a file.
    pub origin: String,
}

impl<T> Sourced<T> {
    fn new(value: T, origin: impl Into<String>) -> Self {
        Self { value, origin: origin.into() }
    }
}

/// What was found, each with its origin.
pub struct Found {
    /// The coordinator's URL.
    pub server: Sourced<String>,
    /// The token.
    pub token: Option<Sourced<String>>,
    /// The certificate authority.
    pub ca: Option<Sourced<PathBuf>>,
    /// The context, where one is in use.
    pub context: Option<Sourced<String>>,
}

/// Reads an environment variable; an empty one counts as not set.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the coordinator is and the token for it.
///
/// # Errors
/// As [`find`].
pub fn endpoint(said: &Said) -> Result<Endpoint, Failure> {
    let found = find(said)?;
    Ok(Endpoint {
        server: found.server.value,
        token: found.token.map(|token| token.value),
        ca: found.ca.map(|ca| ca.value),
    })
}

/// The same, and who says so.
///
/// # Errors
/// Exit code 5 when nothing says where it is; 3 when there is no such context; 4 when a
/// token file can't be read.
pub fn find(said: &Said) -> Result<Found, Failure> {
    let places = Places::read()?;
    let context = places.context(said)?;
    let server = server(said, context.as_ref(), &places)?;
    check_url(&server.value)?;
    // Another server was named: the context's own token and authority are not for it.
    let context = context.filter(|context| same_server(&context.entry.server, &server.value));
    let token = token(said, context.as_ref(), &places, &server.value)?;
    let flag = said.ca.clone().map(|ca| Sourced::new(ca, "--ca"));
    let set = || variable("DEPLOYCTL_CA").map(|ca| Sourced::new(ca.into(), "DEPLOYCTL_CA"));
    let own = || {
        let context = context.as_ref()?;
        Some(Sourced::new(context.entry.ca.clone()?, context.words()))
    };
    let ca = flag.or_else(set).or_else(own).or_else(|| places.ca.clone());
    let context = context.map(|context| Sourced::new(context.name, context.origin));
    Ok(Found { server, token, ca, context })
}

/// A context that is in use, and who says so.
struct InUse {
    name: String,
    entry: ContextEntry,
    origin: String,
}

impl InUse {
    fn words(&self) -> String {
        format!("context {} ({})", self.name, self.origin)
    }
}

/// A server and the file that holds the token for it, as one file names both.
type Tied = (String, Option<PathBuf>, String);

/// What files say, the nearest to the user first.
struct Places {
    contexts: Contexts,
    contexts_file: String,
    known: Vec<Tied>,
    ca: Option<Sourced<PathBuf>>,
}

impl Places {
    fn read() -> Result<Self, Failure> {
        let config = folder("XDG_CONFIG_HOME", ".config");
        let user = config.as_deref().map(read_user).transpose()?.flatten().unwrap_or_default();
        let contexts = config.as_deref().map(Contexts::read).transpose()?.unwrap_or_default();
        let shown = |file: PathBuf| file.display().to_string();
        let contexts_file = config.as_deref().map(|dir| shown(Contexts::file(dir)));
        let user_file = shown(config_file().unwrap_or_else(|| "config.toml".into()));
        let local = folder("XDG_DATA_HOME", ".local/share").map(|dir| read_local(&dir));
        let local = local.transpose()?.flatten().map(|local| {
            let origin = "the coordinator of this machine".to_owned();
            (local.server, Some(local.token_file), origin)
        });
        let ca = user.ca.map(|ca| Sourced::new(ca, user_file.clone()));
        let user = user.server.map(|server| (server, user.token_file, user_file));
        Ok(Self {
            contexts,
            contexts_file: contexts_file.unwrap_or_default(),
            known: user.into_iter().chain(local).collect(),
            ca,
        })
    }

    /// The context that is in use: by flag, variable, or `deployctl context use`.
    fn context(&self, said: &Said) -> Result<Option<InUse>, Failure> {
        let named = said.context.clone().map(|name| (name, "--context".to_owned()));
        let set =
            || variable("DEPLOYCTL_CONTEXT").map(|name| (name, "DEPLOYCTL_CONTEXT".to_owned()));
        let current =
            || self.contexts.current.clone().map(|name| (name, self.contexts_file.clone()));
        let Some((name, origin)) = named.or_else(set).or_else(current) else { return Ok(None) };
        match self.contexts.contexts.get(&name) {
            Some(entry) => Ok(Some(InUse { entry: entry.clone(), name, origin })),
            None => Err(no_context(&name, &self.contexts)),
        }
    }
}

/// The refusal of a context that does not exist.
#[must_use]
pub fn no_context(name: &str, contexts: &Contexts) -> Failure {
    let names: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
    let mut failure = Failure::new(ExitCode::NotFound, format!("there is no context {name:?}"));
    let near = nearest(name, names.iter().copied());
    failure.hints.extend(
        near.and_then(|near| {
            Some(format!("did you mean: {}", super::typed::replacing(name, near)?))
        }),
    );
    if !names.is_empty() {
        failure.causes.push(format!("there are {}", names.join(", ")));
    }
    failure.hint("deployctl context list").hint("deployctl context add NAME --server URL")
}

fn server(
    said: &Said,
    context: Option<&InUse>,
    places: &Places,
) -> Result<Sourced<String>, Failure> {
    let of_context = |by: &str| {
        let context = context.filter(|context| context.origin == by)?;
        Some(Sourced::new(context.entry.server.clone(), context.words()))
    };
    let known = places.known.first();
    let flag = said.server.clone().map(|server| Sourced::new(server, "--server"));
    flag.or_else(|| of_context("--context"))
        .or_else(|| Some(Sourced::new(variable("DEPLOYCTL_SERVER")?, "DEPLOYCTL_SERVER")))
        .or_else(|| of_context("DEPLOYCTL_CONTEXT"))
        .or_else(|| Some(Sourced::new(said.project.clone()?, "deployctl.toml")))
        .or_else(|| of_context(&places.contexts_file))
        .or_else(|| known.map(|(server, _, origin)| Sourced::new(server.clone(), origin.clone())))
        .ok_or_else(no_server)
}

fn token(
    said: &Said,
    context: Option<&InUse>,
    places: &Places,
    server: &str,
) -> Result<Option<Sourced<String>>, Failure> {
    let from =
        |file: &Path, origin: String| read_token(file).map(|token| Sourced::new(token, origin));
    if let Some(file) = &said.token_file {
        return from(file, format!("{} (--token-file)", file.display())).map(Some);
    }
    let tied = |context: &InUse| context.entry.token_file.clone().map(|f| (f, context.words()));
    // Who names a context means its token too, whatever the environment holds.
    let named = context.filter(|context| context.origin == "--context").and_then(tied);
    if let Some((file, words)) = named {
        return from(&file, format!("{} of {words}", file.display())).map(Some);
    }
    if let Some(token) = token_set()? {
        return Ok(Some(token));
    }
    let known = places.known.iter().filter(|(known, _, _)| same_server(known, server));
    let known = known.filter_map(|(_, file, origin)| Some((file.clone()?, origin.clone())));
    let others = places.contexts.contexts.iter();
    let others = others.filter(|(_, entry)| same_server(&entry.server, server));
    let others = others
        .filter_map(|(name, entry)| Some((entry.token_file.clone()?, format!("context {name}"))));
    let mut all = context.and_then(tied).into_iter().chain(known).chain(others);
    let Some((file, words)) = all.next() else { return Ok(None) };
    from(&file, format!("{} of {words}", file.display())).map(Some)
}

/// A token that the environment gives.
fn token_set() -> Result<Option<Sourced<String>>, Failure> {
    let from = |file: &Path, by: &str| {
        let origin = format!("{} ({by})", file.display());
        read_token(file).map(|token| Some(Sourced::new(token, origin)))
    };
    if let Some(file) = variable("DEPLOYCTL_TOKEN_FILE") {
        return from(Path::new(&file), "DEPLOYCTL_TOKEN_FILE");
    }
    let credential = variable("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(&folder).join("deployctl-token"))
        .filter(|file| file.exists());
    match credential {
        Some(file) => from(&file, "CREDENTIALS_DIRECTORY"),
        None => Ok(variable("DEPLOYCTL_TOKEN").map(|token| Sourced::new(token, "DEPLOYCTL_TOKEN"))),
    }
}

/// Where a user's `config.toml` lies, whether it exists or not.
#[must_use]
fn config_file() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("deployctl").join("config.toml"))
}

fn no_server() -> Failure {
    let file = config_file().unwrap_or_else(|| "config.toml".into());
    Failure::new(ExitCode::Unreachable, "which coordinator?")
        .because("nothing says where it is, and none keeps its data on this machine")
        .hint("start one here: deployctl coordinator")
        .hint("or sign in to one: deployctl auth login --server URL")
        .hint("or say where it is: --server URL, or export DEPLOYCTL_SERVER=URL")
        .hint(format!("or write server = \"URL\" in deployctl.toml or {}", file.display()))
}

/// Checks that `server` is the URL of a coordinator.
///
/// # Errors
/// Exit code 2.
pub fn check_url(server: &str) -> Result<(), Failure> {
    let host = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(()),
        _ => Err(Failure::usage(format!("{server:?} is no URL of a coordinator"))
            .hint("such as --server http://127.0.0.1:7878")),
    }
}

fn same_server(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let unreadable = || Failure::new(ExitCode::Auth, format!("no token in {}", file.display()));
    auth::read_token(file).map_err(|e| unreadable().because(e))
}

/// The folder that the variable `name` gives, else `under_home` in the home folder.
#[must_use]
pub fn folder(name: &str, under_home: &str) -> Option<PathBuf> {
    let xdg = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| variable("HOME").map(|home| Path::new(&home).join(under_home)))
}
