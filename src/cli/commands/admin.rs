//! `deployctl admin backup|restore`: the coordinator's data, on its own machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::config::daemon::default_data;
use crate::coordinator::backup::{BackupError, backup, restore};

/// Back the coordinator's data up and restore it, on its own machine
#[derive(Debug, Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    Backup(BackupArgs),
    Restore(RestoreArgs),
}

/// Copy the coordinator's database, keys and tokens into a new folder
///
/// The coordinator may run meanwhile. The copy holds secrets: keep it as you keep those. Blob
/// stores are not in it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin backup /srv/backups/2026-11-22\n  deployctl admin backup /srv/backups/now --data /var/lib/deployctl"
)]
pub struct BackupArgs {
    /// The folder to make
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// The coordinator's data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
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
    /// The coordinator's data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Pass this epoch too: where a restored database was lost itself
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    epoch: u64,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 without a database, 6 when a coordinator runs or the backup's folder is
/// there already, else 1.
pub async fn run(ctx: &Context, args: AdminArgs) -> Result<ExitCode, Failure> {
    match args.command {
        AdminCommand::Backup(BackupArgs { to, data }) => {
            let data = folder(data)?;
            let made = backup(&data, &to).map_err(failure)?;
            let (files, shown) = (made.files.len(), data.display());
            ctx.out.story(&format!("backed {shown} up: {files} files in {}", to.display()));
            if ctx.out.is_json() {
                ctx.out.json(&serde_json::json!({ "backup": to, "made": made }));
            }
        }
        AdminCommand::Restore(RestoreArgs { from, data, epoch }) => {
            let data = folder(data)?;
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
    }
    Ok(ExitCode::Ok)
}

fn folder(data: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let data = data.or_else(default_data);
    data.ok_or_else(|| Failure::usage("no data folder is known").hint("--data DIR"))
}

fn failure(error: BackupError) -> Failure {
    let (code, hint) = match &error {
        BackupError::Exists(_) => (ExitCode::Conflict, "name a folder that is not there yet"),
        BackupError::Running(_) => (ExitCode::Conflict, "systemctl stop deployctl-coordinator"),
        BackupError::NoDatabase(_) => (ExitCode::NotFound, "say where it is: --data DIR"),
        BackupError::Damaged { .. } => (ExitCode::Error, "take another backup"),
        BackupError::Io { .. } | BackupError::Db(_) => (ExitCode::Error, ""),
    };
    let failure = Failure::new(code, error.to_string());
    if hint.is_empty() { failure } else { failure.hint(hint) }
}
