//! When an artifact may be deployed: what was found in each region's store, folded
//! into one status.
//!
//! Only a finding makes a copy complete, never the region's word. A required
//! region that was never heard of is a region without a copy. A copy that was
//! complete, or that its region calls complete, and isn't found whole is lost
//! until a later look finds it whole again.

use crate::model::replication::ReplicationStatus;

/// What a look into one region's store showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// No object of the artifact.
    Absent,
    /// A pack, but no manifest: publishing it is under way.
    Unpublished,
    /// Manifest read back, pack of the right length, every sampled piece sound.
    Whole,
    /// A manifest is there, and something that it promises is not, or not right.
    Damaged,
}

/// The region's own word; it explains, and never counts as a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// Bytes that it says it has verified.
    pub bytes: u64,
    /// Whether it says that its copy is complete.
    pub complete: bool,
}

/// One copy's status after a look.
#[must_use]
pub fn copy_status(before: ReplicationStatus, claim: Claim, finding: Finding) -> ReplicationStatus {
    use ReplicationStatus::{Complete, Lost, Partial, Pending};
    match finding {
        Finding::Whole => Complete,
        Finding::Damaged => Lost,
        _ if claim.complete || matches!(before, Complete | Lost) => Lost,
        Finding::Unpublished => Partial,
        Finding::Absent if claim.bytes > 0 => Partial,
        Finding::Absent => Pending,
    }
}

/// One copy's status after its region spoke: progress shows, and nothing is promoted.
#[must_use]
pub fn claimed_status(before: ReplicationStatus, claim: Claim) -> ReplicationStatus {
    match before {
        ReplicationStatus::Pending if claim.bytes > 0 || claim.complete => {
            ReplicationStatus::Partial
        }
        other => other,
    }
}

/// The artifact's status: complete exactly when the copies of all required regions
/// are; lost when one is lost. Without a required region it is pending for ever.
#[must_use]
pub fn artifact_status(required: impl IntoIterator<Item = ReplicationStatus>) -> ReplicationStatus {
    use ReplicationStatus::{Complete, Lost, Partial, Pending};
    let mut all = None;
    for copy in required {
        all = Some(match (all, copy) {
            (Some(Lost), _) | (_, Lost) => Lost,
            (None, copy) => copy,
            (Some(Complete), Complete) => Complete,
            (Some(Pending), Pending) => Pending,
            _ => Partial,
        });
    }
    all.unwrap_or(Pending)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::replication::ReplicationStatus::{Complete, Lost, Partial, Pending};

    fn finding() -> impl Strategy<Value = Finding> {
        prop_oneof![
            Just(Finding::Absent),
            Just(Finding::Unpublished),
            Just(Finding::Whole),
            Just(Finding::Damaged),
        ]
    }

    fn claim() -> impl Strategy<Value = Claim> {
        (0u64..3, any::<bool>()).prop_map(|(bytes, complete)| Claim { bytes, complete })
    }

    #[test]
    fn statuses_of_copies_fold() {
        for (copies, expected) in [
            (vec![], Pending),
            (vec![Pending, Pending], Pending),
            (vec![Complete, Pending], Partial),
            (vec![Pending, Complete], Partial),
            (vec![Partial, Partial], Partial),
            (vec![Complete, Complete], Complete),
            (vec![Complete, Lost, Pending], Lost),
        ] {
            assert_eq!(artifact_status(copies.clone()), expected, "{copies:?}");
        }
    }

    #[test]
    fn a_claim_alone_never_completes_and_never_hides_a_loss() {
        let claim = Claim { bytes: 9, complete: true };
        assert_eq!(claimed_status(Pending, claim), Partial);
        assert_eq!(claimed_status(Lost, claim), Lost);
        assert_eq!(copy_status(Pending, claim, Finding::Absent), Lost);
        assert_eq!(copy_status(Pending, Claim::default(), Finding::Absent), Pending);
    }

    proptest! {
        /// Any history of claims and looks in three regions: deployable exactly
        /// when the last look at each region found the copy whole.
        #[test]
        fn deployable_exactly_when_the_last_look_everywhere_was_whole(
            steps in prop::collection::vec((0usize..3, claim(), prop::option::of(finding())), 0..60),
        ) {
            let mut copies = [Pending; 3];
            let mut looks = [None; 3];
            for (region, claim, look) in steps {
                let was = copies[region];
                copies[region] = match look {
                    Some(finding) => {
                        looks[region] = Some(finding);
                        copy_status(was, claim, finding)
                    }
                    None => claimed_status(was, claim),
                };
                if was == Complete && copies[region] != Complete {
                    prop_assert_eq!(copies[region], Lost);
                }
                let whole = looks.iter().all(|look| *look == Some(Finding::Whole));
                prop_assert_eq!(artifact_status(copies).is_deployable(), whole);
                let lost = copies.contains(&Lost);
                prop_assert_eq!(artifact_status(copies) == Lost, lost);
            }
        }
    }
}
