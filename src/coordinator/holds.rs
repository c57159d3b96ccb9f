//! Holds and pins: asked for, listed, ended; and told to hosts by the goal.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;

use crate::coordinator::admission::MESSAGE_BYTES_MAX;
use crate::coordinator::once::{self, Key, made_before};
use crate::coordinator::refs::{Named, resolve};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::{apps, facts, outbox, reached, readiness, steer};
use crate::model::config::Bits;
use crate::model::goal::Target;
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, HoldNo, RegionName};
use crate::model::time::UnixMillis;
use crate::net::auth::Identity;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{DbError, Tx, deployables, holds, hosts, releases};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::HostRow;
use crate::wire::v1::hold::{HoldRequest, Holds};

/// Longest hold, seconds [orchestration 6.12].
const LASTS_S_MAX: u32 = 30 * 86_400;
/// Most holds that are not over.
const HOLDS_MAX: usize = 1_000;
/// Most of them that are about hosts or regions of one app and env: each goal names them.
const PINS_MAX: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/holds", Class::Read, list)
            .says("List the holds and pins that are not over")
            .gives("Holds"),
        post("/v1/holds", Class::Deploy, create)
            .says("Keep an app, a host or a region where it is, or pin it to a release")
            .takes("HoldRequest")
            .gives("Hold"),
        post("/v1/holds/{hold}/end", Class::Deploy, end)
            .says("Release what a hold or a pin keeps, whoever asked for it")
            .gives("Hold"),
    ]
}

async fn list(State(shared): State<Shared>) -> Result<Json<Holds>, Problem> {
    let now = shared.steady_now();
    let holds = shared.db.read(move |tx| holds::standing(tx, now)).await?;
    Ok(Json(Holds { holds }))
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    key: Key,
    Json(request): Json<HoldRequest>,
) -> Result<Json<Hold>, Problem> {
    check_bounds(&request)?;
    let within = shared.clone();
    let insert = move |tx: &mut Tx| make(tx, &within, &who.name, &key, request);
    let hold = shared.db.write(insert).await?;
    outbox::drain(&shared).await;
    Ok(Json(hold))
}

fn make(
    tx: &mut Tx,
    shared: &Coordinator,
    actor: &str,
    key: &Key,
    request: HoldRequest,
) -> Result<Hold, Problem> {
    let now = shared.steady_now();
    let asked = once::asked("hold", &request);
    let wish = read(tx, shared, actor, request)?;
    let standing = holds::standing(tx, now)?;
    let same_place = |other: &Hold| {
        (&other.app, &other.env, &other.host) == (&wish.app, &wish.env, &wish.host)
            && (wish.host.is_some() || other.region == wish.region)
    };
    if made_before(tx, actor, key, &asked, now)? {
        let same = |hold: &&Hold| hold.actor == actor && same_place(hold);
        let over = || Problem::new(Code::Conflict, "that hold was made and is over since");
        return standing.iter().rfind(same).cloned().ok_or_else(over);
    }
    let old: Vec<&Hold> = standing.iter().filter(|hold| same_place(hold)).collect();
    let placed = |hold: &&Hold| {
        let apps = wish.app.is_none() || hold.app.is_none() || hold.app == wish.app;
        let envs = wish.env.is_none() || hold.env.is_none() || hold.env == wish.env;
        hold.is_placed() && apps && envs
    };
    let crowded = wish.is_placed() && standing.iter().filter(placed).count() >= PINS_MAX;
    if old.is_empty() && (crowded || standing.len() >= HOLDS_MAX) {
        let most = if crowded { PINS_MAX } else { HOLDS_MAX };
        return Err(Problem::new(Code::Blocked, format!("there are {most} holds already"))
            .because("a label and a selector of the app are for more hosts than that")
            .hint("deployctl hold list"));
    }
    let hold = holds::insert(tx, Hold { from: now, until: now + lasts(&wish), ..wish.clone() })?;
    for old in old {
        holds::end(tx, old.hold, actor, now)?;
        let message = format!("{} gave way to {}", old.hold, hold.hold);
        tell(tx, "hold.ended", (old, actor, message), now)?;
    }
    let what = match hold.at {
        Some(at) => format!("pinned to {}", at.release),
        None => "held".to_owned(),
    };
    let message = format!("{} {what}: {}", hold.scope(), hold.sentence());
    tell(tx, "hold.started", (&hold, actor, message), now)?;
    restate(tx, shared, &hold)?;
    Ok(hold)
}

