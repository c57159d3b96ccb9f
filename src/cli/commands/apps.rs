//! `deployctl apps`: what is registered, and registering it.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::complete;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table};
use crate::config::project::nearest;
use crate::host::clock;
use crate::model::id::{AppName, EnvName};
use crate::model::selector::Selector;
use crate::wire::v1::app::{App, AppSpec, Apps};

/// List, show and register apps
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AppsArgs {
    #[command(subcommand)]
    command: Option<AppsCommand>,
}

#[derive(Debug, Subcommand)]
enum AppsCommand {
    List(ListArgs),
    Show(ShowArgs),
    Add(AddArgs),
}

/// List the apps
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl apps list\n  deployctl apps list -o name")]
pub struct ListArgs {}

/// Show one app with its recipe
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl apps show payments-api\n  deployctl apps show payments-api -o json"
)]
pub struct ShowArgs {
    /// The app
    #[arg(value_name = "APP", add = ArgValueCompleter::new(complete::apps))]
    name: AppName,
}

/// Register an app: where workers fetch its commits
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl apps add hello --repo https://example.org/hello.git\n  \
    deployctl apps add hello --repo file:///srv/git/hello.git --trunk main --envs staging,prod"
)]
pub struct AddArgs {
    /// Its name: a-z, 0-9 and '-'
    #[arg(value_name = "APP")]
    name: AppName,
    /// Where workers fetch: https://, http://, git://, ssh:// or file://
    #[arg(long, value_name = "URL")]
    repo: String,
    /// The branch that commits must be merged to
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    trunk: String,
    /// Its envs
    #[arg(long, value_name = "ENV", value_delimiter = ',', default_value = "prod")]
    envs: Vec<EnvName>,
    /// The hosts that run it: key=value,key=value; empty: every host of the env
    #[arg(long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    hosts: Selector,
    /// One wave of regions; repeat in rollout order; * is all others
    #[arg(long = "wave", value_name = "REGION,…")]
    waves: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: AppsArgs) -> Result<ExitCode, Failure> {
    match args.command.unwrap_or(AppsCommand::List(ListArgs {})) {
        AppsCommand::List(_) => {
            let reply = Api::new(ctx)?.apps().await?;
            ctx.out.answer(&reply, &table(&reply));
        }
        AppsCommand::Show(args) => {
            let api = Api::new(ctx)?;
            let reply = api.app(&args.name).await;
            match reply {
                Ok(app) => ctx.out.answer(&app, &table(&Apps { apps: vec![app.clone()] })),
                Err(error) => return Err(with_nearest(error.into(), &api, &args.name).await),
            }
        }
        AppsCommand::Add(args) => {
            let spec = AppSpec {
                name: args.name,
                repo: args.repo,
                trunk: args.trunk,
                recipe: ctx.project.as_ref().map(|(_, file)| file.recipe()).unwrap_or_default(),
                hosts: args.hosts,
                envs: args.envs,
                waves: args
                    .waves
                    .iter()
                    .map(|w| w.split(',').map(str::to_owned).collect())
                    .collect(),
            };
            let app: App = Api::new(ctx)?.change(Method::POST, "/v1/apps", &spec).await?;
            ctx.out.story(&format!("registered {}", app.spec.name));
            ctx.out.answer(&app, &table(&Apps { apps: vec![app.clone()] }));
            ctx.out.hint(&format!("deployctl build HEAD -a {}", app.spec.name));
        }
    }
    Ok(ExitCode::Ok)
}

async fn with_nearest(failure: Failure, api: &Api, name: &AppName) -> Failure {
    let Ok(Apps { apps }) = api.apps().await else { return failure };
    match nearest(name.as_str(), apps.iter().map(|app| app.spec.name.as_str())) {
        Some(near) if failure.code == ExitCode::NotFound => {
            failure.hint(format!("did you mean: deployctl apps show {near}"))
        }
        _ => failure,
    }
}

fn table(reply: &Apps) -> Table {
    let empty = "no app is registered yet: deployctl init, or deployctl apps add";
    let columns = ["APP", "TRUNK", "ENVS", "REPO", "BUILD", "ARTIFACT", "CREATED"];
    let mut table = Table::new(&columns, 4, empty);
    for app in &reply.apps {
        let spec = &app.spec;
        let envs: Vec<&str> = spec.envs.iter().map(EnvName::as_str).collect();
        let build = spec.recipe.build.as_ref();
        table.push([
            spec.name.as_str().into(),
            spec.trunk.as_str().into(),
            envs.join(",").into(),
            spec.repo.as_str().into(),
            Cell::maybe(build.map(|build| &build.command)),
            Cell::maybe(build.map(|build| &build.artifact)),
            Cell::time(Some(app.created_at), clock::now()),
        ]);
    }
    table
}
