//! `deployctl cancel`: stops a build or a rollout.

use clap::Args;
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::commands::builds;
use crate::cli::confirm::{self, Danger};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::{complete, rollouts};
use crate::model::id::{JobNo, ReleaseNo};
use crate::model::job::BuildFailure;
use crate::wire::v1::build::{Build, Builds};
use crate::wire::v1::rollout::CancelRequest;

/// Stop a build, or stop a rollout and go back to the release before
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl cancel b12\n  deployctl cancel r412 --keep -m \"look first\""
)]
pub struct CancelArgs {
    /// b12 or r412 [default: the open rollout]
    #[arg(value_name = "ROLLOUT|BUILD", add = ArgValueCompleter::new(complete::logged))]
    of: Option<String>,
    /// Leave hosts as they are in place of going back
    #[arg(long)]
    keep: bool,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// What became of the build: one that ended before stays as it was.
fn said(build: &Build) -> String {
    let canceled = build.failure.as_ref().is_some_and(|f| f.class == BuildFailure::Canceled);
    match build.state {
        state if state.is_final() && !canceled => {
            format!("{} is over: {}; nothing to cancel", build.build, state.word())
        }
        state if state.is_final() => format!("{} is canceled", build.build),
        _ => format!("{} is being stopped", build.build),
    }
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 6 when it is over.
pub async fn run(ctx: &Context, args: CancelArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    if let Some(build) = args.of.as_ref().and_then(|name| name.parse::<JobNo>().ok()) {
        let path = format!("/v1/builds/{build}/cancel");
        let build: Build = api.change(Method::POST, &path, &serde_json::json!({})).await?;
        ctx.out.story(&said(&build));
        ctx.out.answer(&build, &builds::table(&Builds { builds: vec![build.clone()] }));
        return Ok(ExitCode::Ok);
    }
    if !args.keep {
        confirm::check_can_ask(ctx, &ctx.env()?)?;
    }
    let named: Option<ReleaseNo> = args.of.map(|name| name.parse()).transpose()?;
    let (id, now) = rollouts::pick_open(ctx, &api, named, "rollback").await?;
    if !args.keep {
        ctx.out.story(&rollouts::headline(ctx, &now));
        confirm::ask(ctx, &id.env, "Stop it and go back?", Danger::Moderate).await?;
    }
    let body = CancelRequest { keep: args.keep, message: args.message };
    let rollout = api.steer_rollout(&id, "cancel", &body).await?;
    ctx.out.answer(&rollout, &rollouts::table(&[&rollout.release]));
    ctx.out.hint(&format!("deployctl watch {} -a {} -e {}", id.release, id.app, id.env));
    Ok(ExitCode::Ok)
}
