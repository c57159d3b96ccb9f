#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]
//! The rollout's rules against random lives: of one env, and of a large fleet. Seeded plain
//! loops; `bench/rollouts` runs the same code optimised and a hundred times as long.

use std::collections::BTreeMap;

use deployctl::model::config::Bits;
use deployctl::model::digest::Digest;
use deployctl::model::goal::Target;
use deployctl::model::id::ReleaseNo;
use deployctl::model::rollout::{PlanName, RolloutKind, Stable};
use deployctl::model::selector::Selector;
use deployctl::model::time::UnixMillis;
use deployctl::rules::rollout::Admission;

#[path = "rollout_model/crowd.rs"]
mod crowd;
#[path = "rollout_model/storm.rs"]
mod storm;

/// What release `n` consists of: of each three, the first is code alone, the second the
/// same code with a configuration, the third with another.
pub(crate) fn bits(n: u64) -> Bits {
    let config = (!n.is_multiple_of(3)).then(|| Digest::of(&n.to_be_bytes()));
    Bits { artifact: Digest::of(&(n / 3).to_be_bytes()), config }
}

pub(crate) fn target(n: u64) -> Target {
    let Bits { artifact, config } = bits(n);
    Target { release: ReleaseNo(n), artifact, config }
}

/// A deploy of r2 by the standard plan, everywhere.
pub(crate) fn deploy(base: Option<Target>, bake_s: u32) -> Admission {
    Admission {
        no_auto_revert: false,
        through_freeze: false,
        allow_older: false,
        allow_unmet: false,
        app: "api".parse().unwrap(),
        env: "prod".parse().unwrap(),
        release: ReleaseNo(2),
        kind: RolloutKind::Deploy,
        plan: PlanName::Standard,
        plan_file: None,
        canary: None,
        regions: vec![],
        hosts: Selector::default(),
        bake_s: Some(bake_s),
        stable: Stable { base, region_base: BTreeMap::new() },
        config: bits(2).config,
        tolerate: vec![],
        approvals: 0,
        spread_s: 0,
        pace_s: 0,
        max_unavailable: None,
        start_by: UnixMillis(i64::MAX),
    }
}
