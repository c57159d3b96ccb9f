//! `GET /v1/goal-stores`: how the etcds are that goals travel by, where any is configured.

use serde::{Deserialize, Serialize};

use crate::model::id::RegionName;
use crate::model::time::UnixMillis;

/// One member of an etcd, as it answered last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMember {
    /// Its URL.
    pub address: String,
    /// The store's revision as this member has it; 0: it did not say.
    pub revision: u64,
    /// Why it does no work; empty: it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// An etcd, as one process sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalStore {
    /// As the URL names them, at most 16.
    pub members: Vec<StoreMember>,
    /// What it raised alarm for, such as `NOSPACE`: it takes no puts then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// Goals that are not as new on the other side: coordinators did not put them into their
    /// store yet, or a region did not take them from it.
    pub behind: u64,
    /// Why the last round of reading and putting failed; empty: it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// The etcds that a region uses, as it reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedStores {
    /// Its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<GoalStore>,
    /// The coordinators' one, which it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<GoalStore>,
}

impl ReportedStores {
    /// Whether the region uses none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.own.is_none() && self.global.is_none()
    }
}

/// A region and its etcds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStores {
    /// Which region.
    pub region: RegionName,
    /// When it said so.
    pub seen_at: UnixMillis,
    /// What it said.
    #[serde(flatten)]
    pub stores: ReportedStores,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalStores {
    /// The one that coordinators put goals into; `None`: none is configured.
    pub global: Option<GoalStore>,
    /// Regions that use an etcd, by name.
    pub regions: Vec<RegionStores>,
}
