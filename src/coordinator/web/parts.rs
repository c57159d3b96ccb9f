//! The words of every page: times, states, ids, buttons that say why they can't be
//! pressed.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::model::commit::CommitId;
use crate::model::digest::ConfigId;
use crate::model::fleet::FailureGroup;
use crate::model::freeze::Freeze;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::{Release, RolloutState};
use crate::model::time::UnixMillis;
use crate::rules::authorize::Class;
use crate::wire::v1::rollout::EnvStatus;
use crate::wire::words::{Tone, count, glyph, merged_failures, rollout_tone};

/// Causes of failure that are spelled out.
const GROUPS_SHOWN: usize = 8;

/// The class of a tone in the style sheet.
pub(super) fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "plain",
        Tone::Good => "good",
        Tone::Moving => "moving",
        Tone::Look => "look",
        Tone::Bad => "bad",
        Tone::Dim => "dim",
    }
}

/// A state's word, with a sign that says the same without colour.
pub(super) fn state(word: &str, tone: Tone) -> Markup {
    html! {
        span .state.(class(tone)) data-state=(word) {
            span aria-hidden="true" { (glyph(word, tone, true)) } " " (word)
        }
    }
}

/// A release's state.
pub(super) fn release_state(release: &Release) -> Markup {
    let word = release.state.word();
    match (release.state, release.bad) {
        (RolloutState::Succeeded, true) => state(&format!("{word}, then bad"), Tone::Look),
        (state_now, _) => state(word, rollout_tone(state_now)),
    }
}

/// An instant; the script turns it into an age.
pub(super) fn time(at: UnixMillis) -> Markup {
    let full = at.to_string();
    html! { time datetime=(full) title=(full) { (full[..10]) " " (full[11..16]) "Z" } }
}

/// An instant that may be missing.
pub(super) fn maybe_time(at: Option<UnixMillis>, never: &str) -> Markup {
    at.map_or_else(|| html! { (never) }, time)
}

/// A commit, in its first digits.
pub(super) fn commit(commit: &CommitId) -> Markup {
    html! { code title=(commit) { (commit.short()) } }
}

/// What a release brought to its hosts, or brought back.
pub(super) fn what(release: &Release) -> Markup {
    html! {
        (release.kind.word())
        @if let Some(same) = release.same_as { " to " (same) } " "
        (commit(&release.commit)) " " span .subject { (release.subject) }
        (config(release.config))
    }
}

/// A release's configuration, in its first digits; nothing when it has none.
pub(super) fn config(config: Option<ConfigId>) -> Markup {
    html! { @if let Some(config) = config { " config " code title=(config) { (config.short()) } } }
}

/// The path of an app's env.
pub(super) fn env_path(app: &AppName, env: &EnvName) -> String {
    format!("/apps/{app}/{env}")
}

/// A link to a release's rollout.
pub(super) fn release_link(app: &AppName, env: &EnvName, release: ReleaseNo) -> Markup {
    html! { a href={ (env_path(app, env)) "/" (release) } { (release) } }
}

/// A button that leads to its confirmation; really disabled while `barred`, and then
/// the reason stands beside it.
pub(super) fn ask(
    label: &str,
    what: &str,
    fields: &[(&str, String)],
    barred: Option<&str>,
) -> Markup {
    let id = said(what, fields);
    html! {
        form .ask method="get" action={ "/do/" (what) } {
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (button(label, &id, barred, &html! {}))
            (reason(&id, barred))
        }
    }
}

/// A button that acts at once, through the session's own form.
pub(super) fn press(
    label: &str,
    what: &str,
    fields: &[(&str, String)],
    barred: Option<&str>,
) -> Markup {
    let id = said(what, fields);
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", super::page::escaped(value)))
        .collect();
    html! {
        span .ask {
            button type="submit" form="act" formmethod="post"
                formaction={ "/do/" (what) "?" (pairs.join("&")) }
                data-testid=(id) disabled[barred.is_some()]
                aria-describedby=[barred.map(|_| format!("why-{id}"))] { (label) }
            (reason(&id, barred))
        }
    }
}

fn button(label: &str, id: &str, barred: Option<&str>, inside: &Markup) -> Markup {
    html! {
        (inside)
        button type="submit" data-testid=(id) disabled[barred.is_some()]
            aria-describedby=[barred.map(|_| format!("why-{id}"))] { (label) }
    }
}

fn reason(id: &str, barred: Option<&str>) -> Markup {
    html! { @if let Some(why) = barred { " " span .why id={ "why-" (id) } { (why) } } }
}

/// A name for one button of a page.
fn said(what: &str, fields: &[(&str, String)]) -> String {
    let ours = fields
        .iter()
        .filter(|(name, _)| matches!(*name, "env" | "build" | "release" | "freeze" | "hold"));
    let values: Vec<&str> = ours.map(|(_, value)| value.as_str()).collect();
    [&[what][..], &values].concat().join("-")
}

/// What stops deploys now, as a banner with the button that ends it.
pub(super) fn frozen<'a>(calls: &Calls, freezes: impl IntoIterator<Item = &'a Freeze>) -> Markup {
    let barred = calls.barred(Class::Deploy);
    html! {
        @for freeze in freezes {
            p .cause.look {
                strong { "Frozen: " (freeze.scope()) } " until " (time(freeze.until)) " by "
                (freeze.actor) ": " (freeze.reason) ". Rolling back passes. "
                (press("End the freeze", "unfreeze", &[
                    ("freeze", freeze.freeze.to_string()),
                    ("key", format!("web-unfreeze-{}", freeze.freeze)),
                ], barred.as_deref()))
            }
        }
    }
}

/// What a person keeps where it is, as a banner each with the button that ends it.
pub(super) fn held(calls: &Calls, row: &EnvStatus) -> Markup {
    let barred = calls.barred(Class::Deploy);
    html! {
        @for hold in row.held.iter().chain(&row.pins) {
            p .cause.look {
                strong {
                    @match hold.at {
                        Some(at) => { "Pinned to " (at.release) ": " }
                        None => { "Held: " }
                    }
                    (hold.scope())
                }
                " until " (time(hold.until)) " by " (hold.actor) ": " (hold.reason)
                @if !hold.is_placed() { ". Rolling back passes" }
                ". "
                (press(if hold.at.is_some() { "Unpin" } else { "End the hold" }, "unhold", &[
                    ("hold", hold.hold.to_string()),
                    ("key", format!("web-unhold-{}", hold.hold)),
                ], barred.as_deref()))
            }
        }
    }
}

/// Equal failures as one, with the first host's last words.
pub(super) fn failures(groups: &[FailureGroup]) -> Markup {
    let merged = merged_failures(groups);
    html! {
        @for (n, group) in merged.iter().take(GROUPS_SHOWN).enumerate() {
            div .failure {
                strong .bad { (count(u64::from(group.hosts), "host")) ": " }
                (group.reason)
                span .dim { " (first: " code { (group.first) } ")" }
                @if !group.log.is_empty() {
                    details id={ "words-" (n) } {
                        summary { "its last " (count(group.log.len() as u64, "line")) }
                        pre tabindex="0" { @for line in &group.log { (line) "\n" } }
                    }
                }
            }
        }
        @if merged.len() > GROUPS_SHOWN {
            p .dim { "and " (count((merged.len() - GROUPS_SHOWN) as u64, "other cause")) }
        }
    }
}
