//! The only place that prints: stdout is the answer, stderr the story.
//!
//! Owns the output formats, colour, glyphs and what happens when the reader goes
//! away. An answer is given once per command, as a [`Table`] for people and as one
//! JSON document for programs; both come from the same wire structs.

use std::io::{IsTerminal, Write};

use dialoguer::console::{measure_text_width, strip_ansi_codes};
use serde::Serialize;

use super::failure::{ExitCode, Failure};
use super::table::{Mode, Table};
use crate::wire::words;
pub use crate::wire::words::Tone;

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns on a terminal, TAB-separated without header in a pipe
    #[default]
    Table,
    /// As table, with more columns
    Wide,
    /// TAB-separated with full ids and times, on a terminal too
    Plain,
    /// Exactly one document, of success or failure
    Json,
    /// One document a line
    Jsonl,
    /// Only names, one a line
    Name,
}

impl Format {
    /// The word that asks for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Wide => "wide",
            Self::Plain => "plain",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Name => "name",
        }
    }
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb` says otherwise
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What the terminal can do, and what the person asked for.
#[derive(Debug, Clone)]
pub struct Output {
    /// The format of the answer.
    pub format: Format,
    /// Whether stdout is a terminal.
    pub stdout_tty: bool,
    /// Whether stderr is a terminal that can move its cursor.
    pub stderr_tty: bool,
    /// No story.
    pub quiet: bool,
    /// More story.
    pub verbose: u8,
    /// Whether glyphs beyond ASCII are shown.
    pub unicode: bool,
    color_stdout: bool,
    color_stderr: bool,
}

impl Output {
    /// An output as the flags, the environment and the terminal allow.
    #[must_use]
    pub fn new(format: Format, color: ColorChoice, quiet: bool, verbose: u8) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let forced =
            set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| v != "0");
        let colored = |tty: bool| match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if set("NO_COLOR") => false,
            ColorChoice::Auto => forced || (tty && !dumb),
        };
        let (stdout_tty, stderr_tty) =
            (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            format,
            stdout_tty,
            stderr_tty: stderr_tty && !dumb,
            quiet,
            verbose,
            unicode: is_utf8() && !dumb,
            color_stdout: colored(stdout_tty),
            color_stderr: colored(stderr_tty),
        }
    }

    /// Whether the answer is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether the story is told at all: not to a program that reads both streams.
    #[must_use]
    pub fn tells_progress(&self) -> bool {
        !self.quiet && (!self.is_json() || self.stderr_tty || self.verbose > 0)
    }

    /// Whether times are ages and ids are short.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        self.stdout_tty && matches!(self.format, Format::Table | Format::Wide)
    }

    /// Gives the answer: `document` to programs, `table` to people.
    pub fn answer(&self, document: &impl Serialize, table: &Table) {
        match self.format {
            Format::Json => self.json(document),
            Format::Jsonl => {
                let document = serde_json::to_value(document).unwrap_or_default();
                for line in lines_of(&document) {
                    write_out(&format!("{line}\n"));
                }
            }
            _ => self.table(table),
        }
    }

    /// Writes one JSON document, pretty on a terminal.
    pub fn json(&self, document: &impl Serialize) {
        let pretty = self.stdout_tty && self.format != Format::Jsonl;
        let text = if pretty {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        write_out(&(text.unwrap_or_default() + "\n"));
    }

    /// Writes one line of a stream; only with `-o jsonl`.
    pub fn event(&self, kind: &str, fields: &impl Serialize) {
        if self.format == Format::Jsonl {
            let mut line = serde_json::json!({"type": kind});
            merge(&mut line, serde_json::to_value(fields).unwrap_or_default());
            self.json(&line);
        }
    }

    /// Gives the outcome of a wait: one document, or the last line of a stream.
    pub fn outcome(&self, document: serde_json::Value, code: ExitCode, table: &Table) {
        let mut whole = serde_json::json!({});
        if self.format == Format::Jsonl {
            whole["type"] = "result".into();
        }
        merge(&mut whole, document);
        whole["exit_code"] = (code as u8).into();
        if self.is_json() { self.json(&whole) } else { self.table(table) }
    }

    /// Writes a table of its own format.
    pub fn table(&self, table: &Table) {
        write_out(&self.rendered(table));
        if table.is_empty() && self.is_for_people() {
            self.story(&table.when_empty);
        }
    }

    /// A table in its own format.
    #[must_use]
    pub fn rendered(&self, table: &Table) -> String {
        let mode = match self.format {
            Format::Name => Mode::Names,
            Format::Table | Format::Wide if self.stdout_tty => Mode::Aligned {
                wide: self.format == Format::Wide,
                width: terminal_width(),
                color: self.color_stdout,
                unicode: self.unicode,
            },
            Format::Wide => Mode::Tabs { wide: true },
            _ => Mode::Tabs { wide: self.format == Format::Plain },
        };
        table.render(mode)
    }

    /// Writes text of the answer as it is: a log, a script, a help topic.
    pub fn text(&self, text: &str) {
        write_out(text);
    }

    /// Writes sentences of the answer, on a terminal broken between words; lines to paste,
    /// which begin with `hint:`, stay whole.
    pub fn prose(&self, text: &str) {
        if !self.stdout_tty {
            return write_out(text);
        }
        let width = usize::from(terminal_width());
        let line = |line: &str| match line.starts_with("hint:") {
            true => format!("{line}\n"),
            false => fold(line, width) + "\n",
        };
        write_out(&text.lines().map(line).collect::<String>());
    }

    /// Tells a line of the story on stderr, where it is told at all.
    pub fn story(&self, line: &str) {
        if self.tells_progress() && !line.is_empty() {
            write_err(&format!("{}\n", self.folded(line)));
        }
    }

    /// The same with lines that a person pastes: whole, however long.
    pub fn typed(&self, text: &str) {
        if self.tells_progress() {
            write_err(&format!("{text}\n"));
        }
    }

    /// Long lines broken between words, on a terminal.
    #[must_use]
    pub fn folded(&self, text: &str) -> String {
        if !self.stderr_tty {
            return text.to_owned();
        }
        let (_, columns) = dialoguer::console::Term::stderr().size();
        fold(text, usize::from(columns.clamp(40, 400)))
    }

    /// Tells a line to programs that read stderr only when they asked for more.
    pub fn detail(&self, line: &str) {
        if self.verbose > 0 {
            self.story(line);
        }
    }

    /// Warns on stderr.
    pub fn warning(&self, text: &str) {
        self.story(&format!("{} {text}", self.paint_err("warning:", "33")));
    }

    /// Tells what could be typed next.
    pub fn hint(&self, line: &str) {
        self.typed(&format!("{} {line}", self.paint_err("hint:", "36")));
    }

    /// Shows a failure: lines on stderr, or one document on stdout.
    pub fn failure(&self, failure: &Failure) {
        if self.is_json() {
            let mut document = failure.to_json();
            if self.format == Format::Jsonl {
                document["type"] = "result".into();
            }
            self.json(&document);
            return;
        }
        if failure.told {
            return;
        }
        let title = match failure.code {
            // Asked for by the person, so no error.
            ExitCode::Interrupted => format!("\n{}", failure.title),
            _ if failure.by_design => self.folded(&self.mark_err(Tone::Look, &failure.title)),
            _ => format!("{} {}", self.paint_err("error:", "1;31"), failure.title),
        };
        let mut text = title + "\n";
        let lead = if failure.by_design { "next: " } else { "cause:" };
        for cause in &failure.causes {
            let cause = cause.trim_end().replace('\n', "\n       ");
            text.push_str(&format!("{}\n", self.folded(&format!("{lead} {cause}"))));
        }
        for hint in &failure.hints {
            text.push_str(&format!("{}  {hint}\n", self.paint_err("hint:", "36")));
        }
        if !failure.request_id.is_empty() {
            text.push_str(&format!("ref:   {} req {}\n", failure.code.word(), failure.request_id));
        }
        write_err(&text);
    }

    /// `word` with its glyph, coloured for stderr.
    #[must_use]
    pub fn mark_err(&self, tone: Tone, word: &str) -> String {
        let marked = format!("{} {word}", words::glyph(word, tone, self.unicode));
        if self.color_stderr { paint(tone, &marked) } else { marked }
    }

    /// The arrow between two things.
    #[must_use]
    pub fn arrow(&self) -> &'static str {
        if self.unicode { "→" } else { "->" }
    }

    fn paint_err(&self, text: &str, code: &str) -> String {
        if self.color_stderr { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `text` with no line over `width`, broken between words. What follows a name and two
/// spaces, or a word and a colon, stays in its column. A word that is longer stays whole.
fn fold(text: &str, width: usize) -> String {
    let lines = text.split('\n').map(|line| {
        // What colours a word takes no room.
        if measure_text_width(line) <= width {
            return line.to_owned();
        }
        let indent = hanging(&strip_ansi_codes(line));
        let mut folded = String::new();
        let mut column = 0;
        for (number, word) in line.split(' ').enumerate() {
            let long = measure_text_width(word);
            if number > 0 && column + 1 + long > width && column > indent {
                folded.truncate(folded.trim_end().len());
                folded.push_str(&format!("\n{:indent$}", ""));
                column = indent;
            } else if number > 0 {
                folded.push(' ');
                column += 1;
            }
            folded.push_str(word);
            column += long;
        }
        folded
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The column in which the rest of a folded line begins.
fn hanging(line: &str) -> usize {
    let start = line.len() - line.trim_start().len();
    let rest = &line[start..];
    let name = rest.find([' ', ':']).unwrap_or(0);
    let after = &rest[name..];
    let gap = after.len() - after.trim_start_matches([':', ' ']).len();
    if gap >= 2 && start + name + gap <= 12 { start + name + gap } else { start + 2 }
}

/// A list's items, or the whole: what `jsonl` writes line by line.
fn lines_of(document: &serde_json::Value) -> Vec<&serde_json::Value> {
    let list = document.as_object().and_then(|fields| fields.values().find_map(|v| v.as_array()));
    match list {
        Some(items) if document.as_object().is_some_and(|fields| fields.len() <= 2) => {
            items.iter().collect()
        }
        _ => vec![document],
    }
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

fn is_utf8() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.into_iter().filter_map(std::env::var_os).find(|v| !v.is_empty());
    let locale = locale.map(|v| v.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Columns of the terminal; 80 where it does not say.
fn terminal_width() -> u16 {
    match dialoguer::console::Term::stdout().size_checked() {
        Some((_, columns)) if columns > 0 => columns.clamp(40, 400),
        _ => 80,
    }
}

fn write_out(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(e) = written {
        // The reader has enough (`| head`): no message, the code that a shell expects.
        let broken = e.kind() == std::io::ErrorKind::BrokenPipe;
        let code = if broken { ExitCode::BrokenPipe } else { ExitCode::Error };
        if !broken {
            write_err(&format!("error: stdout can't be written: {e}\n"));
        }
        std::process::exit(i32::from(code as u8));
    }
}

fn write_err(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// `text` in the tone's colour.
fn paint(tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Moving => "36",
        Tone::Look => "33",
        Tone::Bad => "31",
        Tone::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_between_words_and_keep_their_column() {
        assert_eq!(fold("short", 10), "short");
        assert_eq!(fold("cause: one two three", 14), "cause: one two\n       three");
        assert_eq!(fold("  moves    aa bb cc", 16), "  moves    aa bb\n           cc");
        assert_eq!(fold("r1 is so very long", 10), "r1 is so\n  very\n  long");
        assert_eq!(fold("x averyverylongword", 8), "x averyverylongword");
        assert_eq!(fold("\x1b[32mr1 is\x1b[0m done", 10), "\x1b[32mr1 is\x1b[0m done");
        assert_eq!(fold("\x1b[32mr1\x1b[0m is done", 8), "\x1b[32mr1\x1b[0m is\n  done");
    }
}
