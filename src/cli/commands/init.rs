//! `deployctl init`: a first `deployctl.toml`, and the app's registration.

use std::path::Path;

use clap::Args;

use crate::cli::api::Api;
use crate::cli::commands::apps;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::recipes::{self, Draft};
use crate::cli::{origin, prompt};
use crate::config::project::{self, PROJECT_FILE, ProjectFile};
use crate::host::repo::Repo;
use crate::model::selector::Selector;
use crate::wire::v1::app::AppSpec;
use crate::wire::words::quoted;

/// Write deployctl.toml for this repository and register the app
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl init\n  \
    deployctl init --app hello --build make --artifact build/hello --start 'exec ./hello' --register")]
pub struct InitArgs {
    /// How to build
    #[arg(long, value_name = "COMMAND")]
    build: Option<String>,
    /// The file or folder that the build makes
    #[arg(long, value_name = "PATH")]
    artifact: Option<String>,
    /// How to start it
    #[arg(long, value_name = "COMMAND")]
    start: Option<String>,
    /// How to stop it [default: SIGTERM]
    #[arg(long, value_name = "COMMAND")]
    stop: Option<String>,
    /// How to know that it works: a URL, ADDRESS:PORT or a command
    #[arg(long, value_name = "PROBE")]
    health: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Register the app with the coordinator too
    #[arg(long)]
    register: bool,
    /// Where workers fetch [default: the remote origin, else this folder]
    #[arg(long, value_name = "URL")]
    repo: Option<String>,
    /// The branch that commits must be merged to [default: the remote's own]
    #[arg(long, value_name = "BRANCH")]
    trunk: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 when a file is there, or something is missing and nobody can be asked.
pub async fn run(ctx: &Context, args: InitArgs) -> Result<ExitCode, Failure> {
    let repo = ctx.repo().ok();
    let root = repo.as_ref().map_or(ctx.dir.clone(), |repo| repo.root().to_owned());
    let path = root.join(PROJECT_FILE);
    let asks = prompt::can_ask(ctx);
    let file = if path.exists() && !args.force {
        standing(ctx, &args, &path)?
    } else {
        write(ctx, &args, &root, &path).await?
    };
    let register = args.register || (asks && prompt::confirm("Register the app?", true).await?);
    let registered = if register {
        let spec = spec(ctx, &args, &file, repo.as_ref(), &root)?;
        Some(apps::register(ctx, &Api::new(ctx)?, &spec).await?)
    } else {
        None
    };
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({"path": path, "app": file.app, "registered": registered}));
    }
    if registered.is_none() {
        let spec = spec(ctx, &args, &file, repo.as_ref(), &root)?;
        let (url, trunk) = (quoted(&spec.repo), quoted(&spec.trunk));
        ctx.out.hint(&format!("deployctl apps add {} --repo {url} --trunk {trunk}", spec.name));
    }
    let origin = repo.as_ref().and_then(|repo| repo.remote_url("origin"));
    let push = origin.map_or("", |_| " && git push");
    let add = format!("git add {PROJECT_FILE} && git commit -m 'Add {PROJECT_FILE}'{push}");
    ctx.out.hint(&add);
    ctx.out.hint("deployctl build HEAD");
    Ok(ExitCode::Ok)
}

/// The file that is there, which is all that a registration needs.
fn standing(ctx: &Context, args: &InitArgs, path: &Path) -> Result<ProjectFile, Failure> {
    let said = [&args.build, &args.artifact, &args.start, &args.stop, &args.health];
    if !args.register || said.iter().any(|said| said.is_some()) {
        return Err(Failure::usage(format!("{} is there already", path.display()))
            .hint("to register the app as it says: deployctl init --register")
            .hint("to replace it: deployctl init --force"));
    }
    let text = project::read_bounded(path)?.unwrap_or_default();
    let file = ProjectFile::parse(&text, path)?;
    let (named, said) = (file.app.as_ref(), ctx.flags.app.as_ref());
    let Some(named) = named else {
        let app = said.map_or("NAME", |app| app.as_str());
        return Err(Failure::usage(format!("{} names no app", path.display()))
            .because("an app is registered under the name that its deployctl.toml gives")
            .hint(format!("its first line is to be: app = \"{app}\""))
            .hint(format!("or write it anew: deployctl init --force --app {app} --register")));
    };
    if let Some(said) = said.filter(|said| *said != named) {
        return Err(Failure::usage(format!("{} is of {named}, not of {said}", path.display()))
            .hint(format!("to register {named}: deployctl init --register"))
            .hint(format!("to replace it: deployctl init --force --app {said} --register")));
    }
    Ok(file)
}

