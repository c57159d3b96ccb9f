//! `POST /v1/reconcile`: what is known compared with what the stores hold, now.

use serde::{Deserialize, Serialize};

use crate::model::id::RegionName;

/// Asks for a look at every store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileRequest {}

/// What was found, store by store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The main store first.
    pub stores: Vec<ReconciledStore>,
}

/// One store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconciledStore {
    /// Whose; `None`: the main store.
    pub region: Option<RegionName>,
    /// Artifacts that it holds whole, as far as was looked.
    pub holds: u64,
    /// Artifacts that it has yet to get. A region fetches them by itself.
    pub lacks: u64,
    /// Artifacts that it had and has not, or not whole. A region fetches them again; what the
    /// main store lost must be built again.
    pub lost: u64,
    /// Artifacts that it holds and that nobody knows. `admin gc` looks after the main store's.
    pub extra: u64,
    /// Bytes of those.
    pub extra_bytes: u64,
    /// Why it could not be looked at; empty: it was.
    #[serde(default)]
    pub error: String,
}
