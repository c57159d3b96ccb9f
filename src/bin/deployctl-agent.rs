//! `deployctl-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    deployctl::agent::run::main(args, &mut std::io::stdout(), &mut std::io::stderr())
}
