//! `/apps/{app}/{env}/{release}`: a rollout's waves, regions, failures and verdicts,
//! and what a person may do to it.

use maud::{Markup, html};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::{Part, View};
use crate::coordinator::web::{bars, curve, events, gates, parts};
use crate::model::fleet::Tally;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::{Approval, Release, RolloutKind, RolloutState};
use crate::rules::authorize::Class;
use crate::wire::problem::Problem;
use crate::wire::v1::event::Events;
use crate::wire::v1::rollout::{Curve, Rollout, Stage};
use crate::wire::words::{
    Tone, has_failed, is_held_at_canary, rollout_tone, stage_word, step_name, sum, took, waits,
};

/// Events of the rollout that are shown.
const EVENTS: usize = 30;
/// Hosts that are named one by one.
const STRAGGLERS: usize = 30;

/// The page.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn view(
    calls: &Calls,
    app: &AppName,
    env: &EnvName,
    release: ReleaseNo,
) -> Result<View, Problem> {
    let path = format!("/v1/apps/{app}/envs/{env}/rollouts/{release}");
    let rollout: Rollout = calls.get(&path).await?;
    let before = i64::MAX;
    let path =
        format!("/v1/events?app={app}&env={env}&release={release}&before={before}&limit={EVENTS}");
    let told: Events = calls.get(&path).await?;
    let path = format!("/v1/apps/{app}/envs/{env}/rollouts/{release}/curve");
    let went: Curve = calls.get(&path).await?;
    let stragglers = stragglers(calls, &rollout).await?;
    let head = html! {
        h1 { a href=(parts::env_path(app, env)) { (app) " " span .dim { (env) } } " " (release) }
    };
    Ok(View {
        title: format!("{release} of {app} {env}"),
        under: "/",
        parts: vec![
            Part::still("head", head),
            Part::live("rollout", html! { (about(&rollout)) (body(calls, &rollout)) }),
            Part::live("stragglers", stragglers),
            Part::live("gates", gates::table(&rollout)),
            Part::live("curve", curve::draw(&went)),
            Part::live(
                "told",
                html! {
                    h2 { "What happened" }
                    (events::table(&told.events, false))
                },
            ),
        ],
        log: None,
    })
}

/// The open rollout as the env's page shows it.
pub(super) fn panel(calls: &Calls, rollout: &Rollout) -> Markup {
    let release = &rollout.release;
    html! {
        section .panel.(parts::class(rollout_tone(release.state))) aria-labelledby="h-open" {
            h2 #h-open {
                (parts::release_link(&release.app, &release.env, release.release)) " "
                (release.kind.word()) " of " (parts::commit(&release.commit)) " "
                span .subject { (release.subject) } (parts::config(release.config))
            }
            (body(calls, rollout))
        }
    }
}

fn about(rollout: &Rollout) -> Markup {
    let release = &rollout.release;
    html! {
        p .lead {
            (release.kind.word()) " of " a href={ "/builds/" (release.build) } { (release.build) } " "
            (parts::commit(&release.commit)) " " span .subject { (release.subject) }
            (parts::config(release.config))
            @if let Some(same) = release.same_as { ", which " (same) " brought" }
            @if let Some(base) = rollout.base { span .dim { " over " (base.release) } }
        }
        p .dim {
            "by " (release.actor) ", " (parts::time(release.created_at))
            @if release.kind == RolloutKind::Deploy { ", plan " (release.plan_said()) }
            @if !release.regions.is_empty() { ", only " @for (n, region) in release.regions.iter().enumerate() { @if n > 0 { ", " } (region) } }
            @if let Some(end) = release.ended_at { ", took " (took(end.since(release.created_at))) }
            @if !release.message.is_empty() { ": " q { (release.message) } }
        }
    }
}

/// State, buttons, waves, regions and failures.
fn body(calls: &Calls, rollout: &Rollout) -> Markup {
    let state = rollout.release.state;
    let all = sum(rollout.regions.values());
    let moving = !matches!(state, RolloutState::Reverting | RolloutState::Reverted);
    html! {
        p .status {
            (parts::state(stage_word(rollout), rollout_tone(state)))
            @let step = step_name(rollout);
            @if !step.is_empty() { " " strong { (step) } }
            @if !rollout.waiting_on.is_empty() {
                span data-testid="waiting" { @if state.is_final() { ": " (rollout.waiting_on) } @else { " " (waits(rollout)) } }
            }
        }
        @if rollout.release.no_auto_revert && !state.is_final() {
            p .small data-testid="stays" {
                "When it fails its hosts stay as they are and a person decides: " code { "--no-auto-rollback" }
            }
        }
        (buttons(calls, rollout))
        (waves(rollout))
        @if !rollout.regions.is_empty() { (regions(rollout, moving)) }
        (parts::failures(&all.failures))
    }
}

