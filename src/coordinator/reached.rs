//! Which regions a rollout that is asked for goes to: those it names, or all but those.

use std::collections::BTreeSet;

use crate::model::id::RegionName;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::rollout::RolloutRequest;

/// The regions that a request is limited to, of those that are known; empty: all.
///
/// # Errors
/// `not_found` for one that nobody knows, `usage` when none is left.
pub(super) fn regions(
    known: &BTreeSet<RegionName>,
    request: &RolloutRequest,
) -> Result<Vec<RegionName>, Problem> {
    let (only, but) = (&request.regions, &request.exclude_regions);
    check_known(known, only.iter().chain(but))?;
    if but.is_empty() {
        return Ok(only.clone());
    }
    if !only.is_empty() {
        return Err(Problem::new(Code::Usage, "regions are named or left out, not both")
            .because("regions says which, exclude_regions all but which"));
    }
    let left: Vec<_> = known.iter().filter(|region| !but.contains(region)).cloned().collect();
    if left.is_empty() {
        return Err(Problem::new(Code::Usage, "no region is left to deploy to")
            .because(format!("there are {}, and every one is left out", names(known)))
            .hint("deployctl regions"));
    }
    Ok(left)
}

/// Whether each of `regions` is one of those that are known.
///
/// # Errors
/// `not_found`, naming the first that is none.
pub(super) fn check_known<'a>(
    known: &BTreeSet<RegionName>,
    mut regions: impl Iterator<Item = &'a RegionName>,
) -> Result<(), Problem> {
    let Some(unknown) = regions.find(|region| !known.contains(region)) else { return Ok(()) };
    Err(Problem::new(Code::NotFound, format!("there is no region {unknown}"))
        .because(format!("there are {}", names(known)))
        .hint("deployctl regions"))
}

fn names(known: &BTreeSet<RegionName>) -> String {
    known.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ")
}
