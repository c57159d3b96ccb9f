//! `deployctl why`: why something is not where a person expects it.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::{Api, with_query};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::reasons::{self, Reasons};
use crate::cli::{complete, reference, rollouts};
use crate::host::clock;
use crate::model::commit::CommitId;
use crate::model::id::{AppName, EnvName, HostId, JobNo, ReleaseNo};
use crate::model::rollout::RolloutState;
use crate::wire::v1::build::Build;
use crate::wire::v1::fleet::{HostRow, Hosts, Regions, Workers};
use crate::wire::v1::rollout::EnvStatus;

/// Most releases that a commit is looked for in.
const HISTORY: u32 = 500;

/// Say why a host, a rollout, a build or a commit is not where it should be
///
/// A chain of reasons, what happens next, and lines to type.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl why\n  deployctl why web-8812\n  deployctl why HEAD -e staging\n  deployctl why b12 -o json"
)]
pub struct WhyArgs {
    /// A host, r412, b12, or a commit [default: the open rollout, else the last]
    #[arg(value_name = "WHAT", add = ArgValueCompleter::new(complete::explained))]
    what: Option<String>,
    /// End with code 20 when it is not where it should be
    #[arg(long)]
    exit_code: bool,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 3 when nothing is called so.
pub async fn run(ctx: &Context, args: WhyArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let reasons = match args.what.as_deref() {
        None => of_rollout(ctx, &api, None).await?,
        Some(what) => of(ctx, &api, what).await?,
    };
    for (number, reasons) in reasons.iter().enumerate() {
        if !ctx.out.is_json() {
            ctx.out.text(if number > 0 { "\n" } else { "" });
            ctx.out.prose(&reasons.text());
        }
    }
    let settled = reasons.iter().all(|reasons| reasons.settled);
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({"settled": settled, "reasons": reasons}));
    }
    Ok(if args.exit_code && !settled { ExitCode::Changes } else { ExitCode::Ok })
}

/// Numbers first, then hosts, then whatever git knows.
async fn of(ctx: &Context, api: &Api, what: &str) -> Result<Vec<Reasons>, Failure> {
    if let Ok(release) = what.parse::<ReleaseNo>() {
        return of_rollout(ctx, api, Some(release)).await;
    }
    if let Ok(build) = what.parse::<JobNo>() {
        return Ok(vec![of_build(api, &api.build(build).await?).await?]);
    }
    if let Ok(host) = what.parse::<HostId>()
        && let Some(row) = find_host(api, &host).await?
    {
        return of_host(ctx, api, &row).await;
    }
    let nothing = || {
        Failure::new(ExitCode::NotFound, format!("nothing is called {what:?}"))
            .because("it is no host, no release (r412), no build (b12) and no commit")
            .hint("deployctl hosts -A")
    };
    match reference::resolve_commit(ctx, what) {
        Ok(commit) => of_commit(ctx, api, &commit.id).await,
        Err(_) => Err(nothing()),
    }
}

async fn of_rollout(
    ctx: &Context,
    api: &Api,
    named: Option<ReleaseNo>,
) -> Result<Vec<Reasons>, Failure> {
    let id = rollouts::pick(ctx, api, named).await?;
    let rollout = api.rollout(&id, 0, Duration::ZERO).await?;
    let regions: Regions = api.get("/v1/regions").await?;
    Ok(vec![reasons::rollout::of(&rollout, &regions.regions, clock::now())])
}

async fn of_build(api: &Api, build: &Build) -> Result<Reasons, Failure> {
    let workers: Workers = api.get("/v1/workers").await?;
    let now = clock::now();
    let alive = |worker: &crate::wire::v1::fleet::WorkerRow| {
        now.since(worker.seen_at) < reasons::build::WORKER_SILENT
    };
    let workers: Vec<_> = workers.workers.into_iter().filter(alive).collect();
    Ok(reasons::build::of(build, &workers, now))
}

async fn find_host(api: &Api, host: &HostId) -> Result<Option<HostRow>, Failure> {
    let query = [("host", Some(host.as_str())), ("limit", Some("1000"))];
    let reply: Hosts = api.get(&with_query("/v1/hosts", query)).await?;
    Ok(reply.hosts.into_iter().find(|row| row.info.host == *host))
}

/// What was known of a host when its region spoke last.
fn with_silence(known: Reasons, silence: &str) -> Reasons {
    let mut doubtful = known;
    doubtful.settled = false;
    doubtful.because.insert(0, format!("{silence}; this is what was known then"));
    doubtful.hint("deployctl regions")
}