/// A row for each region: on the way out, how far each is; on the way back, how many are.
fn regions(rollout: &Rollout, moving: bool) -> Markup {
    html! {
        table .regions {
            thead { tr {
                th scope="col" { "Region" } th scope="col" { "Hosts" }
                @if moving {
                    th scope="col" .n { "Admitted" } th scope="col" .n { "Healthy" }
                    th scope="col" .n { "Have the bytes" }
                } @else { th scope="col" .n { "As they should be" } }
                th scope="col" .n { "Failed" } th scope="col" .n { "Unreachable" }
                th scope="col" { "Bytes came from" }
            } }
            tbody {
                @for (region, tally) in &rollout.regions { (region_row(region.as_str(), tally, moving)) }
                @if rollout.regions.len() > 1 {
                    (region_row("all", &sum(rollout.regions.values()), moving))
                }
            }
        }
    }
}

fn region_row(name: &str, tally: &Tally, moving: bool) -> Markup {
    html! {
        tr .sum[name == "all"] data-testid={ "region-" (name) } {
            th scope="row" { (name) }
            td .hosts { (bars::hosts(tally, moving)) }
            @if moving {
                td .n data-label="admitted" { (tally.admitted) "/" (tally.hosts) }
                td .n data-label="healthy" { (tally.healthy) }
                td .n data-label="have the bytes" { (tally.staged) }
            } @else { td .n data-label="as they should be" { (tally.settled) "/" (tally.hosts) } }
            td .n .bad[tally.faults() > 0] data-label="failed" { (tally.faults()) }
            td .n .look[tally.unreachable > 0] data-label="unreachable" { (tally.unreachable) }
            td .from { (bars::sources(&tally.sources)) }
        }
    }
}

/// The plan's steps: which are done, which is under way, which are to come.
fn waves(rollout: &Rollout) -> Markup {
    let state = rollout.release.state;
    let succeeded = state == RolloutState::Succeeded;
    let now = |n: usize| n == rollout.step as usize && !state.is_final();
    let done = |n: usize| succeeded || n < rollout.step as usize;
    let here = |n: usize| n == rollout.step as usize && rollout.release.version.is_some();
    html! {
        @if rollout.steps.len() > 1 {
            ol .waves {
                @for (n, step) in rollout.steps.iter().enumerate() {
                    @let (tone, word) = if done(n) { (Tone::Good, "done") }
                        else if now(n) { (rollout_tone(state), stage_word(rollout)) }
                        else if here(n) { (rollout_tone(state), "ended here") }
                        else { (Tone::Dim, if state.is_final() { "not reached" } else { "to come" }) };
                    li .(parts::class(tone)) aria-current=[now(n).then_some("step")] {
                        strong { (step.name) } " "
                        span .small { (parts::state(word, tone)) }
                        @if step.bake_s > 0 { span .small {
                            ", bake " (took(std::time::Duration::from_secs(u64::from(step.bake_s))))
                            @if now(n) && rollout.stage == Stage::Baking {
                                // Once it is over, what is due is the next look at what holds it up.
                                @if rollout.baked { ", over" }
                                @else if let Some(due) = rollout.due_at { ", ends " (parts::time(due)) }
                            }
                        } }
                    }
                }
            }
        }
    }
}

