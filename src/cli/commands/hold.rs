//! `deployctl hold`: what a person keeps where it is, and for how long.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::args::seconds;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::id::{AppName, HoldNo, HostId, RegionName};
use crate::wire::v1::hold::{Hold, HoldRequest, Holds};

/// Keep an app, a host or a region where it is, until it is released
///
/// An app: no deploy of it starts (exit code 7), and a rollout that is under way pauses
/// before its next step. A host or a region: it stays on what it runs. A rollback passes
/// a hold of an app, and says which hosts it did not move; `rollback --unpin` moves them.
#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(subcommand)]
    command: Option<HoldCommand>,
}

#[derive(Debug, Subcommand)]
enum HoldCommand {
    Start(StartArgs),
    End(EndArgs),
    List(ListArgs),
}

/// Start a hold
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl hold start -a payments-api -e prod --for 4h -m \"INC-4412\"\n  \
    deployctl hold start --host web-8812 --all --for 2h -m \"a core dump is being read\""
)]
pub struct StartArgs {
    /// Every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    /// Only this host: it stays on what it runs
    #[arg(long, value_name = "HOST", conflicts_with = "region",
          add = ArgValueCompleter::new(complete::hosts))]
    host: Option<HostId>,
    /// Only the hosts of this region: they stay on what they run
    #[arg(long, value_name = "REGION", add = ArgValueCompleter::new(complete::regions))]
    region: Option<RegionName>,
    /// How long, at most 30d
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    lasts: u32,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: String,
}

/// End a hold or a pin before its time, whoever started it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl hold end h3\n  deployctl hold end h3 -o json")]
pub struct EndArgs {
    /// Which
    #[arg(value_name = "HOLD")]
    hold: HoldNo,
}

/// List the holds and pins that are not over
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl hold list\n  deployctl hold list --exit-code -o json"
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
pub async fn run(ctx: &Context, args: HoldArgs) -> Result<ExitCode, Failure> {
    match args.command.unwrap_or(HoldCommand::List(ListArgs::default())) {
        HoldCommand::Start(args) => start(ctx, args).await,
        HoldCommand::End(args) => end(ctx, args.hold).await,
        HoldCommand::List(args) => list(ctx, args).await,
    }
}

/// The env is only what was said here: a hold of one env must be meant so.
async fn start(ctx: &Context, args: StartArgs) -> Result<ExitCode, Failure> {
    let request = HoldRequest {
        app: if args.all { None } else { Some(scope(ctx)?) },
        env: ctx.flags.env.clone(),
        host: args.host,
        region: args.region,
        release: None,
        reason: args.message,
        lasts_s: args.lasts,
    };
    make(ctx, &request).await
}

/// Asks for a hold or a pin, and shows it.
///
/// # Errors
/// As the coordinator refuses it.
pub(super) async fn make(ctx: &Context, request: &HoldRequest) -> Result<ExitCode, Failure> {
    let hold: Hold = Api::new(ctx)?.change(Method::POST, "/v1/holds", request).await?;
    ctx.out.answer(&hold, &table(std::slice::from_ref(&hold)));
    ctx.out.hint(&format!("deployctl hold end {hold}", hold = hold.hold));
    Ok(ExitCode::Ok)
}

fn scope(ctx: &Context) -> Result<AppName, Failure> {
    ctx.app().map_err(|failure| failure.hint("or every app: deployctl hold start --all"))
}

async fn end(ctx: &Context, hold: HoldNo) -> Result<ExitCode, Failure> {
    let hold = release(&Api::new(ctx)?, hold).await?;
    ctx.out.answer(&hold, &table(std::slice::from_ref(&hold)));
    if !hold.is_placed() {
        ctx.out.hint("what a hold has paused goes on with: deployctl resume");
    }
    Ok(ExitCode::Ok)
}

/// Ends one hold.
///
/// # Errors
/// Exit code 3 when there is none of this number.
pub(super) async fn release(api: &Api, hold: HoldNo) -> Result<Hold, Failure> {
    let path = format!("/v1/holds/{hold}/end");
    api.change(Method::POST, &path, &serde_json::json!({})).await
}

async fn list(ctx: &Context, args: ListArgs) -> Result<ExitCode, Failure> {
    let reply: Holds = Api::new(ctx)?.get("/v1/holds").await?;
    args.fields.answer(ctx, "holds", &reply, &table(&reply.holds))?;
    let any = args.exit_code && !reply.holds.is_empty();
    Ok(if any { ExitCode::Changes } else { ExitCode::Ok })
}

/// Holds and pins as a table.
pub(super) fn table(holds: &[Hold]) -> Table {
    let columns =
        ["HOLD", "APP", "ENV", "WHERE", "AT", "STATE", "SINCE", "UNTIL", "ACTOR", "REASON"];
    let mut table = Table::new(&columns, columns.len(), "nothing is held or pinned");
    let now = clock::now();
    for hold in holds {
        let place = match (&hold.host, &hold.region) {
            (Some(host), _) => host.to_string(),
            (None, Some(region)) => format!("region {region}"),
            (None, None) => "*".into(),
        };
        let state = match (hold.ended_at, hold.at) {
            (Some(_), _) => Cell::state("ended", Tone::Dim),
            _ if !hold.stands(now) => Cell::state("over", Tone::Dim),
            (None, Some(_)) => Cell::state("pinned", Tone::Look),
            (None, None) => Cell::state("held", Tone::Look),
        };
        table.push([
            hold.hold.to_string().into(),
            hold.app.as_ref().map_or("*", |app| app.as_str()).into(),
            hold.env.as_ref().map_or("*", |env| env.as_str()).into(),
            place.into(),
            Cell::maybe(hold.at.map(|at| at.release)),
            state,
            hold.from.to_string().into(),
            hold.until.to_string().into(),
            hold.actor.as_str().into(),
            hold.reason.as_str().into(),
        ]);
    }
    table
}
