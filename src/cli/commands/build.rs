//! `deployctl build`: from a commit to an artifact in every region.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::duration;
use crate::cli::commands::builds::table;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::Tone;
use crate::cli::prompt::pick_app;
use crate::cli::table::bytes;
use crate::cli::{complete, reference, wait};
use crate::model::job::JobState;
use crate::wire::v1::build::{Build, BuildRequest, Builds};

/// Build a commit and wait until every region holds the result
///
/// The same app and commit are built once: asking again finds the same build.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl build HEAD\n  deployctl build v1.4.0 -a payments-api --detach"
)]
pub struct BuildArgs {
    /// The commit: a git revision, or all 40 digits
    #[arg(value_name = "REV", default_value = "HEAD", add = ArgValueCompleter::new(complete::commits))]
    rev: String,
    /// Queue it and do not wait
    #[arg(short, long)]
    detach: bool,
    /// Do not wait for the regions: end when the build itself succeeded
    #[arg(long)]
    no_replication: bool,
    /// Build it though it is not on the trunk (role admin)
    #[arg(long)]
    allow_unmerged: bool,
    /// Stop waiting after this time (exit code 124); the build goes on
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Exit code 9 when the build failed, 8 when the commit is not pushed, 124 when the
/// time is up.
pub async fn run(ctx: &Context, args: BuildArgs) -> Result<ExitCode, Failure> {
    // What it says goes into the build: better said now than by the worker.
    ctx.project.whole()?;
    let commit = reference::resolve_commit(ctx, &args.rev)?;
    let api = Api::new(ctx)?;
    let app = pick_app(ctx, &api).await?;
    reference::check_pushed(ctx, &api, &app, &commit).await?;
    let request = BuildRequest {
        commit: commit.id,
        subject: commit.subject,
        allow_unmerged: args.allow_unmerged,
    };
    let queued = api.queue_build(&app, &request).await?;
    let number = queued.build;
    if args.detach {
        ctx.out.hint(&format!("deployctl logs {number} -f"));
        return Ok(answer(ctx, &queued));
    }
    ctx.on_interrupt([
        format!("detached; {number} goes on"),
        format!("deployctl logs {number} -f"),
        format!("deployctl cancel {number}"),
    ]);
    let built = wait::build(ctx, &api, queued, args.timeout, !args.no_replication).await?;
    if let Some(artifact) = &built.artifact {
        let mark = ctx.out.mark_err(Tone::Good, &format!("{number} built"));
        let (size, wire) = (bytes(artifact.size), bytes(artifact.wire_size));
        let state = built.replication.status.word();
        ctx.out.story(&format!("{mark}  {size} ({wire} packed)  replication {state}"));
    }
    let code = answer(ctx, &built);
    let said = Context::scope_flags(&built.app, &ctx.env()?);
    ctx.out.hint(&format!("deployctl deploy {} {said}", built.commit.short()));
    Ok(code)
}

fn answer(ctx: &Context, build: &Build) -> ExitCode {
    let listed = table(&Builds { builds: vec![build.clone()] });
    let document = serde_json::to_value(build).unwrap_or_default();
    if build.state == JobState::Succeeded && ctx.out.is_for_people() {
        return ExitCode::Ok;
    }
    ctx.out.outcome(document, ExitCode::Ok, &listed);
    ExitCode::Ok
}
