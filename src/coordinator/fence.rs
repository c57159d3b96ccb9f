//! `POST /v1/fence`: every goal once more, under a new epoch.
//!
//! Regions and hosts refuse goals that are not newer than theirs. Where they have seen newer
//! ones than this database wrote (a document that was put there by hand, a database that was
//! set back), they would refuse everything from here on. A new epoch passes whatever they saw.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::admission::MESSAGE_BYTES_MAX;
use crate::coordinator::once::{self, Key, made_before};
use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{outbox, steer};
use crate::net::auth::Identity;
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{Tx, apps, envs, goals};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::rollout::{FenceRequest, Fenced};

/// Highest epoch that can be asked for: room for any number of fences after it.
const EPOCH_MAX: u64 = 1_000_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/fence", Class::Manage, fence)
            .says("Raise the epoch and send every goal once more, past all that hosts have seen")
            .takes("FenceRequest")
            .gives("Fenced"),
    ]
}

async fn fence(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    key: Key,
    Json(request): Json<FenceRequest>,
) -> Result<Json<Fenced>, Problem> {
    let asked = once::asked("fence", &request);
    let FenceRequest { above, message } = request;
    let empty = message.trim().is_empty();
    if empty || message.len() > MESSAGE_BYTES_MAX || above >= EPOCH_MAX {
        return Err(Problem::new(Code::Usage, "the fence is out of bounds").because(format!(
            "message: 1 to {MESSAGE_BYTES_MAX} bytes; above: less than {EPOCH_MAX}"
        )));
    }
    let within = shared.clone();
    let raise = move |tx: &mut Tx| {
        let (now, known) = (within.steady_now(), envs::fresh(tx)?);
        if made_before(tx, &who.name, &key, &asked, now)? {
            return Ok(Fenced { epoch: known.epoch, goals: 0 });
        }
        let epoch = known.epoch.max(goals::newest(tx)?.epoch).max(above) + 1;
        envs::raise(tx, crate::model::goal::GoalVersion { epoch, ..known })?;
        let mut sent = 0;
        for app in apps::list(tx)? {
            for env in &app.spec.envs {
                let place = (&app.spec.name, env);
                sent += u32::from(steer::restate(tx, &within, place, Some(epoch))?);
            }
        }
        let message = format!("{} raised the epoch to {epoch}: {message}", who.name);
        tx.event(&NewEvent::new(now, "goals.fenced", &who.name, message))?;
        Ok::<_, Problem>(Fenced { epoch, goals: sent })
    };
    let fenced = shared.db.write(raise).await?;
    outbox::drain(&shared).await;
    Ok(Json(fenced))
}
