//! What there is instead of a name that there is not.
//!
//! The nearest one is likely what was meant, but one that differs in its numbers only is no guess:
//! who types `web-9` means some host, and which of `web-1` to `web-8` nobody can tell.

use std::collections::BTreeSet;

/// Names that are told one by one.
const TOLD: usize = 8;

/// What there is where a name was asked for that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead<'a> {
    /// Names that differ in their numbers only, as [`some_of`] tells them.
    Alike(String),
    /// The one that was likely meant.
    Near(&'a str),
    /// Nothing that is like it.
    Nothing,
}

/// What there is of `names` instead of `text`.
pub fn instead_of<'a, N>(text: &str, names: impl Fn() -> N) -> Instead<'a>
where
    N: IntoIterator<Item = &'a str>,
{
    match numbered_alike(text, names()) {
        Some(alike) => Instead::Alike(alike),
        None => nearest(text, names()).map_or(Instead::Nothing, Instead::Near),
    }
}

/// The names that are `text` but for its numbers, in the order of their numbers, as
/// "web-1, web-2 and 40 more"; `None` when there are none.
fn numbered_alike<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let shape = shape(text);
    // Without a number in it, only the text itself has its shape.
    let alike = names.into_iter().filter(|name| *name != text && self::shape(name) == shape);
    // Shorter numbers are smaller ones.
    let alike: BTreeSet<(usize, &str)> = alike.map(|name| (name.len(), name)).collect();
    let names: Vec<&str> = alike.into_iter().map(|(_, name)| name).collect();
    (!names.is_empty()).then(|| told(&names))
}

/// Some of `names` as "db-1, web-1, web-2 and 40 more", each kind in the order of its numbers.
pub fn some_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: BTreeSet<(String, usize, &str)> =
        names.into_iter().map(|name| (shape(name), name.len(), name)).collect();
    let names: Vec<&str> = all.into_iter().map(|(.., name)| name).collect();
    told(&names)
}

fn told(names: &[&str]) -> String {
    let shown = &names[..names.len().min(TOLD)];
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `text` with each number as one `#`.
fn shape(text: &str) -> String {
    let mut shape = String::with_capacity(text.len());
    for c in text.chars() {
        let number = c.is_ascii_digit();
        if !(number && shape.ends_with('#')) {
            shape.push(if number { '#' } else { c });
        }
    }
    shape
}

/// The name that `text` most likely was meant to be: at most 3 edits and half its length away.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 3.min(text.chars().count().div_ceil(2));
    names
        .into_iter()
        .map(|name| (edits(text, name), name))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(128).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_numbers_only_is_listed_in_their_order() {
        let hosts = ["eu-1", "eu-10", "eu-2", "us-1", "eu", "eu-a", "eu-2"];
        assert_eq!(numbered_alike("eu-9", hosts).as_deref(), Some("eu-1, eu-2, eu-10"));
        assert_eq!(numbered_alike("eu-1", hosts).as_deref(), Some("eu-2, eu-10"));
        assert_eq!(numbered_alike("ue-1", hosts), None);
        assert_eq!(numbered_alike("eu", hosts), None);
        assert_eq!(instead_of("eu-9", || hosts), Instead::Alike("eu-1, eu-2, eu-10".into()));
        assert_eq!(instead_of("eux", || ["eu", "us"]), Instead::Near("eu"));
        assert_eq!(instead_of("zzz", || hosts), Instead::Nothing);
        assert_eq!(some_of(hosts), "eu, eu-1, eu-2, eu-10, eu-a, us-1");
        let many: Vec<String> = (1..=48).map(|n| format!("web-{n}")).collect();
        let told = numbered_alike("web-99", many.iter().map(String::as_str)).unwrap();
        assert!(
            told.starts_with("web-1, web-2, ") && told.ends_with("web-8 and 40 more"),
            "{told}"
        );
    }

    #[test]
    fn nearest_does_not_guess_wildly() {
        assert_eq!(nearest("deplyo", ["build", "deploy"]), Some("deploy"));
        assert_eq!(nearest("xyzzy", ["build", "deploy"]), None);
        assert_eq!(nearest("r", ["build"]), None);
    }
}
