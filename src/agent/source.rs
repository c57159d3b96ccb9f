//! Where releases come from, as the rest of the agent sees it.
//!
//! The swarm's fetcher is the real one (`agent::fetch`); tests bring their own.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::fleet::{FailureClass, Sources};
use crate::model::id::AppName;
use crate::model::manifest::Manifest;

/// An artifact that is wanted on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// For which app.
    pub app: AppName,
    /// Which.
    pub artifact: ArtifactId,
    /// About how long it may take, to leave the network to others; `None`: no longer than it
    /// must.
    pub within: Option<Duration>,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pieces verified and on disk.
    pub done: u32,
    /// Pieces in all; 0 while the manifest is not known.
    pub total: u32,
    /// Where their bytes came from.
    pub sources: Sources,
}

/// A release that is complete, verified and durable at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its manifest, signature checked.
    pub manifest: Manifest,
    /// Where its bytes came from.
    pub sources: Sources,
}

/// Why an artifact is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FetchFailure {
    /// Whose fault.
    pub class: FailureClass,
    /// One line, at most 300 bytes.
    pub reason: String,
}

/// A fetch under way; dropping it stops it, and verified pieces are kept.
pub type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, FetchFailure>> + Send>>;

/// A configuration's bytes on their way.
pub type Configuring = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchFailure>> + Send>>;

/// Something that can bring an artifact to `<root>/apps/<app>/releases/<artifact>/`.
pub trait Source: Send + Sync + 'static {
    /// Fetches `want`, telling of its progress; at once when it is there already.
    fn fetch(&self, want: Want, progress: watch::Sender<Progress>) -> Fetching;

    /// Fetches a configuration; its bytes are verified.
    fn config(&self, config: ConfigId) -> Configuring;
}
