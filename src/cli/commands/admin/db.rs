//! `deployctl admin db check|migrate|copy`: the database itself, through no coordinator.

use std::fmt::Display;
use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::json;

use super::configured;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::config::daemon::Flags;
use crate::coordinator::owner;
use crate::coordinator::run::place;
use crate::host::clock;
use crate::store::blobs::Blobs;
use crate::store::db::check::{Health, check};
use crate::store::db::copy::{CopyError, Moved, copy};
use crate::store::db::{Address, Db, DbError, Place};
use crate::wire::problem::{Code, Problem};

/// Check or migrate the database, or move it to PostgreSQL
#[derive(Debug, Args)]
pub(super) struct DbArgs {
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    Check(CheckArgs),
    Migrate(MigrateArgs),
    Copy(CopyArgs),
}

/// Which database: as the coordinator would take it.
#[derive(Debug, Args)]
struct WhichDatabase {
    #[command(flatten)]
    data: super::Which,
    /// postgres://USER@HOST/DATABASE; the password may be in PGPASSWORD
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

/// Look at the database: its engine, schema and soundness
///
/// Changes nothing; coordinators may work on it meanwhile. Exit code 1 when something is wrong.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin db check --data /var/lib/deployctl\n  deployctl admin db check --database postgres://deployctl@db/deployctl -o json"
)]
struct CheckArgs {
    #[command(flatten)]
    which: WhichDatabase,
}

/// Bring the database to this release's schema
///
/// A coordinator does so by itself when it starts. On PostgreSQL older ones go on meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin db migrate --config /etc/deployctl/coordinator.toml\n  deployctl admin db migrate --database postgres://deployctl@db/deployctl"
)]
struct MigrateArgs {
    #[command(flatten)]
    which: WhichDatabase,
}

/// Copy a stopped coordinator's SQLite file to a fresh PostgreSQL database
///
/// All or nothing: every table is read back and compared before anything is kept. The file
/// stays, and owns the main store no more: nobody collects from it until a person says whose
/// it is. Start the coordinator on the same data folder with the new database.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin db copy --data /var/lib/deployctl --to postgres://deployctl@db/deployctl\n  deployctl admin db copy --config /etc/deployctl/coordinator.toml --to postgres://deployctl@db/deployctl"
)]
struct CopyArgs {
    #[command(flatten)]
    data: super::Which,
    /// The fresh database: postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "URL")]
    to: String,
}

pub(super) async fn run(ctx: &Context, args: DbArgs) -> Result<ExitCode, Failure> {
    match args.command {
        DbCommand::Check(args) => look(ctx, args.which).await,
        DbCommand::Migrate(args) => migrate(ctx, args.which).await,
        DbCommand::Copy(args) => move_over(ctx, args).await,
    }
}

/// Where the database is. A file is one that is there: none is made here.
fn existing(which: WhichDatabase) -> Result<Place, Failure> {
    let WhichDatabase { data: super::Which { config, data }, database } = which;
    let config = configured(&Flags { config, data, database, ..Flags::default() })?;
    let place = place(&config).map_err(|error| Failure::usage(error.to_string()))?;
    match &place {
        Place::File(path) if !path.exists() => {
            let title = format!("{} is not there", path.display());
            Err(Failure::new(ExitCode::NotFound, title)
                .hint("--config FILE, --data DIR or --database URL"))
        }
        _ => Ok(place),
    }
}

fn failed(error: &DbError) -> Failure {
    let code = match error {
        DbError::InUse(_) => ExitCode::Conflict,
        DbError::Unreachable { .. } => ExitCode::Unreachable,
        _ => ExitCode::Error,
    };
    let failure = Failure::new(code, error.to_string());
    if code == ExitCode::Conflict { failure.hint(super::STOP) } else { failure }
}

fn not_copied(error: &CopyError) -> Failure {
    let code = match error {
        CopyError::Db(error) => return failed(error),
        CopyError::NoFile(_) => ExitCode::NotFound,
        CopyError::NotEmpty { .. } => ExitCode::Conflict,
        CopyError::Unfit { .. } | CopyError::Differs(_) => ExitCode::Error,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        CopyError::Unfit { .. } => failure.hint("deployctl admin db migrate --data DIR"),
        CopyError::NotEmpty { .. } => failure.hint("createdb -E UTF8 -T template0 NAME"),
        _ => failure,
    }
}

