//! Configurations: which one a new release has, and what is in it.

use axum::extract::State;

use crate::coordinator::apps;
use crate::coordinator::router::{Route, get};
use crate::coordinator::state::Shared;
use crate::model::config::identify;
use crate::model::digest::ConfigId;
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::rollout::{RolloutKind, RolloutState};
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::envs::EnvRow;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, configs};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::config::{Config, ConfigWish};
use crate::wire::v1::rollout::RolloutRequest;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps/{app}/configs/{config}", Class::Read, show)
            .says("Show a configuration")
            .gives("Config"),
        get("/v1/region/configs/{config}", Class::Region, give)
            .says("Give a region a configuration that a goal names")
            .gives("Config"),
    ]
}

async fn show(
    State(shared): State<Shared>,
    Path((app, config)): Path<(AppName, ConfigId)>,
) -> Result<Json<Config>, Problem> {
    let find = move |tx: &Tx| {
        crate::store::db::apps::find(tx, &app)?.ok_or_else(|| apps::unknown(&app))?;
        configs::find(tx, &app, config)?.ok_or_else(|| absent(config))
    };
    shared.db.read(find).await.map(Json)
}

async fn give(
    State(shared): State<Shared>,
    Path(config): Path<ConfigId>,
) -> Result<Json<Config>, Problem> {
    let find = move |tx: &Tx| configs::of_any_app(tx, config)?.ok_or_else(|| absent(config));
    shared.db.read(find).await.map(Json)
}

fn absent(config: ConfigId) -> Problem {
    Problem::new(Code::NotFound, format!("there is no config {}", config.short()))
        .because("a config is given with a deploy, and is known by the SHA-256 of its bytes")
}

/// What a request says of the configuration, checked: a change to one, to none (`Some(None)`),
/// or nothing (`None`).
///
/// # Errors
/// `usage` when it is no configuration.
pub(super) fn asked(request: &RolloutRequest) -> Result<Option<Option<ConfigId>>, Problem> {
    let wish = match (&request.config, request.kind) {
        (None, _) => return Ok(None),
        (Some(_), RolloutKind::Rollback) => {
            return Err(Problem::new(Code::Usage, "a rollback brings no config of its own")
                .because("it goes back to the code and the config of a release")
                .hint("deployctl deploy @ --config FILE"));
        }
        (Some(wish), RolloutKind::Deploy) => wish,
    };
    match wish {
        ConfigWish::None => Ok(Some(None)),
        ConfigWish::Text(text) => identify(text.as_bytes())
            .map(|config| Some(Some(config)))
            .map_err(|why| Problem::new(Code::Usage, "that is no config").because(why)),
    }
}

/// The configuration that a deploy goes on with when it says nothing of one: that of the
/// rollout whose place it takes while that is healthy, as its commit comes along too;
/// else that of what the env runs.
///
/// # Errors
/// When the database fails.
pub(super) fn kept(
    tx: &Tx,
    (app, env): (&AppName, &EnvName),
    (row, open): (&EnvRow, Option<&ReleaseRow>),
    regions: &[RegionName],
) -> Result<Option<ConfigId>, DbError> {
    let healthy = |open: &&ReleaseRow| {
        open.rollout.state == RolloutState::Running && open.rollout.kind == RolloutKind::Deploy
    };
    if let Some(open) = open.filter(healthy) {
        return Ok(open.rollout.config);
    }
    let own = regions.first().and_then(|region| row.stable.of(region));
    if let Some(runs) = own.or(row.stable.base) {
        return Ok(runs.config);
    }
    // Nothing has worked yet: what was tried last.
    let Some(release) = row.goal_release else { return Ok(None) };
    Ok(releases::find(tx, app, env, release)?.and_then(|last| last.rollout.config))
}
