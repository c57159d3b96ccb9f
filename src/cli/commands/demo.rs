//! `deployctl demo`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::context::Context;
use crate::cli::demo::facts::Facts;
use crate::cli::demo::fleet::Fleet;
use crate::cli::demo::play::Play;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::Output;

/// Show the main job with real processes on this machine
///
/// Starts a coordinator, two regions, a worker and eight hosts on loopback, builds a
/// sample service (or a repository of yours), deploys it twice, lets a bad release
/// revert itself, rolls back, and shows where each byte came from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl demo\n  deployctl demo --keep\n  \
deployctl demo --repo ~/src/app --build 'make' --artifact build/app")]
pub struct DemoArgs {
    /// Leave it running, and print how to go on
    #[arg(long)]
    keep: bool,
    /// A git repository to use in place of the sample: its HEAD and the commit before
    #[arg(long, value_name = "DIR", requires = "build", requires = "artifact")]
    repo: Option<PathBuf>,
    /// How it is built
    #[arg(long, value_name = "COMMAND", requires = "repo")]
    build: Option<String>,
    /// The file or folder that the build makes
    #[arg(long, value_name = "PATH", requires = "repo")]
    artifact: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When a process does not start, or a step ends in another way than it should.
pub async fn run(ctx: &Context, args: DemoArgs) -> Result<ExitCode, Failure> {
    let out = &ctx.out;
    let folder = tempfile::Builder::new().prefix("deployctl-demo-").tempdir().map_err(broken)?;
    let mut interrupt = crate::net::server::stop_signal();
    let began = std::time::Instant::now();
    let at = folder.path().to_owned();
    let fleet = tokio::task::spawn_blocking(move || Fleet::start(&at)).await;
    let fleet = fleet.map_err(broken)?.map_err(broken)?;
    let (count, seconds) = (fleet.processes.count(), began.elapsed().as_secs_f64());
    out.story(&format!(
        "{count} processes on loopback: coordinator, 2 regions, worker, 8 hosts ({seconds:.1} s)"
    ));
    let keep = args.keep;
    let facts = tokio::select! {
        facts = act(out, &fleet, args) => facts?,
        _ = interrupt.wait_for(|stop| *stop) => {
            out.story("stopped; nothing is left behind");
            return Ok(ExitCode::Interrupted);
        }
    };
    out.story("");
    out.answer(&facts, &facts.table());
    out.story(&facts.closing_words());
    if keep {
        let folder = folder.keep();
        how_to_go_on(out, &fleet, &folder);
        fleet.processes.keep();
    }
    Ok(ExitCode::Ok)
}

async fn act(out: &Output, fleet: &Fleet, args: DemoArgs) -> Result<Facts, Failure> {
    let play = Play { out: out.clone(), reach: fleet.reach(), folder: fleet.folder.clone() };
    let acted = tokio::task::spawn_blocking(move || match args.repo {
        None => play.sample(),
        Some(repo) => {
            play.own(&repo, &args.build.unwrap_or_default(), &args.artifact.unwrap_or_default())
        }
    });
    let (app, steps) = acted
        .await
        .map_err(broken)?
        .map_err(|e| broken(e).hint("run it again with --keep and read the logs in its folder"))?;
    Facts::gather(fleet, &app, steps).await.map_err(Failure::from)
}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::new(ExitCode::Error, "the demo could not go on").because(why)
}

fn how_to_go_on(out: &Output, fleet: &Fleet, folder: &Path) {
    let reach = fleet.reach();
    let repository = Play::repository(folder);
    out.typed(&format!(
        "\nIt is still running at {}. To type commands yourself:\n\n  cd {}\n  export DEPLOYCTL_SERVER={}\n  \
         export DEPLOYCTL_TOKEN_FILE={}\n  deployctl status\n  deployctl hosts\n  deployctl history\n\nTo end it and remove everything:\n\n  pkill -f {}; rm -rf {}",
        reach.server,
        repository.display(),
        reach.server,
        reach.token_file,
        folder.display(),
        folder.display(),
    ));
}
