//! `deployctl approve` and `reject`: a second person says whether a deploy begins.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::{complete, rollouts};
use crate::model::id::ReleaseNo;
use crate::wire::v1::rollout::ApprovalRequest;
use crate::wire::words::waits;

/// Approve a deploy that somebody else asked for
///
/// An env may want approvals: `deployctl apps set APP --approvals prod=1`. Until then the
/// deploy is pending, an hour at most (exit code 7). A rollback needs none.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl approve\n  deployctl approve r412 -m \"read it, ship it\""
)]
pub struct ApproveArgs {
    /// Which [default: the open one]
    #[arg(value_name = "ROLLOUT", add = ArgValueCompleter::new(complete::open))]
    rollout: Option<ReleaseNo>,
    /// What is to be said of it
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// End a deploy that waits for approval
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl reject -m \"after the holidays\"\n  deployctl reject r412 -m WHY -o json"
)]
pub struct RejectArgs {
    /// Which [default: the open one]
    #[arg(value_name = "ROLLOUT", add = ArgValueCompleter::new(complete::open))]
    rollout: Option<ReleaseNo>,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// Runs `approve`.
///
/// # Errors
/// Exit code 4 for one's own deploy, 6 when it waits for no approval.
pub async fn approve(ctx: &Context, args: ApproveArgs) -> Result<ExitCode, Failure> {
    say(ctx, args.rollout, "approve", args.message).await
}

/// Runs `reject`.
///
/// # Errors
/// Exit code 6 when it waits for no approval.
pub async fn reject(ctx: &Context, args: RejectArgs) -> Result<ExitCode, Failure> {
    say(ctx, args.rollout, "reject", args.message).await
}

async fn say(
    ctx: &Context,
    named: Option<ReleaseNo>,
    verb: &str,
    message: String,
) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let (id, now) = rollouts::pick_open(ctx, &api, named, false).await?;
    ctx.out.story(&rollouts::headline(ctx, &now));
    let rollout = api.steer_rollout(&id, verb, &ApprovalRequest { message }).await?;
    ctx.out.answer(&rollout, &rollouts::table(&[&rollout.release]));
    if !rollout.waiting_on.is_empty() {
        ctx.out.story(&format!("{} {}", id.release, waits(&rollout)));
    }
    let scope = Context::scope_flags(&id.app, &id.env);
    ctx.out.hint(&format!("deployctl watch {} {scope}", id.release));
    Ok(ExitCode::Ok)
}
