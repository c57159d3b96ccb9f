//! The tree of commands as TAB sees it: flags are offered once a dash is typed.
//!
//! A list of names is no use among twenty flags that every command takes. Where there
//! is no name to offer, flags are offered after all.

use super::command;

/// Where bash and zsh say which word is under the cursor; their own glue sets it.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";

/// The tree for the word that is under the cursor of this process.
pub(super) fn tree() -> clap::Command {
    let words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let index = std::env::var(INDEX).ok().and_then(|index| index.parse().ok());
    if word(&words, index).is_some_and(|word| word.starts_with('-')) {
        return command();
    }
    without_flags(command())
}

/// The word under the cursor: fish passes the line up to there, others say which.
fn word(words: &[String], index: Option<usize>) -> Option<&str> {
    let line = words.iter().position(|word| word == "--").map(|at| &words[at + 1..])?;
    let word = index.map_or_else(|| line.last(), |index| line.get(index));
    word.map(String::as_str)
}

/// Hidden ones are offered where there is nothing else.
fn without_flags(command: clap::Command) -> clap::Command {
    let hidden = |arg: clap::Arg| {
        let is_flag = !arg.is_positional();
        if is_flag { arg.hide(true) } else { arg }
    };
    command.disable_help_flag(true).mut_args(hidden).mut_subcommands(without_flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_one_that_the_shell_says() {
        let line = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let words = line("x -- deployctl deploy --pl x");
        assert_eq!(word(&words, Some(2)), Some("--pl"));
        assert_eq!(word(&words, None), Some("x"));
        assert_eq!(word(&line("x status"), None), None);
    }
}