/// How long a wish lasts: it was read with its beginning at zero.
fn lasts(wish: &Hold) -> Duration {
    wish.until.since(wish.from)
}

/// What is asked for, checked against what there is.
fn read(tx: &Tx, shared: &Coordinator, actor: &str, request: HoldRequest) -> Result<Hold, Problem> {
    let (mut env, mut region) = (request.env, request.region);
    if let Some(host) = &request.host {
        let row = find_host(tx, host.as_str())?.ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no host {host}")).hint("deployctl hosts")
        })?;
        let own = row.info.env;
        if env.as_ref().is_some_and(|env| *env != own) {
            return Err(Problem::new(Code::NotFound, format!("{host} serves {own}"))
                .because("a hold of a host is in the host's own env")
                .hint(format!("deployctl hosts {host}")));
        }
        (env, region) = (Some(own), Some(row.region));
    } else if let Some(region) = &region {
        reached::check_known(&facts::region_names(tx, shared)?, std::iter::once(region))?;
    }
    let known = |app| apps::known(tx, app, env.as_ref());
    let spec = request.app.as_ref().map(known).transpose()?;
    let at = match (&request.release, spec.as_ref().zip(env.as_ref())) {
        (None, _) => None,
        (Some(text), Some((spec, env))) => Some(target(tx, (spec, env), text)?),
        (Some(_), None) => {
            return Err(Problem::new(Code::Usage, "a pin is of one app and env")
                .because("releases are numbered per app and env"));
        }
    };
    let until = UnixMillis(0) + Duration::from_secs(request.lasts_s.into());
    Ok(Hold {
        hold: HoldNo(0),
        app: request.app,
        env,
        host: request.host,
        region,
        at,
        reason: request.reason,
        actor: actor.to_owned(),
        from: UnixMillis(0),
        until,
        ended_at: None,
        ended_by: None,
    })
}

fn find_host(tx: &Tx, host: &str) -> Result<Option<HostRow>, DbError> {
    let filter = hosts::Filter { host: Some(host.to_owned()), ..hosts::Filter::default() };
    let (rows, _) = hosts::list(tx, &filter, 100)?;
    Ok(rows.into_iter().find(|row| row.info.host.as_str() == host))
}

/// The release that a pin names: one that the env has run, and that is not bad.
fn target(
    tx: &Tx,
    (spec, env): (&crate::wire::v1::app::AppSpec, &EnvName),
    text: &str,
) -> Result<Target, Problem> {
    let app = &spec.name;
    let never = |what: String| {
        Problem::new(Code::NotFound, format!("{what} was never deployed to {env}"))
            .because("a pin names a release that the env has begun")
            .hint(format!("deployctl history -a {app} -e {env}"))
    };
    let row = match resolve(tx, spec, env, text)? {
        Named::Release(row) if row.rollout.env == *env => *row,
        Named::Release(row) => return Err(never(row.rollout.release.to_string())),
        Named::Build(build) => {
            let rows = releases::list(tx, app, env, None, 500)?;
            let same = rows.into_iter().find(|row| row.build == build.build);
            same.ok_or_else(|| never(build.commit.short().to_owned()))?
        }
    };
    let release = row.rollout.release;
    if row.bad {
        return Err(Problem::new(Code::Blocked, format!("{release} was marked bad in {env}"))
            .because("a release of it failed or was rolled back"));
    }
    if let Some(build) = deployables::find(tx, app, row.build)?.filter(|build| build.collected) {
        return Err(readiness::collected((app, env), &build));
    }
    let began = row.artifact.filter(|_| row.rollout.version.is_some());
    let artifact = began.ok_or_else(|| never(release.to_string()))?;
    Ok(Target { release, artifact, config: row.rollout.config })
}

async fn end(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(no): Path<HoldNo>,
) -> Result<Json<Hold>, Problem> {
    let within = shared.clone();
    let end = move |tx: &mut Tx| {
        let hold = holds::find(tx, no)?.ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no hold {no}"))
                .hint("deployctl hold list")
        })?;
        let now = within.steady_now();
        if hold.stands(now) {
            holds::end(tx, no, &who.name, now)?;
            let message = format!("{} not held any more ({no})", hold.scope());
            tell(tx, "hold.ended", (&hold, &who.name, message), now)?;
            restate(tx, &within, &hold)?;
        }
        Ok::<_, Problem>(holds::find(tx, no)?.unwrap_or(hold))
    };
    let hold = shared.db.write(end).await?;
    outbox::drain(&shared).await;
    Ok(Json(hold))
}

