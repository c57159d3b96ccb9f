//! `deployctl coordinator|region|worker|agent`: runs the sibling program, as git does.
//!
//! Where the sibling is not installed, `deployctl` plays the role itself, told by the
//! name it is called under (docs/decisions/0003).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        #[derive(Debug, Args)]
        $(#[$doc])*
        #[command(disable_help_flag = true)]
        pub struct $name {
            /// Given to the program as they are
            #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
            pub arguments: Vec<OsString>,
        }
    )*};
}

roles! {
    /// Run a coordinator (deployctl-coordinator)
    #[command(after_help = "Examples:\n  deployctl coordinator\n  deployctl coordinator --listen 0.0.0.0:7878 --data /var/lib/deployctl")]
    CoordinatorArgs;
    /// Run a region's service (deployctl-region)
    #[command(after_help = "Examples:\n  deployctl region --help\n  deployctl region --name eu --coordinator https://deploy.internal --token-file T --main-blobs URL --blobs URL --data DIR")]
    RegionArgs;
    /// Run a build worker (deployctl-worker)
    #[command(after_help = "Examples:\n  deployctl worker --help\n  deployctl worker --coordinator https://deploy.internal --token-file T --blobs URL --key FILE --work DIR --slots 4")]
    WorkerArgs;
    /// Run a host's agent (deployctl-agent)
    #[command(after_help = "Examples:\n  deployctl agent --help\n  deployctl agent --region https://eu.deploy.internal --token-file T --host web-1 --env prod --root /srv/deployctl")]
    AgentArgs;
}

/// Becomes the program of `role`: the one beside `deployctl`, else this
/// very file under that program's name. Comes back only with an error.
///
/// # Errors
/// When no program can be run.
#[expect(clippy::unused_async, reason = "every command has this shape")]
pub async fn run(_: &Context, role: &str, arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    let name = format!("deployctl-{role}");
    let own = std::env::current_exe().unwrap_or_else(|_| "deployctl".into());
    let beside = own.with_file_name(&name);
    let mut program = std::process::Command::new(if beside.exists() { &beside } else { &own });
    let error = program.arg0(&name).args(arguments).exec();
    Err(Failure::new(ExitCode::Error, format!("{name} can't be run")).because(error))
}

/// The role that this process was started under, by the name it was called.
#[must_use]
pub fn of_this_process() -> Option<fn() -> std::process::ExitCode> {
    let called = std::env::args_os().next()?;
    match std::path::Path::new(&called).file_name()?.to_str()?.strip_prefix("deployctl-")? {
        "coordinator" => Some(crate::coordinator::program::main),
        "region" => Some(crate::region::program::main),
        "worker" => Some(crate::worker::program::main),
        "agent" => Some(crate::agent::program::main),
        _ => None,
    }
}
