//! `deployctl watch`: a rollout live; the exit code is its outcome.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::{WaitArgs, duration};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::{complete, rollouts};
use crate::model::id::ReleaseNo;

/// Watch a rollout until it ends
///
/// The exit code is the outcome, also when it ended before.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl watch\n  deployctl watch r412 --timeout 10m -o json"
)]
pub struct WatchArgs {
    /// Which [default: the open one, else the last]
    #[arg(value_name = "ROLLOUT", add = ArgValueCompleter::new(complete::releases))]
    rollout: Option<ReleaseNo>,
    /// Stop watching after this time (exit code 124); the rollout goes on
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = duration)]
    timeout: Duration,
    /// End with code 14 when it pauses for a person [default when not on a terminal]
    #[arg(long)]
    exit_on_pause: bool,
}

/// Runs the command.
///
/// # Errors
/// As the rollout ends: see `deployctl help exit-codes`.
pub async fn run(ctx: &Context, args: WatchArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let id = rollouts::pick(ctx, &api, args.rollout).await?;
    let now = api.rollout(&id, 0, Duration::ZERO).await?;
    let wait = WaitArgs { detach: false, timeout: args.timeout, exit_on_pause: args.exit_on_pause };
    rollouts::see_through(ctx, &api, now, &wait).await
}
