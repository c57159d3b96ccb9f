//! `deployctl auth`: sign in to a coordinator, and see as whom.

use std::io::Write as _;
use std::path::Path;

use clap::{Args, Subcommand};

use crate::cli::commands::context::{add, config_folder, save, token_file};
use crate::cli::context::Context;
use crate::cli::discover::Endpoint;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt;
use crate::cli::table::{Cell, Table};
use crate::config::client::{ContextEntry, Contexts};
use crate::net::auth::read_token_from;
use crate::wire::v1::version::Version;

/// The context that is meant when nothing names one.
const DEFAULT: &str = "default";

/// Sign in to a coordinator, and see as whom
///
/// Tokens are made by an administrator: `deployctl tokens create`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuthArgs {
    #[command(subcommand)]
    command: Option<AuthCommand>,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    Status(StatusArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    Token(TokenArgs),
}

/// Say who the coordinator takes us for, and where the token comes from
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl auth status\n  deployctl auth status -o json")]
pub struct StatusArgs {}

/// Keep a token for a coordinator, after asking the coordinator about it
///
/// The token is asked for on a terminal, else read from stdin; --token-file reads a file.
/// It is kept in a file that only you can read, and tied to the server: it is never sent
/// to another one. --context names the installation [default: default].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl auth login --server https://deploy.example.org\n  \
    deployctl auth login --context work --server https://deploy.example.org < token")]
pub struct LoginArgs {}

/// Forget the token that was kept
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl auth logout\n  deployctl auth logout --context work"
)]
pub struct LogoutArgs {}

/// Print the token that is in use, for scripts
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl auth token\n  curl -H \"authorization: Bearer $(deployctl auth token)\" $URL/v1/status\n  deployctl auth token --context work"
)]
pub struct TokenArgs {}

/// Runs the command.
///
/// # Errors
/// Exit code 4 when there is no token or the coordinator does not know it.
pub async fn run(ctx: &Context, args: AuthArgs) -> Result<ExitCode, Failure> {
    match args.command.unwrap_or(AuthCommand::Status(StatusArgs {})) {
        AuthCommand::Status(_) => status(ctx).await,
        AuthCommand::Login(_) => login(ctx).await,
        AuthCommand::Logout(_) => logout(ctx),
        AuthCommand::Token(_) => {
            let none = || Failure::new(ExitCode::Auth, "no token").hint("deployctl auth login");
            let token = ctx.endpoint()?.token.ok_or_else(none)?;
            ctx.out.text(&format!("{token}\n"));
            Ok(ExitCode::Ok)
        }
    }
}

async fn status(ctx: &Context) -> Result<ExitCode, Failure> {
    let found = crate::cli::discover::find(&ctx.said())?;
    let who: Version = ctx.client()?.get("/v1/version", ctx.flags.request_timeout).await?;
    let token = found.token.map(|token| token.origin);
    let context = found.context.map(|context| context.value);
    let document = serde_json::json!({
        "server": found.server.value, "server_from": found.server.origin, "context": context,
        "token_from": token, "name": who.name, "role": who.role, "version": who.version,
    });
    let mut table = Table::new(&["SERVER", "NAME", "ROLE", "CONTEXT", "TOKEN FROM"], 5, "");
    table.push([
        found.server.value.into(),
        who.name.into(),
        who.role.word().into(),
        Cell::maybe(context),
        Cell::maybe(token),
    ]);
    ctx.out.answer(&document, &table);
    Ok(ExitCode::Ok)
}

