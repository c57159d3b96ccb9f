//! The program `deployctl-region`: reads its arguments, runs, says how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::region::run::{Options, run};

/// Runs a region until it is told to stop.
#[tokio::main]
pub async fn main() -> ExitCode {
    let options = Options::parse();
    let spans = crate::telemetry::start_with_spans("deployctl-region");
    let stop = crate::net::server::stop_signal();
    // Whoever started it may not listen any more.
    let ready = |url: &str| drop(writeln!(std::io::stdout(), "ready {url}"));
    let ended = run(options, stop, ready).await;
    spans.close();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "region did not start");
            ExitCode::FAILURE
        }
    }
}
