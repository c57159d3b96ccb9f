//! What a rollout is judged on: each region's counts, and what else is known at the moment.

use std::collections::BTreeMap;

use crate::model::fleet::Tally;
use crate::model::gate::Record;
use crate::model::goal::GoalVersion;
use crate::model::id::{GateName, RegionName};
use crate::model::time::UnixMillis;

/// What is known of one region.
#[derive(Debug, Clone, Default)]
pub struct RegionFacts {
    /// The newest counts; all zero when there are none yet.
    pub tally: Tally,
    /// When the region said so last; zero: never, or at a time that is to come.
    pub told_at: UnixMillis,
    /// Whether nothing was heard of the region for a while.
    pub silent: bool,
    /// Covered hosts known.
    pub known: u32,
    /// Of those, reachable when last heard of.
    pub reachable: u32,
    /// The bucket of each covered host that nobody pinned, and whether it can be reached;
    /// ascending. `None`: not drawn, which is not the same as that nobody is there.
    pub buckets: Option<Vec<(u32, bool)>>,
}

/// What a step is judged on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Every region, by name.
    pub regions: BTreeMap<RegionName, RegionFacts>,
    /// The version of a generation made now.
    pub fresh: GoalVersion,
    /// The freeze or hold that stops the app and env now, as one sentence.
    pub barred: Option<String>,
    /// What a rollout that has not begun needs of other apps and lacks, its build being
    /// ready, in a sentence; `None`: nothing.
    pub unmet: Option<String>,
    /// What programs said last, by name.
    pub gates: BTreeMap<GateName, Record>,
}

impl RegionFacts {
    /// Whether the counts were made under `version`'s generation.
    #[must_use]
    pub fn speaks_of(&self, version: GoalVersion) -> bool {
        let counted = self.tally.version;
        (counted.epoch, counted.generation) == (version.epoch, version.generation)
    }

    /// Hosts that can be reached, as far as is known.
    #[must_use]
    pub fn reachable(&self, version: GoalVersion) -> u32 {
        match (self.silent, self.speaks_of(version)) {
            (true, _) => 0,
            (false, true) => self.tally.hosts.saturating_sub(self.tally.unreachable),
            (false, false) => self.reachable,
        }
    }

    /// Hosts, reachable or not.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        self.known.max(self.tally.hosts)
    }
}
