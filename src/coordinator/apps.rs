//! Apps: what is built from where, and who runs it.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::refs;
use crate::coordinator::router::{Route, get, post, put};
use crate::coordinator::state::Shared;
use crate::model::id::{AppName, EnvName};
use crate::net::auth::Identity;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{Topic, Tx, apps};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::{App, AppSpec, Apps};

/// Most apps of one installation.
const APPS_MAX: i64 = 10_000;
/// Most envs of one app.
const ENVS_MAX: usize = 32;
/// Most people that must approve a deploy.
const APPROVALS_MAX: u32 = 5;
/// Most waves, and regions in one wave.
const WAVES_MAX: usize = 64;
/// Longest repository URL, bytes.
const REPO_BYTES_MAX: usize = 2048;
/// Longest branch name, bytes: git's own limit is a file name's.
const TRUNK_BYTES_MAX: usize = 255;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps", Class::Read, list).says("List every app").gives("Apps"),
        post("/v1/apps", Class::Manage, create)
            .says("Register an app; the same again is no error")
            .takes("AppSpec")
            .gives("App"),
        get("/v1/apps/{app}", Class::Read, show).says("Show an app").gives("App"),
        put("/v1/apps/{app}", Class::Manage, replace)
            .says("Change an app; builds queued before keep what they were queued with")
            .takes("AppSpec")
            .gives("App"),
    ]
}

async fn list(State(shared): State<Shared>) -> Result<Json<Apps>, Problem> {
    Ok(Json(Apps { apps: shared.db.read(apps::list).await? }))
}

async fn show(
    State(shared): State<Shared>,
    Path(name): Path<AppName>,
) -> Result<Json<App>, Problem> {
    shared.db.read(move |tx| apps::find(tx, &name)?.ok_or_else(|| unknown(&name))).await.map(Json)
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(spec): Json<AppSpec>,
) -> Result<Json<App>, Problem> {
    check(&spec)?;
    let now = shared.steady_now();
    let put = move |tx: &mut crate::store::db::Tx| {
        let name = spec.name.clone();
        match apps::find(tx, &name)? {
            Some(app) if app.spec == spec => return Ok(app),
            Some(_) => {
                return Err(Problem::new(
                    Code::Conflict,
                    format!("the app {name} is registered already, with other settings"),
                )
                .hint(format!("deployctl apps show {name}"))
                .hint(format!("deployctl apps set {name} --help")));
            }
            None if apps::count(tx)? >= APPS_MAX => {
                return Err(Problem::new(
                    Code::Blocked,
                    format!("there are {APPS_MAX} apps already"),
                ));
            }
            None => {}
        }
        apps::put(tx, &spec, now)?;
        let message = format!("{} registered {name}", who.name);
        tx.event(&NewEvent::new(now, "app.registered", who.name, message).app(&name))?;
        Ok(App { spec, created_at: now })
    };
    shared.db.write(put).await.map(Json)
}

async fn replace(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(name): Path<AppName>,
    Json(spec): Json<AppSpec>,
) -> Result<Json<App>, Problem> {
    check(&spec)?;
    if spec.name != name {
        return Err(Problem::new(Code::Usage, "an app can't be renamed")
            .because(format!("the path says {name}, the body {}", spec.name)));
    }
    let now = shared.steady_now();
    let put = move |tx: &mut crate::store::db::Tx| {
        let app = apps::find(tx, &name)?.ok_or_else(|| unknown(&name))?;
        if app.spec == spec {
            return Ok(app);
        }
        apps::put(tx, &spec, now)?;
        let message = format!("{} changed {name}", who.name);
        tx.event(&NewEvent::new(now, "app.changed", who.name, message).app(&name))?;
        tx.touch(Topic::Rollouts);
        Ok(App { spec, ..app })
    };
    shared.db.write(put).await.map(Json)
}

/// The settings of `name`, which must have `env` if one is said.
///
/// # Errors
/// `not_found`, naming what there is; or when the database fails.
pub(super) fn known(tx: &Tx, name: &AppName, env: Option<&EnvName>) -> Result<AppSpec, Problem> {
    let spec = apps::find(tx, name)?.ok_or_else(|| unknown(name))?.spec;
    match env.filter(|env| !spec.envs.contains(env)) {
        Some(env) => Err(refs::no_env(&spec, env.as_str())),
        None => Ok(spec),
    }
}

