//! `deployctl admin backup|restore|db`: the coordinator's data, on its own machine;
//! `requeue|drain-worker|gc|fence|reconcile`: builds, workers, stores and goals, through the coordinator.

mod db;
mod fence;
mod gc;
mod reconcile;
mod workers;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::config::daemon::{Config, Flags, load};
use crate::coordinator::backup::{BackupError, backup, restore};

/// How the service is stopped, as packaging/systemd names it.
const STOP: &str = "systemctl stop deployctl-coordinator";

/// Look after the coordinator's data, lost builds, workers and stores
#[derive(Debug, Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Db(db::DbArgs),
    Requeue(workers::RequeueArgs),
    DrainWorker(workers::DrainArgs),
    Gc(gc::GcArgs),
    Fence(fence::FenceArgs),
    Reconcile(reconcile::ReconcileArgs),
}

/// Which data: as the coordinator would take it.
#[derive(Debug, Args)]
struct Which {
    /// The coordinator's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The coordinator's data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Copy the coordinator's database, keys and tokens into a new folder
///
/// The coordinator may run meanwhile. The copy holds secrets: keep it as you keep those. Blob
/// stores are not in it, nor is a PostgreSQL database: back that up with pg_dump.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin backup /srv/backups/2026-11-22\n  deployctl admin backup /srv/backups/now --data /var/lib/deployctl"
)]
pub struct BackupArgs {
    /// The folder to make
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Put a backup in the place of the coordinator's data, and raise the epoch
///
/// The coordinator must be stopped. What is replaced is kept beside. Hosts go on with what they
/// run, and follow the next deploy though they have seen newer ones.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin restore /srv/backups/2026-11-22\n  deployctl admin restore /srv/backups/now --data /var/lib/deployctl --epoch 7"
)]
pub struct RestoreArgs {
    /// The backup's folder
    #[arg(value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Pass this epoch too: where a restored database was lost itself
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    epoch: u64,
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 when the configuration or a URL is of no use, 3 without a database, 5 when a
/// server can't be reached, 6 when a coordinator runs or the target is in use, else 1.
pub async fn run(ctx: &Context, args: AdminArgs) -> Result<ExitCode, Failure> {
    match args.command {
        AdminCommand::Backup(BackupArgs { to, which }) => {
            let data = folder(which)?;
            let made = backup(&data, &to).map_err(failure)?;
            let (files, shown) = (made.files.len(), data.display());
            ctx.out.story(&format!("backed {shown} up: {files} files in {}", to.display()));
            if ctx.out.is_json() {
                ctx.out.json(&serde_json::json!({ "backup": to, "made": made }));
            }
        }
        AdminCommand::Restore(RestoreArgs { from, which, epoch }) => {
            let data = folder(which)?;
            let done = restore(&from, &data, epoch).map_err(failure)?;
            ctx.out.story(&format!("restored {}; the epoch is {}", data.display(), done.epoch));
            if let Some(kept) = &done.kept {
                ctx.out.story(&format!("what was there is kept in {}", kept.display()));
            }
            ctx.out.story("start the coordinator, then deploy what hosts should run");
            if ctx.out.is_json() {
                ctx.out.json(&serde_json::json!({ "restored": done }));
            }
        }
        AdminCommand::Db(args) => return db::run(ctx, args).await,
        AdminCommand::Requeue(args) => return workers::requeue(ctx, args).await,
        AdminCommand::DrainWorker(args) => return workers::drain(ctx, args).await,
        AdminCommand::Gc(args) => return gc::run(ctx, args).await,
        AdminCommand::Fence(args) => return fence::run(ctx, args).await,
        AdminCommand::Reconcile(args) => return reconcile::run(ctx, args).await,
    }
    Ok(ExitCode::Ok)
}

/// What a coordinator with these flags would work with.
fn configured(flags: &Flags) -> Result<Config, Failure> {
    load(flags).map_err(|error| Failure::usage(error.to_string()))
}

/// The data folder of a coordinator whose database is in it.
fn folder(which: Which) -> Result<PathBuf, Failure> {
    let Which { config, data } = which;
    let config = configured(&Flags { config, data, ..Flags::default() })?;
    if config.database.is_none() {
        return Ok(config.data);
    }
    let title = "the configuration names a PostgreSQL database, and this is for SQLite only; \
                 use pg_dump and pg_restore, and keep token.key, keys and tokens with the dump";
    Err(Failure::usage(title))
}

fn failure(error: BackupError) -> Failure {
    let (code, hint) = match &error {
        BackupError::Exists(_) => (ExitCode::Conflict, "name a folder that is not there yet"),
        BackupError::Running(_) => (ExitCode::Conflict, STOP),
        BackupError::NoDatabase(_) => (ExitCode::NotFound, "say where it is: --data DIR"),
        BackupError::Damaged { .. } => (ExitCode::Error, "take another backup"),
        BackupError::Io { .. } | BackupError::Db(_) => (ExitCode::Error, ""),
    };
    let failure = Failure::new(code, error.to_string());
    if hint.is_empty() { failure } else { failure.hint(hint) }
}
