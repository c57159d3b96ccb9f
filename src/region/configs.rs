//! Configurations that goals name: fetched from a coordinator as soon as a goal names
//! one, kept on disk, given to hosts.
//!
//! What is kept is enough to serve hosts with every coordinator gone. A digest is all
//! that is believed. Nothing that a goal names is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use crate::model::config::identify;
use crate::model::digest::ConfigId;
use crate::net::client::CallError;
use crate::net::server::Path;
use crate::region::coordinators::Coordinators;
use crate::region::db::{DbError, RegionDb};
use crate::region::mirror::Mirror;
use crate::region::serve::Shared;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::config::Config;

/// How many configurations stay that no goal names any more, newest first: a goal by hand
/// may go back to one. At most 64 KiB each.
pub const IDLE_CONFIGS_MAX: usize = 256;
/// Time for one fetch from a coordinator.
const TIMEOUT: Duration = Duration::from_secs(20);
/// For so long nobody asks again for what could not be had: many hosts wait in a row.
const JUST_NOW: Duration = Duration::from_secs(1);
/// Wait before what could not be had is asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Why a configuration is not here.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("no goal of this region names it")]
    Unnamed,
    #[error("no coordinator had it a moment ago")]
    JustNow,
    #[error("the coordinator gave another document than was asked for")]
    Other,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the disk's work was broken off: {0}")]
    Work(#[from] tokio::task::JoinError),
}

/// The configurations of a region.
pub struct Configs {
    db: Arc<RegionDb>,
    mirror: Arc<Mirror>,
    coordinators: Coordinators,
    /// Held by who asks a coordinator.
    asking: tokio::sync::Mutex<Failed>,
}

/// What could not be had just now, and since when.
#[derive(Default)]
struct Failed {
    configs: BTreeMap<ConfigId, Instant>,
    /// No coordinator answered: none would for another configuration either.
    unanswered: Option<Instant>,
}

impl Failed {
    fn note(&mut self, config: ConfigId, why: &Missing, now: Instant) {
        match why {
            Missing::Call(CallError::Unreachable { .. }) => self.unanswered = Some(now),
            _ => drop(self.configs.insert(config, now)),
        }
    }

    /// Whether `config` could not be had a moment before `now`.
    fn just_now(&mut self, config: &ConfigId, now: Instant) -> bool {
        let just = |at: &Instant| now.saturating_duration_since(*at) < JUST_NOW;
        self.configs.retain(|_, at| just(at));
        self.unanswered = self.unanswered.filter(just);
        self.unanswered.is_some() || self.configs.contains_key(config)
    }
}

impl Configs {
    /// Over what `db` keeps and `mirror`'s goals name.
    #[must_use]
    pub fn new(db: Arc<RegionDb>, mirror: Arc<Mirror>, coordinators: Coordinators) -> Self {
        Self { db, mirror, coordinators, asking: tokio::sync::Mutex::default() }
    }

    /// Fetches what goals name, at every change of the mirror, until `stop` turns true.
    pub async fn keep(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.mirror.changes();
        loop {
            changes.borrow_and_update();
            let complete = self.round().await;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(RETRY), if !complete => {}
            }
        }
    }

    /// Says whether all that goals name is here.
    async fn round(&self) -> bool {
        let mut complete = true;
        let named = self.named();
        for config in &named {
            if let Err(error) = self.find(*config).await {
                tracing::warn!(config = config.short(), %error, "config not had yet");
                complete = false;
            }
        }
        let db = self.db.clone();
        let pruned = tokio::task::spawn_blocking(move || db.prune_configs(&named)).await;
        if let Ok(Err(error)) = pruned {
            tracing::warn!(%error, "old configs not dropped");
        }
        complete
    }

    fn named(&self) -> BTreeSet<ConfigId> {
        self.mirror.goals().iter().flat_map(|goal| goal.configs().collect::<Vec<_>>()).collect()
    }

    async fn kept(&self, config: ConfigId) -> Result<Option<String>, Missing> {
        let db = self.db.clone();
        let kept = tokio::task::spawn_blocking(move || db.config(&config)).await??;
        Ok(kept.filter(|text| identify(text.as_bytes()) == Ok(config)))
    }

    /// What is kept, else what a coordinator has.
    async fn find(&self, config: ConfigId) -> Result<String, Missing> {
        if let Some(text) = self.kept(config).await? {
            return Ok(text);
        }
        if !self.named().contains(&config) {
            return Err(Missing::Unnamed);
        }
        // All hosts ask at once when a goal names it first: one call brings it for all.
        let mut failed = self.asking.lock().await;
        if let Some(text) = self.kept(config).await? {
            return Ok(text);
        }
        if failed.just_now(&config, Instant::now()) {
            return Err(Missing::JustNow);
        }
        let fetched = self.fetch(config).await;
        fetched.inspect_err(|why| failed.note(config, why, Instant::now()))
    }

    async fn fetch(&self, config: ConfigId) -> Result<String, Missing> {
        let path = format!("/v1/region/configs/{config}");
        let asked = self.coordinators.current().get::<Config>(&path, TIMEOUT).await;
        let text = asked.inspect_err(|_| self.coordinators.rotate())?.text;
        if identify(text.as_bytes()) != Ok(config) {
            return Err(Missing::Other);
        }
        let (db, saved) = (self.db.clone(), text.clone());
        tokio::task::spawn_blocking(move || db.save_config(&config, &saved)).await??;
        tracing::info!(config = config.short(), bytes = text.len(), "config kept");
        Ok(text)
    }
}

/// `GET /v1/agent/configs/{config}`: the document itself.
pub(super) async fn give(
    State(listener): Shared,
    Path(config): Path<ConfigId>,
) -> Result<Response, Problem> {
    match listener.configs.find(config).await {
        Ok(text) => {
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
        }
        Err(Missing::Unnamed) => {
            let title = format!("there is no config {}", config.short());
            Err(Problem::new(Code::NotFound, title).because(Missing::Unnamed))
        }
        Err(error) => {
            let title = format!("config {} is not here yet", config.short());
            Err(Problem::new(Code::Unavailable, title).because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::net::client::Client;

    #[test]
    fn a_config_that_could_not_be_had_keeps_nobody_from_another() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let (mut failed, now) = (Failed::default(), Instant::now());
        failed.note(one, &Missing::Other, now);
        assert!(failed.just_now(&one, now) && !failed.just_now(&other, now));
        assert!(!failed.just_now(&one, now + JUST_NOW));
        assert!(failed.configs.is_empty(), "what is over is not remembered");
    }

    #[tokio::test]
    async fn nobody_waits_in_a_row_for_coordinators_that_do_not_answer() {
        let nobody = Client::new("http://127.0.0.1:1", None);
        let called: Result<String, CallError> = nobody.get("/", JUST_NOW).await;
        let unreachable = called.unwrap_err();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let (mut failed, now) = (Failed::default(), Instant::now());
        failed.note(one, &Missing::Call(unreachable), now);
        assert!(failed.just_now(&other, now) && !failed.just_now(&other, now + JUST_NOW));
    }
}
