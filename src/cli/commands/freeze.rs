//! `deployctl freeze`: windows in which no deploy starts.

use clap::{Args, Subcommand};
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::args::seconds;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::id::FreezeNo;
use crate::wire::v1::freeze::{Freeze, FreezeRequest, Freezes};

/// Start, end and list freezes: windows in which no deploy starts
///
/// A rollback always passes. A rollout that is under way pauses before its next step. A
/// deploy passes with --break-glass, by an admin, with a reason, and everybody is told.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    #[command(subcommand)]
    command: Option<FreezeCommand>,
}

#[derive(Debug, Subcommand)]
enum FreezeCommand {
    Start(StartArgs),
    End(EndArgs),
    List(ListArgs),
}

/// Start a freeze
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl freeze start -a payments-api -e prod --for 4h -m \"INC-4412\"\n  \
    deployctl freeze start --all -e prod --in 2d --for 7d -m \"holidays\""
)]
pub struct StartArgs {
    /// Every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    /// How long, at most 30d
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    lasts: u32,
    /// Begins after this time
    #[arg(long = "in", value_name = "TIME", default_value = "0", hide_default_value = true,
          value_parser = seconds)]
    starts_in: u32,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: String,
}

/// End a freeze before its time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl freeze end f3\n  deployctl freeze end f3 -o json")]
pub struct EndArgs {
    /// Which
    #[arg(value_name = "FREEZE")]
    freeze: FreezeNo,
}

/// List the freezes that are not over
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl freeze list\n  deployctl freeze list --exit-code -o json"
)]
#[derive(Default)]
pub struct ListArgs {
    /// End with code 20 when there is one
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: FreezeArgs) -> Result<ExitCode, Failure> {
    match args.command.unwrap_or(FreezeCommand::List(ListArgs::default())) {
        FreezeCommand::Start(args) => start(ctx, args).await,
        FreezeCommand::End(args) => end(ctx, args.freeze).await,
        FreezeCommand::List(args) => list(ctx, args).await,
    }
}

/// The env is only what was said here: a freeze of one env must be meant so.
async fn start(ctx: &Context, args: StartArgs) -> Result<ExitCode, Failure> {
    let request = FreezeRequest {
        app: if args.all { None } else { Some(scope(ctx)?) },
        env: ctx.flags.env.clone(),
        reason: args.message,
        starts_in_s: args.starts_in,
        lasts_s: args.lasts,
    };
    let api = Api::new(ctx)?;
    let freeze: Freeze = api.change(Method::POST, "/v1/freezes", &request).await?;
    ctx.out.answer(&freeze, &table(std::slice::from_ref(&freeze)));
    ctx.out.hint(&format!("deployctl freeze end {freeze}", freeze = freeze.freeze));
    Ok(ExitCode::Ok)
}

fn scope(ctx: &Context) -> Result<crate::model::id::AppName, Failure> {
    ctx.app().map_err(|failure| failure.hint("or every app: deployctl freeze start --all"))
}

async fn end(ctx: &Context, freeze: FreezeNo) -> Result<ExitCode, Failure> {
    let path = format!("/v1/freezes/{freeze}/end");
    let freeze: Freeze = Api::new(ctx)?.change(Method::POST, &path, &serde_json::json!({})).await?;
    ctx.out.answer(&freeze, &table(std::slice::from_ref(&freeze)));
    ctx.out.hint("what a freeze has paused goes on with: deployctl resume");
    Ok(ExitCode::Ok)
}

async fn list(ctx: &Context, args: ListArgs) -> Result<ExitCode, Failure> {
    let reply: Freezes = Api::new(ctx)?.get("/v1/freezes").await?;
    args.fields.answer(ctx, "freezes", &reply, &table(&reply.freezes))?;
    let any = args.exit_code && !reply.freezes.is_empty();
    Ok(if any { ExitCode::Changes } else { ExitCode::Ok })
}

fn table(freezes: &[Freeze]) -> Table {
    let columns = ["FREEZE", "APP", "ENV", "STATE", "FROM", "UNTIL", "ACTOR", "REASON"];
    let mut table = Table::new(&columns, columns.len(), "nothing is frozen");
    let now = clock::now();
    for freeze in freezes {
        let state = match freeze.ended_at {
            Some(_) => Cell::state("ended", Tone::Dim),
            None if freeze.until <= now => Cell::state("over", Tone::Dim),
            None if freeze.from > now => Cell::state("announced", Tone::Moving),
            None => Cell::state("frozen", Tone::Look),
        };
        table.push([
            freeze.freeze.to_string().into(),
            freeze.app.as_ref().map_or("*", |app| app.as_str()).into(),
            freeze.env.as_ref().map_or("*", |env| env.as_str()).into(),
            state,
            freeze.from.to_string().into(),
            freeze.until.to_string().into(),
            freeze.actor.as_str().into(),
            freeze.reason.as_str().into(),
        ]);
    }
    table
}
