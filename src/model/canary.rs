//! Hosts that go first because a person named them (`deploy --hosts`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::id::{HostId, RegionName};

/// Hosts that a person named to go first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// As it was asked for: `web-1`, `web-*`, `rack=14`.
    pub asked: String,
    /// Who that was then, by region: whoever comes later is not among them.
    pub hosts: BTreeMap<RegionName, BTreeSet<HostId>>,
}

impl Canary {
    /// Whether `host` of `region` is one of them.
    #[must_use]
    pub fn has(&self, region: &RegionName, host: &HostId) -> bool {
        self.hosts.get(region).is_some_and(|hosts| hosts.contains(host))
    }

    /// "web-1, web-2", or "web-1, web-2, web-3 and 9 more".
    #[must_use]
    pub fn names(&self) -> String {
        let all: Vec<&str> = self.hosts.values().flatten().map(HostId::as_str).collect();
        match all.len() {
            0..=4 => all.join(", "),
            many => format!("{} and {} more", all[..3].join(", "), many - 3),
        }
    }
}
