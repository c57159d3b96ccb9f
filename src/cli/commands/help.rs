//! `deployctl help`: a command's help, or a topic.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::topics;
use crate::config::instead::nearest;

/// Show help of a command or a topic
///
/// Topics: exit-codes, environment, refs, concepts, toml, json, json-schema, plans,
/// setup, runbook.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl help deploy\n  deployctl help exit-codes")]
pub struct HelpArgs {
    /// A command, or a topic: exit-codes, refs, plans, concepts, toml, json, setup, runbook
    #[arg(value_name = "TOPIC")]
    words: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 when there is no such command or topic.
#[expect(clippy::unused_async, reason = "every command has this shape")]
pub async fn run(
    ctx: &Context,
    args: HelpArgs,
    mut tree: clap::Command,
) -> Result<ExitCode, Failure> {
    if let [topic] = args.words.as_slice()
        && let Some(text) = topics::text(topic)
    {
        ctx.out.text(&text);
        return Ok(ExitCode::Ok);
    }
    tree.build();
    let mut command = &mut tree;
    for word in &args.words {
        let names: Vec<String> =
            command.get_subcommands().map(|child| child.get_name().to_owned()).collect();
        if command.find_subcommand(word).is_none() {
            let topics = topics::TOPICS.iter().map(|(topic, _)| *topic);
            let near = nearest(word, names.iter().map(String::as_str).chain(topics));
            let failure = Failure::new(ExitCode::NotFound, format!("no command or topic {word:?}"));
            return Err(match near {
                Some(near) => failure.hint(format!("did you mean: deployctl help {near}")),
                None => failure.hint("deployctl --help"),
            });
        }
        command = command.find_subcommand_mut(word).expect("it was found just now");
    }
    let text = command.render_long_help();
    let text = if ctx.out.stdout_tty { text.ansi().to_string() } else { text.to_string() };
    ctx.out.text(&text);
    Ok(ExitCode::Ok)
}
