//! Whether a person really wants it: by how much harm it can do.
//!
//! Only envs whose name begins with `prod` ask. On a terminal one question; in a
//! script `--yes`, or exit code 2 with the line to paste. Checked before anything is
//! sent; decides nothing about what is sent.

use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::prompt;
use super::typed;
use crate::model::id::EnvName;

/// What a person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Danger<'a> {
    /// Yes or no, and Enter means no.
    Moderate,
    /// Yes or no, and Enter means yes: speed is safety.
    WayBack,
    /// The name must be typed.
    Severe(&'a str),
}

/// Whether this will have to be asked.
#[must_use]
pub fn must_ask(ctx: &Context, env: &EnvName) -> bool {
    env.as_str().starts_with("prod") && !ctx.flags.yes
}

/// Fails when it must be asked and nobody can be.
///
/// # Errors
/// Exit code 2, with the line to paste.
pub fn check_can_ask(ctx: &Context, env: &EnvName) -> Result<(), Failure> {
    if !must_ask(ctx, env) || prompt::can_ask(ctx) {
        return Ok(());
    }
    Err(Failure::usage(format!("{env} needs --yes where nobody can be asked"))
        .hint(typed::with("--yes")))
}

/// Asks, if it must be asked.
///
/// # Errors
/// Exit code 1 on "no", 130 on Ctrl-C.
pub async fn ask(
    ctx: &Context,
    env: &EnvName,
    question: &str,
    danger: Danger<'_>,
) -> Result<(), Failure> {
    check_can_ask(ctx, env)?;
    if !must_ask(ctx, env) {
        return Ok(());
    }
    let agreed = match danger {
        Danger::Moderate => prompt::confirm(question, false).await?,
        Danger::WayBack => prompt::confirm(question, true).await?,
        Danger::Severe(name) => {
            prompt::line(&format!("{question} Type {name} to go on"), "").await?.trim() == name
        }
    };
    if agreed {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Error, "not confirmed; nothing was started"))
}
