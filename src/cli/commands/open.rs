//! `deployctl open`: a link to the page that signs a browser in once.

use std::process::{Command, Stdio};

use clap::Args;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::model::id::{JobNo, ReleaseNo};
use crate::wire::v1::link::{Link, LinkRequest};

/// Open the page in a browser, signed in
///
/// The link signs one browser in, once, within 5 minutes, as the holder of your token.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl open\n  deployctl open r412\n  \
    deployctl open hosts --print")]
pub struct OpenArgs {
    /// What: a release, a build, releases, builds, hosts or events [default: the app and env, else all apps]
    #[arg(value_name = "WHAT")]
    what: Option<String>,
    /// Only print the link
    #[arg(long)]
    print: bool,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it.
pub async fn run(ctx: &Context, args: OpenArgs) -> Result<ExitCode, Failure> {
    let page = page(ctx, args.what.as_deref())?;
    let api = Api::new(ctx)?;
    let link: Link = api.change(Method::POST, "/v1/links", &LinkRequest { page }).await?;
    let url = format!("{}{}", api.server(), link.path);
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "url": url, "until": link.until }));
        return Ok(ExitCode::Ok);
    }
    if args.print || !ctx.out.is_for_people() || !browse(&url) {
        ctx.out.text(&format!("{url}\n"));
    }
    Ok(ExitCode::Ok)
}

/// The path of what was named.
fn page(ctx: &Context, what: Option<&str>) -> Result<String, Failure> {
    let Some(what) = what else {
        let app = ctx.app_if_said()?;
        return Ok(match app {
            Some(app) => format!("/apps/{app}/{}", ctx.env()?),
            None => "/".into(),
        });
    };
    if let Ok(release) = what.parse::<ReleaseNo>() {
        return Ok(format!("/apps/{}/{}/{release}", ctx.app()?, ctx.env()?));
    }
    if let Ok(build) = what.parse::<JobNo>() {
        return Ok(format!("/builds/{build}"));
    }
    match what {
        "apps" => Ok("/".into()),
        "releases" | "builds" | "hosts" | "events" => Ok(format!("/{what}")),
        other => Err(Failure::usage(format!("{other:?} is no page"))
            .because("a release (r412), a build (b12), apps, releases, builds, hosts or events")
            .hint("deployctl open")),
    }
}

/// Hands the link to the desktop's browser; whether there is one.
fn browse(url: &str) -> bool {
    let started = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    started.is_ok_and(|status| status.success())
}