async fn write(
    ctx: &Context,
    args: &InitArgs,
    root: &Path,
    path: &Path,
) -> Result<ProjectFile, Failure> {
    let draft = fill(ctx, args, recipes::draft(root), prompt::can_ask(ctx)).await?;
    let text = draft.to_toml();
    let file = ProjectFile::parse(&text, path)?;
    let unwritten = |e| {
        Failure::new(ExitCode::Error, format!("{} can't be written", path.display())).because(e)
    };
    std::fs::write(path, &text).map_err(unwritten)?;
    ctx.out.story(&format!("wrote {} ({} lines)", path.display(), text.lines().count()));
    Ok(file)
}

async fn fill(
    ctx: &Context,
    args: &InitArgs,
    mut draft: Draft,
    asks: bool,
) -> Result<Draft, Failure> {
    if !draft.seen.is_empty() {
        ctx.out.story(&format!("found {}", draft.seen));
    }
    if args.artifact.as_ref().is_some_and(|artifact| *artifact != draft.artifact) {
        // The start that was guessed belongs to the artifact that was guessed.
        draft.start.clear();
    }
    let said = [
        (&args.build, &mut draft.build, "Build command"),
        (&args.artifact, &mut draft.artifact, "File or folder that it makes"),
        (&args.start, &mut draft.start, "Start command (empty: only files)"),
    ];
    if let Some(app) = ctx.app_if_said()?.filter(|_| ctx.flags.app.is_some()) {
        draft.app = app.to_string();
    } else if asks {
        draft.app = prompt::line("App name", &draft.app).await?;
    }
    for (flag, value, question) in said {
        match flag {
            Some(text) => value.clone_from(text),
            None if asks => *value = prompt::line(question, value).await?,
            None => {}
        }
    }
    draft.stop = args.stop.clone().unwrap_or_default();
    let health = match &args.health {
        Some(text) => text.clone(),
        None if asks && !draft.start.is_empty() => {
            prompt::line("Health check: URL, ADDRESS:PORT or command (empty: it stays up 30s)", "")
                .await?
        }
        None => String::new(),
    };
    draft.probe = recipes::probe(&health);
    for (value, flag) in [(&draft.build, "--build COMMAND"), (&draft.artifact, "--artifact PATH")] {
        if value.is_empty() {
            return Err(Failure::usage(format!("{flag} is missing"))
                .because(unsaid(&draft))
                .hint(format!("deployctl init --build {} --artifact build/app", guess(&draft))));
        }
    }
    Ok(draft)
}

/// What would be registered: where workers fetch, and the trunk there.
fn spec(
    ctx: &Context,
    args: &InitArgs,
    file: &ProjectFile,
    repo: Option<&Repo>,
    root: &Path,
) -> Result<AppSpec, Failure> {
    Ok(AppSpec {
        name: file.app.clone().expect("a draft has a name"),
        repo: args.repo.clone().unwrap_or_else(|| origin::url(repo, root)),
        trunk: args.trunk.clone().unwrap_or_else(|| origin::trunk(repo)),
        recipe: file.recipe(),
        hosts: Selector::default(),
        envs: vec![ctx.env_by(file)?],
        approvals: std::collections::BTreeMap::new(),
        waves: vec![],
    })
}

/// Why a draft is not whole.
fn unsaid(draft: &Draft) -> String {
    match (draft.seen, draft.build.is_empty()) {
        ("", _) => "no well-known file here says how this repository is built".into(),
        (seen, true) => format!("{seen} does not say how this repository is built"),
        (seen, false) => format!("{seen} does not say which file or folder is to be deployed"),
    }
}

fn guess(draft: &Draft) -> String {
    quoted(if draft.build.is_empty() { "make" } else { &draft.build })
}
