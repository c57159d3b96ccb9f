//! `deployctl rollback`: back to a known-good release, flat out.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::{WaitArgs, seconds};
use crate::cli::confirm::{self, Danger};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::{complete, reference, rollouts, steps};
use crate::model::id::RegionName;
use crate::model::rollout::RolloutKind;
use crate::wire::v1::rollout::RolloutRequest;

/// Go back to a known-good release, at once and everywhere
///
/// Without REF: the last known-good one. Once more goes further back; it never toggles.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl rollback -m \"INC-4412 5xx spike\"\n  deployctl rollback r411 --region eu --yes"
)]
pub struct RollbackArgs {
    /// Which release: r411, @~2, a commit [default: the last known-good]
    #[arg(value_name = "REF", add = ArgValueCompleter::new(complete::known_good))]
    to: Option<String>,
    /// Only these regions; elsewhere nothing moves
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',',
          add = ArgValueCompleter::new(complete::regions))]
    regions: Vec<RegionName>,
    /// Move pinned and held hosts too: what keeps them ends
    #[arg(long)]
    unpin: bool,
    /// Hosts begin to switch spread over this time, 1h at most [default: all at once]
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = seconds)]
    spread: Option<u32>,
    /// Go back to it though it was marked bad
    #[arg(long, hide_short_help = true)]
    allow_bad: bool,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs the command.
///
/// # Errors
/// As the rollout ends: see `deployctl help exit-codes`.
pub async fn run(ctx: &Context, args: RollbackArgs) -> Result<ExitCode, Failure> {
    let env = ctx.env()?;
    let target = match &args.to {
        Some(text) => reference::resolve(ctx, text)?.text(),
        None => String::new(),
    };
    if !args.dry_run {
        confirm::check_can_ask(ctx, &env)?;
    }
    let api = Api::new(ctx)?;
    let app = pick_app(ctx, &api).await?;
    let mut request = RolloutRequest {
        regions: args.regions,
        spread_s: args.spread,
        allow_bad: args.allow_bad,
        unpin: args.unpin,
        message: args.message,
        ..RolloutRequest::new(RolloutKind::Rollback, target)
    };
    if args.dry_run {
        return steps::tell_dry(ctx, &api, (&app, &env), request).await;
    }
    if confirm::must_ask(ctx, &env) {
        if let Some(there) = rollouts::preview(ctx, &api, (&app, &env), &mut request).await? {
            return rollouts::stay_with(ctx, &api, there, &args.wait).await;
        }
        confirm::ask(ctx, &env, "Roll back?", Danger::WayBack).await?;
        let started = api.start_rollout(&app, &env, &request).await?;
        return rollouts::stay_with(ctx, &api, started, &args.wait).await;
    }
    let started = api.start_rollout(&app, &env, &request).await?;
    rollouts::see_through(ctx, &api, started, &args.wait).await
}
