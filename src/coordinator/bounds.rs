//! The bounds of a request for a rollout, before the world is looked at.

use std::collections::BTreeSet;

use crate::coordinator::admission::{Asked, MESSAGE_BYTES_MAX};
use crate::model::rollout::RolloutKind;
use crate::rules::rollout::SPREAD_S_MAX;
use crate::wire::problem::{Code, Problem};

/// Longest bake and longest wait for a build, seconds: a day.
const SECONDS_MAX: u32 = 86_400;

/// Whether each word of a request is one that can be meant.
///
/// # Errors
/// `usage`, naming the field.
pub(super) fn check(asked: &Asked) -> Result<(), Problem> {
    let request = &asked.request;
    let usage =
        |why: String| Problem::new(Code::Usage, "the request is out of bounds").because(why);
    if request.message.len() > MESSAGE_BYTES_MAX {
        return Err(usage(format!("message: at most {MESSAGE_BYTES_MAX} bytes")));
    }
    if request.break_glass && request.message.is_empty() {
        return Err(usage("message: whoever breaks the glass says why".into()));
    }
    for (field, seconds) in [("spread_s", request.spread_s), ("pace_s", request.pace_s)] {
        if seconds.is_some_and(|seconds| seconds > SPREAD_S_MAX) {
            return Err(usage(format!("{field}: at most {SPREAD_S_MAX}")));
        }
    }
    if request.pace_s.is_some() && request.kind == RolloutKind::Rollback {
        return Err(usage("pace_s: a way back is fetched as fast as can be".into()));
    }
    for (field, seconds) in [("bake_s", request.bake_s), ("when_ready_s", request.when_ready_s)] {
        if seconds.is_some_and(|seconds| seconds > SECONDS_MAX) {
            return Err(usage(format!("{field}: at most {SECONDS_MAX}")));
        }
    }
    for regions in [&request.regions, &request.exclude_regions] {
        let once: BTreeSet<_> = regions.iter().collect();
        if once.len() != regions.len() {
            return Err(usage("regions: each at most once".into()));
        }
    }
    if request.no_auto_revert && request.kind == RolloutKind::Rollback {
        return Err(usage("no_auto_revert: a rollback is never reverted".into()));
    }
    Ok(())
}
