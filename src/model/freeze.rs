//! Freezes: windows in which no deploy starts. A rollback always passes.

use serde::{Deserialize, Serialize};

use super::id::{AppName, EnvName, FreezeNo};
use super::reach;
use super::time::UnixMillis;

/// A freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its number.
    pub freeze: FreezeNo,
    /// Only this app; `None`: every app.
    pub app: Option<AppName>,
    /// Only this env; `None`: every env.
    pub env: Option<EnvName>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
    /// When it begins.
    pub from: UnixMillis,
    /// When it ends by itself.
    pub until: UnixMillis,
    /// When a person ended it before that.
    pub ended_at: Option<UnixMillis>,
    /// Who.
    pub ended_by: Option<String>,
}

impl Freeze {
    /// Whether it is about `app` in `env`.
    #[must_use]
    pub fn is_of(&self, app: &AppName, env: &EnvName) -> bool {
        reach::covers((&self.app, &self.env), app, env)
    }

    /// Whether it stops a deploy of `app` to `env` at `now`.
    #[must_use]
    pub fn stops(&self, app: &AppName, env: &EnvName, now: UnixMillis) -> bool {
        self.is_of(app, env) && self.ended_at.is_none() && self.from <= now && now < self.until
    }

    /// What it is about: `web in prod`, `every app in prod`, `everything`.
    #[must_use]
    pub fn scope(&self) -> String {
        reach::said((&self.app, &self.env))
    }

    /// `f3 by ann until 2026-12-27T00:00:00.000Z: holidays`.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{} by {} until {}: {}", self.freeze, self.actor, self.until, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_stops_its_own_scope_within_its_window() {
        let freeze = Freeze {
            freeze: FreezeNo(1),
            app: None,
            env: Some("prod".parse().unwrap()),
            reason: "holidays".into(),
            actor: "ann".into(),
            from: UnixMillis(10),
            until: UnixMillis(20),
            ended_at: None,
            ended_by: None,
        };
        let app: AppName = "web".parse().unwrap();
        let (prod, staging) = ("prod".parse().unwrap(), "staging".parse().unwrap());
        for (env, now, stops) in [
            (&prod, 9, false),
            (&prod, 10, true),
            (&prod, 19, true),
            (&prod, 20, false),
            (&staging, 15, false),
        ] {
            assert_eq!(freeze.stops(&app, env, UnixMillis(now)), stops, "{env} at {now}");
        }
        let ended = Freeze { ended_at: Some(UnixMillis(12)), ..freeze.clone() };
        assert!(!ended.stops(&app, &prod, UnixMillis(15)));
        let other = Freeze { app: Some("api".parse().unwrap()), ..freeze };
        assert!(!other.stops(&app, &prod, UnixMillis(15)));
    }
}
