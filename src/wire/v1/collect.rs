//! `POST /v1/collect`: artifacts that nobody needs are taken away.

use serde::{Deserialize, Serialize};

use crate::model::id::{AppName, RegionName};

/// Looks for artifacts that may go, and takes them away unless only told to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRequest {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// What was built or released within so many seconds stays, at most ten years; default:
    /// as the coordinator is configured. Less than that needs `force`.
    #[serde(default)]
    pub older_than_s: Option<u64>,
    /// Take away what is younger than usual.
    #[serde(default)]
    pub force: bool,
    /// Delete without the usual delay, also what went before: nothing of it can be brought
    /// back.
    #[serde(default)]
    pub at_once: bool,
    /// Only make the main store this installation's, whosever it was; with `dry_run` say whose
    /// it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt_store: bool,
    /// Only say that the coordinator's clock is right, though it jumped ahead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trust_clock: bool,
    /// Why, at most 2,000 bytes; `force`, `at_once`, `adopt_store` and `trust_clock` need one.
    #[serde(default)]
    pub message: String,
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// What was built or released within so many seconds stays.
    pub older_than_s: u64,
    /// Known-good artifacts that stay per app and env.
    pub keep_good: u32,
    /// How many go.
    pub artifacts: u64,
    /// Bytes of them in the main store.
    pub bytes: u64,
    /// After so many seconds their objects are deleted.
    pub delay_s: u64,
    /// By app, those with something to go.
    pub apps: Vec<CollectedApp>,
    /// By store, the main one first.
    pub stores: Vec<CollectedStore>,
    /// Objects in the main store that no build names, of processes that were killed.
    pub left_over: CollectedWaiting,
    /// What was taken away and is not deleted yet, this included.
    pub waiting: CollectedWaiting,
    /// Why nothing may be collected from the main store; empty: it is this installation's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_owner: String,
    /// Why nothing goes for its age, when the coordinator's clock jumped ahead; empty: it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub clock_doubted: String,
    /// Whose the main store was before `adopt_store`, or is; empty: nobody asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub whose: String,
    /// Artifacts in the main store that this installation does not know; only with `adopt_store`
    /// and `dry_run`.
    #[serde(default, skip_serializing_if = "crate::model::is_zero")]
    pub unknown: u64,
    /// Whether there may be more of them: not all of the store was looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown_more: bool,
    /// Nothing is collected, and nothing that waits is deleted, but when a person asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub switched_off: bool,
}

/// An app's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedApp {
    /// The app.
    pub app: AppName,
    /// How many of its artifacts, patches included.
    pub artifacts: u64,
    /// Their bytes in the main store.
    pub bytes: u64,
}

/// A store's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedStore {
    /// Whose; `None`: the main store.
    pub region: Option<RegionName>,
    /// How many artifacts are there.
    pub artifacts: u64,
    /// Their bytes there.
    pub bytes: u64,
}

/// Artifacts in the main store alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedWaiting {
    /// How many artifacts.
    pub artifacts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why they are not deleted; empty: nothing is wrong.
    #[serde(default)]
    pub error: String,
}