/// Runs what waits for a disk or a server.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn look(ctx: &Context, which: WhichDatabase) -> Result<ExitCode, Failure> {
    let place = existing(which)?;
    let asked = place.clone();
    let health = blocking(move || check(&asked)).await.map_err(|error| failed(&error))?;
    let code = if health.problems.is_empty() { ExitCode::Ok } else { ExitCode::Error };
    let coordinators: Vec<_> = health
        .coordinators
        .iter()
        .map(|row| json!({ "url": row.url, "version": row.version, "seen_at": row.seen_at.0 }))
        .collect();
    let document = json!({
        "database": place.to_string(), "engine": health.engine, "schema": health.schema,
        "known": health.known, "coordinators": coordinators, "problems": health.problems,
    });
    ctx.out.outcome(document, code, &told(&place, &health));
    Ok(code)
}

fn told(place: &impl Display, health: &Health) -> Table {
    let mut table = Table::new(&["WHAT", "IS", "SEEN"], 3, "nothing is known");
    let mut say = |what: &str, is: Cell, seen| table.push([what.into(), is, seen]);
    let none = || Cell::from("");
    say("database", place.to_string().into(), none());
    say("engine", health.engine.as_str().into(), none());
    say("schema", format!("version {} of {}", health.schema, health.known).into(), none());
    for row in &health.coordinators {
        let seen = Cell::time(Some(row.seen_at), clock::now());
        say("coordinator", format!("{} ({})", row.url, row.version).into(), seen);
    }
    for problem in &health.problems {
        say("problem", Cell::state(problem, Tone::Bad), none());
    }
    table
}

async fn migrate(ctx: &Context, which: WhichDatabase) -> Result<ExitCode, Failure> {
    let place = existing(which)?;
    let db = Db::open_at(&place).await.map_err(|error| failed(&error))?;
    db.close().await;
    let asked = place.clone();
    let health = blocking(move || check(&asked)).await.map_err(|error| failed(&error))?;
    ctx.out.story(&format!("{place} has schema version {}", health.schema));
    if ctx.out.is_json() {
        ctx.out.json(&json!({ "database": place.to_string(), "schema": health.schema }));
    }
    Ok(ExitCode::Ok)
}

/// Takes the main store at `blobs` from whoever else has what `former` knew. A folder that is not
/// there is nobody's.
async fn take_away(blobs: &str, former: &str, to: &str) -> Result<bool, Problem> {
    let folder = blobs.strip_prefix("file://");
    if folder.is_some_and(|folder| !Path::new(folder).exists()) {
        return Ok(false);
    }
    let title = "the main store can't be told that its owner moved";
    let failed = |why| Problem::new(Code::Unavailable, title).because(why);
    let blobs = Blobs::open(blobs).map_err(|error| failed(error.to_string()))?;
    owner::take_away(&blobs, former, to).await
}

async fn move_over(ctx: &Context, args: CopyArgs) -> Result<ExitCode, Failure> {
    // Not parsed by clap, whose refusal would show the password.
    let CopyArgs { data, to } = args;
    let to = Address::parse(&to).map_err(|why| Failure::usage(format!("--to: {why}")))?;
    let super::Which { config, data } = data;
    let config = configured(&Flags { config, data, ..Flags::default() })?;
    let Ok(Place::File(from)) = place(&config) else {
        return Err(Failure::usage("only a SQLite file can be copied"));
    };
    let (file, shown) = (from.display().to_string(), to.to_string());
    let moved = blocking(move || copy(&from, &to)).await.map_err(|error| not_copied(&error))?;
    let Moved { tables: copied, former } = moved;
    let owner = take_away(&config.blobs, former.as_deref().unwrap_or_default(), &shown).await;
    let mut table = Table::new(&["TABLE", "ROWS", "SHA-256"], 3, "there was nothing to copy");
    for one in &copied {
        table.push([one.table.as_str().into(), one.rows.to_string().into(), Cell::id(&one.sha256)]);
    }
    let tables: Vec<_> = copied
        .iter()
        .map(|one| json!({ "table": one.table, "rows": one.rows, "sha256": one.sha256 }))
        .collect();
    ctx.out.answer(&json!({ "database": shown, "tables": tables }), &table);
    ctx.out.story("every table reads the same on both sides");
    ctx.out
        .story(&format!("start the coordinator on this data folder with database = \"{shown}\""));
    ctx.out.story(&format!("then put {file} away: it does not change any more"));
    if let Err(problem) = owner {
        ctx.out.warning(&problem.to_string());
        ctx.out.warning("another copy of the file, if one runs, may still collect");
    }
    ctx.out.story("nobody owns the main store now; when the coordinator runs on the server:");
    ctx.out.hint("deployctl admin gc --adopt-store --confirm=main -m \"moved to PostgreSQL\"");
    Ok(ExitCode::Ok)
}
