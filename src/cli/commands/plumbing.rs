//! `deployctl plumbing`: goals by hand, for when the coordinator is gone; and single facts
//! for scripts.

mod facts;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::cli::complete;
use crate::cli::confirm::{self, Danger};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::Table;
use crate::host::clock;
use crate::model::config::Bits;
use crate::model::goal::{Goal, Target};
use crate::net::auth;
use crate::wire::seal::{GOAL, Sealed, sign};
use crate::wire::v1::fleet::Completions;
use crate::wire::v1::region::Goals;

/// Largest document that is read, bytes: a goal has 128 KiB at most, twice.
const DOCUMENT_BYTES_MAX: u64 = 256 << 10;

/// Low-level commands for scripts and emergencies; their output is JSON
///
/// See `deployctl help runbook`.
#[derive(Debug, Args)]
pub struct PlumbingArgs {
    #[command(subcommand)]
    command: PlumbingCommand,
}

#[derive(Debug, Subcommand)]
enum PlumbingCommand {
    Goal(GoalArgs),
    Complete(CompleteArgs),
    ResolveRev(facts::ResolveArgs),
    Plan(facts::PlanArgs),
    Cohort(facts::CohortArgs),
    Digest(facts::DigestArgs),
}

/// List names as TAB offers them, and renew what TAB remembers
///
/// TAB answers from a file in the user's cache folder; this asks the coordinator.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing complete release\n  deployctl plumbing complete host web- -e prod"
)]
pub struct CompleteArgs {
    /// app, env, region, release, build or host
    #[arg(value_name = "KIND", value_parser = ["app", "env", "region", "release", "build", "host"],
          hide_possible_values = true)]
    kind: String,
    /// Only names that begin so; then nothing is remembered
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
}

/// Read a region's goal, sign another one, put it there
#[derive(Debug, Args)]
pub struct GoalArgs {
    #[command(subcommand)]
    command: GoalCommand,
}

#[derive(Debug, Subcommand)]
enum GoalCommand {
    Show(ShowArgs),
    Sign(SignArgs),
    Put(PutArgs),
}

/// Show the goal of an app and env as a region has it
///
/// --server is the region's URL and --token-file the region's own token.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing goal show -a web -e prod --server http://eu:7879 --token-file region-eu.token > goal.json\n  \
    deployctl plumbing goal show -a web -e staging --server http://us:7879 --token-file region-us.token"
)]
pub struct ShowArgs {}

/// Sign a goal that leads every host back, newer than the one in GOAL
///
/// Without --to it leads to what ran before (the goal's base). Needs no network.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing goal sign goal.json --key keys/goal.ed25519 > back.json\n  \
    deployctl plumbing goal sign goal.json --key goal.ed25519 --to r411=ARTIFACT > back.json"
)]
pub struct SignArgs {
    /// What `goal show` wrote; - reads stdin
    #[arg(value_name = "GOAL")]
    goal: PathBuf,
    /// The goal key: keys/goal.ed25519 of the coordinator's data folder
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to: a release and its artifact, as `deployctl history -o wide` has them
    #[arg(long, value_name = "RELEASE=ARTIFACT", value_parser = target)]
    to: Option<Target>,
}

/// Put a signed goal into a region; its hosts follow at once
///
/// --server is the region's URL and --token-file the region's own token.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing goal put back.json --server http://eu:7879 --token-file region-eu.token\n  \
    deployctl plumbing goal put back.json --server http://us:7879 --token-file region-us.token --yes"
)]
pub struct PutArgs {
    /// What `goal sign` wrote; - reads stdin
    #[arg(value_name = "GOAL")]
    goal: PathBuf,
}

/// A goal, for people, and the signed bytes, which are what counts.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    #[serde(skip_deserializing)]
    goal: Option<Goal>,
    #[serde(flatten)]
    sealed: Sealed,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 when the region has no such goal, 4 when the token is not the region's, 6
/// when a goal that is not older stands there.
pub async fn run(ctx: &Context, args: PlumbingArgs) -> Result<ExitCode, Failure> {
    let args = match args.command {
        PlumbingCommand::Goal(args) => args,
        PlumbingCommand::Complete(args) => return complete(ctx, &args).await,
        PlumbingCommand::ResolveRev(args) => return facts::resolve_rev(ctx, &args).await,
        PlumbingCommand::Plan(args) => return facts::plan(ctx, &args).await,
        PlumbingCommand::Cohort(args) => return facts::cohort(ctx, args).await,
        PlumbingCommand::Digest(args) => return facts::digest(ctx, &args),
    };
    match args.command {
        GoalCommand::Show(_) => show(ctx).await,
        GoalCommand::Sign(args) => sign_back(ctx, &args),
        GoalCommand::Put(args) => put(ctx, &args.goal).await,
    }
}

