//! `GET /v1/agent/artifacts/{to}/patches?from=A,B`: which of its releases a host can
//! patch into the one that it needs.
//!
//! Only patches that are complete in this region are offered; one that was lost, or
//! is on its way, is as good as none.

use axum::extract::State;

use crate::model::digest::ArtifactId;
use crate::net::server::{Json, Params, Path};
use crate::region::library::LibraryError;
use crate::region::serve::Shared;
use crate::rules::patch::FROM_MAX;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::patch::{PatchOffer, Patches, PatchesQuery};

/// Patches to the artifact `to` from those that the query names.
pub(super) async fn list(
    State(listener): Shared,
    Path(to): Path<ArtifactId>,
    Params(query): Params<PatchesQuery>,
) -> Result<Json<Patches>, Problem> {
    let held = bases(&query.from)?;
    let mut patches = vec![];
    for (from, patch) in listener.mirror.patches(&to) {
        if !held.contains(&from) {
            continue;
        }
        match listener.library.manifest(patch).await {
            Ok(found) => {
                let wire_bytes = found.manifest.wire_size();
                patches.push(PatchOffer { from, patch, wire_bytes });
            }
            Err(LibraryError::Absent(_)) => {}
            // Healed meanwhile; the host goes on without it.
            Err(error) => drop(listener.refuse(patch, error)),
        }
    }
    Ok(Json(Patches { patches }))
}

fn bases(text: &str) -> Result<Vec<ArtifactId>, Problem> {
    let wrong = || {
        Problem::new(Code::Usage, format!("from: at most {FROM_MAX} artifacts, split by commas"))
    };
    let names = text.split(',').filter(|name| !name.is_empty());
    let parsed: Option<Vec<ArtifactId>> =
        names.take(FROM_MAX + 1).map(|n| n.parse().ok()).collect();
    parsed.filter(|bases| bases.len() <= FROM_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    #[test]
    fn only_a_bounded_list_of_artifacts_is_read() {
        let name = |n: usize| Digest::of(&n.to_le_bytes()).to_string();
        let list = |count| (0..count).map(name).collect::<Vec<_>>().join(",");
        assert_eq!(bases("").unwrap(), []);
        assert_eq!(bases(&list(FROM_MAX)).unwrap().len(), FROM_MAX);
        for bad in [list(FROM_MAX + 1), "x".into(), format!("{},", &name(1)[1..])] {
            assert!(bases(&bad).is_err(), "{bad}");
        }
    }
}