fn buttons(calls: &Calls, rollout: &Rollout) -> Markup {
    let release = &rollout.release;
    let barred = calls.barred(Class::Deploy);
    let barred = barred.as_deref();
    let mut fields = vec![
        ("app", release.app.to_string()),
        ("env", release.env.to_string()),
        ("release", release.release.to_string()),
    ];
    let plain = fields.clone();
    // The same press on what was seen is one press, however often it is made.
    fields.push(("key", format!("web-{}-{}", release.release, rollout.stamp)));
    let deploy = release.kind == RolloutKind::Deploy;
    html! {
        div .buttons {
            @match release.state {
                RolloutState::Running if deploy => {
                    (parts::ask("Promote", "promote", &plain, barred))
                    (parts::press("Pause", "pause", &fields, barred))
                    (parts::ask("Cancel", "cancel", &plain, barred))
                }
                RolloutState::Paused => {
                    @if !is_held_at_canary(rollout) {
                        (parts::press("Resume", "resume", &fields, barred))
                    }
                    (parts::ask("Promote", "promote", &plain, barred))
                    @if !rollout.held || has_failed(rollout) {
                        (parts::press("Let failed hosts try again", "retry", &fields, barred))
                    }
                    (parts::ask("Cancel", "cancel", &plain, barred))
                }
                RolloutState::Pending | RolloutState::Running | RolloutState::Reverting => {
                    @if lacks_approval(release) {
                        (parts::press("Approve", "approve", &fields, barred))
                    }
                    (parts::ask("Cancel", "cancel", &plain, barred))
                }
                RolloutState::Failed => {
                    (parts::press("Let failed hosts try again", "retry", &fields, barred))
                }
                _ => {}
            }
            @if release.state == RolloutState::Failed || (deploy && !release.state.is_final()) {
                (parts::ask("Roll back", "rollback", &plain[..2], barred))
            }
        }
    }
}

/// Who asked for it is refused when they press: a page is one for all of a role.
fn lacks_approval(release: &Release) -> bool {
    release.state == RolloutState::Pending
        && Approval::lacking(release.approvals, &release.approved) > 0
}

/// Hosts that are not where the rollout wants them, one by one.
async fn stragglers(calls: &Calls, rollout: &Rollout) -> Result<Markup, Problem> {
    let release = &rollout.release;
    if release.state.is_final() && release.state != RolloutState::Failed {
        return Ok(html! {});
    }
    let seen = calls.web.fleet.look(calls.shared()).await?;
    let name = release.release.to_string();
    let of_env = seen.hosts.iter().filter(|host| host.env == release.env);
    let late: Vec<_> = of_env
        .filter_map(|host| {
            let app = host.apps.iter().find(|app| app.app == release.app)?;
            let wanted = app.wants == name;
            let there = app.runs == app.wants && app.reason.is_empty();
            (!host.reachable || !app.reason.is_empty() || (wanted && !there)).then_some((host, app))
        })
        .collect();
    let all = format!("deployctl hosts --behind -a {} -e {}", release.app, release.env);
    Ok(html! {
        @if !late.is_empty() {
            h2 { "Hosts behind" }
            table {
                thead { tr {
                    th scope="col" { "Host" } th scope="col" { "Region" } th scope="col" { "State" }
                    th scope="col" { "Runs" } th scope="col" { "Should run" }
                    th scope="col" { "Heard" } th scope="col" { "Reason" }
                } }
                tbody { @for (host, app) in late.iter().take(STRAGGLERS) {
                    @let (word, tone) = host.state(Some(&release.app));
                    tr {
                        th scope="row" { code { (host.host) } } td { (host.region) }
                        td { (parts::state(word, tone)) } td { (app.runs) } td { (app.wants) }
                        td { (parts::time(host.seen_at)) } td .why { (app.reason) }
                    }
                } }
            }
            @if late.len() > STRAGGLERS {
                p .small { "and " (late.len() - STRAGGLERS) " more: " code { (all) } }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bake_that_is_over_has_no_end_to_come() {
        let step = serde_json::json!({"wave": 0, "name": "canary", "bake_s": 60, "admit": {}});
        let mut rollout: Rollout = serde_json::from_value(serde_json::json!({
            "app": "web", "env": "prod", "release": "r2", "kind": "deploy", "build": "b1",
            "commit": "a".repeat(40), "artifact": null, "plan": "standard", "state": "running",
            "reason": "", "version": null, "bad": false, "actor": "ann", "message": "",
            "created_at": "2026-11-21T00:00:00.000Z", "ended_at": null, "stamp": 1,
            "steps": [step, step], "step": 0, "stage": "baking", "base": null, "tallies": {},
            "due_at": "2026-11-21T00:01:00.000Z", "waiting_on": "bake ends in 9 s; 1 of 1 hosts",
        }))
        .unwrap();
        let shown = waves(&rollout).into_string();
        assert!(shown.contains(", ends <time") && !shown.contains(", over"), "{shown}");
        // What is due is only the end of the time by which it is prolonged.
        rollout.baked = true;
        let shown = waves(&rollout).into_string();
        assert!(shown.contains(", over") && !shown.contains(", ends "), "{shown}");
    }
}
