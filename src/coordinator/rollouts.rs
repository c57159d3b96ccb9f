//! Rollouts: asked for, watched, steered.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use crate::coordinator::admission::{Asked, MESSAGE_BYTES_MAX, Stop, admit};
use crate::coordinator::once::{self, Key, made_before};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::{Coordinator, Shared, wait_of};
use crate::coordinator::walk::{self, Before};
use crate::coordinator::{again, apps, bars, facts, outbox, refs, steer, view};
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::rollout::Approval;
use crate::model::time::UnixMillis;
use crate::net::auth::Identity;
use crate::net::server::{Json, Params, Path};
use crate::rules::authorize::{Class, may};
use crate::rules::rollout::command::{Command, Refusal};
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{Topic, Tx, envs};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::rollout::{
    ApprovalRequest, CancelRequest, PauseRequest, PromoteRequest, Rollout, RolloutRequest,
};

pub(super) fn routes() -> Vec<Route> {
    const ONE: &str = "/v1/apps/{app}/envs/{env}/rollouts/{release}";
    let steered = |route: Route, says| route.says(says).gives("Rollout");
    vec![
        post("/v1/apps/{app}/envs/{env}/rollouts", Class::Deploy, create)
            .says("Deploy or roll back; an identical open rollout is joined")
            .takes("RolloutRequest")
            .gives("Rollout"),
        get(ONE, Class::Read, show)
            .says("Show a rollout; with `since`, wait until it is newer than that stamp")
            .gives("Rollout"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/promote", Class::Deploy, promote),
            "Begin the next step now, or with `full` the last",
        )
        .takes("PromoteRequest"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/cancel", Class::Deploy, cancel),
            "Stop it: go back, or with `keep` leave hosts as they are",
        )
        .takes("CancelRequest"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/retry", Class::Deploy, retry),
            "Let failed hosts try again and run on",
        ),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/pause", Class::Deploy, pause),
            "Hold it where it is",
        )
        .takes("PauseRequest"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/approve", Class::Deploy, approve),
            "Approve a rollout that somebody else asked for",
        )
        .takes("ApprovalRequest"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/reject", Class::Deploy, reject),
            "End a rollout that waits for approval",
        )
        .takes("ApprovalRequest"),
        steered(
            post("/v1/apps/{app}/envs/{env}/rollouts/{release}/resume", Class::Deploy, resume),
            "Go on after a pause",
        ),
    ]
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path((app, env)): Path<(AppName, EnvName)>,
    key: Key,
    Json(request): Json<RolloutRequest>,
) -> Result<Json<Rollout>, Problem> {
    if request.break_glass && !may(who.role, Class::Manage) {
        return Err(Problem::new(Code::Forbidden, "only an admin breaks the glass")
            .because(format!("the token of {} has the role {}", who.name, who.role.word())));
    }
    let asked = Arc::new(Asked { app, env, actor: who.name, key, request });
    let (within, wish) = (shared.clone(), asked.clone());
    let work = move |tx: &mut Tx, before: &Before| admit(tx, &within, &wish, before);
    let admitted = walk::write(&shared, work).await;
    match admitted {
        Ok(rollout) => {
            outbox::drain(&shared).await;
            Ok(Json(rollout))
        }
        Err(Stop::Dry(rollout)) => Ok(Json(*rollout)),
        Err(Stop::Refused(problem)) => Err(again::as_narrow(problem, &asked.request)),
        Err(Stop::Walk(_)) => unreachable!("what is to be walked first was walked"),
    }
}

#[derive(Deserialize)]
struct Watch {
    since: Option<u64>,
    #[serde(default)]
    wait_ms: u64,
}

async fn show(
    State(shared): State<Shared>,
    Path(place): Path<(AppName, EnvName, ReleaseNo)>,
    Params(watch): Params<Watch>,
) -> Result<Json<Rollout>, Problem> {
    let read = async || {
        let (within, place) = (shared.clone(), place.clone());
        shared.db.read(move |tx| look(tx, &within, &place)).await
    };
    let Some(since) = watch.since else { return read().await.map(Json) };
    let newer = async || {
        let rollout = read().await?;
        let over = rollout.release.state.is_final();
        Ok((rollout.stamp > since || over).then_some(rollout))
    };
    match shared.wait_for(Topic::Rollouts, wait_of(watch.wait_ms), newer).await? {
        Some(rollout) => Ok(Json(rollout)),
        None => read().await.map(Json),
    }
}

