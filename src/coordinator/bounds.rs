//! The bounds of a request for a rollout, before the world is looked at.

use std::collections::BTreeSet;

use crate::coordinator::admission::{Asked, MESSAGE_BYTES_MAX};
use crate::model::plan::BAKE_S_MAX;
use crate::model::rollout::{PlanName, RolloutKind};
use crate::rules::rollout::SPREAD_S_MAX;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::rollout::RolloutRequest;

/// Longest wait for a build, seconds: a day.
const READY_S_MAX: u32 = 86_400;

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
    for (field, seconds, most) in [
        ("spread_s", request.spread_s, SPREAD_S_MAX),
        ("pace_s", request.pace_s, SPREAD_S_MAX),
        ("bake_s", request.bake_s, BAKE_S_MAX),
        ("when_ready_s", request.when_ready_s, READY_S_MAX),
    ] {
        if seconds.is_some_and(|seconds| seconds > most) {
            return Err(usage(format!("{field}: at most {most}")));
        }
    }
    for regions in [&request.regions, &request.exclude_regions] {
        let once: BTreeSet<_> = regions.iter().collect();
        if once.len() != regions.len() {
            return Err(usage("regions: each at most once".into()));
        }
    }
    if request.plan_file.is_some() && request.plan != PlanName::default() {
        return Err(usage("plan: a named one, or one of your own (plan_file), not both".into()));
    }
    if request.hosts.is_some() {
        check_hosts(request)?;
    }
    if request.kind == RolloutKind::Rollback {
        if request.plan_file.is_some() {
            return Err(usage("plan_file: a way back has no plan".into()));
        }
        if request.pace_s.is_some() {
            return Err(usage("pace_s: a way back is fetched as fast as can be".into()));
        }
        if request.no_auto_revert {
            return Err(usage("no_auto_revert: a rollback is never reverted".into()));
        }
    }
    Ok(())
}

/// Whether the rest of a request lets it begin with hosts that it names.
fn check_hosts(request: &RolloutRequest) -> Result<(), Problem> {
    let with = if request.kind == RolloutKind::Rollback {
        "a rollback: it is of every host at once"
    } else if request.plan_file.is_some() {
        "a plan of your own: it says itself who goes first"
    } else if request.plan == PlanName::AllAtOnce {
        "the plan all-at-once: nobody goes first there"
    } else if request.max_unavailable.is_some() {
        "max_unavailable: that opens buckets, and these hosts are let in by name"
    } else {
        return Ok(());
    };
    Err(Problem::new(Code::Usage, "the hosts that go first can't be named here")
        .because(format!("hosts is not for {with}"))
        .hint("deployctl help plans"))
}
