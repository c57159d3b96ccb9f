//! `deployctl events`: everything that happened, in order.

use std::time::Duration;

use clap::Args;

use crate::cli::api::Api;
use crate::cli::args::duration;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::output::Format;
use crate::cli::table::{Cell, Table};
use crate::host::clock;
use crate::model::id::AppName;
use crate::wire::v1::event::{Event, Events};

/// How long one poll is held.
const POLL: Duration = Duration::from_secs(20);
/// Pause while the coordinator is away.
const AWAY: Duration = Duration::from_secs(1);

/// Show events in order, and follow them
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl events -f\n  deployctl events --since 1024 -f -o jsonl\n  deployctl events --since 2h"
)]
pub struct EventsArgs {
    /// After this one (0: from the first), or not older than a time, such as 2h
    #[arg(long, value_name = "SEQ|TIME", value_parser = since)]
    since: Option<Since>,
    /// Without --since: the newest this many
    #[arg(short, long, value_name = "COUNT", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(0..=500))]
    number: u32,
    /// Stay and show events as they happen
    #[arg(short, long)]
    follow: bool,
    /// Of every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 2 for `-f -o json`, which has no end.
pub async fn run(ctx: &Context, args: EventsArgs) -> Result<ExitCode, Failure> {
    let whole = ctx.out.format == Format::Json || args.fields.are_chosen();
    if args.follow && whole {
        return Err(Failure::usage("JSON is one document, and -f never ends")
            .hint("deployctl events -f -o jsonl"));
    }
    let api = Api::new(ctx)?;
    let app = if args.all { None } else { ctx.app_if_said()? };
    let first = first_page(&api, app.as_ref(), &args).await?;
    if whole {
        let all = if args.since.is_some() { rest(&api, app.as_ref(), first).await? } else { first };
        args.fields.answer(ctx, "events", &all, &table(&all))?;
        return Ok(ExitCode::Ok);
    }
    ctx.out.answer(&first, &table(&first));
    let mut since = first.next;
    loop {
        let wait = if args.follow { POLL } else { Duration::ZERO };
        let page = match api.events(app.as_ref(), since, wait).await {
            Ok(page) => page,
            // The cursor is ours: nothing is missed and nothing is told twice.
            Err(error) if args.follow && error.is_transient() => {
                tokio::time::sleep(AWAY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        since = page.next.max(since);
        if !page.events.is_empty() {
            ctx.out.answer(&page, &table(&page));
        } else if !args.follow {
            return Ok(ExitCode::Ok);
        }
    }
}

/// What is shown first, in order, and the cursor after it.
async fn first_page(
    api: &Api,
    app: Option<&AppName>,
    args: &EventsArgs,
) -> Result<Events, Failure> {
    let number = args.number as usize;
    let oldest = match args.since {
        Some(Since::Seq(seq)) => return Ok(api.events(app, seq, Duration::ZERO).await?),
        Some(Since::Age(age)) => Some(clock::now() - age),
        None if number == 0 => return Ok(api.newest_event().await?),
        None => None,
    };
    let enough = |found: &[Event]| match oldest {
        Some(oldest) => found.last().is_some_and(|event| event.at < oldest),
        None => found.len() >= number,
    };
    let mut found: Vec<Event> = vec![];
    let end = api.newest_event().await?.next;
    let mut before = end + 1;
    while !enough(&found) {
        let page = api.events_before(app, before).await?;
        let Some(last) = page.events.last() else { break };
        before = last.seq;
        found.extend(page.events);
    }
    match oldest {
        Some(oldest) => found.retain(|event| event.at >= oldest),
        None => found.truncate(number),
    }
    found.reverse();
    Ok(Events { events: found, next: end })
}

/// `first` with everything after it: one document has one list.
async fn rest(api: &Api, app: Option<&AppName>, first: Events) -> Result<Events, Failure> {
    let mut all = first;
    loop {
        let page = api.events(app, all.next, Duration::ZERO).await?;
        all.next = page.next.max(all.next);
        if page.events.is_empty() {
            return Ok(all);
        }
        all.events.extend(page.events);
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// After this event.
    Seq(u64),
    /// With what is not older.
    Age(Duration),
}

fn since(text: &str) -> Result<Since, String> {
    match text.parse::<u64>() {
        Ok(seq) => Ok(Since::Seq(seq)),
        Err(_) => duration(text).map(Since::Age).map_err(|_| {
            "it is the number of an event, or a time such as 90s, 2h or 3d".to_owned()
        }),
    }
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