type Place = (AppName, EnvName, ReleaseNo);

/// The release at `place`.
///
/// # Errors
/// `not_found`, naming what there is.
pub(super) fn find(tx: &Tx, (app, env, release): &Place) -> Result<ReleaseRow, Problem> {
    let spec = apps::known(tx, app, Some(env))?;
    releases::find(tx, app, env, *release)?.ok_or_else(|| refs::no_release(&spec, env, *release))
}

fn look(tx: &Tx, shared: &Coordinator, place: &Place) -> Result<Rollout, Problem> {
    Ok(view::rollout(tx, shared, &find(tx, place)?)?)
}

async fn promote(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
    Json(request): Json<PromoteRequest>,
) -> Result<Json<Rollout>, Problem> {
    let asked = asked(&place, "promote", &request);
    let PromoteRequest { full, expect_step } = request;
    steer(shared, (who, key, asked), place, (Command::Promote { full }, expect_step)).await
}

async fn cancel(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
    Json(request): Json<CancelRequest>,
) -> Result<Json<Rollout>, Problem> {
    let why = said("canceled", &who, &request.message)?;
    let asked = asked(&place, "cancel", &request);
    let command = Command::Cancel { keep: request.keep, why };
    steer(shared, (who, key, asked), place, (command, None)).await
}

async fn retry(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
) -> Result<Json<Rollout>, Problem> {
    let asked = asked(&place, "retry", &());
    steer(shared, (who, key, asked), place, (Command::Retry, None)).await
}

async fn pause(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
    Json(request): Json<PauseRequest>,
) -> Result<Json<Rollout>, Problem> {
    let why = said("paused", &who, &request.message)?;
    let asked = asked(&place, "pause", &request);
    steer(shared, (who, key, asked), place, (Command::Pause { why }, None)).await
}

async fn resume(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
) -> Result<Json<Rollout>, Problem> {
    let asked = asked(&place, "resume", &());
    steer(shared, (who, key, asked), place, (Command::Resume, None)).await
}

async fn approve(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
    Json(request): Json<ApprovalRequest>,
) -> Result<Json<Rollout>, Problem> {
    said("approved", &who, &request.message)?;
    let asked = asked(&place, "approve", &request);
    let (by, at) = (who.name.clone(), shared.steady_now());
    let by = Approval { by, at, message: request.message };
    // Who asked is only known with the row: it is put in there.
    let command = Command::Approve { author: String::new(), by };
    steer(shared, (who, key, asked), place, (command, None)).await
}

async fn reject(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(place): Path<Place>,
    key: Key,
    Json(request): Json<ApprovalRequest>,
) -> Result<Json<Rollout>, Problem> {
    let why = said("rejected", &who, &request.message)?;
    let asked = asked(&place, "reject", &request);
    steer(shared, (who, key, asked), place, (Command::Reject { why }, None)).await
}

/// Who did what and why, as one sentence.
fn said(done: &str, who: &Identity, message: &str) -> Result<String, Problem> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Problem::new(Code::Usage, "the message is too long")
            .because(format!("at most {MESSAGE_BYTES_MAX} bytes")));
    }
    Ok(match message {
        "" => format!("{done} by {}", who.name),
        message => format!("{done} by {}: {message}", who.name),
    })
}

/// What is asked of the rollout at `place`, as it is told from other changes.
fn asked((app, env, release): &Place, verb: &str, request: &impl Serialize) -> String {
    once::asked(format!("{verb} {app} {env} {release}"), request)
}

async fn steer(
    shared: Shared,
    (who, key, asked): (Identity, Key, String),
    place: Place,
    (command, step): (Command, Option<u32>),
) -> Result<Json<Rollout>, Problem> {
    let within = shared.clone();
    let follow = move |tx: &mut Tx| {
        let mut row = find(tx, &place)?;
        let now = within.steady_now();
        let command = match command {
            Command::Approve { by, .. } => Command::Approve { author: row.actor.clone(), by },
            other => other,
        };
        if made_before(tx, &who.name, &key, &asked, now)? {
            return Ok(view::rollout(tx, &within, &row)?);
        }
        check_current(tx, &row, &command)?;
        check_not_barred(tx, &row, &command, now)?;
        check_step(&row, step)?;
        let facts = facts::load(tx, &within, &row.rollout)?;
        let actions = row.rollout.command(now, command, &facts);
        let actions = actions.map_err(|refusal| refused(&row, refusal))?;
        steer::save(tx, &within, &mut row, actions, (&who.name, &facts))?;
        Ok::<_, Problem>(view::rollout(tx, &within, &row)?)
    };
    let rollout = shared.db.write(follow).await?;
    outbox::drain(&shared).await;
    Ok(Json(rollout))
}

