//! `deployctl context`: several installations by name, and the one in use.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::discover::{check_url, folder, no_context};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table};
use crate::config::client::{ContextEntry, Contexts};

/// Most contexts of one user.
const CONTEXTS_MAX: usize = 100;
/// Longest name.
const NAME_BYTES_MAX: usize = 63;

/// List, add, use and remove contexts: installations by name
///
/// A context names a coordinator, a file with the token for it, and whom to trust.
/// --context and DEPLOYCTL_CONTEXT choose one for a single command.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ContextArgs {
    #[command(subcommand)]
    command: Option<ContextCommand>,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    List(ListArgs),
    Use(UseArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
}

/// List the contexts; the one in use is marked
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl context list\n  deployctl context list -o json")]
pub struct ListArgs {}

/// Use a context from now on
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl context use work\n  deployctl context use home -q")]
pub struct UseArgs {
    /// Which
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    name: String,
}

/// Add a context, or change the one of that name
///
/// `deployctl auth login` does the same and keeps a token too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl context add work --server https://deploy.example.org --token-file ~/work.token\n  \
    deployctl context add lab --server http://127.0.0.1:7878"
)]
pub struct AddArgs {
    /// Its name: a-z, 0-9 and '-'
    #[arg(value_name = "NAME")]
    name: String,
}

/// Remove a context; a token that `auth login` kept for it is removed too
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl context remove lab\n  deployctl context remove lab -q"
)]
pub struct RemoveArgs {
    /// Which
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    name: String,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 when there is no such context, 2 when something is missing.
#[expect(clippy::unused_async, reason = "every command has this shape")]
pub async fn run(ctx: &Context, args: ContextArgs) -> Result<ExitCode, Failure> {
    let folder = config_folder()?;
    let mut all = Contexts::read(&folder)?;
    match args.command.unwrap_or(ContextCommand::List(ListArgs {})) {
        ContextCommand::List(_) => {}
        ContextCommand::Use(args) => {
            if !all.contexts.contains_key(&args.name) {
                return Err(no_context(&args.name, &all));
            }
            all.current = Some(args.name);
            save(&all)?;
        }
        ContextCommand::Add(args) => {
            let server = ctx.flags.server.clone().ok_or_else(|| {
                Failure::usage("a context needs --server URL")
                    .hint(format!("deployctl context add {} --server https://…", args.name))
            })?;
            let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let entry = ContextEntry {
                server,
                token_file: ctx.flags.token_file.as_ref().map(whole),
                ca: ctx.flags.ca.as_ref().map(whole),
            };
            add(&mut all, &args.name, entry)?;
            save(&all)?;
        }
        ContextCommand::Remove(args) => {
            remove(&mut all, &args.name)?;
            save(&all)?;
        }
    }
    ctx.out.answer(&document(&all), &table(&all));
    Ok(ExitCode::Ok)
}

/// Adds `entry` as `name`; the first one is in use at once.
///
/// # Errors
/// Exit code 2 when the name or the URL is not one.
pub fn add(all: &mut Contexts, name: &str, entry: ContextEntry) -> Result<(), Failure> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(Failure::usage(format!("{name:?} is no name of a context"))
            .because("a name is 1 to 63 of a-z, 0-9 and '-'"));
    }
    check_url(&entry.server)?;
    if all.contexts.len() >= CONTEXTS_MAX && !all.contexts.contains_key(name) {
        return Err(Failure::usage(format!("there are {CONTEXTS_MAX} contexts already"))
            .hint("deployctl context list"));
    }
    all.contexts.insert(name.to_owned(), entry);
    all.current.get_or_insert_with(|| name.to_owned());
    Ok(())
}

fn remove(all: &mut Contexts, name: &str) -> Result<(), Failure> {
    let Some(entry) = all.contexts.remove(name) else { return Err(no_context(name, all)) };
    if all.current.as_deref() == Some(name) {
        all.current = None;
    }
    let own = token_file(name)?;
    if entry.token_file.as_deref() == Some(&own) {
        // Gone already is as good.
        drop(std::fs::remove_file(own));
    }
    Ok(())
}

/// The folder that holds `deployctl/contexts.toml`.
///
/// # Errors
/// Exit code 2 when neither `XDG_CONFIG_HOME` nor `HOME` says where.
pub fn config_folder() -> Result<PathBuf, Failure> {
    folder("XDG_CONFIG_HOME", ".config")
        .ok_or_else(|| Failure::usage("neither HOME nor XDG_CONFIG_HOME is set"))
}

/// Where `auth login` keeps the token of a context.
///
/// # Errors
/// As [`config_folder`].
pub fn token_file(name: &str) -> Result<PathBuf, Failure> {
    Ok(config_folder()?.join("deployctl").join("tokens").join(format!("{name}.token")))
}

/// Writes the contexts.
///
/// # Errors
/// Exit code 1 when the folder can't be written.
pub fn save(all: &Contexts) -> Result<(), Failure> {
    let folder = config_folder()?;
    all.write(&folder).map_err(|e| {
        let file = Contexts::file(&folder);
        Failure::new(ExitCode::Error, format!("{} can't be written", file.display())).because(e)
    })
}

fn document(all: &Contexts) -> serde_json::Value {
    let row = |(name, entry): (&String, &ContextEntry)| {
        serde_json::json!({
            "name": name,
            "server": entry.server,
            "token_file": entry.token_file,
            "ca": entry.ca,
            "current": all.current.as_ref() == Some(name),
        })
    };
    serde_json::json!({"contexts": all.contexts.iter().map(row).collect::<Vec<_>>()})
}

fn table(all: &Contexts) -> Table {
    let empty = "no context yet: deployctl auth login, or deployctl context add";
    let mut table = Table::new(&["CONTEXT", "IN USE", "SERVER", "TOKEN FILE", "CA"], 4, empty);
    for (name, entry) in &all.contexts {
        let current = all.current.as_ref() == Some(name);
        table.push([
            name.as_str().into(),
            if current { "yes" } else { "" }.into(),
            entry.server.as_str().into(),
            Cell::maybe(entry.token_file.as_ref().map(|file| file.display())),
            Cell::maybe(entry.ca.as_ref().map(|file| file.display())),
        ]);
    }
    table
}
