//! `deployctl admin fence`: a new epoch, past all that regions and hosts have seen.

use clap::Args;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::confirm;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::Table;
use crate::wire::v1::rollout::{FenceRequest, Fenced};

/// What `--confirm` must name.
const GOALS: &str = "goals";

/// Raise the epoch, and send every goal once more
///
/// For when regions or hosts refuse goals because they have seen newer ones than the coordinator
/// knows of: a goal that was put there by hand, a database that was set back. Hosts that run
/// what they should restart nothing. `admin restore` does this by itself.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin fence -m \"goals of r900 were put by hand\"\n  deployctl admin fence --above 7 --confirm=goals -m \"INC-7\""
)]
pub(super) struct FenceArgs {
    /// Pass this epoch too: `deployctl plumbing goal show` at a region tells what it has seen
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..1_000_000))]
    above: u64,
    /// For scripts: confirm by naming what is sent: goals
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Why; everybody is told
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

pub(super) async fn run(ctx: &Context, args: FenceArgs) -> Result<ExitCode, Failure> {
    let said = (args.confirm.as_deref(), !args.message.trim().is_empty());
    confirm::severe(ctx, "admin fence", GOALS, said).await?;
    let request = FenceRequest { above: args.above, message: args.message };
    let done: Fenced = Api::new(ctx)?.change(Method::POST, "/v1/fence", &request).await?;
    let mut table = Table::new(&["EPOCH", "GOALS"], 2, "");
    table.push([done.epoch.to_string().into(), done.goals.to_string().into()]);
    ctx.out.answer(&done, &table);
    ctx.out.hint("deployctl status");
    Ok(ExitCode::Ok)
}
