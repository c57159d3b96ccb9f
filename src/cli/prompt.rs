//! Questions to a person: only on a terminal, never required.
//!
//! Without a terminal, with `--no-input` or under CI nothing is asked; the caller says
//! which flag gives the answer. Ctrl-C shows the cursor again and ends with code 130.

use dialoguer::console::Term;
use dialoguer::theme::SimpleTheme;
use dialoguer::{Confirm, Input};

use super::api::Api;
use super::context::Context;
use super::discover::variable;
use super::failure::{ExitCode, Failure};
use crate::model::id::AppName;

/// Whether a person is there to answer.
#[must_use]
pub fn can_ask(ctx: &Context) -> bool {
    use std::io::IsTerminal;
    let ci = variable("CI").is_some_and(|ci| ci != "false" && ci != "0");
    let no_input = ctx.flags.no_input || variable("DEPLOYCTL_NO_INPUT").is_some();
    !ci && !no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks yes or no.
///
/// # Errors
/// Exit code 130 on Ctrl-C.
pub fn confirm(question: &str, default: bool) -> Result<bool, Failure> {
    let theme = SimpleTheme;
    let prompt = Confirm::with_theme(&theme).with_prompt(question).default(default);
    prompt.interact_on(&Term::stderr()).map_err(interrupted)
}

/// Asks for a line; an empty one yields `default`.
///
/// # Errors
/// Exit code 130 on Ctrl-C.
pub fn line(question: &str, default: &str) -> Result<String, Failure> {
    let theme = SimpleTheme;
    let mut prompt = Input::with_theme(&theme).with_prompt(question).allow_empty(true);
    if !default.is_empty() {
        prompt = prompt.default(default.to_owned());
    }
    prompt.interact_text_on(&Term::stderr()).map_err(interrupted)
}

/// Asks for one of `items`.
///
/// # Errors
/// Exit code 130 on Ctrl-C or Escape.
pub fn choose(question: &str, items: &[String]) -> Result<usize, Failure> {
    let theme = SimpleTheme;
    let prompt = dialoguer::FuzzySelect::with_theme(&theme).with_prompt(question).items(items);
    let chosen = prompt.default(0).interact_on_opt(&Term::stderr()).map_err(interrupted)?;
    chosen.ok_or_else(|| Failure::new(ExitCode::Interrupted, "nothing chosen"))
}

/// The app that the command is about; asks for it when nothing says so.
///
/// # Errors
/// Exit code 2 when nothing says so and nobody can be asked.
pub async fn pick_app(ctx: &Context, api: &Api) -> Result<AppName, Failure> {
    if ctx.app_if_said()?.is_some() || !can_ask(ctx) {
        return ctx.app();
    }
    let apps = api.apps().await?.apps;
    let names: Vec<String> = apps.iter().map(|app| app.spec.name.to_string()).collect();
    if names.is_empty() {
        return Err(Failure::new(ExitCode::NotFound, "no app is registered yet")
            .hint("deployctl init")
            .hint("deployctl apps add NAME --repo URL"));
    }
    let chosen = choose("App", &names)?;
    Ok(apps[chosen].spec.name.clone())
}

fn interrupted(error: dialoguer::Error) -> Failure {
    let term = Term::stderr();
    // The terminal may be gone; then there is no cursor to show.
    let _ = term.show_cursor().and_then(|()| term.write_line(""));
    let dialoguer::Error::IO(error) = error;
    if error.kind() == std::io::ErrorKind::Interrupted {
        return Failure::new(ExitCode::Interrupted, "interrupted; nothing was started");
    }
    Failure::usage("the terminal can't be asked").because(error)
}
