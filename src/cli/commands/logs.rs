//! `deployctl logs`: what a build printed, and the last words of what failed.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::{Api, RolloutId, with_query};
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::model::id::{HostId, JobNo, ReleaseNo};
use crate::wire::v1::fleet::Hosts;

/// How long one poll is held.
const POLL: Duration = Duration::from_secs(10);
/// Pause while the coordinator is away.
const AWAY: Duration = Duration::from_secs(1);

/// Show a build's log, or the last words of failed hosts
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl logs b12 -f\n  deployctl logs r412\n  deployctl logs web-17"
)]
pub struct LogsArgs {
    /// b12, r412 or a host [default: the app's newest build]
    #[arg(value_name = "BUILD|ROLLOUT|HOST", add = ArgValueCompleter::new(complete::logged))]
    of: Option<String>,
    /// Stay until the build ends
    #[arg(short, long)]
    follow: bool,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 3 when there is no such thing.
pub async fn run(ctx: &Context, args: LogsArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let Some(name) = args.of else {
        let app = pick_app(ctx, &api).await?;
        let query = [("app", app.to_string()), ("limit", "1".into())];
        let newest = api.builds(&query).await?.builds.into_iter().next().ok_or_else(|| {
            Failure::new(ExitCode::NotFound, format!("no build of {app} yet"))
                .hint("deployctl build HEAD")
        })?;
        return build_log(ctx, &api, newest.build, args.follow).await;
    };
    if let Ok(build) = name.parse::<JobNo>() {
        return build_log(ctx, &api, build, args.follow).await;
    }
    if let Ok(release) = name.parse::<ReleaseNo>() {
        return rollout_log(ctx, &api, release).await;
    }
    host_log(ctx, &api, name.parse()?).await
}

async fn build_log(
    ctx: &Context,
    api: &Api,
    build: JobNo,
    follow: bool,
) -> Result<ExitCode, Failure> {
    let (mut from, mut whole) = (0, String::new());
    loop {
        let wait = if follow { POLL } else { Duration::ZERO };
        let part = match api.build_log(build, from, wait).await {
            Ok(part) => part,
            Err(error) if follow && error.is_transient() => {
                tokio::time::sleep(AWAY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let moved = part.next > from;
        from = part.next;
        if ctx.out.is_json() {
            whole.push_str(&part.text)
        } else {
            ctx.out.text(&part.text)
        }
        if !moved && (part.ended || !follow) {
            break;
        }
    }
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({"build": build, "log": whole}));
    }
    Ok(ExitCode::Ok)
}

async fn rollout_log(ctx: &Context, api: &Api, release: ReleaseNo) -> Result<ExitCode, Failure> {
    let (app, env) = (pick_app(ctx, api).await?, ctx.env()?);
    let rollout = api.rollout(&RolloutId { app, env, release }, 0, Duration::ZERO).await?;
    let groups: Vec<_> = rollout
        .regions
        .iter()
        .flat_map(|(region, tally)| tally.failures.iter().map(move |group| (region, group)))
        .collect();
    if ctx.out.is_json() {
        let failures: Vec<_> = groups
            .iter()
            .map(|(region, group)| serde_json::json!({"region": region, "failure": group}))
            .collect();
        ctx.out.json(&serde_json::json!({"release": release, "failures": failures}));
        return Ok(ExitCode::Ok);
    }
    if groups.is_empty() {
        ctx.out.story(&format!("no host failed under {release}"));
    }
    for (region, group) in groups {
        let text = lines(
            &format!("{region}, {} (of {})", group.first, group.hosts),
            &group.reason,
            &group.log,
        );
        ctx.out.text(&text);
    }
    Ok(ExitCode::Ok)
}

async fn host_log(ctx: &Context, api: &Api, host: HostId) -> Result<ExitCode, Failure> {
    let path = with_query("/v1/hosts", [("host", Some(host.as_str()))]);
    let reply: Hosts = api.get(&path).await?;
    let Some(row) = reply.hosts.first() else {
        return Err(
            Failure::new(ExitCode::NotFound, format!("no host {host}")).hint("deployctl hosts -A")
        );
    };
    if ctx.out.is_json() {
        ctx.out.json(row);
        return Ok(ExitCode::Ok);
    }
    let failed: Vec<_> =
        row.apps.iter().filter_map(|s| Some((&s.app, s.failure.as_ref()?))).collect();
    if failed.is_empty() {
        ctx.out.story(&format!("nothing failed on {host}"));
    }
    for (app, failure) in failed {
        ctx.out.text(&lines(&format!("{host}, {app}"), &failure.reason, &failure.log));
    }
    Ok(ExitCode::Ok)
}

fn lines(who: &str, reason: &str, log: &[String]) -> String {
    let log: String = log.iter().map(|line| format!("  | {line}\n")).collect();
    format!("{who}: {reason}\n{log}")
}
