//! One fetch under way for an app: of a release, its configuration, or both.

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::agent::source::{FetchFailure, Fetched, Progress, Source, Want};
use crate::model::config::Bits;
use crate::model::digest::ConfigId;

/// What a fetch brought: what was not there already.
pub(super) struct Brought {
    pub(super) release: Option<Fetched>,
    pub(super) config: Option<Vec<u8>>,
}

type FetchResult = Result<Brought, FetchFailure>;

/// A fetch under way; it stops when this is dropped.
pub(super) struct Job {
    /// What will be whole with it.
    pub(super) bits: Bits,
    /// Whether it takes its time.
    pub(super) paced: bool,
    pub(super) handle: JoinHandle<FetchResult>,
    pub(super) result: Option<Result<FetchResult, JoinError>>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Job {
    /// Fetches what is missing of `bits`.
    pub(super) fn start(
        source: &dyn Source,
        bits: Bits,
        (release, config): (Option<Want>, Option<ConfigId>),
    ) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let paced = release.as_ref().is_some_and(|want| want.within.is_some());
        let config = config.map(|config| source.config(config));
        let release = release.map(|want| source.fetch(want, sender));
        let handle = tokio::spawn(async move {
            // The small one first: without it the other is of no use.
            let config = match config {
                Some(config) => Some(config.await?),
                None => None,
            };
            let release = match release {
                Some(release) => Some(release.await?),
                None => None,
            };
            Ok(Brought { release, config })
        });
        Self { bits, paced, handle, result: None, progress }
    }

    pub(super) fn is_over(&mut self) -> bool {
        if self.result.is_none() {
            self.result = (&mut self.handle).now_or_never();
        }
        self.result.is_some()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
