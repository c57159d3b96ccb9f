//! What a freeze or a hold is about: an app, an env, an app in an env, or everything.

use super::id::{AppName, EnvName};

/// Only this app, only this env; `None`: every one.
pub(super) type Reach<'a> = (&'a Option<AppName>, &'a Option<EnvName>);

/// Whether what reaches so far is about `app` in `env`.
pub(super) fn covers((apps, envs): Reach<'_>, app: &AppName, env: &EnvName) -> bool {
    apps.as_ref().is_none_or(|own| own == app) && envs.as_ref().is_none_or(|own| own == env)
}

/// `web in prod`, `every app in prod`, `everything`.
pub(super) fn said(reach: Reach<'_>) -> String {
    match reach {
        (Some(app), Some(env)) => format!("{app} in {env}"),
        (Some(app), None) => format!("{app} in every env"),
        (None, Some(env)) => format!("every app in {env}"),
        (None, None) => "everything".into(),
    }
}
