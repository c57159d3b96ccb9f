//! `deployctl deploy`: rolls a commit out, and its exit code is the outcome.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::{HowArgs, WaitArgs, seconds};
use crate::cli::config_file::ConfigArgs;
use crate::cli::confirm::Consent;
use crate::cli::conflict::ConflictArgs;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::reference::{self, Target};
use crate::cli::{complete, rollouts, steps, wait};
use crate::model::id::{AppName, EnvName};
use crate::model::picked::HostSelector;
use crate::model::rollout::PlanName;
use crate::wire::v1::build::BuildRequest;
use crate::wire::v1::rollout::RolloutRequest;

/// Time that replication may take after a build that this command waited for, seconds.
const READY_AFTER_BUILD_S: u32 = 3600;

/// Roll a commit out and wait for the outcome
///
/// The commit must be built and replicated, unless --build or --when-ready is given.
/// `deploy @ --config FILE` changes only the config, by the same waves and gates.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl deploy HEAD -m \"retry jitter\"\n  deployctl deploy HEAD --build --yes\n  \
    deployctl deploy HEAD --hosts web-1 -m \"one host first\"\n  \
    deployctl deploy r411 --region eu --plan all-at-once --confirm=web -m \"INC-7\"\n  deployctl deploy @ --config api.toml -m \"more workers\""
)]
pub struct DeployArgs {
    /// A git revision, r411, b12, @latest, staging:@: `deployctl help refs`
    #[arg(value_name = "REV", default_value = "HEAD", add = ArgValueCompleter::new(complete::targets))]
    rev: String,
    /// Build it first if that was not done yet
    ///
    /// Waits then as --when-ready does.
    #[arg(long)]
    build: bool,
    /// Wait until it is built and replicated, 1h at most
    ///
    /// What it needs of other apps, by its deployctl.toml, is waited for too.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "1h", value_parser = seconds, hide_short_help = true)]
    when_ready: Option<u32>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    config: ConfigArgs,
    /// These go first, and you promote the rest: 'web-*'
    ///
    /// Names and patterns of hosts, one of which must fit, and labels, all of which must: web-1,
    /// 'web-*', rack=14, zone=b, region=eu; `deployctl hosts --hosts SELECTOR` lists who that is.
    /// A tenth of the hosts at most (one at least), and 50. The rollout is held after them (exit
    /// code 14): `promote` goes on by the plan, `cancel` takes them back. Given twice, it is one
    /// list. Not with all-at-once, a plan from a file or --max-unavailable.
    #[arg(long, value_name = "SELECTOR", conflicts_with = "max_unavailable",
          add = ArgValueCompleter::new(complete::host_list))]
    hosts: Vec<HostSelector>,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Deploy a release though it was marked bad
    #[arg(long, hide_short_help = true)]
    allow_bad: bool,
    #[command(flatten)]
    conflict: ConflictArgs,
    /// Pass a freeze, a hold or approvals: by an admin, with a reason, and everybody is told
    #[arg(long, hide_short_help = true)]
    break_glass: bool,
    /// Refuse unless the goal's generation is still this
    #[arg(long, value_name = "GENERATION", hide_short_help = true)]
    expect_gen: Option<u64>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs the command.