/// The app that was said, else each that the host has to do with.
async fn of_host(ctx: &Context, api: &Api, host: &HostRow) -> Result<Vec<Reasons>, Failure> {
    let app = ctx.app_if_said()?;
    let env = ctx.flags.env.as_ref().unwrap_or(&host.info.env);
    let status = api.status(app.as_ref(), Some(env)).await?;
    let mut all = Vec::new();
    // What is known of a host is as old as its region's last report. One that can't be had
    // takes nothing away from the answer.
    let regions: Option<Regions> = api.get("/v1/regions").await.ok();
    let own = regions.iter().flat_map(|reply| &reply.regions).find(|r| r.region == host.region);
    let silence = own.and_then(|region| reasons::rollout::silence(region, clock::now()));
    for env in &status.apps {
        let spec = api.app(&env.app).await?.spec;
        let on_it = host.apps.iter().any(|status| status.app == env.app);
        if app.is_some() || on_it || spec.hosts.selects(&host.info.labels) {
            let seen = reasons::host::Seen { host, app: &spec, env, now: clock::now() };
            let known = reasons::host::of(seen);
            all.push(match &silence {
                Some(silence) => with_silence(known, silence),
                None => known,
            });
        }
    }
    if all.is_empty() {
        let name = &host.info.host;
        let none = format!("{name} ({}) runs nothing, and no app is for it", host.region);
        all.push(Reasons::new(none).settled().hint("deployctl apps"));
    }
    Ok(all)
}

async fn of_commit(ctx: &Context, api: &Api, commit: &CommitId) -> Result<Vec<Reasons>, Failure> {
    let (app, env) = (pick_app(ctx, api).await?, ctx.env()?);
    let query = [("app", app.to_string()), ("commit", commit.to_string())];
    let builds = api.builds(&query).await?.builds;
    let short = commit.short();
    let Some(build) = builds.iter().find(|build| build.deployable).or(builds.first()) else {
        return Ok(vec![
            Reasons::new(format!("{short} of {app} was never built"))
                .next("nothing until somebody asks for it")
                .hint(format!("deployctl deploy {short} --build -a {app} -e {env}"))
                .hint(format!("deployctl build {short} -a {app}")),
        ]);
    };
    if !build.deployable {
        return Ok(vec![of_build(api, build).await?]);
    }
    let status = api.status(Some(&app), Some(&env)).await?;
    let status = status.apps.into_iter().next();
    if let Some(open) = status.as_ref().and_then(|status| status.rollout.as_ref())
        && open.release.commit == *commit
    {
        return of_rollout(ctx, api, Some(open.release.release)).await;
    }
    deployed_commit(api, (&app, &env), commit, build, status.as_ref()).await
}

/// A commit that can be deployed and that no open rollout brings.
async fn deployed_commit(
    api: &Api,
    (app, env): (&AppName, &EnvName),
    commit: &CommitId,
    build: &Build,
    status: Option<&EnvStatus>,
) -> Result<Vec<Reasons>, Failure> {
    let short = commit.short();
    let current = status.and_then(|status| status.current.as_ref());
    if let Some(current) = current.filter(|current| current.commit == *commit) {
        let name = current.release;
        let headline = format!("{short} is what {env} runs of {app}, as {name}");
        return Ok(vec![
            Reasons::new(headline)
                .settled()
                .hint(format!("deployctl hosts --behind -a {app} -e {env}")),
        ]);
    }
    let instead = current.map_or("nothing".to_owned(), |current| {
        format!("{} ({})", current.release, current.commit.short())
    });
    let headline = format!("{short} does not run in {env}; {app} runs {instead} there");
    let reasons = Reasons::new(headline);
    let history = api.releases(app, env, HISTORY).await?.releases;
    let deploy = format!("deployctl deploy {} -a {app} -e {env}", build.build);
    let Some(last) = history.iter().find(|release| release.commit == *commit) else {
        return Ok(vec![
            reasons
                .because(format!("it is built ({}) and was never deployed to {env}", build.build))
                .next("nothing until somebody deploys it")
                .hint(deploy),
        ]);
    };
    let name = last.release;
    let reasons = match last.state {
        RolloutState::Succeeded => {
            let after = history.iter().rev().find(|r| r.release > name && r.version.is_some());
            let after = after.map_or(String::new(), |r| format!("{} came after {name}", r.release));
            reasons.because(format!("it ran there as {name}")).because(after)
        }
        state => reasons.because(format!("{name} brought it and was {}", state.word())),
    };
    let reasons = reasons.because(last.reason.clone().replace('\n', "; "));
    let bad = if last.bad { "it was marked bad" } else { "" };
    let flag = if last.bad { " --allow-bad" } else { "" };
    Ok(vec![
        reasons
            .because(bad)
            .next("nothing until somebody deploys it again")
            .hint(format!("deployctl why {name} -a {app} -e {env}"))
            .hint(format!("{deploy}{flag}")),
    ])
}
