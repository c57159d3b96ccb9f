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
    let names = || known.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = only.iter().chain(but).find(|region| !known.contains(region)) {
        return Err(Problem::new(Code::NotFound, format!("there is no region {unknown}"))
            .because(format!("there are {}", names()))
            .hint("deployctl regions"));
    }
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
            .because(format!("there are {}, and every one is left out", names()))
            .hint("deployctl regions"));
    }
    Ok(left)
}
