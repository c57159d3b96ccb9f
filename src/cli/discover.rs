//! Which coordinator, and the token for it.
//!
//! Precedence: flag, environment, project file, user's file, the coordinator of this
//! machine. A token from a file is only ever sent to the server that its own source
//! names, so a repository that names a server can't collect tokens.

use std::path::{Path, PathBuf};

use super::failure::{ExitCode, Failure};
use crate::config::client::{read_local, read_user};
use crate::net::auth;
use crate::net::client::{Client, http_client_trusting};

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
    /// `--server`.
    pub server: Option<String>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `server` in the project file.
    pub project: Option<String>,
}

/// Reads an environment variable; an empty one counts as not set.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the coordinator is and the token for it.
///
/// # Errors
/// Exit code 5 when nothing says where it is; 4 when a token file can't be read.
pub fn endpoint(said: &Said) -> Result<Endpoint, Failure> {
    let user = folder("XDG_CONFIG_HOME", ".config").map(|dir| read_user(&dir));
    let local = folder("XDG_DATA_HOME", ".local/share").map(|dir| read_local(&dir));
    let user = user.transpose()?.flatten().unwrap_or_default();
    let ca = said.ca.clone().or_else(|| variable("DEPLOYCTL_CA").map(PathBuf::from)).or(user.ca);
    let user = user.server.map(|server| (server, user.token_file));
    let local = local.transpose()?.flatten().map(|local| (local.server, Some(local.token_file)));
    let known: Vec<(String, Option<PathBuf>)> = user.into_iter().chain(local).collect();
    let server = said
        .server
        .clone()
        .or_else(|| variable("DEPLOYCTL_SERVER"))
        .or_else(|| said.project.clone())
        .or_else(|| known.first().map(|(server, _)| server.clone()))
        .ok_or_else(no_server)?;
    check_url(&server)?;
    if let Some(token) = token_said(said)? {
        return Ok(Endpoint { server, token: Some(token), ca });
    }
    let tied = known.iter().find(|(known, _)| same_server(known, &server));
    let file = tied.and_then(|(_, file)| file.as_deref());
    let token = file.map(read_token).transpose()?;
    Ok(Endpoint { server, token, ca })
}

/// Where a user's `config.toml` lies, whether it exists or not.
#[must_use]
fn config_file() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("deployctl").join("config.toml"))
}

fn token_said(said: &Said) -> Result<Option<String>, Failure> {
    if let Some(file) = &said.token_file {
        return read_token(file).map(Some);
    }
    if let Some(file) = variable("DEPLOYCTL_TOKEN_FILE") {
        return read_token(Path::new(&file)).map(Some);
    }
    let credential = variable("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(&folder).join("deployctl-token"))
        .filter(|file| file.exists());
    match credential {
        Some(file) => read_token(&file).map(Some),
        None => Ok(variable("DEPLOYCTL_TOKEN")),
    }
}

fn no_server() -> Failure {
    let file = config_file().unwrap_or_else(|| "config.toml".into());
    Failure::new(ExitCode::Unreachable, "which coordinator?")
        .because("nothing says where it is, and none keeps its data on this machine")
        .hint("start one here: deployctl coordinator")
        .hint("or say where it is: --server URL, or export DEPLOYCTL_SERVER=URL")
        .hint(format!("or write server = \"URL\" in deployctl.toml or {}", file.display()))
}

fn check_url(server: &str) -> Result<(), Failure> {
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

fn folder(name: &str, under_home: &str) -> Option<PathBuf> {
    let xdg = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| variable("HOME").map(|home| Path::new(&home).join(under_home)))
}
