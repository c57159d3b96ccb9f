//! `deployctl apps`: what is registered, registering it, and changing it.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::commands::app_config::{self, AppConfigArgs};
use crate::cli::commands::app_settings::SettingArgs;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::table::{Cell, Table};
use crate::cli::{complete, origin};
use crate::config::project::ProjectFile;
use crate::host::clock;
use crate::model::id::{AppName, EnvName};
use crate::model::recipe::Probe;
use crate::model::selector::Selector;
use crate::wire::v1::app::{App, AppSpec, Apps};
use crate::wire::words::quoted;

/// List, show, register and change apps
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
    Set(SetArgs),
    Config(AppConfigArgs),
}

/// List the apps
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl apps list\n  deployctl apps list -o name")]
#[derive(Default)]
pub struct ListArgs {
    #[command(flatten)]
    fields: FieldsArgs,
}

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
    deployctl apps add hello --repo file:///srv/git/hello.git --trunk main --envs staging,prod\n  \
    deployctl apps add hello --repo git://example.org/hello.git --build make --artifact build/hello"
)]
pub struct AddArgs {
    /// Its name: a-z, 0-9 and '-'
    #[arg(value_name = "APP")]
    name: AppName,
    /// Where workers fetch: https://, http://, git://, ssh:// or file://
    #[arg(long, value_name = "URL")]
    repo: String,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Change a registered app: what is not given stays as it is
///
/// Builds that were queued before keep what they were queued with. A deployctl.toml at
/// the commit wins over --build, --artifact, --start, --stop and --health.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl apps set hello --trunk master\n  \
    deployctl apps set hello --envs staging,prod\n  \
    deployctl apps set hello --build 'make all' --artifact build/hello --start 'exec ./hello'")]
pub struct SetArgs {
    /// The app
    #[arg(value_name = "APP", add = ArgValueCompleter::new(complete::apps))]
    name: AppName,
    /// Where workers fetch: https://, http://, git://, ssh:// or file://
    #[arg(long, value_name = "URL")]
    repo: Option<String>,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: AppsArgs) -> Result<ExitCode, Failure> {
    match args.command.unwrap_or(AppsCommand::List(ListArgs::default())) {
        AppsCommand::List(args) => {
            let reply = Api::new(ctx)?.apps().await?;
            args.fields.answer(ctx, "apps", &reply, &table(&reply))?;
        }
        AppsCommand::Show(args) => {
            let api = Api::new(ctx)?;
            let app = api.app(&args.name).await?;
            show(ctx, &app);
        }
        AppsCommand::Add(args) => add(ctx, args).await?,
        AppsCommand::Set(args) => set(ctx, args).await?,
        AppsCommand::Config(args) => app_config::run(ctx, args).await?,
    }
    Ok(ExitCode::Ok)
}

async fn add(ctx: &Context, args: AddArgs) -> Result<(), Failure> {
    // The recipe of the folder that one stands in, unless it is another app's.
    let file = ctx.project.whole()?.map(|(_, file)| file);
    let file = file.filter(|file| file.app.as_ref().is_none_or(|app| *app == args.name));
    let mut spec = AppSpec {
        trunk: trunk_of(ctx, &args.repo).unwrap_or_else(|| "main".into()),
        name: args.name,
        repo: args.repo,
        recipe: file.map(ProjectFile::recipe).unwrap_or_default(),
        hosts: Selector::default(),
        envs: vec!["prod".parse().expect("prod is a label")],
        approvals: std::collections::BTreeMap::new(),
        waves: vec![],
    };
    args.settings.apply(&mut spec)?;
    let app = register(ctx, &Api::new(ctx)?, &spec).await?;
    ctx.out.answer(&app, &table(&Apps { apps: vec![app.clone()] }));
    ctx.out.hint(&format!("deployctl build HEAD -a {}", app.spec.name));
    Ok(())
}

/// Registers an app and says so; another app of that name is met with the way to change it.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn register(ctx: &Context, api: &Api, spec: &AppSpec) -> Result<App, Failure> {
    let name = &spec.name;
    let reply: Result<App, Failure> = api.change(Method::POST, "/v1/apps", spec).await;
    let app = match reply {
        Err(failure) if failure.code == ExitCode::Conflict => {
            let Ok(there) = api.app(name).await else { return Err(failure) };
            let mut failure = failure.hint(change_line(&there.spec, spec));
            failure.causes.extend(differences(&there.spec, spec));
            return Err(failure);
        }
        reply => reply?,
    };
    ctx.out.story(&format!("registered {name}: {}, trunk {}", app.spec.repo, app.spec.trunk));
    Ok(app)
}

