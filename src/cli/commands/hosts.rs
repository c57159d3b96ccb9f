//! `deployctl hosts`: what each host runs, and which are not where they should be.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::{Api, with_query};
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::hosts::{cells, new_table};
use crate::cli::table::Table;
use crate::model::fleet::AppStatus;
use crate::model::id::{HostId, RegionName};
use crate::wire::v1::fleet::{Forgotten, HostRow, Hosts};

/// Most hosts that the coordinator lists at once.
const LIMIT: &str = "20000";

/// List hosts with what they run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl hosts --behind\n  deployctl hosts --failed --region eu -o json"
)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
    /// Only this host
    #[arg(value_name = "HOST", add = ArgValueCompleter::new(complete::hosts))]
    host: Option<HostId>,
    /// Only hosts that do not run what they should
    #[arg(long)]
    behind: bool,
    /// Only hosts with a failure
    #[arg(long)]
    failed: bool,
    /// Only hosts that were not heard of
    #[arg(long)]
    unreachable: bool,
    /// Only this region
    #[arg(long, value_name = "REGION", add = ArgValueCompleter::new(complete::regions))]
    region: Option<RegionName>,
    /// Of every app, whatever the project file says
    #[arg(short = 'A', long)]
    all: bool,
    /// End with code 20 when the list is not empty
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Subcommand)]
enum HostsCommand {
    Forget(ForgetArgs),
}

/// Forget hosts that are gone for good, so that no rollout waits for them
///
/// Only hosts that can't be reached. One that comes back is known again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl hosts forget web-8812\n  deployctl hosts forget web-1 web-2 -o json"
)]
pub struct ForgetArgs {
    /// Which
    #[arg(value_name = "HOST", required = true, add = ArgValueCompleter::new(complete::hosts))]
    hosts: Vec<HostId>,
}

async fn forget(ctx: &Context, hosts: &[HostId]) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let mut table = Table::new(&["HOST", "REGION"], 2, "");
    let mut all = Vec::new();
    for host in hosts {
        let path = format!("/v1/hosts/{host}/forget");
        let done: Forgotten = api.change(Method::POST, &path, &serde_json::json!({})).await?;
        if done.regions.is_empty() {
            return Err(Failure::new(ExitCode::NotFound, format!("no host {host}"))
                .hint("deployctl hosts -A"));
        }
        for region in &done.regions {
            table.push([host.as_str().into(), region.as_str().into()]);
        }
        all.push(done);
    }
    ctx.out.answer(&serde_json::json!({ "forgotten": all }), &table);
    Ok(ExitCode::Ok)
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 3 when a host that was named is not there.
pub async fn run(ctx: &Context, args: HostsArgs) -> Result<ExitCode, Failure> {
    if let Some(HostsCommand::Forget(args)) = &args.command {
        return forget(ctx, &args.hosts).await;
    }
    let app = if args.all { None } else { ctx.app_if_said()? };
    let env = ctx.flags.env.clone();
    let query = [
        ("app", app.as_ref().map(|app| app.as_str())),
        ("env", env.as_ref().map(|env| env.as_str())),
        ("region", args.region.as_ref().map(|region| region.as_str())),
        ("host", args.host.as_ref().map(|host| host.as_str())),
        ("limit", Some(LIMIT)),
    ];
    let mut reply: Hosts = Api::new(ctx)?.get(&with_query("/v1/hosts", query)).await?;
    if let Some(host) = args.host.as_ref().filter(|_| reply.hosts.is_empty()) {
        return Err(
            Failure::new(ExitCode::NotFound, format!("no host {host}")).hint("deployctl hosts -A")
        );
    }
    if reply.total > reply.hosts.len() as u64 {
        let (some, all) = (reply.hosts.len(), reply.total);
        ctx.out.warning(&format!("only {some} of {all} hosts were looked at; use --region"));
    }
    let asked = args.behind || args.failed || args.unreachable;
    let of_app = |status: &&AppStatus| app.as_ref().is_none_or(|app| *app == status.app);
    let shown = |row: &HostRow| {
        let mut apps = row.apps.iter().filter(of_app);
        (args.unreachable && !row.reachable)
            || (args.behind && apps.clone().any(is_behind))
            || (args.failed && apps.any(|status| status.failure.is_some()))
    };
    if asked {
        reply.hosts.retain(shown);
        reply.total = reply.hosts.len() as u64;
    }
    let empty = if asked { "none" } else { "no host was heard of: deployctl agent --help" };
    let mut table = new_table(empty);
    for row in &reply.hosts {
        let mut apps = row.apps.iter().filter(of_app).peekable();
        if apps.peek().is_none() {
            table.push(cells(row, None));
        }
        for status in apps {
            table.push(cells(row, Some(status)));
        }
    }
    ctx.out.answer(&reply, &table);
    let any = args.exit_code && !reply.hosts.is_empty();
    Ok(if any { ExitCode::Changes } else { ExitCode::Ok })
}

fn is_behind(status: &AppStatus) -> bool {
    status.desired.is_some() && status.running != status.desired
}
