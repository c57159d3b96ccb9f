//! The line that was typed, as a shell reads it back: to be pasted with one change.

use crate::wire::words::quoted;

/// What was typed, with `more` at its end.
#[must_use]
pub fn with(more: &str) -> String {
    format!("{} {more}", line(words()))
}

/// What was typed with `word` replaced by `by`, also behind a flag's `=`; `None` when
/// it was not typed.
#[must_use]
pub fn replacing(word: &str, by: &str) -> Option<String> {
    replaced(words(), word, by).map(line)
}

fn words() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

fn replaced(mut words: Vec<String>, word: &str, by: &str) -> Option<Vec<String>> {
    // One of a list, too: `--region eu,su`.
    let listed = |typed: &str| {
        let parts = typed.split(',');
        let changed: Vec<&str> = parts.map(|part| if part == word { by } else { part }).collect();
        Some(changed.join(",")).filter(|changed| changed != typed)
    };
    let flagged = |typed: &str| {
        let (flag, value) = typed.split_once('=')?;
        let changed = if value == word { Some(by.to_owned()) } else { listed(value) };
        changed.filter(|_| flag.starts_with("--")).map(|value| format!("{flag}={value}"))
    };
    for typed in words.iter_mut().rev() {
        let changed = match typed == word {
            true => Some(by.to_owned()),
            false => flagged(typed).or_else(|| listed(typed)),
        };
        if let Some(changed) = changed {
            *typed = changed;
            return Some(words);
        }
    }
    None
}

fn line(words: Vec<String>) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("deployctl {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_line_means_what_was_typed() {
        for (word, pasted) in
            [("HEAD~1", "HEAD~1"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), pasted);
        }
    }

    #[test]
    fn one_word_is_replaced_where_it_was_typed() {
        let typed = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (before, after) in [
            ("status helo", "status hello"),
            ("-a helo status", "-a hello status"),
            ("status --app=helo", "status --app=hello"),
            ("deploy --region eu,helo -y", "deploy --region eu,hello -y"),
            ("deploy --region=helo,eu", "deploy --region=hello,eu"),
        ] {
            assert_eq!(replaced(typed(before), "helo", "hello"), Some(typed(after)));
        }
        assert_eq!(replaced(typed("status"), "helo", "hello"), None);
    }
}
