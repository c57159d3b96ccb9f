//! Workers that are given nothing new: what they run they end, and then they may be stopped.
//!
//! By the name of a machine, which outlasts a restart of its worker, or by the id of one
//! start of one. A worker that waits for jobs goes on waiting, and knows nothing of it.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::admission::MESSAGE_BYTES_MAX;
use crate::coordinator::claims;
use crate::coordinator::state::Shared;
use crate::net::auth::Identity;
use crate::net::server::{Json, Path};
use crate::store::db::events::NewEvent;
use crate::store::db::{Topic, Tx, drains, workers};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{DrainRequest, Workers};

pub(super) async fn drain(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(name): Path<String>,
    Json(request): Json<DrainRequest>,
) -> Result<Json<Workers>, Problem> {
    if request.message.len() > MESSAGE_BYTES_MAX {
        return Err(Problem::new(Code::Usage, "the message is too long")
            .because(format!("at most {MESSAGE_BYTES_MAX} bytes")));
    }
    let (now, since) = (shared.steady_now(), claims::listed_since(&shared));
    let put = move |tx: &mut Tx| {
        let named = |name: &str, tx: &Tx| {
            let mut rows = workers::list(tx, since)?;
            rows.retain(|row| row.worker == name || row.machine == name);
            Ok::<_, Problem>(rows)
        };
        let there =
            if request.end { drains::remove(tx, &name)? } else { !named(&name, tx)?.is_empty() };
        if !there {
            let what = if request.end { "is not drained" } else { "was not heard of" };
            return Err(Problem::new(Code::NotFound, format!("the worker {name} {what}"))
                .because("a worker is named by its machine, or by its own id")
                .hint("deployctl workers"));
        }
        if !request.end {
            if drains::count(tx)? >= drains::DRAINS_MAX {
                return Err(Problem::new(Code::TooLarge, "too many workers are drained")
                    .because(format!("at most {} at once", drains::DRAINS_MAX))
                    .hint("deployctl admin drain-worker NAME --end"));
            }
            drains::put(tx, &name, (&who.name, &request.message), now)?;
        }
        let (kind, does) = match request.end {
            true => ("worker.resumed", "is given jobs again"),
            false => ("worker.draining", "is given no new jobs"),
        };
        let why = if request.message.is_empty() { "" } else { ": " };
        let message = format!("{name} {does}{why}{}", request.message);
        tx.event(&NewEvent::new(now, kind, &who.name, message))?;
        tx.touch(Topic::Jobs);
        Ok(Workers { workers: named(&name, tx)?, queue: None })
    };
    shared.db.write(put).await.map(Json)
}
