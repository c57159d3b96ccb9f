//! What runs where, for every app and env; and names for completion.

use std::borrow::Cow;

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::router::{Route, get};
use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::{apps, facts, refs, view};
use crate::model::goal::GoalVersion;
use crate::model::id::{AppName, EnvName};
use crate::model::rollout::RolloutKind;
use crate::net::server::{Json, Params};
use crate::rules::authorize::Class;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, deployables, envs, freezes, holds, hosts, tallies};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::{App, AppSpec};
use crate::wire::v1::fleet::{Completions, Scope, Status};
use crate::wire::v1::rollout::EnvStatus;

/// Most names of one completion [orchestration 4.10].
const NAMES_MAX: usize = 50;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/status", Class::Read, status)
            .says("Show what runs where, one row per app and env")
            .gives("Status"),
        get("/v1/complete", Class::Read, complete)
            .says("Name apps, envs, regions, releases, builds or hosts by prefix")
            .gives("Completions"),
    ]
}

async fn status(
    State(shared): State<Shared>,
    Params(scope): Params<Scope>,
) -> Result<Json<Status>, Problem> {
    let within = shared.clone();
    let look = move |tx: &Tx| {
        let specs = match &scope.app {
            Some(app) => {
                vec![crate::store::db::apps::find(tx, app)?.ok_or_else(|| apps::unknown(app))?]
            }
            None => crate::store::db::apps::list(tx)?,
        };
        if let (Some(env), [App { spec, .. }]) = (&scope.env, &specs[..])
            && scope.app.is_some()
            && !spec.envs.contains(env)
        {
            return Err(refs::no_env(spec, env.as_str()));
        }
        let mut rows = Vec::new();
        for App { spec, .. } in &specs {
            for env in spec.envs.iter().filter(|env| scope.env.as_ref().is_none_or(|e| e == *env)) {
                rows.push(of(tx, &within, spec, env)?);
            }
        }
        Ok(Status { apps: rows })
    };
    shared.db.read(look).await.map(Json)
}

/// One app and env.
fn of(tx: &Tx, shared: &Coordinator, app: &AppSpec, env: &EnvName) -> Result<EnvStatus, DbError> {
    let row = envs::find(tx, &app.name, env)?;
    let open = releases::open(tx, &app.name, env)?;
    // While a deploy is under way, what runs is what it started from.
    let trying = open.as_ref().is_some_and(|open| open.rollout.kind == RolloutKind::Deploy);
    let stable = row.stable.base.map(|base| base.release);
    let current = if trying { stable } else { row.goal_release };
    let current = match current {
        Some(release) => releases::find(tx, &app.name, env, release)?,
        None => None,
    };
    let newest = match row.goal_release {
        Some(release) => releases::find(tx, &app.name, env, release)?,
        None => None,
    };
    let goal = crate::store::db::goals::find(tx, &crate::store::db::goals::key(&app.name, env))?;
    let goal: Option<GoalVersion> = goal.map(|goal| goal.version);
    let regions = match open.as_ref().or(newest.as_ref()) {
        Some(row) if row.rollout.regions.is_empty() => {
            let mut rollout = Cow::Borrowed(&row.rollout);
            // A way back wrote a goal after the one of the release that it went back to.
            if let Some(newer) =
                goal.filter(|goal| open.is_none() && Some(*goal) != rollout.version)
            {
                rollout.to_mut().version = Some(newer);
            }
            view::counts(&rollout, &facts::load(tx, shared, &rollout)?)
        }
        _ => tallies::of(tx, &app.name, env)?,
    };
    let version = goal.or_else(|| newest.as_ref().and_then(|row| row.rollout.version));
    Ok(EnvStatus {
        app: app.name.clone(),
        env: env.clone(),
        current: current.as_ref().map(ReleaseRow::view),
        rollout: open.map(|open| view::rollout(tx, shared, &open)).transpose()?,
        version,
        regions,
        frozen: freezes::stopping(tx, (&app.name, env), shared.steady_now())?,
        held: holds::stopping(tx, (&app.name, env), shared.steady_now())?,
        pins: holds::placed(tx, (&app.name, env), shared.steady_now())?,
    })
}

#[derive(Deserialize)]
struct Query {
    kind: String,
    app: Option<AppName>,
    env: Option<EnvName>,
    #[serde(default)]
    prefix: String,
}

async fn complete(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<Completions>, Problem> {
    let within = shared.clone();
    let look = move |tx: &Tx| {
        let mut names = names(tx, &within, &query)?;
        names.retain(|(name, _)| name.starts_with(&query.prefix));
        names.truncate(NAMES_MAX);
        Ok::<_, Problem>(Completions { names })
    };
    shared.db.read(look).await.map(Json)
}

fn names(tx: &Tx, shared: &Coordinator, query: &Query) -> Result<Vec<(String, String)>, Problem> {
    let plain = |name: String| (name, String::new());
    let needs = |what: &str| Problem::new(Code::Usage, format!("{} needs {what}", query.kind));
    Ok(match query.kind.as_str() {
        "app" => {
            let apps = crate::store::db::apps::list(tx)?;
            apps.into_iter().map(|app| (app.spec.name.to_string(), app.spec.repo)).collect()
        }
        "env" => {
            let apps = crate::store::db::apps::list(tx)?;
            let apps = apps.iter().filter(|a| query.app.as_ref().is_none_or(|n| *n == a.spec.name));
            let mut envs: Vec<String> =
                apps.flat_map(|app| app.spec.envs.iter().map(ToString::to_string)).collect();
            envs.sort();
            envs.dedup();
            envs.into_iter().map(plain).collect()
        }
        "region" => {
            let regions = facts::region_names(tx, shared)?;
            regions.into_iter().map(|region| plain(region.to_string())).collect()
        }
        "release" => {
            let (app, env) =
                query.app.as_ref().zip(query.env.as_ref()).ok_or_else(|| needs("app and env"))?;
            let rows = releases::list(tx, app, env, None, 500)?;
            let help = |row: &ReleaseRow| {
                format!("{} {}", row.rollout.state.word(), one_line(&row.subject))
            };
            rows.iter().map(|row| (row.rollout.release.to_string(), help(row))).collect()
        }
        "build" => {
            let app = query.app.as_ref().ok_or_else(|| needs("app"))?;
            let builds = deployables::newest(tx, app, 500)?;
            let help = |b: &deployables::Deployable| {
                format!("{} {}", b.commit.short(), one_line(&b.subject))
            };
            builds.iter().map(|build| (build.build.to_string(), help(build))).collect()
        }
        "host" => {
            let filter = hosts::Filter {
                env: query.env.clone(),
                host: Some(query.prefix.clone()),
                ..hosts::Filter::default()
            };
            let (rows, _) = hosts::list(tx, &filter, NAMES_MAX as u32)?;
            let name = |row: crate::wire::v1::fleet::HostRow| {
                (row.info.host.to_string(), row.region.to_string())
            };
            rows.into_iter().map(name).collect()
        }
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(Problem::new(Code::Usage, format!("{other:?} can't be completed"))
                .because("kind: app, env, region, release, build or host"));
        }
    })
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}
