//! Whether a person really wants it: by how much harm it can do.
//!
//! Only envs whose name begins with `prod` ask. On a terminal one question; in a
//! script `--yes`, or exit code 2 with the line to paste. What reaches every host of a
//! prod at once, or breaks the glass, asks for the app's name, which `--yes` does not
//! give: in a script `--confirm=APP` and a reason. Checked before anything is sent;
//! decides nothing about what is sent. A way back never asks more than yes or no.

use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::prompt;
use super::typed;
use crate::model::id::{AppName, EnvName};
use crate::model::rollout::PlanName;
use crate::wire::v1::rollout::RolloutRequest;

/// What a person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Danger {
    /// Yes or no, and Enter means no.
    Moderate,
    /// Yes or no, and Enter means yes: speed is safety.
    WayBack,
}

/// Whether this will have to be asked.
#[must_use]
pub fn must_ask(ctx: &Context, env: &EnvName) -> bool {
    is_prod(env) && !ctx.flags.yes
}

fn is_prod(env: &EnvName) -> bool {
    env.as_str().starts_with("prod")
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
    danger: Danger,
) -> Result<(), Failure> {
    ask_about(ctx, env, (question, NOTHING), danger).await
}

/// As [`ask`], for what goes on already: `left` says how a "no" leaves it.
///
/// # Errors
/// As [`ask`].
pub async fn ask_about(
    ctx: &Context,
    env: &EnvName,
    (question, left): (&str, &str),
    danger: Danger,
) -> Result<(), Failure> {
    check_can_ask(ctx, env)?;
    if !must_ask(ctx, env) {
        return Ok(());
    }
    refused_as(prompt::confirm(question, danger == Danger::WayBack).await?, left)
}

/// How a "no" leaves what would only have begun.
const NOTHING: &str = "nothing was started";

fn agreed(yes: bool) -> Result<(), Failure> {
    refused_as(yes, NOTHING)
}

fn refused_as(yes: bool, left: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Error, format!("not confirmed; {left}")))
}

/// Asks for `name` to be typed, for what can't be undone and is about no app.
///
/// # Errors
/// Exit code 2, with the line to paste, where nobody can be asked or no reason was given; 1
/// when another name was typed.
pub async fn severe(
    ctx: &Context,
    what: &str,
    name: &str,
    (confirmed, has_reason): (Option<&str>, bool),
) -> Result<(), Failure> {
    if let Some(said) = confirmed.filter(|said| *said != name) {
        return Err(Failure::usage(format!("--confirm={said}, and it is about {name}"))
            .because("nothing was sent; --confirm names what is meant"));
    }
    let alone = confirmed.is_none() && !prompt::can_ask(ctx);
    let mut lacks = vec![];
    if alone {
        lacks.push(format!("--confirm={name}"));
    }
    if !has_reason {
        lacks.push("-m WHY".to_owned());
    }
    if !lacks.is_empty() {
        let lone = if alone { " where nobody can be asked" } else { "" };
        return Err(Failure::usage(format!("{what} needs {}{lone}", lacks.join(" and ")))
            .hint(typed::with(&lacks.join(" "))));
    }
    if confirmed.is_some() {
        return Ok(());
    }
    let question = format!("{what}? Type {name} to go on");
    agreed(prompt::line(&question, "").await?.trim() == name)
}

/// What a deploy needs of a person, and what was said beforehand.
#[derive(Debug, Clone)]
pub struct Consent {
    /// The flag that makes it severe.
    severe: Option<&'static str>,
    /// Whether it says why in any env.
    breaks_glass: bool,
    /// `--confirm`.
    confirmed: Option<AppName>,
    /// Whether `-m` was given.
    has_reason: bool,
}

impl Consent {
    /// What `request` needs, given `--confirm`.
    #[must_use]
    pub fn of(request: &RolloutRequest, confirmed: Option<&AppName>) -> Self {
        let severe = match request.plan {
            _ if request.break_glass => Some("--break-glass"),
            PlanName::AllAtOnce => Some("--plan all-at-once"),
            PlanName::Fast | PlanName::Standard | PlanName::Careful => {
                let file = request.plan_file.as_ref();
                let at_once = file.is_some_and(|file| file.is_all_at_once(request.bake_s));
                at_once.then_some("--plan FILE without a bake before its last step")
            }
        };
        Self {
            severe,
            breaks_glass: request.break_glass,
            confirmed: confirmed.cloned(),
            has_reason: !request.message.trim().is_empty(),
        }
    }

    /// Whether it will have to be asked.
    #[must_use]
    pub fn must_ask(&self, ctx: &Context, env: &EnvName) -> bool {
        let yes = ctx.flags.yes && self.severe.is_none();
        is_prod(env) && !yes && self.confirmed.is_none()
    }

    /// Fails when something is lacking that nobody can be asked for. `app` is what the
    /// command is about, as far as that is known yet.
    ///
    /// # Errors
    /// Exit code 2, with the line to paste.
    pub fn check(
        &self,
        ctx: &Context,
        env: &EnvName,
        app: Option<&AppName>,
    ) -> Result<(), Failure> {
        if let (Some(said), Some(app)) = (&self.confirmed, app)
            && said != app
        {
            // Not the same line with another name: one of the two names is a mistake.
            return Err(Failure::usage(format!("--confirm={said}, and the app is {app}"))
                .because("nothing was sent; --confirm names the app that is meant")
                .hint(format!("deployctl status {app} -e {env}")));
        }
        let severe = self.severe.filter(|_| is_prod(env) || self.breaks_glass);
        let Some(flag) = severe else {
            return if self.must_ask(ctx, env) { check_can_ask(ctx, env) } else { Ok(()) };
        };
        let alone = !prompt::can_ask(ctx);
        let mut lacks = vec![];
        if self.must_ask(ctx, env) && alone {
            let app = app.cloned().map_or_else(|| ctx.app(), Ok)?;
            lacks.push(format!("--confirm={app}"));
        }
        if !self.has_reason && (alone || self.breaks_glass || self.confirmed.is_some()) {
            lacks.push("-m WHY".to_owned());
        }
        if lacks.is_empty() {
            return Ok(());
        }
        let alone = if alone { " where nobody can be asked" } else { "" };
        Err(Failure::usage(format!("{flag} in {env} needs {}{alone}", lacks.join(" and ")))
            .hint(typed::with(&lacks.join(" "))))
    }

    /// Asks, if it must be asked.
    ///
    /// # Errors
    /// As [`ask`].
    pub async fn ask(&self, ctx: &Context, env: &EnvName, app: &AppName) -> Result<(), Failure> {
        match self.severe {
            _ if !self.must_ask(ctx, env) => Ok(()),
            None => ask(ctx, env, "Deploy?", Danger::Moderate).await,
            Some(flag) => {
                let question = format!("Deploy, {flag}? Type {app} to go on");
                agreed(prompt::line(&question, "").await?.trim() == app.as_str())
            }
        }
    }
}
