//! `deployctl config show`: what commands go by here, and who says so.

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::discover::{self, variable};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table};

/// Show the settings that commands go by here
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
}

/// Show each setting, and with --origin who says so
///
/// Flags win over variables, these over the project's deployctl.toml, that over the
/// context in use, that over the user's config.toml, that over the coordinator of this
/// machine. The token itself is never shown.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl config show --origin\n  deployctl config show -o json"
)]
pub struct ShowArgs {
    /// Also who says so: a flag, a variable or a file
    #[arg(long)]
    origin: bool,
}

/// A setting: its name, its value, who says so.
type Setting = (&'static str, Option<String>, String);

/// Runs the command. A setting that can't be found is shown as missing, for finding out
/// why is what the command is for.
///
/// # Errors
/// When a file can't be used.
#[expect(clippy::unused_async, reason = "every command has this shape")]
pub async fn run(ctx: &Context, args: ConfigArgs) -> Result<ExitCode, Failure> {
    let ConfigCommand::Show(args) =
        args.command.unwrap_or(ConfigCommand::Show(ShowArgs { origin: false }));
    let settings = settings(ctx)?;
    let columns = ["SETTING", "VALUE", "FROM"];
    let mut table = Table::new(&columns, if args.origin { 3 } else { 2 }, "");
    let mut rows = vec![];
    for (name, value, origin) in settings {
        rows.push(serde_json::json!({"setting": name, "value": value, "from": origin}));
        table.push([name.into(), Cell::maybe(value), origin.into()]);
    }
    ctx.out.answer(&serde_json::json!({"settings": rows}), &table);
    Ok(ExitCode::Ok)
}

fn settings(ctx: &Context) -> Result<Vec<Setting>, Failure> {
    let project = ctx.project.path().map(|path| path.display().to_string());
    let from = |flag: Option<String>, flag_name: &str, set: &str, file: Option<String>| {
        let by =
            |value: Option<String>, origin: &str| value.map(|value| (value, origin.to_owned()));
        let file = || by(file, project.as_deref().unwrap_or_default());
        by(flag, flag_name).or_else(|| by(variable(set), set)).or_else(file)
    };
    let head = ctx.project.head(&ctx.out);
    let default = head.is_ok().then(|| ("prod".to_owned(), "default".to_owned()));
    let head = head.unwrap_or_default();
    let app = from(
        ctx.flags.app.as_ref().map(ToString::to_string),
        "--app",
        "DEPLOYCTL_APP",
        head.app.map(String::from),
    );
    let env = from(
        ctx.flags.env.as_ref().map(ToString::to_string),
        "--env",
        "DEPLOYCTL_ENV",
        head.env.map(String::from),
    );
    let env = env.or(default);
    let flag = ctx.flags.output.map(|_| ctx.out.format.word().to_owned());
    let output = from(flag, "--output", "DEPLOYCTL_OUTPUT", None);
    let output = output.unwrap_or_else(|| ("table".into(), "default".into()));
    let named = |name, found: Option<(String, String)>| match found {
        Some((value, origin)) => (name, Some(value), origin),
        None => (name, None, "nothing says it".to_owned()),
    };
    let mut settings = vec![named("app", app), named("env", env)];
    settings.extend(reach(ctx)?);
    settings.push(named("output", Some(output)));
    let project = project.clone().map(|path| (path, "nearest folder upwards".to_owned()));
    settings.push(named("project file", project));
    Ok(settings)
}

/// Settings about the coordinator; all missing when nothing says where it is.
fn reach(ctx: &Context) -> Result<Vec<Setting>, Failure> {
    let missing = |name| (name, None, "nothing says it".to_owned());
    let found = match discover::find(&ctx.said()) {
        Ok(found) => found,
        Err(failure) if failure.code == ExitCode::Unreachable => {
            return Ok(["context", "server", "token", "ca"].into_iter().map(missing).collect());
        }
        Err(failure) => return Err(failure),
    };
    let hidden = "set (deployctl auth token shows it)".to_owned();
    let row = |name, found: Option<(String, String)>| match found {
        Some((value, origin)) => (name, Some(value), origin),
        None => missing(name),
    };
    Ok(vec![
        row("context", found.context.map(|context| (context.value, context.origin))),
        row("server", Some((found.server.value, found.server.origin))),
        row("token", found.token.map(|token| (hidden, token.origin))),
        row("ca", found.ca.map(|ca| (ca.value.display().to_string(), ca.origin))),
    ])
}