async fn complete(ctx: &Context, args: &CompleteArgs) -> Result<ExitCode, Failure> {
    let (app, env) = (ctx.app_if_said()?.map(String::from), ctx.env()?.to_string());
    let asked = (args.kind.as_str(), args.prefix.as_str());
    let timeout = ctx.flags.request_timeout;
    let names = complete::renew(ctx.endpoint()?, asked, (app, env), timeout).await?;
    let mut table = Table::new(&["NAME", "HELP"], 2, "no names");
    for (name, help) in &names {
        table.push([name.as_str().into(), help.as_str().into()]);
    }
    ctx.out.answer(&Completions { names }, &table);
    Ok(ExitCode::Ok)
}

async fn show(ctx: &Context) -> Result<ExitCode, Failure> {
    let (app, env) = (ctx.app()?, ctx.env()?);
    let reply: Goals = ctx.client()?.get("/v1/emergency/goals", ctx.flags.request_timeout).await?;
    let goals = reply.goals.into_iter().filter_map(|sealed| Some((read(&sealed).ok()?, sealed)));
    let found = goals.into_iter().find(|(goal, _)| goal.app == app && goal.env == env);
    let (goal, sealed) = found.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("the region has no goal of {app} in {env}"))
    })?;
    ctx.out.json(&Document { goal: Some(goal), sealed });
    Ok(ExitCode::Ok)
}

fn sign_back(ctx: &Context, args: &SignArgs) -> Result<ExitCode, Failure> {
    let goal = read(&document(&args.goal)?)?;
    let before = goal.base.filter(|base| base.bits() != goal.next.bits());
    let target = args.to.or(before).ok_or_else(|| {
        Failure::usage("the goal does not say what ran before")
            .hint("say it: --to r411=ARTIFACT (deployctl-agent status on a host lists them)")
    })?;
    let key = auth::signing_key(&args.key).map_err(|error| {
        Failure::new(ExitCode::Auth, format!("no key in {}", args.key.display())).because(error)
    })?;
    let back = goal.back_to(target, clock::now());
    let payload = serde_json::to_string(&back).expect("a goal is plain JSON");
    let signature = sign(&key, GOAL, payload.as_bytes());
    let (app, env, release) = (&back.app, &back.env, target.release);
    ctx.out.story(&format!(
        "{app} {env} goes to {release} ({}) by generation {}",
        target.artifact.short(),
        back.version.generation
    ));
    ctx.out.json(&Document { goal: Some(back), sealed: Sealed { payload, signature } });
    Ok(ExitCode::Ok)
}

async fn put(ctx: &Context, path: &Path) -> Result<ExitCode, Failure> {
    let sealed = document(path)?;
    let goal = read(&sealed)?;
    confirm::check_can_ask(ctx, &goal.env)?;
    let client = ctx.client()?;
    let (app, release) = (&goal.app, goal.next.release);
    let question = format!("Lead every host of {} to {app} {release}?", client.base());
    confirm::ask(ctx, &goal.env, &question, Danger::WayBack).await?;
    let request = client.request(Method::PUT, "/v1/emergency/goal").json(&sealed);
    let _: Goals = client.send(request, ctx.flags.request_timeout).await?;
    ctx.out.story(&format!("{} has it; its hosts follow", client.base()));
    ctx.out.json(&Document { goal: Some(goal), sealed });
    Ok(ExitCode::Ok)
}

fn read(sealed: &Sealed) -> Result<Goal, Failure> {
    serde_json::from_str(&sealed.payload)
        .map_err(|error| Failure::usage("the payload is no goal").because(error))
}

fn document(path: &Path) -> Result<Sealed, Failure> {
    let unreadable = |why: String| {
        Failure::usage(format!("{} holds no signed goal", path.display()))
            .because(why)
            .hint("write it: deployctl plumbing goal show > goal.json")
    };
    let mut text = String::new();
    let bytes = if path == Path::new("-") {
        std::io::stdin().take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
    if bytes as u64 > DOCUMENT_BYTES_MAX {
        return Err(unreadable(format!("over {DOCUMENT_BYTES_MAX} bytes")));
    }
    let document: Document =
        serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    Ok(document.sealed)
}

/// Reads `r411=ARTIFACT`.
fn target(text: &str) -> Result<Target, String> {
    let both = text.split_once('=').and_then(|(release, artifact)| {
        let Bits { artifact, config } = artifact.parse().ok()?;
        Some(Target { release: release.parse().ok()?, artifact, config })
    });
    both.ok_or_else(|| {
        "a release and its artifact's 64 digits, then + and its config's: r411=3f2a…".to_owned()
    })
}
