//! `deployctl status`: what runs where, what moves, what it waits for.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::live::{self, LiveArgs, Part, Shown};
use crate::cli::outcome::{failure_lines, paused_lines, rollout_tone, stage_word, sum};
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Mode, Table};
use crate::host::clock;
use crate::model::fleet::Tally;
use crate::model::hold::Hold;
use crate::model::id::AppName;
use crate::model::rollout::{Release, RolloutState};
use crate::wire::v1::fleet::Status;
use crate::wire::v1::rollout::EnvStatus;
use crate::wire::words::waits;

/// Where people find configurations in the table: after the commits.
const CONFIG_AT: usize = 4;
/// Holds of hosts and regions that are told one by one.
const PINS_TOLD: usize = 5;

/// Show what runs where, what is moving and what it waits for
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl status\n  deployctl status payments-api -e staging\n  deployctl status -w"
)]
pub struct StatusArgs {
    /// The app [default: that of deployctl.toml, else all]
    #[arg(value_name = "APP", add = ArgValueCompleter::new(complete::apps))]
    name: Option<AppName>,
    /// Every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    /// End with code 20 when hosts are not where they should be
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: StatusArgs) -> Result<ExitCode, Failure> {
    let app = match args.name {
        Some(name) => Some(name),
        None if args.all => None,
        None => ctx.app_if_said()?,
    };
    let env = ctx.flags.env.clone();
    let api = Api::new(ctx)?;
    if args.live.watch {
        args.fields.check_not_live()?;
        let look = async || {
            let reply = api.status(app.as_ref(), env.as_ref()).await?;
            Ok(shown_now(ctx, &reply, app.is_some()))
        };
        return live::stay(ctx, "status", look).await.map(|never| match never {});
    }
    let reply = api.status(app.as_ref(), env.as_ref()).await?;
    args.fields.answer(ctx, "status", &reply, &table(&reply))?;
    if ctx.out.is_for_people() && !args.fields.are_chosen() {
        for part in more(ctx, &reply, app.is_some()) {
            match part {
                Part::Line(line) => ctx.out.story(&line),
                Part::Table(table) => ctx.out.table(&table),
            }
        }
    }
    let settled = reply.apps.iter().all(|row| {
        let all = sum(row.regions.values());
        row.rollout.is_none() && all.settled + all.pinned == all.hosts
    });
    Ok(if args.exit_code && !settled { ExitCode::Changes } else { ExitCode::Ok })
}

fn table(reply: &Status) -> Table {
    let empty = "no app is registered yet: deployctl init, or deployctl apps add";
    let columns = [
        "APP",
        "ENV",
        "RELEASE",
        "COMMIT",
        "STATE",
        "HOSTS",
        "SINCE",
        "SUBJECT",
        "FAILED",
        "UNREACHABLE",
        "ACTOR",
        "WAITING ON",
        "CONFIG",
    ];
    let mut table = Table::new(&columns, 8, empty);
    // Who has no config need not know of the word.
    let named = |row: &EnvStatus| shown(row).is_some_and(|release| release.config.is_some());
    if reply.apps.iter().any(named) {
        table.show("CONFIG", CONFIG_AT);
    }
    for row in &reply.apps {
        let open = row.rollout.as_ref();
        let release = shown(row);
        let config = release.and_then(|release| release.config);
        let all = sum(row.regions.values());
        let faults = all.faults();
        let state = match (open, release) {
            (Some(rollout), _) => {
                Cell::state(stage_word(rollout), rollout_tone(rollout.release.state))
            }
            (None, Some(release)) => Cell::state(release.state.word(), rollout_tone(release.state)),
            (None, None) => Cell::state("never deployed", Tone::Dim),
        };
        table.push([
            row.app.as_str().into(),
            row.env.as_str().into(),
            Cell::maybe(release.map(|release| release.release)),
            release.map_or(Cell::maybe(None::<&str>), |release| Cell::id(&release.commit)),
            state,
            hosts(&all, open.is_some_and(|r| r.release.state != RolloutState::Reverting)),
            Cell::time(release.map(|release| release.created_at), clock::now()),
            Cell::maybe(release.map(|release| &release.subject)),
            faults.to_string().into(),
            all.unreachable.to_string().into(),
            Cell::maybe(release.map(|release| &release.actor)),
            Cell::maybe(open.map(|rollout| &rollout.waiting_on)),
            config.map_or(Cell::maybe(None::<&str>), Cell::id),
        ]);
    }
    table
}

