//! How things are said to people: the command line and the page use the same words.
//!
//! Pure: from wire structs and numbers to words and tones.

use std::time::Duration;

use crate::model::fleet::{FailureGroup, Phase, Tally};
use crate::model::job::JobState;
use crate::model::replication::ReplicationStatus;
use crate::model::rollout::RolloutState;
use crate::wire::v1::rollout::{Rollout, Stage};

/// What a word says about its thing; decides glyph, colour and weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    Plain,
    /// Done and well.
    Good,
    /// Under way.
    Moving,
    /// Waits for a person, or is not known.
    Look,
    /// Went wrong: the only red one.
    Bad,
    /// Of less weight.
    Dim,
}

impl Tone {
    /// One character that says the same without colour.
    #[must_use]
    pub fn glyph(self, unicode: bool) -> &'static str {
        match (self, unicode) {
            (Self::Good, true) => "✓",
            (Self::Good, false) => "+",
            (Self::Moving, true) => "▸",
            (Self::Moving, false) => ">",
            (Self::Look, true) => "‖",
            (Self::Look, false) => "=",
            (Self::Bad, true) => "✗",
            (Self::Bad, false) => "x",
            (Self::Plain | Self::Dim, true) => "·",
            (Self::Plain | Self::Dim, false) => ".",
        }
    }
}

/// The character before a state's word: some words have one of their own.
#[must_use]
pub fn glyph(word: &str, tone: Tone, unicode: bool) -> &'static str {
    match (word, unicode) {
        ("reverted" | "reverting", true) => "↩",
        ("reverted" | "reverting", false) => "<",
        ("unreachable" | "unclear", _) => "?",
        (word, _) if word.ends_with("then bad") => "!",
        _ => tone.glyph(unicode),
    }
}

/// The tone of a rollout's state.
#[must_use]
pub fn rollout_tone(state: RolloutState) -> Tone {
    match state {
        RolloutState::Pending | RolloutState::Running | RolloutState::Reverting => Tone::Moving,
        RolloutState::Succeeded => Tone::Good,
        RolloutState::Paused | RolloutState::Reverted => Tone::Look,
        RolloutState::Failed => Tone::Bad,
        RolloutState::Superseded | RolloutState::Canceled | RolloutState::Expired => Tone::Dim,
    }
}

/// The tone of a build's state.
#[must_use]
pub fn build_tone(state: JobState) -> Tone {
    match state {
        JobState::Queued => Tone::Dim,
        JobState::Running => Tone::Moving,
        JobState::Succeeded => Tone::Good,
        JobState::Failed => Tone::Bad,
    }
}

/// The tone of a replication status.
#[must_use]
pub fn replication_tone(status: ReplicationStatus) -> Tone {
    match status {
        ReplicationStatus::Pending => Tone::Dim,
        ReplicationStatus::Partial => Tone::Moving,
        ReplicationStatus::Complete => Tone::Good,
        ReplicationStatus::Lost => Tone::Bad,
    }
}

/// The word of a phase.
#[must_use]
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Fetching => "fetching",
        Phase::Staged => "staged",
        Phase::Activating => "activating",
        Phase::Probing => "probing",
        Phase::Healthy => "healthy",
        Phase::Failed => "failed",
        Phase::Reverted => "reverted",
    }
}

/// The tone of a phase.
#[must_use]
pub fn phase_tone(phase: Phase) -> Tone {
    match phase {
        Phase::Idle => Tone::Dim,
        Phase::Fetching | Phase::Staged | Phase::Activating | Phase::Probing => Tone::Moving,
        Phase::Healthy => Tone::Good,
        Phase::Failed => Tone::Bad,
        Phase::Reverted => Tone::Look,
    }
}

