//! `deployctl workers`: who builds.

use clap::Args;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::wire::v1::fleet::Workers;

/// List the workers and what they have to do
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl workers\n  deployctl workers -o json")]
pub struct WorkersArgs {}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, _: WorkersArgs) -> Result<ExitCode, Failure> {
    let reply: Workers = Api::new(ctx)?.get("/v1/workers").await?;
    let empty = "no worker was heard of: deployctl worker --help";
    let mut table = Table::new(&["WORKER", "MACHINE", "SLOTS", "RUNNING", "SEEN"], 5, empty);
    for worker in &reply.workers {
        table.push([
            worker.worker.as_str().into(),
            worker.machine.as_str().into(),
            worker.slots.to_string().into(),
            worker.running.to_string().into(),
            Cell::time(Some(worker.seen_at), clock::now()),
        ]);
    }
    ctx.out.answer(&reply, &table);
    Ok(ExitCode::Ok)
}
