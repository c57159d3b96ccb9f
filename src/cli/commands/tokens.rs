//! `deployctl tokens`: who may do what.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::id::{HostId, RegionName};
use crate::wire::v1::token::{NewToken, Role, TokenRequest, Tokens};

/// Create, list and delete tokens (role admin)
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TokensArgs {
    #[command(subcommand)]
    command: Option<TokensCommand>,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    List(ListArgs),
    Create(CreateArgs),
    #[command(visible_alias = "revoke")]
    Delete(DeleteArgs),
}

/// List the tokens; secrets are never shown again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl tokens list\n  deployctl tokens list -o json")]
#[derive(Default)]
pub struct ListArgs {
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Create a token and show its secret this once
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl tokens create ann --role deployer --out ann.token\n  \
    deployctl tokens create eu-hosts --role agent --region eu --out agent.token"
)]
pub struct CreateArgs {
    /// Who or what will hold it
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do: admin, deployer, viewer, worker, region or agent
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Role,
    /// The region of a region's or agent's token
    #[arg(long, value_name = "REGION", add = ArgValueCompleter::new(complete::regions))]
    region: Option<RegionName>,
    /// The one host of an agent's token
    #[arg(long, value_name = "HOST")]
    host: Option<HostId>,
    /// Write it to a new file that only you can read, and show nothing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Delete a token: it stops working at once
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl tokens delete 1f6a0c2b9d3e4f50\n  deployctl tokens delete 1f6a0c2b9d3e4f50 -q"
)]
pub struct DeleteArgs {
    /// Its public id
    #[arg(value_name = "ID")]
    id: String,
}

fn role(text: &str) -> Result<Role, String> {
    let words = || Role::ALL.map(Role::word).join(", ");
    Role::from_word(text).ok_or_else(|| format!("a role is one of {}", words()))
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: TokensArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    match args.command.unwrap_or(TokensCommand::List(ListArgs::default())) {
        TokensCommand::List(args) => {
            let reply: Tokens = api.get("/v1/tokens").await?;
            args.fields.answer(ctx, "tokens", &reply, &table(&reply))?;
        }
        TokensCommand::Create(args) => create(ctx, &api, args).await?,
        TokensCommand::Delete(args) => {
            // An id is hexadecimal; anything else must not become part of a path.
            if args.id.is_empty() || args.id.bytes().any(|b| !b.is_ascii_alphanumeric()) {
                return Err(Failure::usage(format!("{:?} is no token's id", args.id))
                    .hint("deployctl tokens list"));
            }
            let path = format!("/v1/tokens/{}", args.id);
            let _: serde_json::Value =
                api.change(Method::DELETE, &path, &serde_json::json!({})).await?;
            ctx.out.story(&format!("deleted {}", args.id));
            if ctx.out.is_json() {
                ctx.out.json(&serde_json::json!({"deleted": args.id}));
            }
        }
    }
    Ok(ExitCode::Ok)
}

async fn create(ctx: &Context, api: &Api, args: CreateArgs) -> Result<(), Failure> {
    let file = args.out.map(|path| open_new(&path).map(|file| (file, path))).transpose()?;
    let request =
        TokenRequest { name: args.name, role: args.role, region: args.region, host: args.host };
    let made: Result<NewToken, Failure> = api.change(Method::POST, "/v1/tokens", &request).await;
    let Some((mut file, path)) = file else {
        let made = made?;
        if ctx.out.is_json() {
            ctx.out.json(&made)
        } else {
            ctx.out.text(&format!("{}\n", made.token))
        }
        return Ok(());
    };
    let written = made.and_then(|made| {
        use std::io::Write;
        let unwritten = |e| Failure::new(ExitCode::Error, "the file can't be written").because(e);
        writeln!(file, "{}", made.token).and_then(|()| file.sync_all()).map_err(unwritten)?;
        Ok(made.id)
    });
    // An empty file would look like a token.
    let id = written.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    ctx.out.story(&format!("wrote {}", path.display()));
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({"id": id, "file": path}));
    }
    Ok(())
}

fn open_new(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .map_err(|e| Failure::usage(format!("{} can't be made", path.display())).because(e))
}

fn table(reply: &Tokens) -> Table {
    let mut table =
        Table::new(&["ID", "NAME", "ROLE", "REGION", "HOST", "CREATED"], 6, "no tokens");
    for token in &reply.tokens {
        table.push([
            token.id.as_str().into(),
            token.name.as_str().into(),
            token.role.word().into(),
            Cell::maybe(token.region.as_ref()),
            Cell::maybe(token.host.as_ref()),
            Cell::time(Some(token.created_at), clock::now()),
        ]);
    }
    table
}