/// Only the rollout whose goal stands may try again: hosts refuse older goals.
fn check_current(tx: &Tx, row: &ReleaseRow, command: &Command) -> Result<(), Problem> {
    let rules = &row.rollout;
    if *command != Command::Retry {
        return Ok(());
    }
    let env = envs::find(tx, &rules.app, &rules.env)?;
    let open = releases::open(tx, &rules.app, &rules.env)?;
    let other = open.is_some_and(|open| open.rollout.release != rules.release);
    let stands = rules.version.is_none_or(|version| version.generation == env.generation);
    if stands && !other {
        return Ok(());
    }
    Err(Problem::new(Code::Conflict, format!("{} can't try again", rules.release))
        .because(format!("something newer was deployed to {}", rules.env))
        .hint(format!("deployctl deploy {} -a {} -e {}", rules.release, rules.app, rules.env)))
}

/// What admits more hosts is stopped by a freeze or a hold, whoever asks.
fn check_not_barred(
    tx: &Tx,
    row: &ReleaseRow,
    command: &Command,
    now: UnixMillis,
) -> Result<(), Problem> {
    let rules = &row.rollout;
    let forward = matches!(command, Command::Promote { .. } | Command::Resume);
    if !forward || rules.through_freeze || row.is_rollback() || rules.went_back {
        return Ok(());
    }
    let place = (&rules.app, &rules.env);
    match bars::stopping(tx, place, now)? {
        Some(bar) => Err(bar.refusal(place, None)),
        None => Ok(()),
    }
}

/// Whoever promotes says which step was looked at; a later one was not.
fn check_step(row: &ReleaseRow, expected: Option<u32>) -> Result<(), Problem> {
    let rules = &row.rollout;
    let Some(expected) = expected.filter(|step| *step != rules.step) else { return Ok(()) };
    let name = |step: u32| rules.steps.get(step as usize).map_or("", |step| step.name.as_str());
    let (was, is) = (name(expected), name(rules.step));
    Err(Problem::new(Code::Conflict, format!("{} went on in between", rules.release))
        .because(format!("the step {was:?} was expected, {is:?} is under way"))
        .hint(format!("deployctl watch {} -a {} -e {}", rules.release, rules.app, rules.env)))
}

fn refused(row: &ReleaseRow, refusal: Refusal) -> Problem {
    let rules = &row.rollout;
    let place = format!("-a {} -e {}", rules.app, rules.env);
    let release = rules.release;
    let problem = Problem::new(Code::Conflict, format!("{release} can't do that now"))
        .because(refusal.to_string());
    match refusal {
        Refusal::Over(_) => problem.hint(format!("deployctl history {place}")),
        Refusal::NotBegun | Refusal::GoingBack => {
            problem.hint(format!("deployctl watch {release} {place}"))
        }
        Refusal::Rollback | Refusal::NoBase => {
            problem.hint(format!("deployctl cancel {release} --keep {place}"))
        }
        Refusal::OwnWork => Problem::new(Code::Forbidden, format!("{release} is your own"))
            .because(format!(
                "{} asked for it, so somebody else must approve it with the line below",
                row.actor
            ))
            .hint(format!("deployctl approve {release} {place}")),
        Refusal::NotAwaited => problem.hint(format!("deployctl watch {release} {place}")),
        Refusal::Held | Refusal::NoneFailed => {
            let keep = if rules.can_revert() { "" } else { " --keep" };
            let ways = problem
                .hint(format!("deployctl promote {release} {place}"))
                .hint(format!("deployctl cancel {release}{keep} {place}"));
            // Of the same bits a rollback goes further back than to what ran before.
            let base = rules.stable.base.filter(|base| row.bits() != Some(base.bits()));
            match base.filter(|_| rules.can_revert()) {
                Some(_) => ways.hint(format!("deployctl rollback {place}")),
                None => ways,
            }
        }
        Refusal::NotPaused => problem.hint(format!("deployctl status {}", rules.app)),
    }
}
