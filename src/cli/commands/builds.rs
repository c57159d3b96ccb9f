//! `deployctl builds`: the newest builds and where their artifacts are.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::outcome::{build_tone, replication_tone};
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::id::JobNo;
use crate::wire::v1::build::{Build, Builds};

/// List builds, newest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl builds\n  deployctl builds --state failed -n 5 -o json"
)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BuildsArgs {
    #[command(subcommand)]
    command: Option<BuildsCommand>,
    /// Only this state: queued, running, succeeded or failed
    #[arg(long, value_name = "STATE", ignore_case = true,
          value_parser = ["queued", "running", "succeeded", "failed"], hide_possible_values = true)]
    state: Option<String>,
    /// Only this commit, in full
    #[arg(long, value_name = "COMMIT")]
    commit: Option<crate::model::commit::CommitId>,
    /// Of every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    /// At most this many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    fields: FieldsArgs,
}

#[derive(Debug, Subcommand)]
enum BuildsCommand {
    Show(ShowArgs),
}

/// Show one build with its artifact and every region's copy
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl builds show b12\n  deployctl builds show b12 -o json"
)]
pub struct ShowArgs {
    /// Which
    #[arg(value_name = "BUILD", add = ArgValueCompleter::new(complete::builds))]
    build: JobNo,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: BuildsArgs) -> Result<ExitCode, Failure> {
    if let Some(BuildsCommand::Show(args)) = args.command {
        let build = Api::new(ctx)?.build(args.build).await?;
        show(ctx, &build);
        return Ok(ExitCode::Ok);
    }
    let mut query = vec![("limit", args.limit.to_string())];
    let app = if args.all { None } else { ctx.app_if_said()? };
    query.extend(app.map(|app| ("app", app.to_string())));
    query.extend(args.commit.map(|commit| ("commit", commit.to_string())));
    query.extend(args.state.map(|state| ("state", state.to_ascii_uppercase())));
    let reply = Api::new(ctx)?.builds(&query).await?;
    args.fields.answer(ctx, "builds", &reply, &table(&reply))?;
    Ok(ExitCode::Ok)
}

/// Builds as a table.
#[must_use]
pub fn table(reply: &Builds) -> Table {
    let columns = [
        "BUILD", "APP", "COMMIT", "STATE", "REGIONS", "AGE", "SUBJECT", "SIZE", "PACK", "ATTEMPT",
        "WORKER", "ACTOR", "ARTIFACT",
    ];
    let mut table = Table::new(&columns, 7, "no builds yet: deployctl build HEAD");
    for build in &reply.builds {
        let artifact = build.artifact.as_ref();
        table.push([
            build.build.to_string().into(),
            build.app.as_str().into(),
            Cell::id(&build.commit),
            Cell::state(build.state.word(), build_tone(build.state)),
            match artifact {
                Some(_) => Cell::state(
                    build.replication.status.word(),
                    replication_tone(build.replication.status),
                ),
                None if build.collected => Cell::state("collected", Tone::Dim),
                None => Cell::maybe(None::<&str>),
            },
            Cell::time(Some(build.queued_at), clock::now()),
            build.subject.as_str().into(),
            artifact.map_or(Cell::maybe(None::<&str>), |artifact| Cell::bytes(artifact.size)),
            artifact.map_or(Cell::maybe(None::<&str>), |artifact| Cell::bytes(artifact.wire_size)),
            format!("{}/{}", build.attempt, build.max_attempts).into(),
            Cell::maybe(build.worker.as_ref()),
            build.actor.as_str().into(),
            artifact.map_or(Cell::maybe(None::<&str>), |artifact| Cell::id(artifact.artifact)),
        ]);
    }
    table
}

fn show(ctx: &Context, build: &Build) {
    ctx.out.answer(build, &table(&Builds { builds: vec![build.clone()] }));
    if !ctx.out.is_for_people() {
        return;
    }
    let columns = ["REGION", "STATUS", "HAS", "CHECKED", "REASON"];
    let mut regions = Table::new(&columns, columns.len(), "");
    for region in &build.replication.regions {
        regions.push([
            region.region.as_str().into(),
            Cell::state(region.status.word(), replication_tone(region.status)),
            Cell::bytes(region.bytes),
            Cell::time(region.checked_at, clock::now()),
            region.reason.as_str().into(),
        ]);
    }
    ctx.out.story("");
    ctx.out.table(&regions);
    if let Some(failure) = &build.failure {
        ctx.out.story(&format!("\n{} failed: {}", build.build, failure.reason));
    }
}
