//! `GET /do/{what}`: what would happen, before it does. A confirmation carries what
//! the person saw, so that a stale one is refused and a double press is one press.

use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::coordinator::web::act::Wish;
use crate::coordinator::web::call::Calls;
use crate::coordinator::web::session::Session;
use crate::coordinator::web::{Pages, act, commits, frame, no_page, options, page, parts};
use crate::model::commit::CommitId;
use crate::model::digest::to_hex;
use crate::model::id::{AppName, EnvName};
use crate::model::rollout::{PlanName, RolloutKind, RolloutState};
use crate::net::auth::random_key;
use crate::rules::authorize::Class;
use crate::rules::rollout::STEP_CAP;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::App;
use crate::wire::v1::diff::Diff;
use crate::wire::v1::fleet::Status;
use crate::wire::v1::rollout::{EnvStatus, Rollout};
use crate::wire::words::{bytes, count, step_name, sum, took};

/// Longest wait for the number of bytes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Commits that are listed by their subjects.
const COMMITS_TOLD: usize = 8;

/// A confirmation's heading and body.
type Asked = (String, Markup);

/// The page.
pub(super) async fn show(
    State(web): State<Pages>,
    Extension(session): Extension<Session>,
    Path(what): Path<String>,
    request: Request,
) -> Response {
    let calls = Calls::new(&web, session.who.clone());
    let uri = act::one_field(request.uri().query().unwrap_or_default()).parse::<Uri>();
    let bad = |_| Problem::new(Code::Usage, "the address is not well formed");
    let wish = match uri.map_err(bad).and_then(|uri| page::query::<Wish>(&uri)) {
        Ok(wish) => wish,
        Err(problem) => return frame::refused(Some(&session), &problem),
    };
    match asked(&calls, &what, &wish, &session.csrf).await {
        Ok((title, main)) => frame::still(&session, &title, &main).into_response(),
        Err(problem) => {
            frame::refused_with(Some(&session), &problem, &again(&what, &wish, &problem))
        }
    }
}

async fn asked(calls: &Calls, what: &str, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    match what {
        "deploy" => start(calls, wish, RolloutKind::Deploy, csrf).await,
        "rollback" => start(calls, wish, RolloutKind::Rollback, csrf).await,
        "promote" => promote(calls, wish, csrf).await,
        "cancel" => cancel(calls, wish, csrf).await,
        "build" => build(calls, wish, csrf).await,
        "freeze" => freeze(calls, wish, csrf),
        "hold" => hold(calls, wish, csrf),
        other => Err(no_page(&format!("/do/{other}"))),
    }
}

/// The way on after a refusal.
pub(super) fn again(what: &str, wish: &Wish, problem: &Problem) -> Markup {
    let Ok((app, env)) = wish.place() else { return html! {} };
    let mut fields = vec![("app", app.to_string()), ("env", env.to_string())];
    fields.extend(wish.build.map(|build| ("build", build.to_string())));
    fields.extend(wish.release.map(|release| ("release", release.to_string())));
    let starts = matches!(what, "deploy" | "rollback");
    if starts {
        // What was chosen before a refusal is still chosen after it.
        fields.extend(wish.options());
    }
    let bad = [&fields[..], &[("allow_bad", "true".into())]].concat();
    let older = [&fields[..], &[("allow_older", "true".into())]].concat();
    let says = |words: &str| problem.title.contains(words);
    html! {
        div .buttons {
            @if problem.code == Code::Conflict && matches!(what, "deploy" | "rollback" | "promote") {
                (parts::ask("Look at it again", what, &fields, None))
            }
            @if problem.code == Code::Blocked && starts && !wish.allow_bad && says("marked bad") {
                (parts::ask("Do it although it was marked bad", what, &bad, None))
            }
            @if problem.code == Code::Blocked && !wish.allow_older && says("is older than") {
                (parts::ask("Deploy it although it may be older", what, &older, None))
            }
            @if problem.code == Code::Conflict && !wish.allow_older && says(" is open in ") {
                (parts::ask("Take its place all the same", what, &older, None))
            }
            a href=(parts::env_path(app, env)) { "Back to " (app) " " (env) }
        }
    }
}

