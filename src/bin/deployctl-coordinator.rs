//! `deployctl-coordinator`: the API, the queue and the background loops.

use std::process::ExitCode;

use deployctl::config::daemon::{Flags, load};
use deployctl::{coordinator, net, telemetry};
use lexopt::prelude::{Long, Short, ValueExt};

const HELP: &str = "\
Run a coordinator.

usage: deployctl-coordinator [--config FILE] [--data DIR] [--listen ADDRESS:PORT]
";

fn flags() -> Result<Option<Flags>, lexopt::Error> {
    let (mut flags, mut parser) = (Flags::default(), lexopt::Parser::from_env());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") => flags.config = Some(parser.value()?.into()),
            Long("data") => flags.data = Some(parser.value()?.into()),
            Long("listen") => flags.listen = Some(parser.value()?.parse()?),
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(flags))
}

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::start();
    let ended: Result<(), Box<dyn std::error::Error>> = async {
        let Some(flags) = flags()? else {
            print!("{HELP}");
            return Ok(());
        };
        let ready = |address| println!("ready http://{address}");
        Ok(coordinator::run::run(load(&flags)?, net::server::stop_signal(), ready).await?)
    }
    .await;
    let Err(error) = ended else { return ExitCode::SUCCESS };
    eprintln!("deployctl-coordinator: {error}");
    ExitCode::FAILURE
}
