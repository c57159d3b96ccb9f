//! `deployctl admin requeue|drain-worker`: builds of a worker that is lost, workers that are
//! to go.

use clap::Args;
use clap_complete::ArgValueCompleter;
use reqwest::Method;
use serde_json::json;

use crate::cli::api::Api;
use crate::cli::commands::{builds, workers};
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::model::id::JobNo;
use crate::wire::v1::build::{Build, Builds};
use crate::wire::v1::fleet::{DrainRequest, Workers};

/// Take a running build from its worker, and put it at the front of the queue
///
/// For a worker of which you know that it is lost: by itself this happens once its lease has
/// lapsed. A worker that lives after all is refused from then on, and stops.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin requeue b12\n  deployctl admin requeue b12 -o json"
)]
pub(super) struct RequeueArgs {
    /// Which
    #[arg(value_name = "BUILD", add = ArgValueCompleter::new(complete::builds))]
    build: JobNo,
}

/// Give a worker nothing new; what it runs it ends
///
/// Names a machine, whatever is started there, or one worker by its id. `deployctl workers`
/// says when it is drained.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin drain-worker build-7 -m \"new disk\"\n  deployctl admin drain-worker build-7 --end"
)]
pub(super) struct DrainArgs {
    /// The machine's name or the worker's id, as `deployctl workers` lists them
    #[arg(value_name = "NAME")]
    name: String,
    /// Give it jobs again
    #[arg(long)]
    end: bool,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

pub(super) async fn requeue(ctx: &Context, args: RequeueArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/builds/{}/requeue", args.build);
    let build: Build = Api::new(ctx)?.change(Method::POST, &path, &json!({})).await?;
    ctx.out.answer(&build, &builds::table(&Builds { builds: vec![build.clone()] }));
    ctx.out.hint(&format!("deployctl why {}", build.build));
    Ok(ExitCode::Ok)
}

pub(super) async fn drain(ctx: &Context, args: DrainArgs) -> Result<ExitCode, Failure> {
    // A name is a part of the path here, and nothing else.
    if args.name.is_empty() || args.name.contains(['/', '?', '#', '%']) {
        return Err(
            Failure::usage(format!("{:?} is no worker", args.name)).hint("deployctl workers")
        );
    }
    let path = format!("/v1/workers/{}/drain", args.name);
    let body = DrainRequest { end: args.end, message: args.message };
    let reply: Workers = Api::new(ctx)?.change(Method::POST, &path, &body).await?;
    ctx.out.answer(&reply, &workers::table(&reply.workers));
    if !args.end {
        ctx.out.hint(&format!("deployctl admin drain-worker {} --end", args.name));
    }
    Ok(ExitCode::Ok)
}
