//! `deployctl history`: releases, newest first.

use std::time::Duration;

use clap::Args;

use crate::cli::api::Api;
use crate::cli::args::duration;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::prompt::pick_app;
use crate::cli::rollouts::{table, table_of_all};
use crate::wire::v1::rollout::Releases;

/// Most releases of one list, as the coordinator has it.
const LIMIT_MAX: u32 = 500;
/// Releases that are listed unless it is said how many.
const LIMIT: u32 = 20;

/// List releases: what, when, who, why and how it ended
///
/// With -A of every app: what changed lately.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl history\n  deployctl history -A --since 2h\n  deployctl history -e staging -n 5 -o json"
)]
pub struct HistoryArgs {
    /// At most this many, 1 to 500 [default: 20; with --since 500]
    #[arg(short = 'n', long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_MAX)))]
    limit: Option<u32>,
    /// Of every app and env, whatever the project file says; -a or -e narrows it
    #[arg(short = 'A', long)]
    all: bool,
    /// Only of the last while, such as 90s, 2h or 3d; 30d at most
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: HistoryArgs) -> Result<ExitCode, Failure> {
    let limit = args.limit.unwrap_or(if args.since.is_some() { LIMIT_MAX } else { LIMIT });
    let reply = look(ctx, &args, limit).await?;
    let releases: Vec<_> = reply.releases.iter().collect();
    let mut table = if args.all { table_of_all(&releases) } else { table(&releases) };
    if args.since.is_some() {
        table.when_empty = "no deploy and no rollback in that time".into();
    }
    args.fields.answer(ctx, "releases", &reply, &table)?;
    if args.since.is_some() && releases.len() == limit as usize {
        ctx.out.story(&format!("the newest {limit}; there may be more in that time"));
    }
    Ok(ExitCode::Ok)
}

async fn look(ctx: &Context, args: &HistoryArgs, limit: u32) -> Result<Releases, Failure> {
    let api = Api::new(ctx)?;
    if args.all {
        let told = (ctx.flags.app.as_ref(), ctx.flags.env.as_ref());
        return Ok(api.releases_of_all(told, args.since, limit).await?);
    }
    let (app, env) = (pick_app(ctx, &api).await?, ctx.env()?);
    Ok(match args.since {
        Some(_) => api.releases_of_all((Some(&app), Some(&env)), args.since, limit).await?,
        None => api.releases(&app, &env, limit).await?,
    })
}