/// The form that does it.
fn form(what: &str, csrf: &str, fields: &[(&str, String)], label: &str, inside: &Markup) -> Markup {
    html! {
        form .card method="post" action={ "/do/" (what) } {
            input type="hidden" name="csrf" value=(csrf);
            input type="hidden" name="key" value={ "web-" (to_hex(&random_key()[..16])) };
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (inside)
            div .buttons { button .main type="submit" data-testid="confirm" { (label) } }
        }
    }
}

fn reason(needed: bool) -> Markup {
    html! {
        label for="message" { "Why" span .dim { @if needed { " (needed)" } @else { " (others will read it)" } } }
        input #message name="message" maxlength="600" size="50" autocomplete="off" required[needed];
    }
}

async fn env_status(calls: &Calls, app: &AppName, env: &EnvName) -> Result<EnvStatus, Problem> {
    let status: Status = calls.get(&format!("/v1/status?app={app}&env={env}")).await?;
    status.apps.into_iter().next().ok_or_else(|| no_page(env.as_str()))
}

async fn start(
    calls: &Calls,
    wish: &Wish,
    kind: RolloutKind,
    csrf: &str,
) -> Result<Asked, Problem> {
    let (app, env) = wish.place()?;
    // What was seen comes first: whatever changes after it makes this page stale.
    let row = env_status(calls, app, env).await?;
    let seen = row.version.map_or(0, |version| version.generation);
    let path = format!("/v1/apps/{app}/envs/{env}/rollouts");
    let planned: Rollout = calls.post(&path, "", &wish.request(kind, true)?).await?;
    let back = kind == RolloutKind::Rollback;
    let mut fields =
        vec![("app", app.to_string()), ("env", env.to_string()), ("generation", seen.to_string())];
    match planned.release.same_as.filter(|_| back) {
        Some(target) => fields.push(("release", target.to_string())),
        None => fields.push(("build", planned.release.build.to_string())),
    }
    let plan = planned.release.plan;
    fields.extend(wish.options());
    let at_once = plan == PlanName::AllAtOnce && !back;
    let title = match back {
        true => format!("Roll {app} {env} back"),
        false => format!("Deploy to {app} {env}"),
    };
    let label = if back { "Roll back" } else { "Deploy" };
    let main = html! {
        h1 { (title) }
        @if planned.joined {
            p .cause { (planned.release.release) " is that already; nothing new would start." }
            p { (parts::release_link(app, env, planned.release.release)) }
        } @else {
            (change(calls, &row, &planned).await)
            @if wish.allow_older {
                p .look { "It may be older than what runs, and may lack what that has." }
            }
            @if wish.allow_bad { p .look { "It was marked bad: it failed before, or was rolled back." } }
            (plan_of(&planned, back))
            (options::form(calls, wish, kind))
            (form(&wish_name(back), csrf, &fields, label, &html! {
                @if at_once {
                    label for="sure" { "The app's name, to skip every gate" }
                    input #sure name="sure" required autocomplete="off" spellcheck="false";
                }
                (reason(wish.allow_bad))
            }))
        }
        p { a href=(parts::env_path(app, env)) { "Back, and change nothing" } }
    };
    Ok((title, main))
}

fn wish_name(back: bool) -> String {
    if back { "rollback".into() } else { "deploy".into() }
}

