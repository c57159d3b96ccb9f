//! `deployctl-region`: one region's mirror, replicator, tracker and roll-up.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use deployctl::region::run::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    deployctl::telemetry::start();
    let stop = deployctl::net::server::stop_signal();
    let ready = |url: &str| drop(writeln!(std::io::stdout(), "ready {url}"));
    match run(options, stop, ready).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "region did not start");
            ExitCode::FAILURE
        }
    }
}
