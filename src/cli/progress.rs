//! How waiting looks: bars on a terminal, a line per change elsewhere.
//!
//! Everything goes to stderr. Without a terminal a line is told when something
//! changed, and each 30 s that it goes on, so that no CI takes us for dead. Decides
//! nothing about what is waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dialoguer::console::{measure_text_width, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::echo::Unechoed;
use super::output::{Output, Tone};
use crate::host::clock;

/// Shorter than the silence after which CI systems kill a job (10 minutes and up), and
/// long enough not to fill a log [orchestration 4.6].
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often bars are drawn again by themselves.
const TICK: Duration = Duration::from_millis(120);

/// One wait, as it is shown.
pub struct Progress<'a> {
    out: &'a Output,
    bars: Option<Bars>,
    last_key: String,
    told_at: Instant,
}

struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    named: BTreeMap<String, ProgressBar>,
    unicode: bool,
    /// A `^C` would be written into what is drawn.
    _unechoed: Option<Unechoed>,
}

impl<'a> Progress<'a> {
    /// A wait that shows nothing yet.
    #[must_use]
    pub fn new(out: &'a Output) -> Self {
        let bars = (out.stderr_tty && out.tells_progress()).then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let head = all.add(ProgressBar::new_spinner());
            head.set_style(head_style(CUT, out.unicode));
            head.enable_steady_tick(TICK);
            let (named, unicode) = (BTreeMap::new(), out.unicode);
            Bars { all, head, named, unicode, _unechoed: Unechoed::new() }
        });
        Self { out, bars, last_key: String::new(), told_at: Instant::now() }
    }

    /// Whether there is a terminal that is drawn anew.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.bars.is_some()
    }

    /// `word` with its glyph, as the story marks it.
    #[must_use]
    pub fn marked(&self, tone: Tone, word: &str) -> String {
        self.out.mark_err(tone, word)
    }

    /// Says where it stands. Without a terminal it is told when `key` changed, and at
    /// least each 30 s.
    pub fn update(&mut self, key: &str, text: &str) {
        if let Some(bars) = &self.bars {
            bars.head.set_style(head_style(CUT, bars.unicode));
            // The spinner and a space stand before it.
            bars.head.set_message(cut(text, columns().saturating_sub(2), bars.unicode));
            return;
        }
        let changed = key != self.last_key;
        if !self.out.tells_progress() || !(changed || self.told_at.elapsed() >= HEARTBEAT) {
            return;
        }
        let still = if changed { "" } else { "still " };
        self.told_at = Instant::now();
        key.clone_into(&mut self.last_key);
        let now = clock::now().to_string();
        self.out.story(&format!("{}Z {still}{text}", &now[..19]));
    }

    /// Sets a bar; nothing without a terminal.
    pub fn bar(&mut self, name: &str, done: u64, total: u64, note: &str) {
        let Some(bars) = &mut self.bars else { return };
        let bar = bars.named.entry(name.to_owned()).or_insert_with(|| {
            let bar = bars.all.add(ProgressBar::new(total.max(1)));
            let style = ProgressStyle::with_template(bar_template());
            let style = style.expect("the templates are constants");
            let chars = if bars.unicode { "█▉▊▋▌▍▎▏░" } else { "=> " };
            bar.set_style(style.progress_chars(chars));
            bar.set_prefix(name.to_owned());
            bar
        });
        bar.set_length(total.max(1));
        bar.set_position(if total == 0 { 1 } else { done.min(total) });
        bar.set_message(cut(note, columns().saturating_sub(before_note(name)), bars.unicode));
    }

    /// Lines under the headline, such as the end of a log; nothing without a terminal.
    pub fn tail(&mut self, headline: &str, lines: &[String]) {
        let Some(bars) = &self.bars else { return };
        let width = columns().max(20) - 4;
        let cut = |line: &String| line.chars().take(width).collect::<String>();
        let lines: String = lines.iter().map(|line| format!("\n  {}", cut(line))).collect();
        bars.head.set_style(head_style(WHOLE, bars.unicode));
        bars.head.set_message(format!("{headline}{lines}"));
    }

    /// Lines under the headline that a person may paste: nothing of them is cut off. Nothing
    /// without a terminal.
    pub fn ways(&mut self, headline: &str, lines: &[String]) {
        let Some(bars) = &self.bars else { return };
        // The spinner and a space stand before it.
        let headline = self.out.folded(&format!("  {headline}"));
        let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        bars.head.set_style(head_style(WHOLE, bars.unicode));
        bars.head.set_message(format!("{}{lines}", headline.trim_start()));
    }

    /// Tells a line that stays.
    pub fn say(&self, line: &str) {
        if self.out.tells_progress() {
            match &self.bars {
                Some(bars) => bars.all.suspend(|| self.out.story(line)),
                None => self.out.story(line),
            }
        }
    }

    /// Takes everything that moves off the screen.
    pub fn clear(&mut self) {
        if let Some(bars) = self.bars.take() {
            bars.head.finish_and_clear();
            for bar in bars.named.values() {
                bar.finish_and_clear();
            }
            // A terminal that went away needs no cleaning.
            let _ = bars.all.clear();
        }
    }
}

