//! `deployctl version`: ours, and the coordinator's when there is one.

use std::time::Duration;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table};
use crate::wire::v1::version::Version;

/// Longest wait for the coordinator, which is not what was asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Show the versions of this program and of the coordinator
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl version\n  deployctl version -o json")]
pub struct VersionArgs {}

/// Runs the command.
///
/// # Errors
/// Never: a coordinator that does not answer has no version.
pub async fn run(ctx: &Context, _: VersionArgs) -> Result<ExitCode, Failure> {
    let client = env!("CARGO_PKG_VERSION");
    let server = match ctx.client() {
        Ok(api) => {
            api.get::<Version>("/v1/version", PATIENCE).await.ok().map(|reply| reply.version)
        }
        Err(_) => None,
    };
    let mut table = Table::new(&["PROGRAM", "VERSION", "API"], 3, "");
    table.push(["deployctl".into(), client.into(), "v1".into()]);
    table.push(["coordinator".into(), Cell::maybe(server.as_ref()), "v1".into()]);
    let document = serde_json::json!({"deployctl": client, "coordinator": server, "api": ["v1"]});
    ctx.out.answer(&document, &table);
    Ok(ExitCode::Ok)
}
