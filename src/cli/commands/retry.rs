//! `deployctl retry`: a failed build again, or failed hosts again.

use clap::Args;
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::commands::builds;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::outcome::progress_of;
use crate::cli::{complete, rollouts};
use crate::model::id::{JobNo, ReleaseNo};
use crate::model::rollout::RolloutState;
use crate::wire::v1::build::{Build, Builds};

/// Queue a failed build again, or let failed hosts of a rollout try again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl retry b12\n  deployctl retry r412 -a payments-api")]
pub struct RetryArgs {
    /// b12 or r412 [default: the open rollout, else the last]
    #[arg(value_name = "ROLLOUT|BUILD", add = ArgValueCompleter::new(complete::logged))]
    of: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 6 when it is not failed.
pub async fn run(ctx: &Context, args: RetryArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let nothing = serde_json::json!({});
    if let Some(build) = args.of.as_ref().and_then(|name| name.parse::<JobNo>().ok()) {
        let path = format!("/v1/builds/{build}/retry");
        let build: Build = api.change(Method::POST, &path, &nothing).await?;
        ctx.out.answer(&build, &builds::table(&Builds { builds: vec![build.clone()] }));
        ctx.out.hint(&format!("deployctl logs {} -f", build.build));
        return Ok(ExitCode::Ok);
    }
    let named: Option<ReleaseNo> = args.of.map(|name| name.parse()).transpose()?;
    let id = rollouts::pick(ctx, &api, named).await?;
    let rollout = api.steer_rollout(&id, "retry", &nothing).await?;
    let (done, reachable) = progress_of(&rollout);
    if rollout.release.state == RolloutState::Succeeded && done == reachable {
        ctx.out.story(&format!("{} succeeded; no host has to try again", id.release));
    }
    ctx.out.answer(&rollout, &rollouts::table(&[&rollout.release]));
    ctx.out.hint(&format!("deployctl watch {} -a {} -e {}", id.release, id.app, id.env));
    Ok(ExitCode::Ok)
}
