//! Which artifacts of an app may be collected: taken out of every store for good.
//!
//! Kept: whatever a goal, an open rollout, a hold or the way back names; the last known-good
//! releases of each env; everything that was built or released lately; what is still being
//! replicated; what hosts are being patched from. A patch goes with either of its ends: it is
//! of no use without both.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::digest::ArtifactId;
use crate::model::time::UnixMillis;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Nothing goes that was built or released within it.
    pub grace: Duration,
    /// Known-good artifacts kept per env, whatever their age: what a rollback may go to.
    pub good: usize,
}

/// Between which artifacts a patch leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// What a host has.
    pub from: ArtifactId,
    /// What it makes of it.
    pub to: ArtifactId,
}

/// An artifact that the main store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub artifact: ArtifactId,
    /// When it was built, or the last release of it ended: the later.
    pub used_at: UnixMillis,
    /// Whether some region has yet to get it.
    pub replicating: bool,
    /// Between which it leads, if it is a patch.
    pub patch: Option<Ends>,
}

/// All of one app, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What there is.
    pub held: Vec<Held>,
    /// What goals, open rollouts and holds name, or go back to.
    pub named: BTreeSet<ArtifactId>,
    /// For each env its known-good artifacts, each once, newest first.
    pub good: Vec<Vec<ArtifactId>>,
}

/// What may go, in the order of `facts.held`.
#[must_use]
pub fn collectable(facts: &Facts, policy: &Policy, now: UnixMillis) -> Vec<ArtifactId> {
    let good = facts.good.iter().flat_map(|env| env.iter().take(policy.good));
    let mut kept: BTreeSet<ArtifactId> = facts.named.iter().chain(good).copied().collect();
    for held in &facts.held {
        if let Some(Ends { from, .. }) = held.patch.filter(|of| facts.named.contains(&of.to)) {
            kept.insert(from);
        }
    }
    let young = |held: &Held| held.used_at + policy.grace > now;
    let whole = facts.held.iter().filter(|held| held.patch.is_none());
    for held in whole.filter(|held| young(held) || held.replicating) {
        kept.insert(held.artifact);
    }
    // An end that is not held any more is not kept either, whatever names it.
    let held: BTreeSet<ArtifactId> = facts.held.iter().map(|held| held.artifact).collect();
    let stays = |artifact: &ArtifactId| kept.contains(artifact) && held.contains(artifact);
    let goes = |held: &&Held| match held.patch {
        Some(Ends { from, to }) => !stays(&from) || !stays(&to),
        None => !stays(&held.artifact),
    };
    facts.held.iter().filter(goes).map(|held| held.artifact).collect()
}

