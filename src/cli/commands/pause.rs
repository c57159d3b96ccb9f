//! `deployctl pause` and `deployctl resume`: hold a rollout where it is, and go on.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::WaitArgs;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::outcome::paused_lines;
use crate::cli::{complete, rollouts};
use crate::model::id::ReleaseNo;
use crate::model::rollout::RolloutState;
use crate::wire::v1::rollout::PauseRequest;

/// Hold a rollout where it is; hosts that have the release keep it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl pause\n  deployctl pause r412 -m \"error rate in eu\""
)]
pub struct PauseArgs {
    /// Which [default: the open one]
    #[arg(value_name = "ROLLOUT", add = ArgValueCompleter::new(complete::open))]
    rollout: Option<ReleaseNo>,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// Go on with a rollout that is paused
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl resume\n  deployctl resume r412 --detach")]
pub struct ResumeArgs {
    /// Which [default: the open one]
    #[arg(value_name = "ROLLOUT", add = ArgValueCompleter::new(complete::paused))]
    rollout: Option<ReleaseNo>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs `pause`. A rollout that is paused already stays so: a script may say it twice.
///
/// # Errors
/// Exit code 6 when it is over or going back.
pub async fn pause(ctx: &Context, args: PauseArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let (id, now) = rollouts::pick_open(ctx, &api, args.rollout, false).await?;
    let rollout = if now.release.state == RolloutState::Paused {
        let word = if now.held { "held" } else { "paused" };
        ctx.out.story(&format!("{} is {word} already", id.release));
        now
    } else {
        api.steer_rollout(&id, "pause", &PauseRequest { message: args.message }).await?
    };
    ctx.out.answer(&rollout, &rollouts::table(&[&rollout.release]));
    for (_, line) in paused_lines(&rollout).into_iter().flatten() {
        ctx.out.hint(&line);
    }
    Ok(ExitCode::Ok)
}

/// Runs `resume`, then waits for the outcome as `watch` does.
///
/// # Errors
/// Exit code 6 when it is not paused; else as the rollout ends.
pub async fn resume(ctx: &Context, args: ResumeArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let (id, _) = rollouts::pick_open(ctx, &api, args.rollout, false).await?;
    let resumed = api.steer_rollout(&id, "resume", &serde_json::json!({})).await?;
    rollouts::see_through(ctx, &api, resumed, &args.wait).await
}
