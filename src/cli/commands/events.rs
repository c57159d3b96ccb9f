//! `deployctl events`: everything that happened, in order.

use std::time::Duration;

use clap::Args;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::Format;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::wire::v1::event::Events;

/// How long one poll is held.
const POLL: Duration = Duration::from_secs(20);
/// Pause while the coordinator is away.
const AWAY: Duration = Duration::from_secs(1);

/// Show events in order, and follow them
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl events -f\n  deployctl events --since 1024 -o jsonl"
)]
pub struct EventsArgs {
    /// Only events after this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
    /// Stay and show events as they happen
    #[arg(short, long)]
    follow: bool,
    /// Of every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 2 for `-f -o json`, which has no end.
pub async fn run(ctx: &Context, args: EventsArgs) -> Result<ExitCode, Failure> {
    if args.follow && ctx.out.format == Format::Json {
        return Err(Failure::usage("-o json is one document, and -f never ends")
            .hint("deployctl events -f -o jsonl"));
    }
    let api = Api::new(ctx)?;
    let app = if args.all { None } else { ctx.app_if_said()? };
    let mut since = args.since;
    let mut all = Events { events: vec![], next: since };
    loop {
        let wait = if args.follow { POLL } else { Duration::ZERO };
        let page = match api.events(app.as_ref(), since, wait).await {
            Ok(page) => page,
            Err(error) if args.follow && error.is_transient() => {
                tokio::time::sleep(AWAY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let moved = page.next > since && !page.events.is_empty();
        since = page.next.max(since);
        // One document has one list; everything else is shown as it comes.
        if ctx.out.format == Format::Json {
            all.events.extend(page.events);
            all.next = since;
        } else if moved {
            ctx.out.answer(&page, &table(&page));
        }
        if !args.follow && !moved {
            break;
        }
    }
    if ctx.out.format == Format::Json {
        ctx.out.json(&all);
    }
    Ok(ExitCode::Ok)
}

fn table(page: &Events) -> Table {
    let columns = ["SEQ", "WHEN", "EVENT", "APP", "ABOUT", "ACTOR", "MESSAGE"];
    let mut table = Table::new(&columns, columns.len(), "");
    for event in &page.events {
        let about = [
            event.env.as_ref().map(ToString::to_string),
            event.release.map(|release| release.to_string()),
            event.build.map(|build| build.to_string()),
            event.region.as_ref().map(ToString::to_string),
        ];
        table.push([
            event.seq.to_string().into(),
            Cell::time(Some(event.at), clock::now()),
            event.kind.as_str().into(),
            Cell::maybe(event.app.as_ref()),
            about.into_iter().flatten().collect::<Vec<_>>().join(" ").into(),
            event.actor.as_str().into(),
            event.message.as_str().into(),
        ]);
    }
    table
}
