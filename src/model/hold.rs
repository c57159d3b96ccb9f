//! Holds and pins: what a person keeps where it is, for a while.
//!
//! Of an app, an env or everything: no deploy starts, and a rollout under way pauses
//! before its next step. Of a host or a region: it stays on what it runs or, pinned, on
//! one release, whatever the rollouts do. A rollback passes the first and says of the
//! second whom it did not move.

use serde::{Deserialize, Serialize};

use super::goal::{Pin, Target};
use super::id::{AppName, EnvName, HoldNo, HostId, RegionName};
use super::reach;
use super::time::UnixMillis;

/// A hold or, when it names a release, a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its number.
    pub hold: HoldNo,
    /// Only this app; `None`: every app.
    pub app: Option<AppName>,
    /// Only this env; `None`: every env.
    pub env: Option<EnvName>,
    /// Only this host; `None`: no host in particular.
    pub host: Option<HostId>,
    /// Only this region; with a host: where the host was when it was held.
    pub region: Option<RegionName>,
    /// The release that it is pinned to; `None`: what it runs.
    pub at: Option<Target>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
    /// Since when.
    pub from: UnixMillis,
    /// When it ends by itself.
    pub until: UnixMillis,
    /// When it was ended before that.
    pub ended_at: Option<UnixMillis>,
    /// By whom.
    pub ended_by: Option<String>,
}

impl Hold {
    /// Whether it is about hosts, one or a region's: the goal tells them.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.host.is_some() || self.region.is_some()
    }

    /// Whether it is about `app` in `env`.
    #[must_use]
    pub fn is_of(&self, app: &AppName, env: &EnvName) -> bool {
        reach::covers((&self.app, &self.env), app, env)
    }

    /// Whether it counts at `now`.
    #[must_use]
    pub fn stands(&self, now: UnixMillis) -> bool {
        self.ended_at.is_none() && now < self.until
    }

    /// Whether it stops a deploy of `app` to `env` at `now`.
    #[must_use]
    pub fn stops(&self, app: &AppName, env: &EnvName, now: UnixMillis) -> bool {
        !self.is_placed() && self.is_of(app, env) && self.stands(now)
    }

    /// What the goal says of it; `None` when it is not about hosts.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        let region = self.region.clone().filter(|_| self.host.is_none());
        let pin = || Pin { host: self.host.clone(), region, at: self.at, canary: false };
        self.is_placed().then(pin)
    }

    /// What it is about: `web in prod`, `every app in prod on host web-7`, `everything`.
    #[must_use]
    pub fn scope(&self) -> String {
        let what = reach::said((&self.app, &self.env));
        match (&self.host, &self.region) {
            (Some(host), _) => format!("{what} on host {host}"),
            (None, Some(region)) => format!("{what} in region {region}"),
            (None, None) => what,
        }
    }

    /// `h3 by ann until 2026-12-27T00:00:00.000Z: INC-4412`.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{} by {} until {}: {}", self.hold, self.actor, self.until, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        Hold {
            hold: HoldNo(3),
            app: Some("web".parse().unwrap()),
            env: Some("prod".parse().unwrap()),
            host: None,
            region: None,
            at: None,
            reason: "INC-1".into(),
            actor: "ann".into(),
            from: UnixMillis(10),
            until: UnixMillis(20),
            ended_at: None,
            ended_by: None,
        }
    }

    #[test]
    fn a_hold_stops_deploys_of_its_scope_until_it_ends_and_one_of_hosts_stops_none() {
        let (web, api): (AppName, AppName) = ("web".parse().unwrap(), "api".parse().unwrap());
        let (prod, staging) = ("prod".parse().unwrap(), "staging".parse().unwrap());
        let at = |hold: &Hold, app, env, now| hold.stops(app, env, UnixMillis(now));
        assert!(at(&hold(), &web, &prod, 19));
        assert!(!at(&hold(), &web, &prod, 20) && !at(&hold(), &api, &prod, 15));
        assert!(!at(&hold(), &web, &staging, 15));
        let wide = Hold { app: None, env: None, ..hold() };
        assert!(at(&wide, &api, &staging, 15) && wide.pin().is_none());
        let ended = Hold { ended_at: Some(UnixMillis(12)), ..hold() };
        assert!(!at(&ended, &web, &prod, 15));
        let of_a_host = Hold { host: Some("web-7".parse().unwrap()), ..hold() };
        assert!(!at(&of_a_host, &web, &prod, 15) && of_a_host.pin().is_some());
    }

    #[test]
    fn the_goal_is_told_of_a_host_without_its_region() {
        let host: HostId = "web-7".parse().unwrap();
        let region: RegionName = "eu".parse().unwrap();
        let one = Hold { host: Some(host.clone()), region: Some(region.clone()), ..hold() };
        assert_eq!(
            one.pin(),
            Some(Pin { host: Some(host), region: None, at: None, canary: false })
        );
        assert_eq!(one.scope(), "web in prod on host web-7");
        let all = Hold { region: Some(region.clone()), ..hold() };
        assert_eq!(
            all.pin(),
            Some(Pin { host: None, region: Some(region), at: None, canary: false })
        );
    }
}