async fn login(ctx: &Context) -> Result<ExitCode, Failure> {
    let folder = config_folder()?;
    let mut all = Contexts::read(&folder)?;
    let name = ctx.flags.context.clone().or_else(|| all.current.clone());
    let name = name.unwrap_or_else(|| DEFAULT.to_owned());
    let server = server(ctx, &all, &name)?;
    let token = read(ctx, &server).await?;
    let ca = ctx.flags.ca.clone().or_else(|| all.contexts.get(&name).and_then(|e| e.ca.clone()));
    let ca = ca.map(|path| std::path::absolute(&path).unwrap_or(path));
    let endpoint = Endpoint { server: server.clone(), token: Some(token.clone()), ca: ca.clone() };
    let client = endpoint.client()?;
    let who: Version = client.get("/v1/version", ctx.flags.request_timeout).await?;
    let file = token_file(&name)?;
    add(
        &mut all,
        &name,
        ContextEntry { server: server.clone(), token_file: Some(file.clone()), ca },
    )?;
    keep(&file, &token)?;
    save(&all)?;
    ctx.out.story(&format!("signed in to {server} as {} ({})", who.name, who.role.word()));
    if all.current.as_deref() != Some(&name) {
        ctx.out.hint(&format!("deployctl context use {name}"));
    }
    if ctx.out.is_json() {
        let document = serde_json::json!({
            "context": name, "server": server, "name": who.name, "role": who.role,
            "token_file": file,
        });
        ctx.out.json(&document);
    }
    Ok(ExitCode::Ok)
}

/// The server to sign in to: named, or that of the context, or found.
fn server(ctx: &Context, all: &Contexts, name: &str) -> Result<String, Failure> {
    if let Some(server) = &ctx.flags.server {
        return Ok(server.clone());
    }
    if let Some(entry) = all.contexts.get(name) {
        return Ok(entry.server.clone());
    }
    let mut said = ctx.said();
    said.context = None;
    crate::cli::discover::find(&said).map(|found| found.server.value)
}

/// The token: from the file that was named, from a person, or from stdin.
async fn read(ctx: &Context, server: &str) -> Result<String, Failure> {
    let no_token = |why: String| {
        Failure::usage("that is no token")
            .because(why)
            .hint("a token is one line: dct_ID_SECRET, as `deployctl tokens create` prints it")
    };
    if let Some(file) = &ctx.flags.token_file {
        let file = std::fs::File::open(file).map_err(|e| no_token(e.to_string()))?;
        return read_token_from(file).map_err(|e| no_token(e.to_string()));
    }
    if prompt::can_ask(ctx) {
        let typed = prompt::secret(&format!("Token for {server}")).await?;
        return read_token_from(typed.as_bytes()).map_err(|e| no_token(e.to_string()));
    }
    read_token_from(std::io::stdin()).map_err(|e| no_token(e.to_string()))
}

/// Writes a token into a file of its own that only the user can read.
fn keep(file: &Path, token: &str) -> Result<(), Failure> {
    let unwritten = |e: std::io::Error| {
        Failure::new(ExitCode::Error, format!("{} can't be written", file.display())).because(e)
    };
    let folder = file.parent().expect("a token's file lies in a folder");
    std::fs::create_dir_all(folder).map_err(unwritten)?;
    // A temporary file is its owner's alone, and the rename keeps that.
    let mut next = tempfile::NamedTempFile::new_in(folder).map_err(unwritten)?;
    writeln!(next, "{token}").map_err(unwritten)?;
    next.persist(file).map(drop).map_err(|e| unwritten(e.error))
}

fn logout(ctx: &Context) -> Result<ExitCode, Failure> {
    let folder = config_folder()?;
    let mut all = Contexts::read(&folder)?;
    let name = ctx.flags.context.clone().or_else(|| all.current.clone());
    let name = name.unwrap_or_else(|| DEFAULT.to_owned());
    let file = token_file(&name)?;
    let entry = all.contexts.get_mut(&name);
    let kept = entry.filter(|entry| entry.token_file.as_deref() == Some(&file));
    let was = kept.is_some();
    if let Some(entry) = kept {
        entry.token_file = None;
        save(&all)?;
        // Gone already is as good.
        drop(std::fs::remove_file(&file));
    }
    let words = if was { "signed out of" } else { "no token was kept for" };
    ctx.out.story(&format!("{words} context {name}"));
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({"context": name, "signed_out": was}));
    }
    Ok(ExitCode::Ok)
}
