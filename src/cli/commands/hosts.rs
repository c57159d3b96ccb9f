//! `deployctl hosts`: what each host runs, and which are not where they should be.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::{Api, with_query};
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::hosts::{cells, new_table, show_labels};
use crate::cli::live::{self, LiveArgs, Part, Shown};
use crate::cli::table::{Table, count};
use crate::config::instead::{Instead, instead_of, some_of};
use crate::model::fleet::AppStatus;
use crate::model::id::{AppName, HostId, InvalidId, RegionName};
use crate::model::picked::{HostSelector, Place, Said};
use crate::net::client::CallError;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{Forgotten, HostRow, Hosts};

/// Most hosts that the coordinator lists at once.
const LIMIT: &str = "20000";

/// List hosts with what they run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl hosts --behind\n  deployctl hosts --hosts 'web-*,rack=14'\n  deployctl hosts -w --failed --region eu"
)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
    /// Only this host
    #[arg(value_name = "HOST", add = ArgValueCompleter::new(complete::hosts))]
    host: Option<HostId>,
    /// Only these: 'web-*', rack=14, region=eu
    ///
    /// As `deploy --hosts` takes them: names and patterns, one of which must fit, and labels,
    /// all of which must. Of the app that is said, those that it runs on. Given twice, it is
    /// one list.
    #[arg(long, value_name = "SELECTOR", conflicts_with = "host",
          add = ArgValueCompleter::new(complete::host_list))]
    hosts: Vec<HostSelector>,
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
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    fields: FieldsArgs,
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
    let api = Api::new(ctx)?;
    let app = if args.all { None } else { ctx.app_if_said()? };
    if args.live.watch {
        args.fields.check_not_live()?;
        let look =
            async || Ok(shown(&list(ctx, &api, &args, app.as_ref()).await?, &args, app.as_ref()));
        return live::stay(ctx, "hosts", look).await.map(|never| match never {});
    }
    let reply = list(ctx, &api, &args, app.as_ref()).await?;
    args.fields.answer(ctx, "hosts", &reply, &table(&reply, &args, app.as_ref()))?;
    let any = args.exit_code && !reply.hosts.is_empty();
    Ok(if any { ExitCode::Changes } else { ExitCode::Ok })
}

impl HostsArgs {
    /// Whether only some of the hosts are wanted.
    fn filters(&self) -> bool {
        self.behind || self.failed || self.unreachable
    }

    /// Leaves of `reply` those whom `--hosts` means.
    ///
    /// # Errors
    /// Exit code 3 when that is nobody, with the labels that there are.
    fn pick(&self, reply: &mut Hosts) -> Result<(), CallError> {
        let Some(selector) = self.selector()? else { return Ok(()) };
        let mut said = Said::default();
        let there: Vec<HostId> = reply.hosts.iter().map(|row| row.info.host.clone()).collect();
        reply.hosts.retain(|row| {
            let place =
                Place { region: row.region.as_str(), rack: &row.info.rack, zone: &row.info.zone };
            said.hear(&row.info.labels, place);
            selector.picks(&row.info.host, &row.info.labels, place)
        });
        reply.total = reply.hosts.len() as u64;
        if !reply.hosts.is_empty() {
            return Ok(());
        }
        Err(CallError::Refused(Box::new(nobody(&selector, &said, &there))))
    }

    fn selector(&self) -> Result<Option<HostSelector>, CallError> {
        let refused = |error: InvalidId| {
            CallError::Refused(Box::new(Problem::new(Code::Usage, error.to_string())))
        };
        HostSelector::joined(&self.hosts).map_err(refused)
    }

    fn wants(&self, row: &HostRow, app: Option<&AppName>) -> bool {
        let mut apps = row.apps.iter().filter(|status| is_of(status, app));
        (self.unreachable && !row.reachable)
            || (self.behind && apps.clone().any(is_behind))
            || (self.failed && apps.any(|status| status.failure.is_some()))
    }
}