async fn set(ctx: &Context, args: SetArgs) -> Result<(), Failure> {
    if args.repo.is_none() && args.settings == SettingArgs::default() {
        return Err(Failure::usage("nothing to change")
            .because("no setting was given")
            .hint("deployctl apps set --help"));
    }
    let api = Api::new(ctx)?;
    let before = api.app(&args.name).await?;
    let mut spec = before.spec.clone();
    spec.repo = args.repo.unwrap_or(spec.repo);
    args.settings.apply(&mut spec)?;
    let app: App = api.change(Method::PUT, &format!("/v1/apps/{}", spec.name), &spec).await?;
    let changed = differences(&before.spec, &app.spec);
    ctx.out.story(&match &changed[..] {
        [] => format!("{} has these settings already", app.spec.name),
        changed => format!("changed {}: {}", app.spec.name, changed.join("; ")),
    });
    show(ctx, &app);
    Ok(())
}

/// The default branch that the local repository knows of `url`, if `url` is its remote.
fn trunk_of(ctx: &Context, url: &str) -> Option<String> {
    let repo = ctx.repo().ok()?;
    (origin::url(Some(&repo), repo.root()) == url).then(|| origin::trunk(Some(&repo)))
}

/// What differs, one short line each: `trunk: master → main`.
fn differences(old: &AppSpec, new: &AppSpec) -> Vec<String> {
    let waves = |spec: &AppSpec| {
        spec.waves.iter().map(|wave| wave.join(",")).collect::<Vec<_>>().join(" then ")
    };
    let pairs = [
        ("repo", old.repo.clone(), new.repo.clone()),
        ("trunk", old.trunk.clone(), new.trunk.clone()),
        ("envs", envs(old), envs(new)),
        ("hosts", old.hosts.to_string(), new.hosts.to_string()),
        ("waves", waves(old), waves(new)),
        ("approvals", approvals(old), approvals(new)),
    ];
    let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let mut lines: Vec<String> = vec![];
    for (what, old, new) in pairs.iter().filter(|(_, old, new)| old != new) {
        lines.push(format!("{what}: {} → {}", shown(old), shown(new)));
    }
    if old.recipe != new.recipe {
        lines.push("recipe: another".into());
    }
    lines
}

fn approvals(spec: &AppSpec) -> String {
    let each = spec.approvals.iter().map(|(env, number)| format!("{env}={number}"));
    each.collect::<Vec<_>>().join(",")
}

fn envs(spec: &AppSpec) -> String {
    spec.envs.iter().map(EnvName::as_str).collect::<Vec<_>>().join(",")
}

/// The line that makes `there` what was asked for, as far as flags can say it.
fn change_line(there: &AppSpec, asked: &AppSpec) -> String {
    let mut line = format!("deployctl apps set {}", there.name);
    let mut say = |flag: &str, old: String, new: String| {
        if old != new {
            line.push_str(&format!(" --{flag} {}", quoted(&new)));
        }
    };
    say("repo", there.repo.clone(), asked.repo.clone());
    say("trunk", there.trunk.clone(), asked.trunk.clone());
    say("envs", envs(there), envs(asked));
    say("hosts", there.hosts.to_string(), asked.hosts.to_string());
    say("approvals", approvals(there), approvals(asked));
    let build = |spec: &AppSpec| match &spec.recipe.build {
        Some(build) => (build.command.clone(), build.artifact.clone()),
        None => Default::default(),
    };
    if asked.recipe.build.is_some() {
        say("build", build(there).0, build(asked).0);
        say("artifact", build(there).1, build(asked).1);
    }
    line
}

/// One app: its line, and for people its recipe.
fn show(ctx: &Context, app: &App) {
    ctx.out.answer(app, &table(&Apps { apps: vec![app.clone()] }));
    if !ctx.out.is_for_people() {
        return;
    }
    let mut recipe = Table::new(&["RECIPE", "VALUE"], 2, "");
    let (build, run) = (app.spec.recipe.build.as_ref(), app.spec.recipe.run.as_ref());
    let probe = run.and_then(|run| run.probe.as_ref()).map(|probe| match probe {
        Probe::Http(text) | Probe::Tcp(text) | Probe::Exec(text) => text,
    });
    let parts = [
        ("build", build.map(|build| &build.command)),
        ("artifact", build.map(|build| &build.artifact)),
        ("start", run.and_then(|run| run.start.as_ref())),
        ("stop", run.and_then(|run| run.stop.as_ref())),
        ("health", probe),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            recipe.push([name.into(), value.as_str().into()]);
        }
    }
    ctx.out.story("");
    if recipe.is_empty() {
        ctx.out
            .story("no recipe here: the deployctl.toml of each commit says how to build and run");
        return;
    }
    ctx.out.table(&recipe);
    ctx.out.story("used where the deployctl.toml of a commit is silent");
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
