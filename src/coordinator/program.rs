//! The program `deployctl-coordinator`: reads its arguments, runs, says how it ended.

use std::error::Error;
use std::io::{Write, stdout};
use std::process::ExitCode;

use crate::config::daemon::{Flags, HELP, load};
use crate::{coordinator, net, telemetry};

/// Runs a coordinator until it is told to stop.
#[tokio::main]
pub async fn main() -> ExitCode {
    let spans = telemetry::start_with_spans("deployctl-coordinator");
    let ended = start().await;
    spans.close();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "coordinator did not start");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), Box<dyn Error>> {
    let Some(flags) = Flags::from_env()? else {
        return Ok(stdout().write_all(HELP.as_bytes())?);
    };
    // Whoever started it may not listen any more.
    let ready = |url: &str| drop(writeln!(stdout(), "ready {url}"));
    Ok(coordinator::run::run(load(&flags)?, net::server::stop_signal(), ready).await?)
}