/// What is told when `selector` means nobody of those that are `there`.
fn nobody(selector: &HostSelector, said: &Said, there: &[HostId]) -> Problem {
    let names = || there.iter().map(HostId::as_str);
    let (mut alike, mut near) = (None, None);
    for name in selector.exact() {
        match instead_of(name, names) {
            Instead::Alike(told) => alike = alike.or(Some(told)),
            Instead::Near(other) => near = near.or(Some(other)),
            Instead::Nothing => {}
        }
    }
    let why = selector.unsaid(said).unwrap_or_else(|| match alike {
        Some(alike) => format!("there is {alike}, of {}", count(there.len() as u64, "host")),
        None if there.is_empty() => "no host was heard of".to_owned(),
        None => format!("there is {}", some_of(names())),
    });
    let none = Problem::new(Code::NotFound, format!("no host matches {selector}")).because(why);
    let none = match near {
        Some(near) => none.hint(format!("did you mean: --hosts {near}")),
        None => none,
    };
    none.hint("deployctl hosts -A -o wide")
}

/// The hosts that are wanted, as they are now.
async fn list(
    ctx: &Context,
    api: &Api,
    args: &HostsArgs,
    app: Option<&AppName>,
) -> Result<Hosts, CallError> {
    // A deploy goes to whom the app selects, whether or not it has run there yet.
    let named = app.filter(|_| !args.hosts.is_empty());
    let covers = match named {
        Some(app) => Some(api.app(app).await?.spec.hosts),
        None => None,
    };
    let query = [
        ("app", app.filter(|_| named.is_none()).map(AppName::as_str)),
        ("env", ctx.flags.env.as_ref().map(|env| env.as_str())),
        ("region", args.region.as_ref().map(|region| region.as_str())),
        ("host", args.host.as_ref().map(|host| host.as_str())),
        ("limit", Some(LIMIT)),
    ];
    let mut reply: Hosts = api.get(&with_query("/v1/hosts", query)).await?;
    if let Some(host) = args.host.as_ref().filter(|_| reply.total == 0) {
        let none = Problem::new(Code::NotFound, format!("no host {host}"));
        return Err(CallError::Refused(Box::new(none.hint("deployctl hosts -A"))));
    }
    let (looked_at, all) = (reply.hosts.len() as u64, reply.total);
    if all > looked_at {
        ctx.out.warning(&format!("only {looked_at} of {all} hosts were looked at; use --region"));
    }
    if let Some(covers) = covers {
        reply.hosts.retain(|row| covers.selects(&row.info.labels));
    }
    args.pick(&mut reply)?;
    if args.filters() {
        reply.hosts.retain(|row| args.wants(row, app));
        reply.total = reply.hosts.len() as u64;
    }
    Ok(reply)
}

fn table(reply: &Hosts, args: &HostsArgs, app: Option<&AppName>) -> Table {
    let none = "no host was heard of: deployctl agent --help";
    let mut table = new_table(if args.filters() { "none" } else { none });
    show_labels(&mut table, &reply.hosts);
    for row in &reply.hosts {
        let mut apps = row.apps.iter().filter(|status| is_of(status, app)).peekable();
        if apps.peek().is_none() {
            table.push(cells(row, None));
        }
        for status in apps {
            table.push(cells(row, Some(status)));
        }
    }
    table
}

/// One look of those that follow each other: that a host was heard of again, or fetched some
/// more, is none of its own.
fn shown(reply: &Hosts, args: &HostsArgs, app: Option<&AppName>) -> Shown {
    let row = |row: &HostRow| {
        let apps = row.apps.iter().filter(|status| is_of(status, app));
        let apps: Vec<_> = apps.map(AppStatus::without_progress).collect();
        (row.info.host.clone(), row.region.clone(), row.reachable, apps)
    };
    Shown {
        key: format!("{:?}", reply.hosts.iter().map(row).collect::<Vec<_>>()),
        parts: vec![Part::Table(table(reply, args, app))],
        document: serde_json::to_value(reply).unwrap_or_default(),
    }
}

fn is_of(status: &AppStatus, app: Option<&AppName>) -> bool {
    app.is_none_or(|app| *app == status.app)
}

fn is_behind(status: &AppStatus) -> bool {
    status.desired.is_some() && status.running != status.desired
}