/// Ends the pins and holds of hosts that would keep them out of a way back: those that
/// name what is left (`leaving`), or with `every` all of them. The goal that follows in
/// the same transaction does not name them any more.
pub(super) fn make_way(
    tx: &mut Tx,
    shared: &Coordinator,
    (app, env, regions): (&AppName, &EnvName, &[RegionName]),
    (leaving, every): (Option<Bits>, bool),
    actor: &str,
) -> Result<(), DbError> {
    let now = shared.steady_now();
    for hold in holds::placed(tx, (app, env), now)? {
        let there = regions.is_empty() || hold.region.as_ref().is_some_and(|r| regions.contains(r));
        let bad = hold.at.is_some_and(|at| Some(at.bits()) == leaving);
        if there && (bad || every) {
            holds::end(tx, hold.hold, actor, now)?;
            let message =
                format!("{} not held any more: a way back ended {}", hold.scope(), hold.hold);
            tell(tx, "hold.ended", (&hold, actor, message), now)?;
            // One of every app ends for the others too.
            restate_others(tx, shared, &hold, Some((app, env)))?;
        }
    }
    Ok(())
}

/// Whether [`lapse`] has something to do.
pub(super) fn any_lapsed(tx: &Tx, shared: &Coordinator) -> Result<bool, DbError> {
    Ok(!holds::lapsed(tx, shared.steady_now())?.is_empty())
}

/// Ends the holds whose time is over, and tells hosts.
pub(super) fn lapse(tx: &mut Tx, shared: &Coordinator) -> Result<(), DbError> {
    let now = shared.steady_now();
    for hold in holds::lapsed(tx, now)? {
        holds::end(tx, hold.hold, steer::SELF, now)?;
        let message =
            format!("{} not held any more: the time of {} is over", hold.scope(), hold.hold);
        tell(tx, "hold.ended", (&hold, steer::SELF, message), now)?;
        restate(tx, shared, &hold)?;
    }
    Ok(())
}

/// Sends every goal that `hold` is about once more.
fn restate(tx: &mut Tx, shared: &Coordinator, hold: &Hold) -> Result<(), DbError> {
    restate_others(tx, shared, hold, None)
}

fn restate_others(
    tx: &mut Tx,
    shared: &Coordinator,
    hold: &Hold,
    but: Option<(&AppName, &EnvName)>,
) -> Result<(), DbError> {
    if !hold.is_placed() {
        return Ok(());
    }
    for app in crate::store::db::apps::list(tx)? {
        for env in app.spec.envs.iter().filter(|env| hold.is_of(&app.spec.name, env)) {
            if but != Some((&app.spec.name, env)) {
                steer::restate(tx, shared, (&app.spec.name, env), None)?;
            }
        }
    }
    Ok(())
}

fn tell(
    tx: &mut Tx,
    kind: &'static str,
    (hold, actor, message): (&Hold, &str, String),
    now: UnixMillis,
) -> Result<(), DbError> {
    let mut event = NewEvent::new(now, kind, actor, message);
    if let Some(app) = &hold.app {
        event = event.app(app);
    }
    if let Some(env) = &hold.env {
        event = event.env(env);
    }
    tx.event(&event)
}

fn check_bounds(request: &HoldRequest) -> Result<(), Problem> {
    let usage =
        |why: String| Err(Problem::new(Code::Usage, "the hold is out of bounds").because(why));
    if request.reason.is_empty() || request.reason.len() > MESSAGE_BYTES_MAX {
        return usage(format!("reason: 1 to {MESSAGE_BYTES_MAX} bytes"));
    }
    if request.lasts_s == 0 || request.lasts_s > LASTS_S_MAX {
        return usage(format!("lasts_s: 1 to {LASTS_S_MAX}"));
    }
    if request.host.is_some() && request.region.is_some() {
        return usage("host and region: one of them".into());
    }
    if request.release.is_some() && request.host.is_none() && request.region.is_none() {
        return usage("release: a pin is of a host or a region".into());
    }
    Ok(())
}
