//! `deployctl plumbing resolve-rev|plan|cohort|digest`: one fact each, as JSON.
//!
//! The same functions answer here as in the coordinator and on hosts: a host's bucket is a
//! pure function of the goal. Nothing is changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde_json::{Value, json};

use crate::cli::api::{Api, RolloutId, with_query};
use crate::cli::args::HowArgs;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::reference::{self, Target};
use crate::cli::steps::{self, Reached};
use crate::model::digest::Hasher;
use crate::model::goal::{BUCKETS, bucket};
use crate::model::id::{HostId, JobNo, ReleaseNo};
use crate::wire::v1::fleet::Hosts;
use crate::wire::v1::rollout::{Rollout, RolloutRequest};

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// Say which commit a revision, a build or a release is
///
/// A revision of the local git repository, digits of a commit, b12 or r411.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing resolve-rev HEAD~1\n  deployctl plumbing resolve-rev r411 -a web -e prod"
)]
pub(super) struct ResolveArgs {
    #[arg(value_name = "REV", add = ArgValueCompleter::new(complete::targets))]
    rev: String,
}

/// Say which hosts each step of a deploy would reach, and start nothing
///
/// For each step: its hosts by region so far, and those that it adds.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing plan HEAD\n  deployctl plumbing plan b12 --plan careful --exclude-region eu"
)]
pub(super) struct PlanArgs {
    #[arg(value_name = "REV", add = ArgValueCompleter::new(complete::targets))]
    rev: String,
    #[command(flatten)]
    how: HowArgs,
}

/// Say when a host's turn is: its bucket, and the step that admits it
///
/// Of the rollout that is open, else by the goal as it stands.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing cohort web-8812\n  deployctl plumbing cohort web-1 -a payments-api -e staging"
)]
pub(super) struct CohortArgs {
    #[arg(value_name = "HOST", add = ArgValueCompleter::new(complete::hosts))]
    host: HostId,
}

/// Say what a file is called by its content
///
/// SHA-256, as everywhere here: the id of a config is the digest of its file, that of an
/// artifact the digest of its manifest.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl plumbing digest api.toml\n  deployctl plumbing digest - < api.toml"
)]
pub(super) struct DigestArgs {
    /// The file; - reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn resolve_rev(ctx: &Context, args: &ResolveArgs) -> Result<ExitCode, Failure> {
    let (commit, subject) = match reference::resolve(ctx, &args.rev)? {
        Target::Commit(commit) | Target::Digits(commit) => (commit.id, commit.subject),
        Target::Named(name) => {
            let api = Api::new(ctx)?;
            if let Ok(build) = name.parse::<JobNo>() {
                let build = api.build(build).await?;
                (build.commit, build.subject)
            } else if let Ok(release) = name.parse::<ReleaseNo>() {
                let (app, env) = (pick_app(ctx, &api).await?, ctx.env()?);
                let of = api.rollout(&RolloutId { app, env, release }, 0, Duration::ZERO).await?;
                (of.release.commit, of.release.subject)
            } else {
                return Err(Failure::usage(format!("{name} is not known here"))
                    .because("it is a revision of the local repository, b12 or r411")
                    .hint("deployctl history"));
            }
        }
    };
    ctx.out.json(&json!({ "rev": args.rev, "commit": commit, "subject": subject }));
    Ok(ExitCode::Ok)
}

pub(super) async fn plan(ctx: &Context, args: &PlanArgs) -> Result<ExitCode, Failure> {
    let target = reference::resolve(ctx, &args.rev)?;
    let api = Api::new(ctx)?;
    let (app, env) = (pick_app(ctx, &api).await?, ctx.env()?);
    let request = RolloutRequest {
        // What a deploy would be, whether or not it may be: that is asked of `deploy --dry-run`.
        allow_bad: true,
        allow_older: true,
        allow_unmet: true,
        dry_run: true,
        ..args.how.request(target.text())?
    };
    let planned = api.start_rollout(&app, &env, &request).await?;
    let hosts = steps::covered(&api, &app, &env).await?;
    let release = &planned.release;
    // Whoever has not begun has drawn nobody: it waits for approvals.
    let waves = steps::reached(&planned, &hosts).map(|reached| waves(&planned, &reached));
    ctx.out.json(&json!({
        "app": app, "env": env, "release": release.release, "commit": release.commit,
        "plan": release.plan, "plan_file": release.plan_file, "canary": release.canary, "state": release.state, "joined": planned.joined,
        "waves": waves, "waiting_on": planned.waiting_on,
    }));
    Ok(ExitCode::Ok)
}

