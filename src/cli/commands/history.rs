//! `deployctl history`: releases, newest first.

use clap::Args;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::prompt::pick_app;
use crate::cli::rollouts::table;

/// List releases: what, when, who, why and how it ended
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl history\n  deployctl history -e staging -n 5 -o json"
)]
pub struct HistoryArgs {
    /// At most this many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: HistoryArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let (app, env) = (pick_app(ctx, &api).await?, ctx.env()?);
    let reply = api.releases(&app, &env, args.limit).await?;
    let table = table(&reply.releases.iter().collect::<Vec<_>>());
    args.fields.answer(ctx, "releases", &reply, &table)?;
    Ok(ExitCode::Ok)
}