/// The release that a row is about: the one that is tried, else what runs.
fn shown(row: &EnvStatus) -> Option<&Release> {
    let open = row.rollout.as_ref().map(|rollout| &rollout.release);
    open.or(row.current.as_ref())
}

fn hosts(all: &Tally, moving: bool) -> Cell {
    format!("{}/{}", if moving { all.on_next } else { all.settled }, all.hosts).into()
}

/// One look of those that follow each other.
fn shown_now(ctx: &Context, reply: &Status, regions_too: bool) -> Shown {
    let mut parts = vec![Part::Table(table(reply))];
    parts.extend(more(ctx, reply, regions_too));
    let text = |part: &Part| match part {
        Part::Table(table) => table.render(Mode::Tabs { wide: true }),
        Part::Line(line) => format!("{line}\n"),
    };
    let key = parts.iter().map(text).collect();
    Shown { key, parts, document: serde_json::to_value(reply).unwrap_or_default() }
}

/// What people read below the table.
fn more(ctx: &Context, reply: &Status, regions_too: bool) -> Vec<Part> {
    let mut parts = vec![];
    for row in &reply.apps {
        let place = format!("{} {}", row.app, row.env);
        let mut say = |line: String| parts.push(Part::Line(line));
        if let Some(freeze) = &row.frozen {
            say(format!("\n{place} is frozen: {}", freeze.sentence()));
        }
        if let Some(hold) = &row.held {
            say(format!("\n{place} is held: {}", hold.sentence()));
        }
        for pin in row.pins.iter().take(PINS_TOLD) {
            say(format!("{place} {}", pinned(pin)));
        }
        if row.pins.len() > PINS_TOLD {
            let more = row.pins.len() - PINS_TOLD;
            say(format!("and {more} more holds of hosts: deployctl hold list"));
        }
        if let Some(open) = row.rollout.as_ref().filter(|open| !open.waiting_on.is_empty()) {
            say(format!("\n{place} {} {}", open.release.release, waits(open)));
            for (what, line) in paused_lines(open).into_iter().flatten() {
                say(format!("  {what}: {line}"));
            }
        }
        if let Some(open) = row.rollout.as_ref()
            && let Some(file) = &open.release.plan_file
        {
            say(format!("{place} {} goes by the plan {file}", open.release.release));
        }
        if let Some(open) = row.rollout.as_ref()
            && let Some(canary) = &open.release.canary
        {
            let name = open.release.release;
            say(format!("{place} {name} has a canary by name: {}", canary.names()));
        }
        if let Some(open) = row.rollout.as_ref().filter(|open| open.release.no_auto_revert) {
            let name = open.release.release;
            say(format!("{place} {name} stays where it fails: --no-auto-rollback"));
        }
        if regions_too && !row.regions.is_empty() {
            parts.push(Part::Line(String::new()));
            parts.push(Part::Table(regions_of(row)));
        }
        for line in failure_lines(&sum(row.regions.values()).failures) {
            let mark = ctx.out.mark_err(Tone::Bad, row.app.as_str());
            parts.push(Part::Line(format!("{mark}  {line}")));
        }
    }
    parts
}

/// `host web-7 is pinned to r411: h3 by ann until …: why`.
fn pinned(hold: &Hold) -> String {
    let place = match (&hold.host, &hold.region) {
        (Some(host), _) => format!("host {host}"),
        (None, Some(region)) => format!("region {region}"),
        (None, None) => "everything".into(),
    };
    let how = hold.at.map_or("held".into(), |at| format!("pinned to {}", at.release));
    format!("{place} is {how}: {}", hold.sentence())
}

fn regions_of(row: &EnvStatus) -> Table {
    let columns = ["REGION", "HOSTS", "ON NEXT", "HEALTHY", "SETTLED", "FAILED", "UNREACHABLE"];
    let mut table = Table::new(&columns, columns.len(), "");
    for (region, tally) in &row.regions {
        let faults = tally.faults();
        let numbers =
            [tally.hosts, tally.on_next, tally.healthy, tally.settled, faults, tally.unreachable];
        let mut cells: Vec<Cell> = vec![region.as_str().into()];
        cells.extend(numbers.map(|number| Cell::from(number.to_string())));
        table.push(cells);
    }
    table
}