/// All regions' counts as one.
#[must_use]
pub fn sum<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Tally {
    let mut all = Tally::default();
    for tally in tallies {
        all.hosts += tally.hosts;
        all.admitted += tally.admitted;
        all.pinned += tally.pinned;
        all.unreachable += tally.unreachable;
        all.admitted_unreachable += tally.admitted_unreachable;
        all.staged += tally.staged;
        all.healthy += tally.healthy;
        all.settled += tally.settled;
        all.failed += tally.failed;
        all.failed_unreachable += tally.failed_unreachable;
        all.host_faults += tally.host_faults;
        all.transport_faults += tally.transport_faults;
        all.on_next += tally.on_next;
        all.sources += tally.sources;
        all.failures.extend(tally.failures.iter().cloned());
    }
    all
}

/// Equal failures as one, most hosts first.
#[must_use]
pub fn merged_failures(groups: &[FailureGroup]) -> Vec<FailureGroup> {
    let mut merged: Vec<FailureGroup> = vec![];
    for group in groups {
        match merged.iter_mut().find(|m| m.class == group.class && m.reason == group.reason) {
            Some(same) => same.hosts += group.hosts,
            None => merged.push(group.clone()),
        }
    }
    merged.sort_by_key(|group| std::cmp::Reverse(group.hosts));
    merged
}

/// What an open rollout does now: `converging`, `baking`, `reverting`.
#[must_use]
pub fn stage_word(rollout: &Rollout) -> &'static str {
    match (rollout.release.state, rollout.stage) {
        (RolloutState::Running, Stage::Converging) => "converging",
        (RolloutState::Running, Stage::Baking) => "baking",
        (state, _) => state.word(),
    }
}

/// A word as a shell reads it back.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@~,%+^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Whether a canary that a person named is done, and the rest waits to be promoted.
#[must_use]
pub fn is_held_at_canary(rollout: &Rollout) -> bool {
    rollout.held && rollout.step == 0 && rollout.release.canary.is_some()
}

/// Whether a host failed in it, as far as is known.
#[must_use]
pub fn has_failed(rollout: &Rollout) -> bool {
    let all = sum(rollout.regions.values());
    !all.failures.is_empty() || all.faults() > 0
}

/// What an open rollout waits for, as the rest of a sentence about it: "waits for a person …".
#[must_use]
pub fn waits(rollout: &Rollout) -> String {
    let text = &rollout.waiting_on;
    if let Some(left) = text.strip_prefix("bake ends in ") {
        return format!("waits for its bake, which ends in {left}");
    }
    let is_thing = ["a person", "its build"].iter().any(|thing| text.starts_with(thing))
        || (text.ends_with(" to take the goal") && !text.contains(';'));
    if is_thing { format!("waits for {text}") } else { format!("waits: {text}") }
}

/// The name of the step under way; empty when there is none.
#[must_use]
pub fn step_name(rollout: &Rollout) -> &str {
    let step = usize::try_from(rollout.step).ok().and_then(|i| rollout.steps.get(i));
    match rollout.release.state {
        RolloutState::Running | RolloutState::Paused => step.map_or("", |step| step.name.as_str()),
        _ => "",
    }
}

/// Hosts that are where they should be, and how many there are that can be reached.
#[must_use]
pub fn progress_of(rollout: &Rollout) -> (u64, u64) {
    let all = sum(rollout.regions.values());
    let asked = all.hosts.saturating_sub(all.unreachable).saturating_sub(all.pinned);
    (u64::from(all.settled), u64::from(asked))
}

/// A span as people say it: `4s`, `12m`, `3h`, `9d`.
#[must_use]
pub fn age(span: Duration) -> String {
    match span.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// How long something took: as [`age`], with tenths below ten seconds.
#[must_use]
pub fn took(span: Duration) -> String {
    if span < Duration::from_secs(10) { format!("{:.1}s", span.as_secs_f64()) } else { age(span) }
}

/// A number of bytes as people say it: `812 B`, `1.4 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A whole number with its noun: `1 host`, `2 hosts`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 30, "1.0 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
        for (s, text) in [(59, "59s"), (61, "1m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(Duration::from_secs(s)), text);
        }
    }
}
