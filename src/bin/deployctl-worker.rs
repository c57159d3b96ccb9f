//! `deployctl-worker`: claims builds from a coordinator.

use std::process::ExitCode;

use clap::Parser;
use deployctl::worker::run::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    deployctl::telemetry::start();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "worker does not start");
            ExitCode::FAILURE
        }
    }
}
