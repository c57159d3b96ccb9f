//! Freezes: asked for, listed, ended; and the refusal of what they stop.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;

use crate::coordinator::admission::MESSAGE_BYTES_MAX;
use crate::coordinator::once::{self, Key, made_before};
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{apps, outbox};
use crate::model::freeze::Freeze;
use crate::model::id::FreezeNo;
use crate::net::auth::Identity;
use crate::net::server::{Json, Path};
use crate::rules::authorize::{Class, may};
use crate::store::db::events::NewEvent;
use crate::store::db::{Tx, freezes};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::freeze::{FreezeRequest, Freezes};

/// Longest freeze, and longest time before it begins, seconds [orchestration 6.12].
const LASTS_S_MAX: u32 = 30 * 86_400;
const STARTS_IN_S_MAX: u32 = 90 * 86_400;
/// Most freezes that are not over.
const FREEZES_MAX: usize = 1_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/freezes", Class::Read, list)
            .says("List the freezes that are not over")
            .gives("Freezes"),
        post("/v1/freezes", Class::Deploy, create)
            .says("Start a freeze: a window in which no deploy starts")
            .takes("FreezeRequest")
            .gives("Freeze"),
        post("/v1/freezes/{freeze}/end", Class::Deploy, end)
            .says("End a freeze: one's own, or as an admin any")
            .gives("Freeze"),
    ]
}

async fn list(State(shared): State<Shared>) -> Result<Json<Freezes>, Problem> {
    let now = shared.steady_now();
    let freezes = shared.db.read(move |tx| freezes::standing(tx, now)).await?;
    Ok(Json(Freezes { freezes }))
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    key: Key,
    Json(request): Json<FreezeRequest>,
) -> Result<Json<Freeze>, Problem> {
    check_bounds(&request)?;
    let now = shared.steady_now();
    let insert = move |tx: &mut Tx| {
        check_scope(tx, &request)?;
        let asked = once::asked("freeze", &request);
        let standing = freezes::standing(tx, now)?;
        if made_before(tx, &who.name, &key, &asked, now)? {
            let same =
                |freeze: &&Freeze| freeze.actor == who.name && freeze.reason == request.reason;
            let over = || Problem::new(Code::Conflict, "that freeze was made and is over since");
            return standing.iter().rfind(same).cloned().ok_or_else(over);
        }
        if standing.len() >= FREEZES_MAX {
            let title = format!("there are {FREEZES_MAX} freezes already");
            return Err(Problem::new(Code::Blocked, title).hint("deployctl freeze list"));
        }
        let from = now + Duration::from_secs(request.starts_in_s.into());
        let until = from + Duration::from_secs(request.lasts_s.into());
        let freeze = Freeze {
            freeze: FreezeNo(0),
            app: request.app,
            env: request.env,
            reason: request.reason,
            actor: who.name,
            from,
            until,
            ended_at: None,
            ended_by: None,
        };
        let freeze = freezes::insert(tx, freeze)?;
        let message =
            format!("{} frozen from {}: {}", freeze.scope(), freeze.from, freeze.sentence());
        tell(tx, "freeze.started", (&freeze, &freeze.actor, message), now)?;
        Ok(freeze)
    };
    Ok(Json(shared.db.write(insert).await?))
}

async fn end(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(no): Path<FreezeNo>,
) -> Result<Json<Freeze>, Problem> {
    let now = shared.steady_now();
    let end = move |tx: &mut Tx| {
        let freeze = freezes::find(tx, no)?.ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no freeze {no}"))
                .hint("deployctl freeze list")
        })?;
        if freeze.actor != who.name && !may(who.role, Class::Manage) {
            return Err(Problem::new(Code::Forbidden, format!("{no} is not yours to end"))
                .because(format!("{} started it; an admin may end it too", freeze.actor)));
        }
        if freeze.ended_at.is_none() && freeze.until > now {
            freezes::end(tx, no, &who.name, now)?;
            let message = format!("{} not frozen any more ({no})", freeze.scope());
            tell(tx, "freeze.ended", (&freeze, &who.name, message), now)?;
        }
        Ok(freezes::find(tx, no)?.unwrap_or(freeze))
    };
    let freeze = shared.db.write(end).await?;
    outbox::drain(&shared).await;
    Ok(Json(freeze))
}

fn tell(
    tx: &mut Tx,
    kind: &'static str,
    (freeze, actor, message): (&Freeze, &str, String),
    now: crate::model::time::UnixMillis,
) -> Result<(), Problem> {
    let mut event = NewEvent::new(now, kind, actor, message);
    if let Some(app) = &freeze.app {
        event = event.app(app);
    }
    if let Some(env) = &freeze.env {
        event = event.env(env);
    }
    Ok(tx.event(&event)?)
}

fn check_bounds(request: &FreezeRequest) -> Result<(), Problem> {
    let usage =
        |why: String| Err(Problem::new(Code::Usage, "the freeze is out of bounds").because(why));
    if request.reason.is_empty() || request.reason.len() > MESSAGE_BYTES_MAX {
        return usage(format!("reason: 1 to {MESSAGE_BYTES_MAX} bytes"));
    }
    if request.lasts_s == 0 || request.lasts_s > LASTS_S_MAX {
        return usage(format!("lasts_s: 1 to {LASTS_S_MAX}"));
    }
    if request.starts_in_s > STARTS_IN_S_MAX {
        return usage(format!("starts_in_s: at most {STARTS_IN_S_MAX}"));
    }
    Ok(())
}

fn check_scope(tx: &Tx, request: &FreezeRequest) -> Result<(), Problem> {
    match &request.app {
        Some(app) => apps::known(tx, app, request.env.as_ref()).map(drop),
        None => Ok(()),
    }
}
