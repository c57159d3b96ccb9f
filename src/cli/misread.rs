//! Lines that can't be read: what is wrong with them, and what was likely meant.
//!
//! Turns the parser's refusals into this project's one form of a failure.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::discover;
use super::failure::{ExitCode, Failure};
use super::output::{ColorChoice, Format, Output};

/// Answers a line that can't be read: help, version, or what is wrong with it.
pub fn refuse(tree: &clap::Command, error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().map(|w| w.to_string_lossy().into_owned()).collect();
    let out = Output::new(asked_format(&words), ColorChoice::Auto, false, 0);
    if error.exit_code() == 0 {
        out.text(&error.render().to_string());
        return ExitCode::Ok;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        if out.is_json() {
            out.failure(&Failure::usage("no command given").hint("deployctl --help"));
        } else {
            out.story(error.render().to_string().trim_end());
        }
        return ExitCode::Usage;
    }
    out.failure(&usage_failure(error, &command_of(tree, &words)));
    ExitCode::Usage
}

/// The command that a line is about, as far as it names one: `deployctl apps show`.
fn command_of(tree: &clap::Command, words: &[String]) -> String {
    let mut path = String::from("deployctl");
    let mut command = tree;
    for word in words.iter().skip(1).filter(|word| !word.starts_with('-')) {
        if let Some(child) = command.find_subcommand(word) {
            path = format!("{path} {}", child.get_name());
            command = child;
        }
    }
    path
}

fn usage_failure(error: &clap::Error, command: &str) -> Failure {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim_end);
    let title = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let mut failure = Failure::usage(title.trim_end_matches(':'));
    let missing = || match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(names)) => names.join(" and "),
        _ => "something".to_owned(),
    };
    if error.kind() == ErrorKind::MissingRequiredArgument {
        failure.title = format!("{command} needs {}", missing());
    } else {
        let told = lines.take_while(|line| line.starts_with("  ") && !line.contains("tip:"));
        failure.causes.extend(told.map(|line| plainly(line.trim())));
    }
    failure.hints.extend(meant(error, command).map(|meant| format!("did you mean: {meant}")));
    failure.hints.push(format!("{command} --help"));
    failure
}

/// The parser's own words for the values that there are, in ours.
fn plainly(line: &str) -> String {
    match line.strip_prefix("[possible values: ").and_then(|rest| rest.strip_suffix(']')) {
        Some(values) => format!("it is one of {values}"),
        None => line.to_owned(),
    }
}

/// The nearest name that there is; the parser lists the best one last.
fn meant(error: &clap::Error, command: &str) -> Option<String> {
    let suggested =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let (kind, value) = error.context().find(|(kind, _)| suggested.contains(kind))?;
    let word = match value {
        ContextValue::String(word) => word,
        ContextValue::Strings(words) => words.last()?,
        _ => return None,
    };
    Some(match kind {
        ContextKind::SuggestedSubcommand => format!("{command} {word}"),
        _ => word.clone(),
    })
}

/// The format that a line asks for, though the rest of it can't be read.
#[must_use]
pub fn asked_format(words: &[String]) -> Format {
    use clap::ValueEnum;
    let after = |flag: &str| words.iter().position(|w| w == flag).and_then(|i| words.get(i + 1));
    let joined = words.iter().find_map(|w| w.strip_prefix("--output=").or(w.strip_prefix("-o")));
    let word = after("-o").or(after("--output")).map(String::as_str).or(joined);
    let word = word.map(str::to_owned).or_else(|| discover::variable("DEPLOYCTL_OUTPUT"));
    word.and_then(|word| Format::from_str(word.trim_start_matches('='), true).ok())
        .unwrap_or_default()
}
