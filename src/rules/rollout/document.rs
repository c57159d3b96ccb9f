//! The goal document that a rollout stands for: a pure function of its row.

use std::collections::BTreeMap;

use crate::model::config::Bits;
use crate::model::goal::{BUCKETS, Goal, GoalKind, Target};
use crate::model::rollout::RolloutKind;
use crate::model::selector::Selector;
use crate::model::time::UnixMillis;
use crate::rules::rollout::Rollout;

/// Format version of the documents written here.
const FORMAT: u32 = 1;

impl Rollout {
    /// The document of the present step; `None` before it began.
    #[must_use]
    pub fn document(&self, now: UnixMillis) -> Option<Goal> {
        let version = self.version?;
        let back = self.went_back;
        let (next, admit) = if back { self.way_back()? } else { (self.next?, self.admit()) };
        let rollback = back || self.kind == RolloutKind::Rollback;
        // What a rollback restores is the base at once: nobody may be led to what it leaves.
        let stable = match self.kind {
            RolloutKind::Rollback => self.stable.with(next, &self.regions),
            RolloutKind::Deploy => self.stable.clone(),
        };
        let tolerate = if back { vec![] } else { self.tolerate.clone() };
        let (tolerate_configured, tolerate): (Vec<Bits>, Vec<Bits>) =
            tolerate.into_iter().partition(|bits| bits.config.is_some());
        Some(Goal {
            v: FORMAT,
            app: self.app.clone(),
            env: self.env.clone(),
            version,
            kind: if rollback { GoalKind::Rollback } else { GoalKind::Deploy },
            rollout: self.release,
            base: stable.base,
            next,
            tolerate: tolerate.iter().map(|bits| bits.artifact).collect(),
            tolerate_configured,
            region_base: stable.region_base,
            admit,
            salt: version.generation.to_string(),
            canary: Selector::default(),
            hosts: self.hosts.clone(),
            pins: self.canary_pins(next),
            stage: !rollback,
            // Going back is urgent: only who asked for a rollback may slow it down.
            spread_ms: if back { 0 } else { u64::from(self.spread_s) * 1000 },
            pace_ms: if back { 0 } else { u64::from(self.pace_s) * 1000 },
            retry: self.retry,
            issued_at: now,
        })
    }

    fn admit(&self) -> BTreeMap<String, u32> {
        let whole = || self.step_now().map(|step| step.admit.clone()).unwrap_or_default();
        self.permitted().unwrap_or_else(whole)
    }

    /// What hosts go back to: each region to what it ran before. The document has one
    /// `next`; regions that ran something else are not admitted and take their base.
    fn way_back(&self) -> Option<(Target, BTreeMap<String, u32>)> {
        let mut bases = self.exposed().into_iter().filter_map(|region| self.stable.of(&region));
        let next = bases.next().or(self.stable.base)?;
        let open = |target: Option<Target>| if target == Some(next) { BUCKETS } else { 0 };
        let mut admit = BTreeMap::from([("*".to_owned(), open(self.stable.base))]);
        for (region, target) in &self.stable.region_base {
            admit.insert(region.as_str().to_owned(), open(Some(*target)));
        }
        Some((next, admit))
    }
}
