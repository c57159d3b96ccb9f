//! `deployctl apps config`: the configuration that a release has, as it was given.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::{Api, RolloutId};
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::model::id::{AppName, ReleaseNo};
use crate::wire::v1::config::Config;

/// Print the config that a release has, as it was given to a deploy
///
/// The file alone goes to standard output. `deployctl deploy @ --config FILE` changes it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl apps config payments-api > api.toml\n  \
    deployctl apps config payments-api r411 -e staging -o json")]
pub struct AppConfigArgs {
    /// The app
    #[arg(value_name = "APP", add = ArgValueCompleter::new(complete::apps))]
    name: AppName,
    /// The release [default: the one that the env is led to]
    #[arg(value_name = "RELEASE", add = ArgValueCompleter::new(complete::known_good))]
    release: Option<ReleaseNo>,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 when the release does not exist, or has no config.
pub async fn run(ctx: &Context, args: AppConfigArgs) -> Result<(), Failure> {
    let (api, app, env) = (Api::new(ctx)?, args.name, ctx.env()?);
    let release = match args.release {
        Some(release) => {
            let id = RolloutId { app: app.clone(), env: env.clone(), release };
            Some(api.rollout(&id, 0, std::time::Duration::ZERO).await?.release)
        }
        None => {
            let status = api.status(Some(&app), Some(&env)).await?;
            status.apps.into_iter().next().and_then(|row| row.current)
        }
    };
    let scope = Context::scope_flags(&app, &env);
    let release = release.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{app} was never deployed to {env}"))
            .hint(format!("deployctl deploy HEAD --config FILE {scope}"))
    })?;
    let no = release.release;
    let config = release.config.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{no} of {app} in {env} has no config"))
            .hint(format!("which releases have one: deployctl history {scope}"))
            .hint(format!("deployctl deploy @ --config FILE {scope}"))
    })?;
    let found: Config = api.get(&format!("/v1/apps/{app}/configs/{config}")).await?;
    if ctx.out.is_json() {
        ctx.out.json(&found);
        return Ok(());
    }
    let (short, actor, at) = (config.short(), &found.actor, found.created_at);
    ctx.out.story(&format!("{app} {env} {no}: config {short}, by {actor}, {at}"));
    ctx.out.text(&found.text);
    Ok(())
}
