//! `deployctl pin` and `unpin`: a host or a region on one release, for a while.

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::hold;
use crate::cli::api::Api;
use crate::cli::args::seconds;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::{complete, reference};
use crate::model::id::{HostId, RegionName};
use crate::wire::v1::hold::{Hold, HoldRequest, Holds};

/// Pin a host or a region to a release, whatever the rollouts do
///
/// Of one app and env. A rollback of a release ends the pins to it; it says which other
/// pins it did not move, and `rollback --unpin` ends them too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl pin web-8812 r412 --for 2h -m \"try it on one host\"\n  \
    deployctl pin --region eu r411 --for 1d -m \"INC-4412\""
)]
pub struct PinArgs {
    /// The host (unless --region is given), then the release: r411, @, a commit
    #[arg(value_name = "HOST REF", required = true, num_args = 1..=2,
          add = ArgValueCompleter::new(complete::hosts))]
    what: Vec<String>,
    /// Every host of this region
    #[arg(long, value_name = "REGION", add = ArgValueCompleter::new(complete::regions))]
    region: Option<RegionName>,
    /// How long, at most 30d
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    lasts: u32,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: String,
}

/// Release the hosts or the region that were pinned or held
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl unpin web-8812\n  deployctl unpin --region eu -a payments-api"
)]
pub struct UnpinArgs {
    /// Which hosts
    #[arg(value_name = "HOST", required_unless_present = "region",
          add = ArgValueCompleter::new(complete::hosts))]
    hosts: Vec<HostId>,
    /// The region as a whole
    #[arg(long, value_name = "REGION", conflicts_with = "hosts",
          add = ArgValueCompleter::new(complete::regions))]
    region: Option<RegionName>,
}

/// Runs `pin`.
///
/// # Errors
/// Exit code 3 when there is no such host, region or release, 7 when the release is bad.
pub async fn pin(ctx: &Context, args: PinArgs) -> Result<ExitCode, Failure> {
    let (host, text) = match (&args.what[..], &args.region) {
        ([release], Some(_)) => (None, release),
        ([host, release], None) => {
            let host: HostId = host.parse().map_err(|error| {
                Failure::usage("the first word is no host").because(format!("{error}"))
            })?;
            (Some(host), release)
        }
        ([_], None) => {
            return Err(Failure::usage("a pin is of a host or a region, at a release")
                .hint("deployctl pin web-8812 r412 --for 2h -m WHY")
                .hint("deployctl pin --region eu r412 --for 2h -m WHY"));
        }
        _ => {
            return Err(Failure::usage("a pin is of a host or of a region")
                .hint("deployctl pin --region eu r412 --for 2h -m WHY"));
        }
    };
    let target = reference::resolve(ctx, text)?;
    let api = Api::new(ctx)?;
    let request = HoldRequest {
        app: Some(pick_app(ctx, &api).await?),
        // A host has one env; that of the project file may be another.
        env: if host.is_some() { ctx.flags.env.clone() } else { Some(ctx.env()?) },
        host,
        region: args.region,
        release: Some(target.text()),
        reason: args.message,
        lasts_s: args.lasts,
    };
    hold::make(ctx, &request).await
}

/// Runs `unpin`: every pin and hold of the hosts or the region; with `--app` only those
/// of that app.
///
/// # Errors
/// Exit code 3 when nothing keeps them.
pub async fn unpin(ctx: &Context, args: UnpinArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let standing: Holds = api.get("/v1/holds").await?;
    let flags = &ctx.flags;
    let meant = |hold: &&Hold| {
        let app = flags.app.as_ref().is_none_or(|app| hold.app.as_ref() == Some(app));
        let env = flags.env.as_ref().is_none_or(|env| hold.env.as_ref() == Some(env));
        let there = match &hold.host {
            Some(host) => args.hosts.contains(host),
            None => hold.region.is_some() && hold.region == args.region,
        };
        app && env && there
    };
    let mut ended = Vec::new();
    for one in standing.holds.iter().filter(meant) {
        ended.push(hold::release(&api, one.hold).await?);
    }
    if ended.is_empty() {
        return Err(Failure::new(ExitCode::NotFound, "nothing keeps them where they are")
            .hint("deployctl hold list"));
    }
    let table = hold::table(&ended);
    ctx.out.answer(&Holds { holds: ended }, &table);
    Ok(ExitCode::Ok)
}