/// From what to what, on how many hosts, with how many bytes, until when.
async fn change(calls: &Calls, row: &EnvStatus, planned: &Rollout) -> Markup {
    let release = &planned.release;
    let tallies = if planned.regions.is_empty() { &row.regions } else { &planned.regions };
    let all = sum(tallies.values());
    let (brings, moves) = tokio::join!(brings(calls, row, planned), moves(calls, planned));
    let ends = (planned.steps.len() > 1).then(|| latest_end(calls, planned));
    let line = |name: &str, text: &Markup| {
        html! { tr { th scope="row" { (name) } td { (text) } } }
    };
    html! {
        table .change {
            tbody {
                (line("Runs now", &html! { @match &row.current {
                    Some(now) => { (now.release) " " (parts::commit(&now.commit)) " " span .subject { (now.subject) } (parts::config(now.config)) }
                    None => { "nothing" }
                } }))
                (line("Then", &html! {
                    strong { (release.release) }
                    @if let Some(same) = release.same_as { ", as " (same) } " "
                    (parts::commit(&release.commit)) " " span .subject { (release.subject) }
                    (parts::config(release.config))
                    span .dim { " (" (release.build) ")" }
                }))
                @if let Some(brings) = &brings { (line("Brings", brings)) }
                (line("Hosts", &html! {
                    (count(u64::from(all.hosts), "host")) " in "
                    @if release.regions.is_empty() { (count(tallies.len() as u64, "region")) }
                    @else { strong { @for (n, region) in release.regions.iter().enumerate() { @if n > 0 { ", " } (region) } } " only" }
                    @if all.unreachable > 0 { ", " (all.unreachable) " unreachable: they follow when they come back" }
                }))
                @if let Some(moves) = &moves { (line("Moves", &html! { (moves) })) }
                @if let Some(ends) = &ends { (line("Ends", &html! { "at the latest " (ends) })) }
                @if let Some(open) = &row.rollout { (line("Takes the place of", &html! {
                    (open.release.release) " (" (open.release.state.word()) "): it ends as superseded"
                })) }
            }
        }
    }
}

/// The commits between what runs and what comes, as far as the newest of the trunk tell.
async fn brings(calls: &Calls, row: &EnvStatus, planned: &Rollout) -> Option<Markup> {
    let from = &row.current.as_ref()?.commit;
    let newest = commits::seen(calls, &row.app).await.ok()?.commits;
    let at = |commit: &CommitId| newest.iter().position(|line| line.commit == *commit);
    let (from, to) = (at(from)?, at(&planned.release.commit)?);
    let (sign, between) = match from.cmp(&to) {
        std::cmp::Ordering::Greater => ("+", &newest[to..from]),
        std::cmp::Ordering::Less => ("−", &newest[from..to]),
        std::cmp::Ordering::Equal => return Some(html! { "the commit that runs, again" }),
    };
    let word = if sign == "+" { " more" } else { " less" };
    Some(html! {
        (count(between.len() as u64, "commit")) (word)
        @for line in between.iter().take(COMMITS_TOLD) {
            br; (sign) " " (parts::commit(&line.commit)) " " span .subject { (line.subject) }
            span .dim { " " (line.author) }
        }
        @if between.len() > COMMITS_TOLD { br; span .dim { "and " (between.len() - COMMITS_TOLD) " more" } }
    })
}

/// How many bytes come to hosts, and how many of them out of stores.
async fn moves(calls: &Calls, planned: &Rollout) -> Option<String> {
    let release = &planned.release;
    if release.kind == RolloutKind::Rollback {
        return Some("nothing where it still lies on disk".into());
    }
    let base = planned.base?.release;
    let path = format!(
        "/v1/apps/{}/envs/{}/diff?from={base}&to={}",
        release.app, release.env, release.build
    );
    // An estimate must not keep a person waiting.
    let diff: Diff = tokio::time::timeout(PATIENCE, calls.get(&path)).await.ok()?.ok()?;
    let moved = diff.total;
    let mut text = format!(
        "{} to {}, {} of them from regional stores",
        bytes(moved.patch_bytes + moved.full_bytes),
        count(moved.hosts, "host"),
        bytes(moved.store_bytes)
    );
    if moved.patch_bytes > 0 {
        text.push_str(&format!("; {} are patches", bytes(moved.patch_bytes)));
    }
    if moved.local_bytes > 0 {
        text.push_str(&format!("; {} are on the hosts already", bytes(moved.local_bytes)));
    }
    Some(text)
}

/// When the clock alone ends it: every step its longest, every bake.
fn latest_end(calls: &Calls, planned: &Rollout) -> Markup {
    let bakes: u64 = planned.steps.iter().map(|step| u64::from(step.bake_s)).sum();
    let steps = u32::try_from(planned.steps.len()).unwrap_or(u32::MAX);
    let end = calls.shared().steady_now() + Duration::from_secs(bakes) + STEP_CAP * steps;
    html! {
        (parts::time(end))
        @if planned.steps.iter().any(|step| step.hold) { ", and later by as long as it waits for a person" }
    }
}