/// The steps of a rollout by wave, with the hosts that each has `reached`.
fn waves(planned: &Rollout, reached: &[Reached]) -> Value {
    let mut waves: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    let mut before = Reached::new();
    for (step, reached) in planned.steps.iter().zip(reached) {
        let new: Reached = reached
            .iter()
            .map(|(region, now)| {
                (region.clone(), now.saturating_sub(before.get(region).copied().unwrap_or(0)))
            })
            .collect();
        waves.entry(step.wave).or_default().push(json!({
            "name": step.name, "bake_s": step.bake_s, "hold": step.hold, "admit": step.admit,
            "hosts": reached, "new": new,
        }));
        before = reached.clone();
    }
    let wave = |(number, steps): (u32, Vec<Value>)| json!({ "wave": number + 1, "steps": steps });
    waves.into_iter().map(wave).collect()
}

pub(super) async fn cohort(ctx: &Context, args: CohortArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let (app, env) = (pick_app(ctx, &api).await?, ctx.env()?);
    let host = &args.host;
    let path =
        with_query("/v1/hosts", [("host", Some(host.as_str())), ("env", Some(env.as_str()))]);
    let reply: Hosts = api.get(&path).await?;
    let row = reply.hosts.into_iter().next().ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("no host {host} in {env}"))
            .hint("deployctl hosts -A")
    })?;
    let status = api.status(Some(&app), Some(&env)).await?;
    let now = status.apps.into_iter().next();
    let open = now.as_ref().and_then(|now| now.rollout.as_ref());
    // One that is open and has not begun draws anew when it does.
    let version = match open {
        Some(open) => open.release.version,
        None => now.as_ref().and_then(|now| now.version),
    };
    if let Some(open) = open.filter(|_| version.is_none()) {
        let release = open.release.release;
        return Err(Failure::new(ExitCode::Error, format!("{release} has drawn no hosts yet"))
            .because(&open.waiting_on));
    }
    let version = version.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{app} has no goal in {env} yet"))
            .hint(format!("deployctl deploy HEAD -a {app} -e {env}"))
    })?;
    let own = bucket(&version.generation.to_string(), &app, host);
    let steps = open.map_or(&[][..], |open| open.steps.as_slice());
    let canary = open.and_then(|open| open.release.canary.as_ref());
    let named = canary.is_some_and(|canary| canary.has(&row.region, host));
    let first = steps.iter().position(|step| named || own < step.admits(&row.region));
    let at = open.map(|open| usize::try_from(open.step).unwrap_or(usize::MAX));
    ctx.out.json(&json!({
        "host": host, "region": row.region, "app": app, "env": env,
        "generation": version.generation, "bucket": own, "buckets": BUCKETS,
        "rollout": open.map(|open| open.release.release),
        "step": first.map(|step| step + 1), "name": first.map(|step| &steps[step].name),
        "admitted": first.zip(at).map(|(first, at)| first <= at),
    }));
    Ok(ExitCode::Ok)
}

pub(super) fn digest(ctx: &Context, args: &DigestArgs) -> Result<ExitCode, Failure> {
    let shown = args.file.display();
    let hashed = if args.file == Path::new("-") {
        hash(std::io::stdin().lock())
    } else {
        File::open(&args.file).and_then(hash)
    };
    let (digest, bytes) = hashed.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => ExitCode::NotFound,
            _ => ExitCode::Usage,
        };
        Failure::new(code, format!("{shown} can't be read")).because(error)
    })?;
    ctx.out.json(&json!({ "file": shown.to_string(), "digest": digest, "bytes": bytes }));
    Ok(ExitCode::Ok)
}

fn hash(mut from: impl Read) -> std::io::Result<(String, u64)> {
    let (mut hasher, mut buffer, mut bytes) = (Hasher::default(), vec![0; READ_BYTES], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((hasher.finish().to_string(), bytes)),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}
