//! A rollout's gates: for each step that was judged its verdict, the numbers and the
//! bounds that it was made of, and why.

use maud::{Markup, html};

use crate::coordinator::web::parts;
use crate::model::rollout::RolloutKind;
use crate::wire::v1::rollout::{Compared, GateNumbers, GateWord, Judged, Rollout};
use crate::wire::words::Tone;

/// The table; nothing for a rollback, which no gate holds, and before the first step.
pub(super) fn table(rollout: &Rollout) -> Markup {
    if rollout.release.kind == RolloutKind::Rollback || rollout.gates.is_empty() {
        return html! {};
    }
    let last = rollout.gates.iter().map(|judged| judged.step).max().unwrap_or(0);
    let steps = rollout.steps.iter().zip(0u32..).filter(|(_, n)| *n <= last);
    html! {
        h2 { "Gates" }
        table .gates {
            thead { tr {
                th scope="col" { "Step" } th scope="col" { "Verdict" } th scope="col" { "Region" }
                th scope="col" .n { "Healthy" } th scope="col" .n { "Release faults" }
                th scope="col" .n { "Host faults" } th scope="col" .n { "Unreachable" }
                th scope="col" { "Why" }
            } }
            @for (step, n) in steps {
                @match rollout.gates.iter().find(|judged| judged.step == n) {
                    Some(judged) => { (rows(&step.name, judged, n == last)) }
                    None => { tbody { tr {
                        th scope="row" { (step.name) }
                        td { (parts::state("not judged", Tone::Dim)) }
                        td {} td {} td {} td {} td {}
                        td .why { "a person went on" }
                    } } }
                }
            }
        }
        p .small {
            "A release fault over its bound sends every host back. Faults of hosts, hosts out of reach and missing numbers only hold the rollout for a person."
        }
    }
}

/// The step under way region by region; one that is over as a whole.
fn rows(name: &str, judged: &Judged, all: bool) -> Markup {
    let several = judged.regions.len() > 1;
    let split = several && (all || judged.verdict == GateWord::Fail);
    let (word, tone) = (judged.verdict.word(), tone(judged.verdict));
    html! {
        tbody data-testid={ "gate-" (judged.step) } {
            tr {
                th scope="row" { (name) }
                td { (parts::state(word, tone)) }
                @if split { td { "all of them:" } td {} td {} td {} td {} }
                @else {
                    td { @if several { "all " (judged.regions.len()) } @else { @for name in judged.regions.keys() { (name) } } }
                    (numbers(&whole(judged)))
                }
                td .why { (judged.why) @if judged.verdict != GateWord::Waiting { @if !judged.why.is_empty() { ", " } (parts::time(judged.at)) } }
            }
            @if split { @for (region, own) in &judged.regions { tr .of-step {
                td {} td {} td { (region) } (numbers(own)) td {}
            } } }
            @for (who, own) in alike(judged) { tr .of-step data-testid={ "compared-" (judged.step) } {
                td {} td { (parts::state(own.verdict.word(), self::tone(own.verdict))) }
                td { (who) } td .why colspan="5" { "beside others: " (own.sentence()) }
            } }
            @for program in &judged.programs { tr .of-step data-testid={ "program-" (program.name) } {
                td {} td { (parts::state(program.verdict.word(), self::tone(program.verdict))) }
                td { "gate " (program.name) }
                td .why colspan="5" {
                    @if program.runs == 0 { "it has said nothing yet" } @else { (program.said) }
                    @if !program.output.is_empty() && program.output != program.said {
                        details { summary { "its output" } pre { (program.output) } }
                    }
                }
            } }
        }
    }
}

/// What hosts were compared with, of regions where it came to the same as one.
fn alike(judged: &Judged) -> Vec<(String, &Compared)> {
    let mut all: Vec<(String, &Compared)> = Vec::new();
    for (region, own) in &judged.compared {
        match all.iter_mut().find(|(_, other)| *other == own) {
            Some((names, _)) => names.push_str(&format!(", {region}")),
            None => all.push((region.to_string(), own)),
        }
    }
    all
}

/// All regions' numbers as one; unknown when one is.
fn whole(judged: &Judged) -> GateNumbers {
    let first = GateNumbers { known: !judged.regions.is_empty(), ..GateNumbers::default() };
    judged.regions.values().fold(first, |sum, own| GateNumbers {
        known: sum.known && own.known,
        admitted: sum.admitted + own.admitted,
        healthy: sum.healthy + own.healthy,
        healthy_min: sum.healthy_min + own.healthy_min,
        failed: sum.failed + own.failed,
        failed_max: sum.failed_max + own.failed_max,
        host_faults: sum.host_faults + own.host_faults,
        host_faults_max: sum.host_faults_max + own.host_faults_max,
        unreachable: sum.unreachable + own.unreachable,
        unreachable_max: sum.unreachable_max + own.unreachable_max,
    })
}

/// Four cells: a number and its bound each.
fn numbers(own: &GateNumbers) -> Markup {
    if !own.known {
        return html! { td colspan="4" .why { "no numbers under this goal yet" } };
    }
    let most = |label: &str, is: u32, max: u32| {
        html! { td .n .bad[is > max] data-label=(label) { (is) span .dim { " (at most " (max) ")" } } }
    };
    html! {
        td .n data-label="healthy" { (own.healthy) span .dim { " (at least " (own.healthy_min) ")" } }
        (most("release faults", own.failed, own.failed_max))
        (most("host faults", own.host_faults, own.host_faults_max))
        (most("unreachable", own.unreachable, own.unreachable_max))
    }
}

fn tone(verdict: GateWord) -> Tone {
    match verdict {
        GateWord::Waiting => Tone::Moving,
        GateWord::Pass => Tone::Good,
        GateWord::Fail => Tone::Bad,
        GateWord::Inconclusive => Tone::Look,
    }
}