fn plan_of(planned: &Rollout, back: bool) -> Markup {
    let bakes: u64 = planned.steps.iter().map(|step| u64::from(step.bake_s)).sum();
    html! {
        @if back {
            p { "Every host at once, without canary or bake: hosts that still have it switch within seconds." }
        } @else {
            @if planned.steps.len() > 1 { ol .waves { @for step in &planned.steps {
                li { strong { (step.name) }
                    @if step.bake_s > 0 { " " span .small { "bake " (span(u64::from(step.bake_s))) } }
                    @if step.hold { " " span .small { "then a person" } } }
            } } }
            p {
                @if planned.release.plan == PlanName::AllAtOnce {
                    strong .bad { "Every host at once: no gate stands before the last one." }
                } @else {
                    "Bakes take " (span(bakes)) " if all is well; a failing step goes back by itself."
                }
            }
        }
    }
}

fn span(seconds: u64) -> String {
    took(std::time::Duration::from_secs(seconds))
}

async fn rollout(calls: &Calls, wish: &Wish) -> Result<Rollout, Problem> {
    let (app, env) = wish.place()?;
    let release = wish.release.map(|release| release.to_string()).unwrap_or_default();
    calls.get(&format!("/v1/apps/{app}/envs/{env}/rollouts/{release}")).await
}

fn of(open: &Rollout) -> Vec<(&'static str, String)> {
    let release = &open.release;
    vec![
        ("app", release.app.to_string()),
        ("env", release.env.to_string()),
        ("release", release.release.to_string()),
    ]
}

async fn promote(calls: &Calls, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    permitted(calls, Class::Deploy)?;
    let open = rollout(calls, wish).await?;
    let mut fields = of(&open);
    fields.push(("step", open.step.to_string()));
    let next = open.steps.get(open.step as usize + 1).map(|step| step.name.as_str());
    let title = format!("Promote {}", open.release.release);
    let full = [&fields[..], &[("full", "true".to_owned())]].concat();
    let main = html! {
        h1 { (title) }
        p { "Under way: " strong { (step_name(&open)) } "; " (open.waiting_on) "." }
        @match next {
            Some(next) => {
                (form("promote", csrf, &fields, "Begin the next step now", &html! {
                    p { "The rest of this step's wait is skipped; " strong { (next) } " begins." }
                }))
                (form("promote", csrf, &full, "Go to every host now", &html! {
                    p { "Every remaining step and bake is skipped." }
                }))
            }
            None => { (form("promote", csrf, &fields, "End it as succeeded", &html! {
                p { "This is the last step: the rest of its wait is skipped." }
            })) }
        }
        (home(&open))
    };
    Ok((title, main))
}

async fn cancel(calls: &Calls, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    permitted(calls, Class::Deploy)?;
    let open = rollout(calls, wish).await?;
    let release = &open.release;
    let fields = of(&open);
    let keep = [&fields[..], &[("keep", "true".to_owned())]].concat();
    let title = format!("Cancel {}", release.release);
    let begun = !matches!(release.state, RolloutState::Pending | RolloutState::Reverting);
    let can_go_back = begun && release.kind == RolloutKind::Deploy && open.base.is_some();
    let base = open.base.map(|base| base.release.to_string()).unwrap_or_default();
    let all = sum(open.regions.values());
    let main = html! {
        h1 { (title) }
        p { (count(u64::from(all.on_next), "host")) " of " (all.hosts) " on " (release.release) " now." }
        @if can_go_back {
            (form("cancel", csrf, &fields, "Stop, and go back", &html! {
                p { "Hosts go back to " strong { (base) } "." } (reason(false))
            }))
        }
        (form("cancel", csrf, &keep, "Stop, and leave hosts as they are", &html! {
            p { @if begun { "Hosts stay mixed, on purpose, until the next deploy." } @else { "Nothing more is done." } }
            label for="message2" { "Why" } input #message2 name="message" maxlength="600" size="50" autocomplete="off";
        }))
        (home(&open))
    };
    Ok((title, main))
}

fn home(open: &Rollout) -> Markup {
    let release = &open.release;
    let path = format!("{}/{}", parts::env_path(&release.app, &release.env), release.release);
    html! { p { a href=(path) { "Back, and change nothing" } } }
}

