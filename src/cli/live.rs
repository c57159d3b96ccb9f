//! A list that stays and is shown again when it changed: `-w`.
//!
//! On a terminal it is drawn over itself, and what was seen last is left there when the
//! person goes away; in a pipe each change is a block with an empty line after it, with
//! `-o jsonl` a line. The coordinator is asked every two seconds, and may be away.
//! Changes nothing, and ends only with Ctrl-C.

use std::convert::Infallible;
use std::time::Duration;

use clap::Args;
use dialoguer::console::Term;

use super::context::Context;
use super::echo::Unechoed;
use super::failure::Failure;
use super::output::Format;
use super::table::Table;
use super::typed;
use crate::net::client::CallError;

/// How often the coordinator is asked: as often as watch(1) asks.
const EVERY: Duration = Duration::from_secs(2);
/// What stands below a list while the coordinator does not answer.
const AWAY: &str = "the coordinator can't be reached; trying on";

/// Whether to stay.
#[derive(Debug, Clone, Args)]
pub struct LiveArgs {
    /// Stay, and show it again when it changed
    #[arg(short, long, conflicts_with = "exit_code")]
    pub watch: bool,
}

/// A piece of what is shown.
pub enum Part {
    /// Of the answer.
    Table(Table),
    /// Of the story.
    Line(String),
}

/// One look, as it is shown.
pub struct Shown {
    /// What makes a look another one than the last.
    pub key: String,
    /// To people, from top to bottom; to pipes its tables.
    pub parts: Vec<Part>,
    /// To programs.
    pub document: serde_json::Value,
}

/// Whether a list may stay in this format.
///
/// # Errors
/// Exit code 2 for `-o json`, which is one document.
pub fn check(ctx: &Context) -> Result<(), Failure> {
    if ctx.out.format != Format::Json {
        return Ok(());
    }
    let line = typed::replacing("json", "jsonl");
    Err(Failure::usage("-o json is one document, and --watch never ends")
        .hint(line.unwrap_or_else(|| typed::with("-o jsonl"))))
}

/// Shows what `look` finds, again and again; `kind` names it in a stream.
///
/// # Errors
/// As the coordinator refuses it. That it is away is no error.
pub async fn stay(
    ctx: &Context,
    kind: &str,
    mut look: impl AsyncFnMut() -> Result<Shown, CallError>,
) -> Result<Infallible, Failure> {
    check(ctx)?;
    ctx.out.event("hello", &serde_json::json!({"schema": 1}));
    let mut screen = ctx.out.is_for_people().then(Screen::new);
    let (mut last, mut away) = (None::<Shown>, false);
    loop {
        match look().await {
            Ok(shown) => {
                let back = std::mem::take(&mut away);
                if back && screen.is_none() {
                    ctx.out.story("the coordinator is back");
                }
                let changed = last.as_ref().is_none_or(|last| last.key != shown.key);
                match &mut screen {
                    // Ages grow without a change.
                    Some(screen) => screen.draw(ctx, &shown.parts, None),
                    None if changed => tell(ctx, kind, &shown),
                    None => {}
                }
                last = Some(shown);
            }
            Err(error) if error.is_transient() && last.is_some() => {
                let news = !std::mem::replace(&mut away, true);
                match (&mut screen, &last) {
                    (Some(screen), Some(last)) => screen.draw(ctx, &last.parts, Some(AWAY)),
                    _ if news => ctx.out.story(AWAY),
                    _ => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// One block of a pipe.
fn tell(ctx: &Context, kind: &str, shown: &Shown) {
    if ctx.out.is_json() {
        ctx.out.event(kind, &shown.document);
        return;
    }
    for part in &shown.parts {
        if let Part::Table(table) = part {
            ctx.out.table(table);
        }
    }
    ctx.out.text("\n");
}

/// What stands on the terminal.
struct Screen {
    term: Term,
    lines: usize,
    text: String,
    /// A `^C` would be written into what is drawn.
    _unechoed: Option<Unechoed>,
}

impl Screen {
    fn new() -> Self {
        Self { term: Term::stdout(), lines: 0, text: String::new(), _unechoed: Unechoed::new() }
    }

    /// Draws `parts` over what was drawn before, as far as there are rows.
    fn draw(&mut self, ctx: &Context, parts: &[Part], below: Option<&str>) {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Table(table) if table.is_empty() => {
                    text.push_str(&format!("{}\n", table.when_empty));
                }
                Part::Table(table) => text.push_str(&ctx.out.rendered(table)),
                Part::Line(line) => text.push_str(&format!("{}\n", ctx.out.folded(line))),
            }
        }
        text.extend(below.map(|below| format!("{below}\n")));
        let (rows, _) = self.term.size();
        let text = fitting(&text, usize::from(rows.max(4)) - 1);
        if text == self.text {
            return;
        }
        // A terminal that went away ends the command with the next write.
        let _ = self.term.clear_last_lines(self.lines);
        ctx.out.text(&text);
        (self.lines, self.text) = (text.lines().count(), text);
    }
}

/// `text` in at most `rows` lines; the last says how many there are more.
fn fitting(text: &str, rows: usize) -> String {
    let all = text.lines().count();
    if all <= rows {
        return text.to_owned();
    }
    let shown: Vec<&str> = text.lines().take(rows - 1).collect();
    format!("{}\n... and {} more lines\n", shown.join("\n"), all - shown.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_the_screen_is_cut_and_says_so() {
        assert_eq!(fitting("a\nb\n", 2), "a\nb\n");
        assert_eq!(fitting("a\nb\nc\nd\n", 3), "a\nb\n... and 2 more lines\n");
    }
}
