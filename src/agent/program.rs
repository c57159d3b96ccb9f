//! The program `deployctl-agent`: reads its arguments, runs, says how it ended.

use std::process::ExitCode;

/// Runs an agent, or one of its commands.
#[must_use]
pub fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    crate::agent::run::main(args, &mut std::io::stdout(), &mut std::io::stderr())
}