/// A headline that is cut where the terminal ends, and one that is not.
const CUT: &str = "{spinner} {wide_msg}";
const WHOLE: &str = "{spinner} {msg}";

fn head_style(template: &str, unicode: bool) -> ProgressStyle {
    let ticks = if unicode { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " };
    let style = ProgressStyle::with_template(template);
    style.expect("the templates are constants").tick_chars(ticks)
}

fn columns() -> usize {
    usize::from(dialoguer::console::Term::stderr().size().1)
}

/// A line of a bar: shorter where the terminal is narrow.
fn bar_template() -> &'static str {
    match columns() {
        0..60 => " {prefix:8!} {bar:8} {wide_msg}",
        60..100 => " {prefix:12} {bar:16} {percent:>3}%  {wide_msg}",
        _ => " {prefix:16} {bar:24} {percent:>3}%  {wide_msg}",
    }
}

/// Columns that stand before the note in [`bar_template`]: the name may need more than its own.
fn before_note(name: &str) -> usize {
    let long = name.chars().count();
    match columns() {
        0..60 => 19,
        60..100 => 25 + long.max(12),
        _ => 33 + long.max(16),
    }
}

/// `text` in at most `width` columns: what is left out is left out at a word's end, and marked.
fn cut(text: &str, width: usize, unicode: bool) -> String {
    if measure_text_width(text) <= width {
        return text.to_owned();
    }
    let mark = if unicode { "…" } else { "..." };
    let part = truncate_str(text, width.saturating_sub(measure_text_width(mark)), "");
    let whole = text.get(part.len()..).is_some_and(|rest| rest.starts_with(' '));
    let words = match part.rfind(' ').filter(|_| !whole) {
        Some(end) => &part[..end],
        None => &part,
    };
    format!("{}{mark}", words.trim_end_matches([' ', ';', ',', ':']))
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_that_is_too_long_ends_with_a_whole_word_and_says_that_there_is_more() {
        let line = "r2 converging eu 25% (step 2 of 4): 1 of 2 hosts on r2; waiting for 1";
        assert_eq!(cut(line, line.len(), true), line);
        assert_eq!(cut(line, 60, true), "r2 converging eu 25% (step 2 of 4): 1 of 2 hosts on r2…");
        assert_eq!(cut(line, 23, true), "r2 converging eu 25%…");
        assert_eq!(cut(line, 23, false), "r2 converging eu 25%...");
        assert_eq!(cut(line, 21, true), "r2 converging eu 25%…", "it fits to a column");
        assert_eq!(cut("averyverylongword", 8, true), "averyve…");
    }
}
