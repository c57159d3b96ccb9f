//! The program `deployctl-worker`: reads its arguments, runs, says how it ended.

use std::process::ExitCode;

use clap::Parser;

use crate::worker::run::{Args, run};

/// Runs a worker until it is told to stop.
#[tokio::main]
pub async fn main() -> ExitCode {
    let args = Args::parse();
    let spans = crate::telemetry::start_with_spans("deployctl-worker");
    let ended = run(args).await;
    spans.close();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "worker does not start");
            ExitCode::FAILURE
        }
    }
}
