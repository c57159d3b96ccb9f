//! Bars: how many of how many, drawn, and said in words for whoever can't see them.

use maud::{Markup, html};

use crate::model::fleet::{Sources, Tally};
use crate::wire::words::bytes;

/// Units of a whole bar.
const WHOLE: u64 = 1000;

/// A bar of parts of `total`, each with its class; `said` is read aloud.
pub(super) fn bar(parts: &[(&str, u64)], total: u64, said: &str) -> Markup {
    let mut at = 0;
    let mut drawn = Vec::new();
    let mut left = total;
    for (class, size) in parts.iter().filter(|(_, size)| *size > 0) {
        let size = (*size).min(left);
        left -= size;
        // Even one host of a hundred thousand is seen.
        let width = (size * WHOLE).checked_div(total).unwrap_or(0).max(4);
        if size > 0 && at < WHOLE {
            drawn.push((*class, at, width.min(WHOLE - at)));
            at += width;
        }
    }
    html! {
        svg .bar viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(said) {
            @for (class, x, width) in drawn {
                rect .(class) x=(x) width=(width) height="10" {}
            }
        }
    }
}

/// A region's hosts: while something moves, by how far they are on the way.
pub(super) fn hosts(tally: &Tally, moving: bool) -> Markup {
    let bad = tally.faults();
    let done = if moving { tally.healthy } else { tally.settled };
    let switched = if moving { tally.on_next.saturating_sub(tally.healthy) } else { 0 };
    let staged = if moving { tally.staged.saturating_sub(tally.on_next) } else { 0 };
    let word = if moving { "healthy on the new release" } else { "as they should be" };
    let said = format!(
        "{done} of {} hosts {word}, {bad} failed, {} unreachable",
        tally.hosts, tally.unreachable
    );
    let parts = [
        ("good", u64::from(done)),
        ("bad", u64::from(bad)),
        ("look", u64::from(tally.unreachable)),
        ("moving", u64::from(switched)),
        ("staged", u64::from(staged)),
    ];
    bar(&parts, u64::from(tally.hosts), &said)
}

/// Where bytes came from, as a bar and in words.
pub(super) fn sources(sources: &Sources) -> Markup {
    let parts = [
        ("good", sources.peer, "from peers"),
        ("moving", sources.store, "from the store"),
        ("staged", sources.local, "already there"),
    ];
    let all: u64 = parts.iter().map(|(_, size, _)| size).sum();
    let there = parts.iter().filter(|(_, size, _)| *size > 0);
    let said = there.clone().map(|(_, size, word)| format!("{} {word}", bytes(*size)));
    let said = said.collect::<Vec<_>>().join(", ");
    html! {
        @if all > 0 {
            (bar(&parts.map(|(class, size, _)| (class, size)), all, &said)) " "
            span .small { @for (n, (class, size, word)) in there.enumerate() {
                @if n > 0 { ", " } span .key.(class) {} (bytes(*size)) " " (word)
            } }
        }
        @else { span .small { "nothing was moved" } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_over_full_and_shows_also_one_host_of_many() {
        let drawn = bar(&[("good", 99_999), ("bad", 1)], 100_000, "x").0;
        assert!(drawn.contains(r#"class="good" x="0" width="999""#), "{drawn}");
        assert!(drawn.contains(r#"class="bad" x="999" width="1""#), "{drawn}");
        let over = bar(&[("good", 8), ("bad", 8)], 8, "x").0;
        assert!(!over.contains("bad"), "{over}");
        assert!(!bar(&[("good", 0)], 0, "x").0.contains("rect"));
    }
}
