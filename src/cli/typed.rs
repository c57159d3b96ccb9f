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

/// What was typed with `value` as the only one of `flag`; `None` when it was not typed.
#[must_use]
pub fn with_value(flag: &str, value: &str) -> Option<String> {
    valued(words(), flag, value).map(line)
}

fn valued(words: Vec<String>, flag: &str, value: &str) -> Option<Vec<String>> {
    let (mut kept, mut seen, mut words) = (Vec::new(), false, words.into_iter());
    while let Some(word) = words.next() {
        let joined = word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
        if word != flag && !joined {
            kept.push(word);
            continue;
        }
        if word == flag {
            words.next();
        }
        if !std::mem::replace(&mut seen, true) {
            kept.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    seen.then_some(kept)
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
        for (before, after) in [
            ("deploy r2 --hosts us-* -y", "deploy r2 --hosts us-1 -y"),
            ("deploy --hosts=us-* -y --hosts eu-1", "deploy --hosts us-1 -y"),
        ] {
            assert_eq!(valued(typed(before), "--hosts", "us-1"), Some(typed(after)));
        }
        assert_eq!(valued(typed("deploy --hostsx 1"), "--hosts", "us-1"), None);
    }
}