/// The command in the provenance of what is built after `collected` artifacts of the same
/// commit were: another line, so another name. A name whose objects were deleted is never
/// used again, so that no delete that comes late can meet a new object.
#[must_use]
pub fn command_again(command: &str, collected: u32) -> String {
    match collected {
        0 => command.to_owned(),
        times => format!("{command}\n# built again: {times}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::digest::Digest;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: UnixMillis = UnixMillis(100 * 86_400_000);
    const POLICY: Policy = Policy { grace: Duration::from_secs(14 * 86_400), good: 2 };

    fn id(n: u8) -> ArtifactId {
        Digest::of(&[n])
    }

    fn held(n: u8, days: u32) -> Held {
        Held { artifact: id(n), used_at: NOW - DAY * days, replicating: false, patch: None }
    }

    fn patch(n: u8, from: u8, to: u8) -> Held {
        Held { patch: Some(Ends { from: id(from), to: id(to) }), ..held(n, 99) }
    }

    #[test]
    fn what_is_old_and_needed_by_nobody_goes() {
        let facts = Facts {
            held: vec![
                held(1, 99),
                held(2, 99),
                held(3, 13),
                held(4, 15),
                held(5, 99),
                held(6, 99),
                Held { replicating: true, ..held(7, 99) },
            ],
            named: [id(1)].into(),
            good: vec![vec![id(2), id(1), id(5)], vec![id(6)]],
        };
        assert_eq!(collectable(&facts, &POLICY, NOW), [id(4), id(5)]);
    }

    #[test]
    fn a_patch_goes_with_either_end_and_holds_the_base_of_what_is_deployed() {
        let facts = Facts {
            held: vec![held(1, 99), held(2, 99), held(3, 0), patch(11, 1, 2), patch(12, 2, 3)],
            named: [id(3)].into(),
            good: vec![],
        };
        // 2 is the base of a patch to what is named; 1 is not.
        assert_eq!(collectable(&facts, &POLICY, NOW), [id(1), id(11)]);
        let facts = Facts { named: [].into(), ..facts };
        assert_eq!(collectable(&facts, &POLICY, NOW), [id(1), id(2), id(11), id(12)]);
    }

    #[test]
    fn what_is_built_again_has_another_command() {
        assert_eq!(command_again("make", 0), "make");
        assert_eq!(command_again("make", 2), "make\n# built again: 2");
    }

    fn facts(patches: bool) -> impl Strategy<Value = Facts> {
        let one = (0u8..20, 0u32..30, any::<bool>(), prop::option::of((0u8..20, 0u8..20)));
        let ids = || prop::collection::vec(0u8..24, 0..6);
        let some = (prop::collection::vec(one, 0..20), ids(), prop::collection::vec(ids(), 0..3));
        some.prop_map(move |(all, named, good)| {
            let mut known = BTreeSet::new();
            let all = all.into_iter().filter(|(n, ..)| known.insert(*n));
            let held = all.map(|(n, days, replicating, ends)| {
                let ends = ends.filter(|_| patches);
                let patch = ends.map(|(from, to)| Ends { from: id(from), to: id(to) });
                Held { replicating, patch, ..held(n, days) }
            });
            let ids = |all: Vec<u8>| all.into_iter().map(id);
            Facts {
                held: held.collect(),
                named: ids(named).collect(),
                good: good.into_iter().map(|env| ids(env).collect()).collect(),
            }
        })
    }

    proptest! {
        /// Nothing goes that anybody needs, and everything else does.
        #[test]
        fn exactly_what_nobody_needs_goes(facts in facts(true), good in 0usize..4) {
            let policy = Policy { good, ..POLICY };
            let gone = collectable(&facts, &policy, NOW);
            let stays = |artifact: &ArtifactId| {
                facts.held.iter().any(|h| h.artifact == *artifact) && !gone.contains(artifact)
            };
            for held in &facts.held {
                let artifact = &held.artifact;
                let is_base = |of: Ends| of.from == *artifact && facts.named.contains(&of.to);
                let needed = facts.named.contains(artifact)
                    || facts.good.iter().any(|env| env.iter().take(good).any(|a| a == artifact))
                    || facts.held.iter().any(|other| other.patch.is_some_and(is_base));
                let young = held.used_at + policy.grace > NOW;
                let Some(of) = held.patch else {
                    prop_assert_eq!(stays(artifact), needed || young || held.replicating);
                    continue;
                };
                // No patch leads from or to a patch in the world.
                let is_patch = |end| facts.held.iter().any(|h| h.artifact == end && h.patch.is_some());
                if !is_patch(of.from) && !is_patch(of.to) {
                    prop_assert_eq!(stays(artifact), stays(&of.from) && stays(&of.to));
                }
            }
        }

        /// A second look finds nothing more, and more care never takes more.
        #[test]
        fn one_look_is_enough_and_more_care_never_takes_more(
            facts in facts(false),
            good in 0usize..3,
        ) {
            let policy = Policy { good, ..POLICY };
            let gone = collectable(&facts, &policy, NOW);
            let rest = facts.held.iter().filter(|held| !gone.contains(&held.artifact));
            let left = Facts { held: rest.copied().collect(), ..facts.clone() };
            prop_assert!(collectable(&left, &policy, NOW).is_empty());
            for careful in [Policy { good: good + 1, ..policy }, Policy { grace: DAY * 20, ..policy }] {
                let fewer = collectable(&facts, &careful, NOW);
                prop_assert!(fewer.iter().all(|artifact| gone.contains(artifact)));
            }
        }
    }
}
