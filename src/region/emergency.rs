//! Goals by hand, for when every coordinator is gone: read what the region mirrors,
//! put one signed goal into it.
//!
//! The caller holds the region's own token: that file is on the region's machine, and
//! no coordinator is needed to check it. What counts is the goal's own signature and
//! version, exactly as if the feed had brought it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::{get, put};
use subtle::ConstantTimeEq;

use crate::net::server::Json;
use crate::region::mirror::{Mirror, Placed};
use crate::wire::problem::{Code, Problem};
use crate::wire::seal::Sealed;
use crate::wire::v1::region::Goals;

struct Desk {
    mirror: Arc<Mirror>,
    /// The region's own token.
    token: String,
}

/// The routes, open to whoever holds `token`.
pub fn routes(mirror: Arc<Mirror>, token: String) -> Router {
    Router::new()
        .route("/v1/emergency/goals", get(list))
        .route("/v1/emergency/goal", put(place))
        .with_state(Arc::new(Desk { mirror, token }))
}

fn check(desk: &Desk, headers: &HeaderMap) -> Result<(), Problem> {
    let header = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let wanted = format!("Bearer {}", desk.token);
    if bool::from(header.ct_eq(wanted.as_bytes())) {
        return Ok(());
    }
    Err(Problem::new(Code::Unauthenticated, "the region's own token is needed")
        .because("it is the file that deployctl-region was started with")
        .hint("deployctl help runbook"))
}

async fn list(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Result<Json<Goals>, Problem> {
    check(&desk, &headers)?;
    Ok(Json(Goals { goals: desk.mirror.sealed() }))
}

async fn place(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    Json(sealed): Json<Sealed>,
) -> Result<Json<Goals>, Problem> {
    check(&desk, &headers)?;
    let region = desk.mirror.region();
    let placed = desk.mirror.place(sealed.clone()).await;
    match placed
        .map_err(|error| Problem::new(Code::Internal, "the goal was not saved").because(error))?
    {
        Placed::Taken => {
            tracing::warn!(%region, "a goal was put here by hand");
            Ok(Json(Goals { goals: vec![sealed] }))
        }
        Placed::Stands(version) => {
            Err(Problem::new(Code::Conflict, "a goal that is not older stands")
                .because(format!(
                    "{region} has generation {} of epoch {}",
                    version.generation, version.epoch
                ))
                .hint("deployctl help runbook"))
        }
        Placed::Unsound => Err(Problem::new(Code::Forbidden, "no trusted key signed this goal")
            .because(format!("{region} believes the keys in the coordinator's trust.json"))),
    }
}
