//! `deployctl completion`: the lines that teach a shell to complete.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};

/// Shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Print what teaches a shell to complete commands, flags and names
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl completion bash >> ~/.bashrc\n  \
    deployctl completion zsh > ~/.zfunc/_deployctl\n  \
    deployctl completion fish > ~/.config/fish/completions/deployctl.fish")]
pub struct CompletionArgs {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// Never.
#[expect(clippy::unused_async, reason = "every command has this shape")]
pub async fn run(ctx: &Context, args: CompletionArgs) -> Result<ExitCode, Failure> {
    ctx.out.text(&script(args.shell));
    Ok(ExitCode::Ok)
}

/// The lines for `shell`: they ask this program, so they never grow old.
#[must_use]
pub fn script(shell: Shell) -> String {
    let (name, line) = match shell {
        Shell::Bash => ("bash", "source <(COMPLETE=bash deployctl)"),
        Shell::Zsh => (
            "zsh",
            "source <(COMPLETE=zsh deployctl)\n\
             # From a file in fpath this runs at the first TAB, which is to be answered too.\n\
             [ \"${funcstack[1]}\" != _deployctl ] || _clap_dynamic_completer_deployctl \"$@\"",
        ),
        Shell::Fish => ("fish", "COMPLETE=fish deployctl | source"),
    };
    let first = if shell == Shell::Zsh { "#compdef deployctl\n" } else { "" };
    format!("{first}# {name} completion of deployctl: asks the program itself.\n{line}\n")
}