/// How long a freeze or a hold may last, hours, and how that is said; the first is the default.
const HOURS: [(u32, &str); 6] = [
    (4, "4 hours"),
    (1, "1 hour"),
    (12, "12 hours"),
    (24, "1 day"),
    (72, "3 days"),
    (168, "7 days"),
];

fn freeze(calls: &Calls, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    permitted(calls, Class::Deploy)?;
    let (app, env) = wish.place()?;
    let title = format!("Freeze {app} {env}");
    let fields = [("app", app.to_string()), ("env", env.to_string())];
    let main = html! {
        h1 { (title) }
        p { "No deploy starts while it lasts, and one under way pauses where its next step would begin. Rolling back always passes." }
        (form("freeze", csrf, &fields, "Freeze", &html! {
            (how_long())
            (reason(true))
        }))
        p { a href=(parts::env_path(app, env)) { "Back, and change nothing" } }
    };
    Ok((title, main))
}

fn how_long() -> Markup {
    html! {
        label for="hours" { "For" }
        select #hours name="hours" { @for (hours, said) in HOURS { option value=(hours) { (said) } } }
    }
}

/// Of an app's env, or of one of its hosts, which then can be pinned to a release.
fn hold(calls: &Calls, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    permitted(calls, Class::Deploy)?;
    let (app, env) = wish.place()?;
    let mut fields = vec![("app", app.to_string()), ("env", env.to_string())];
    fields.extend(wish.host.as_ref().map(|host| ("host", host.to_string())));
    let title = match &wish.host {
        Some(host) => format!("Keep {host} where it is"),
        None => format!("Hold {app} {env}"),
    };
    let back = if wish.host.is_some() { "/hosts".into() } else { parts::env_path(app, env) };
    let main = html! {
        h1 { (title) }
        @if wish.host.is_some() {
            p { "Whatever is deployed of " (app) " in " (env) ", this host stays on one release. No canary counts it, and rolling back says that it did not move it." }
        } @else {
            p { "No deploy starts until somebody who may deploy ends the hold, and one under way pauses where its next step would begin. Rolling back always passes." }
        }
        (form("hold", csrf, &fields, "Hold", &html! {
            @if wish.host.is_some() {
                label for="at" { "On release" span .dim { " (empty: what it runs)" } }
                input #at name="at" maxlength="60" size="12" autocomplete="off" placeholder="r1";
            }
            (how_long())
            (reason(true))
        }))
        p { a href=(back) { "Back, and change nothing" } }
    };
    Ok((title, main))
}

async fn build(calls: &Calls, wish: &Wish, csrf: &str) -> Result<Asked, Problem> {
    permitted(calls, Class::Build)?;
    let name = wish.app.as_ref().ok_or_else(|| no_page("/do/build"))?;
    let app: App = calls.get(&format!("/v1/apps/{name}")).await?;
    let found = commits::meant(calls, &app, wish.commit.trim()).await?;
    let Some(commit) = &found.commit else { return Err(no_page("/do/build")) };
    let title = format!("Build {name}");
    let mut fields = vec![("app", name.to_string()), ("commit", commit.to_string())];
    let is_name = found.rev != commit.as_str();
    let known = !found.subject.is_empty();
    if known {
        fields.push(("message", found.subject.clone()));
    }
    let main = html! {
        h1 { (title) }
        (form("build", csrf, &fields, "Build", &html! {
            p .lead { @if is_name { strong { (found.rev) } " is " } code { (commit.short()) } " " span .subject { (found.subject) } }
            p { "Commit " code { (commit) } " of " code { (app.spec.repo) } }
            p .dim { "It must be on " (app.spec.trunk) ". The same commit is built once: pressing again shows the same build." }
            @if !known {
                label for="message" { "Its subject, for others" }
                input #message name="message" maxlength="200" size="50" autocomplete="off";
            }
        }))
        p { a href={ "/apps/" (name) } { "Back, and build nothing" } }
    };
    Ok((title, main))
}

fn permitted(calls: &Calls, class: Class) -> Result<(), Problem> {
    match calls.barred(class) {
        Some(why) => Err(Problem::new(Code::Forbidden, why)),
        None => Ok(()),
    }
}
