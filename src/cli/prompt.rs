//! Questions to a person: only on a terminal, never required.
//!
//! Without a terminal, with `--no-input` or under CI nothing is asked; the caller says
//! which flag gives the answer. Ctrl-C shows the cursor again and ends with code 130.

use dialoguer::console::Term;
use dialoguer::theme::SimpleTheme;
use dialoguer::{Confirm, FuzzySelect, Input, Password};

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
pub async fn confirm(question: &str, default: bool) -> Result<bool, Failure> {
    let question = question.to_owned();
    asked(move || {
        let prompt = Confirm::with_theme(&SimpleTheme).with_prompt(question).default(default);
        prompt.interact_on(&Term::stderr())
    })
    .await
}

/// Asks for a line; an empty one yields `default`.
///
/// # Errors
/// Exit code 130 on Ctrl-C.
pub async fn line(question: &str, default: &str) -> Result<String, Failure> {
    let (question, default) = (question.to_owned(), default.to_owned());
    asked(move || {
        let mut prompt = Input::with_theme(&SimpleTheme).with_prompt(question).allow_empty(true);
        if !default.is_empty() {
            prompt = prompt.default(default);
        }
        prompt.interact_text_on(&Term::stderr())
    })
    .await
}

/// Asks for a line that is not shown.
///
/// # Errors
/// Exit code 130 on Ctrl-C.
pub async fn secret(question: &str) -> Result<String, Failure> {
    let question = question.to_owned();
    asked(move || {
        Password::with_theme(&SimpleTheme).with_prompt(question).interact_on(&Term::stderr())
    })
    .await
}

/// Asks for one of `items`.
///
/// # Errors
/// Exit code 130 on Ctrl-C or Escape.
pub async fn choose(question: &str, items: &[String]) -> Result<usize, Failure> {
    let (question, items) = (question.to_owned(), items.to_vec());
    let chosen = asked(move || {
        let prompt = FuzzySelect::with_theme(&SimpleTheme).with_prompt(question).items(&items);
        prompt.default(0).interact_on_opt(&Term::stderr())
    });
    chosen.await?.ok_or_else(|| Failure::new(ExitCode::Interrupted, "nothing chosen"))
}

/// Asks on a thread of its own, so that an interruption ends the command and not only
/// the question.
async fn asked<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, dialoguer::Error> + Send + 'static,
) -> Result<T, Failure> {
    let _cursor = Cursor;
    let answer = tokio::task::spawn_blocking(question).await.expect("a question does not panic");
    answer.map_err(|dialoguer::Error::IO(error)| {
        if error.kind() == std::io::ErrorKind::Interrupted {
            return Failure::new(ExitCode::Interrupted, "interrupted");
        }
        Failure::usage("the terminal can't be asked").because(error)
    })
}

/// Shows the cursor again however a question ends.
struct Cursor;

impl Drop for Cursor {
    fn drop(&mut self) {
        // The terminal may be gone; then there is no cursor to show.
        let _ = Term::stderr().show_cursor();
    }
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
    let chosen = choose("App", &names).await?;
    Ok(apps[chosen].spec.name.clone())
}
