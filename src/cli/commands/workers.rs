//! `deployctl workers`: who builds.

use std::time::Duration;

use clap::Args;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table, age, count};
use crate::host::clock;
use crate::wire::v1::fleet::{QueueScale, WorkerRow, Workers};

const COLUMNS: [&str; 6] = ["WORKER", "MACHINE", "SLOTS", "RUNNING", "SEEN", "STATE"];

/// List the workers and what they have to do
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl workers\n  deployctl workers -o json")]
pub struct WorkersArgs {
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: WorkersArgs) -> Result<ExitCode, Failure> {
    let reply: Workers = Api::new(ctx)?.get("/v1/workers").await?;
    args.fields.answer(ctx, "workers", &reply, &table(&reply.workers))?;
    if let Some(queue) = &reply.queue
        && ctx.out.is_for_people()
        && !args.fields.are_chosen()
    {
        ctx.out.story(&sentence(queue));
    }
    Ok(ExitCode::Ok)
}

/// Workers as a table.
#[must_use]
pub fn table(workers: &[WorkerRow]) -> Table {
    let empty = "no worker was heard of: deployctl worker --help";
    let mut table = Table::new(&COLUMNS, COLUMNS.len(), empty);
    for worker in workers {
        table.push([
            worker.worker.as_str().into(),
            worker.machine.as_str().into(),
            worker.slots.to_string().into(),
            worker.running.to_string().into(),
            Cell::time(Some(worker.seen_at), clock::now()),
            match (worker.draining, worker.running) {
                (false, _) => Cell::state("ready", Tone::Good),
                (true, 0) => Cell::state("drained", Tone::Dim),
                (true, _) => Cell::state("draining", Tone::Moving),
            },
        ]);
    }
    table
}

/// "3 jobs wait, the oldest for 40s; 5 of 8 slots busy; 4 workers wanted".
fn sentence(queue: &QueueScale) -> String {
    let waiting = match queue.queued {
        0 => "no job waits".to_owned(),
        n => {
            let oldest = age(Duration::from_secs(queue.oldest_wait_s));
            let waits = if n == 1 { "waits" } else { "wait" };
            format!("{} {waits}, the oldest for {oldest}", count(n, "job"))
        }
    };
    let (running, slots) = (queue.running, queue.slots);
    let wanted = count(queue.wanted_workers, "worker");
    format!("{waiting}; {running} of {slots} slots busy; {wanted} wanted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_have_to_do_is_one_sentence() {
        let numbers = serde_json::json!({"queued": 3, "oldest_wait_s": 40, "running": 5,
            "busy_workers": 2, "idle_workers": 0, "slots": 8, "arrivals_per_hour": 9,
            "service_ms": 1, "drain_s": 300, "wanted_slots": 8, "wanted_workers": 4});
        let mut queue: QueueScale = serde_json::from_value(numbers).unwrap();
        let said = "3 jobs wait, the oldest for 40s; 5 of 8 slots busy; 4 workers wanted";
        assert_eq!(sentence(&queue), said);
        (queue.queued, queue.wanted_workers) = (0, 1);
        assert_eq!(sentence(&queue), "no job waits; 5 of 8 slots busy; 1 worker wanted");
    }
}