/// The refusal of an app that is not registered.
pub(super) fn unknown(name: &AppName) -> Problem {
    Problem::new(Code::NotFound, format!("there is no app {name}"))
        .hint("deployctl apps list")
        .hint(format!("deployctl apps add {name} --repo URL"))
}

fn check(spec: &AppSpec) -> Result<(), Problem> {
    let bad =
        |why: String| Problem::new(Code::Usage, "the app's settings are not usable").because(why);
    check_repo(&spec.repo).map_err(|why| bad(format!("repo {:?}: {why}", cut(&spec.repo))))?;
    check_trunk(&spec.trunk).map_err(|why| bad(format!("trunk {:?}: {why}", cut(&spec.trunk))))?;
    spec.recipe.check().map_err(|error| bad(error.to_string()))?;
    if spec.envs.is_empty() || spec.envs.len() > ENVS_MAX {
        return Err(bad(format!("envs: 1 to {ENVS_MAX}, not {}", spec.envs.len())));
    }
    for (env, number) in &spec.approvals {
        if !spec.envs.contains(env) {
            return Err(bad(format!("approvals: the app has no env {env}")));
        }
        if !(1..=APPROVALS_MAX).contains(number) {
            return Err(bad(format!("approvals of {env}: 1 to {APPROVALS_MAX}, not {number}")));
        }
    }
    if spec.waves.len() > WAVES_MAX || spec.waves.iter().any(|wave| wave.len() > WAVES_MAX) {
        return Err(bad(format!("waves: at most {WAVES_MAX} of at most {WAVES_MAX} regions")));
    }
    let names = spec.waves.iter().flatten().filter(|name| *name != "*");
    for name in names {
        name.parse::<crate::model::id::RegionName>().map_err(|error| bad(error.to_string()))?;
    }
    Ok(())
}

fn check_repo(repo: &str) -> Result<(), &'static str> {
    let schemes = ["https://", "http://", "git://", "ssh://", "file://"];
    let rest = schemes.iter().find_map(|scheme| repo.strip_prefix(scheme));
    let rest = rest.ok_or("it must begin with https://, http://, git://, ssh:// or file://")?;
    if repo.len() > REPO_BYTES_MAX {
        return Err("it is longer than 2048 bytes");
    }
    if rest.is_empty() || rest.starts_with('-') || repo.chars().any(|c| c.is_control() || c == ' ')
    {
        return Err("it is not a plain URL");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            Err("a password does not belong in a URL; use a git credential helper on the workers")
        }
        _ => Ok(()),
    }
}

fn check_trunk(trunk: &str) -> Result<(), &'static str> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    let plain = (1..=TRUNK_BYTES_MAX).contains(&trunk.len())
        && trunk.chars().all(sound)
        && !trunk.starts_with(['-', '/', '.'])
        && !trunk.ends_with(['/', '.'])
        && !trunk.ends_with(".lock")
        && !["..", "//", "/."].iter().any(|bad| trunk.contains(bad));
    if plain { Ok(()) } else { Err("it is not a plain branch name, such as main") }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_branches_that_could_be_options_are_refused() {
        for bad in [
            "",
            "-x",
            "ext::sh -c x",
            "/path",
            "file://",
            "https://u:p@h/x",
            "https://-x",
            "https://a b",
            "FILE:///x",
            "https://h/\nx",
            "ssh://--upload-pack=x",
        ] {
            assert!(check_repo(bad).is_err(), "{bad:?}");
        }
        for good in ["https://h/x.git", "file:///srv/x", "ssh://git@h/x", "git://h/x"] {
            assert!(check_repo(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-x", "a..b", "a b", "a~1", "@{u}", "/a", "a/", "a.lock", ".a", "a:b"] {
            assert!(check_trunk(bad).is_err(), "{bad:?}");
        }
        assert!(check_trunk("release/2.x").is_ok());
    }
}
