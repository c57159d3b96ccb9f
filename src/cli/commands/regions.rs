//! `deployctl regions`: what each region holds and still owes.

use clap::Args;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::Regions;

/// List the regions, their hosts and what they hold
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl regions\n  deployctl regions -o wide")]
pub struct RegionsArgs {
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: RegionsArgs) -> Result<ExitCode, Failure> {
    let reply: Regions = Api::new(ctx)?.get("/v1/regions").await?;
    let columns = [
        "REGION",
        "HOSTS",
        "UNREACHABLE",
        "ARTIFACTS",
        "OWED",
        "SEEN",
        "GOALS",
        "STORE CHECKED",
        "BLOBS",
    ];
    let mut table = Table::new(&columns, 6, "no region is configured");
    for region in &reply.regions {
        table.push([
            region.region.as_str().into(),
            region.hosts.to_string().into(),
            region.unreachable.to_string().into(),
            region.artifacts.to_string().into(),
            region.owed.to_string().into(),
            when(region.seen_at),
            region.goals_revision.to_string().into(),
            when(region.store_checked_at),
            region.blobs.as_str().into(),
        ]);
    }
    args.fields.answer(ctx, "regions", &reply, &table)?;
    Ok(ExitCode::Ok)
}

fn when(at: Option<UnixMillis>) -> Cell {
    at.map_or(Cell::pair("never", ""), |at| Cell::time(Some(at), clock::now()))
}