///
/// # Errors
/// As the rollout ends: see `deployctl help exit-codes`.
pub async fn run(ctx: &Context, args: DeployArgs) -> Result<ExitCode, Failure> {
    if args.build {
        ctx.project.whole()?;
    }
    let env = ctx.env()?;
    let target = reference::resolve(ctx, &args.rev)?;
    let mut request = args.request(&target)?;
    let consent = Consent::of(&request, args.how.confirm.as_ref());
    let consents = |app: Option<&AppName>| match args.dry_run {
        true => Ok(()),
        false => consent.check(ctx, &env, app),
    };
    // Hosts that are named are looked up first: a name that is mistyped is put right first.
    if request.hosts.is_none() {
        consents(ctx.app_if_said()?.as_ref())?;
    }
    let api = Api::new(ctx)?;
    let app = pick_app(ctx, &api).await?;
    let agreed = consents(Some(&app));
    if request.hosts.is_some() && !args.dry_run && (agreed.is_err() || args.build) {
        check_dry(&api, (&app, &env), &request, args.conflict.waits()).await?;
    }
    agreed?;
    if let Target::Commit(commit) = &target {
        reference::check_pushed(ctx, &api, &app, commit).await?;
    }
    if args.build && !args.dry_run {
        build_first(ctx, &api, &app, &target, &args).await?;
        request.when_ready_s = request.when_ready_s.or(Some(READY_AFTER_BUILD_S));
    }
    if args.dry_run {
        return steps::tell_dry(ctx, &api, (&app, &env), request).await;
    }
    args.conflict.wait_turn(ctx, &api, (&app, &env), &args.wait).await?;
    rollouts::start(ctx, &api, (&app, &env), request, (&consent, &args.wait)).await
}

impl DeployArgs {
    /// What is asked of the coordinator for `target`.
    fn request(&self, target: &Target) -> Result<RolloutRequest, Failure> {
        let mut request = self.how.request(target.text())?;
        request.hosts = self.first(&request)?;
        request.config = self.config.wish()?;
        request.when_ready_s = self.when_ready;
        request.allow_bad = self.allow_bad;
        request.break_glass = self.break_glass;
        request.expect_generation = self.expect_gen;
        self.conflict.ask(&mut request);
        Ok(request)
    }
}

impl DeployArgs {
    /// The hosts that go first, where the plan lets hosts be named.
    fn first(&self, request: &RolloutRequest) -> Result<Option<HostSelector>, Failure> {
        let other = match (&request.plan_file, request.plan) {
            (Some(file), _) => format!("--plan {}", file.name()),
            (None, PlanName::AllAtOnce) => "--plan all-at-once".to_owned(),
            _ => return Ok(HostSelector::joined(&self.hosts)?),
        };
        if self.hosts.is_empty() {
            return Ok(None);
        }
        Err(Failure::usage(format!("--hosts is not for {other}"))
            .because("that plan says itself who goes first")
            .hint("deployctl help plans"))
    }
}

/// Asks for a dry run, so that a name that is mistyped is told before anything is asked of a
/// person or built.
///
/// # Errors
/// As the coordinator refuses it. What a build cures (a commit without one), or the turn that
/// is waited for, is left for later.
async fn check_dry(
    api: &Api,
    (app, env): (&AppName, &EnvName),
    request: &RolloutRequest,
    waits: bool,
) -> Result<(), Failure> {
    let asked = RolloutRequest { dry_run: true, ..request.clone() };
    let refused = api.start_rollout(app, env, &asked).await.err();
    let stays = |failure: &Failure| match failure.code {
        ExitCode::NotFound | ExitCode::Usage => true,
        ExitCode::Blocked => !waits,
        _ => false,
    };
    refused.filter(stays).map_or(Ok(()), Err)
}

async fn build_first(
    ctx: &Context,
    api: &Api,
    app: &AppName,
    target: &Target,
    args: &DeployArgs,
) -> Result<(), Failure> {
    let commit = target.commit().ok_or_else(|| {
        Failure::usage(format!("--build needs a commit, and {} is none", target.text()))
            .hint("deployctl deploy HEAD --build")
    })?;
    let (commit, subject) = (commit.id, commit.subject);
    let request = BuildRequest { commit, subject, allow_unmerged: false };
    let queued = api.queue_build(app, &request).await?;
    if args.wait.detach {
        return Ok(());
    }
    let number = queued.build;
    ctx.on_interrupt([
        format!("detached; {number} goes on, and nothing is deployed"),
        format!("deployctl cancel {number}"),
    ]);
    wait::build(ctx, api, queued, args.wait.timeout, false).await.map(drop)
}
