//! `deployctl cancel`: stops a build or a rollout.

use clap::Args;
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::commands::builds;
use crate::cli::confirm::{self, Danger};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::outcome::{stands, sum};
use crate::cli::table::count;
use crate::cli::{complete, rollouts};
use crate::model::id::{JobNo, ReleaseNo};
use crate::model::job::BuildFailure;
use crate::wire::v1::build::{Build, Builds};
use crate::wire::v1::rollout::{CancelRequest, Rollout};

/// Stop a build, or stop a rollout and go back to the release before
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl cancel b12\n  deployctl cancel r412 --keep -m \"look first\""
)]
pub struct CancelArgs {
    /// b12 or r412 [default: the open rollout]
    #[arg(value_name = "ROLLOUT|BUILD", add = ArgValueCompleter::new(complete::logged))]
    of: Option<String>,
    /// Leave hosts as they are in place of going back
    #[arg(long)]
    keep: bool,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// What became of the build: one that ended before stays as it was.
fn said(build: &Build) -> String {
    let canceled = build.failure.as_ref().is_some_and(|f| f.class == BuildFailure::Canceled);
    match build.state {
        state if state.is_final() && !canceled => {
            format!("{} is over: {}; nothing to cancel", build.build, state.word())
        }
        state if state.is_final() => format!("{} is canceled", build.build),
        _ => format!("{} is being stopped", build.build),
    }
}

fn would_stop(build: &Build) -> String {
    match build.state {
        state if state.is_final() => {
            format!("{} is over: {}; nothing to cancel", build.build, state.word())
        }
        state => format!("{} is {}, and would be stopped", build.build, state.word()),
    }
}

/// What becomes of the hosts, as rows of a name and a text.
fn outlook(now: &Rollout, keep: bool) -> Vec<(&'static str, String)> {
    let (all, release) = (sum(now.regions.values()), now.release.release);
    let runs = |hosts: u32, verb: &str| match hosts {
        0 => "no host".to_owned(),
        hosts => format!("{} that {verb} {release}", count(u64::from(hosts), "host")),
    };
    let on_it = runs(all.on_next, if all.on_next == 1 { "runs" } else { "run" });
    let back = match (keep, now.base) {
        (true, _) | (_, None) => ("stays", format!("{on_it}: as it is")),
        (false, Some(base)) if now.mixed_base => {
            ("back", format!("{on_it}: to {}, or to what its region ran", base.release))
        }
        (false, Some(base)) => ("back", format!("{on_it}: to {}", base.release)),
    };
    let rest = count(u64::from(all.hosts.saturating_sub(all.on_next)), "other host");
    let mut rows = vec![("now", stands(now)), back, ("rest", format!("{rest}: nothing moves"))];
    if let Some(canary) = now.release.canary.as_ref().filter(|_| now.step == 0) {
        rows.insert(2, ("canary", canary.names()));
    }
    rows
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; exit code 6 when it is over.
pub async fn run(ctx: &Context, args: CancelArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    if let Some(build) = args.of.as_ref().and_then(|name| name.parse::<JobNo>().ok()) {
        if args.dry_run {
            let build = api.build(build).await?;
            ctx.out.story(&would_stop(&build));
            let table = builds::table(&Builds { builds: vec![build.clone()] });
            let mut document = serde_json::to_value(&build).unwrap_or_default();
            document["dry_run"] = true.into();
            ctx.out.answer(&document, &table);
            return Ok(ExitCode::Ok);
        }
        let path = format!("/v1/builds/{build}/cancel");
        let build: Build = api.change(Method::POST, &path, &serde_json::json!({})).await?;
        ctx.out.story(&said(&build));
        ctx.out.answer(&build, &builds::table(&Builds { builds: vec![build.clone()] }));
        return Ok(ExitCode::Ok);
    }
    if !args.keep && !args.dry_run {
        confirm::check_can_ask(ctx, &ctx.env()?)?;
    }
    let named: Option<ReleaseNo> = args.of.map(|name| name.parse()).transpose()?;
    let (id, now) = rollouts::pick_open(ctx, &api, named, true).await?;
    if !args.keep || args.dry_run {
        ctx.out.story(&rollouts::headline(ctx, &now));
        for (name, text) in outlook(&now, args.keep) {
            ctx.out.story(&format!("  {name:<8} {text}"));
        }
    }
    if args.dry_run {
        let now = Rollout { dry_run: true, ..now };
        ctx.out.answer(&now, &rollouts::table(&[&now.release]));
        return Ok(ExitCode::Ok);
    }
    if !args.keep {
        let left = format!("{} is as it was", id.release);
        let question = format!("Stop {} and go back?", id.release);
        confirm::ask_about(ctx, &id.env, (&question, &left), Danger::Moderate).await?;
    }
    let body = CancelRequest { keep: args.keep, message: args.message };
    let rollout = api.steer_rollout(&id, "cancel", &body).await?;
    ctx.out.answer(&rollout, &rollouts::table(&[&rollout.release]));
    ctx.out.hint(&format!("deployctl watch {} -a {} -e {}", id.release, id.app, id.env));
    Ok(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watching::tests::running;
    use crate::model::fleet::Tally;

    #[test]
    fn it_is_said_what_goes_back_where_and_what_does_not_move() {
        let mut now = running(vec![]);
        let base = serde_json::json!({"release": "r1", "artifact": "07".repeat(32)});
        now.base = serde_json::from_value(base).unwrap();
        let tally = Tally { hosts: 8, on_next: 1, ..Tally::default() };
        now.regions.insert("eu".parse().unwrap(), tally);
        let canary = serde_json::json!({"asked": "web-1", "hosts": {"eu": ["web-1"]}});
        now.release.canary = serde_json::from_value(canary).unwrap();
        let rows = |now: &Rollout, keep| {
            let rows = outlook(now, keep).into_iter();
            rows.map(|(name, text)| format!("{name} {text}")).collect::<Vec<_>>()
        };
        let back = [
            "now r2 is converging",
            "back 1 host that runs r2: to r1",
            "canary web-1",
            "rest 7 other hosts: nothing moves",
        ];
        assert_eq!(rows(&now, false), back);
        assert_eq!(rows(&now, true)[1], "stays 1 host that runs r2: as it is");
        now.base = None;
        assert!(rows(&now, false)[1].starts_with("stays"), "there is nothing to go back to");
    }
}
