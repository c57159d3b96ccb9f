//! `POST /v1/links`: a link that signs a browser in, once and soon, as the holder of
//! the token that asked. So that no token has to be pasted anywhere.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;

use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::web::{page, session};
use crate::net::auth::Identity;
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::sessions::Kind;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::link::{Link, LinkRequest};

/// How long a link is good.
const LINK: Duration = Duration::from_secs(300);

pub(in crate::coordinator) fn routes() -> Vec<Route> {
    vec![
        post("/v1/links", Class::Read, create)
            .says("Make a link that signs a browser in once, as whoever asks")
            .takes("LinkRequest")
            .gives("Link"),
    ]
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(request): Json<LinkRequest>,
) -> Result<Json<Link>, Problem> {
    if !page::is_local(&request.page) {
        return Err(Problem::new(Code::Usage, "page: a path of this server, such as /apps/web")
            .because("at most 500 bytes, without control characters"));
    }
    let secret = session::begin(&shared, Kind::Link, &who.token, LINK).await?;
    let path = format!("/signin?link={secret}&page={}", page::escaped(&request.page));
    Ok(Json(Link { path, until: shared.steady_now() + LINK }))
}
