//! Which of two commits is older, from what workers saw of an app's history.
//!
//! A worker compares what it builds with a few commits that matter then. Ancestry is
//! transitive, so a chain of such facts answers for commits that nobody compared; that
//! two are apart is known only of those that were. What is not known is `None`, never a
//! guess: neither times nor the order of builds say what contains what.

use std::collections::{HashMap, HashSet};

use crate::model::ancestry::{Relation, Relative};
use crate::model::commit::CommitId;

/// What is known of an app's history.
#[derive(Debug, Default)]
pub struct History {
    ancestors: HashMap<CommitId, Vec<CommitId>>,
    apart: HashSet<(CommitId, CommitId)>,
}

impl History {
    /// From facts: each `relative` as it stands to the commit beside it.
    #[must_use]
    pub fn new(facts: impl IntoIterator<Item = (CommitId, Relative)>) -> Self {
        let mut history = Self::default();
        for (commit, Relative { commit: other, is }) in facts {
            match is {
                Relation::Ancestor => history.ancestors.entry(commit).or_default().push(other),
                Relation::Descendant => history.ancestors.entry(other).or_default().push(commit),
                Relation::Apart => {
                    history.apart.insert((commit.clone(), other.clone()));
                    history.apart.insert((other, commit));
                }
            }
        }
        history
    }

    /// What `one` is to `other`; `None`: nobody knows, or they are the same.
    #[must_use]
    pub fn relation(&self, one: &CommitId, other: &CommitId) -> Option<Relation> {
        if one == other {
            None
        } else if self.contains(other, one) {
            Some(Relation::Ancestor)
        } else if self.contains(one, other) {
            Some(Relation::Descendant)
        } else {
            self.apart.contains(&(one.clone(), other.clone())).then_some(Relation::Apart)
        }
    }

    /// Whether `younger` is known to be `older` or to contain it.
    #[must_use]
    pub fn contains(&self, younger: &CommitId, older: &CommitId) -> bool {
        let (mut seen, mut open) = (HashSet::from([younger]), vec![younger]);
        while let Some(commit) = open.pop() {
            if commit == older {
                return true;
            }
            let further = self.ancestors.get(commit).into_iter().flatten();
            open.extend(further.filter(|commit| seen.insert(commit)));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(n: u32) -> CommitId {
        format!("{n:040x}").parse().expect("hexadecimal digits")
    }

    fn fact(of: u32, other: u32, is: Relation) -> (CommitId, Relative) {
        (commit(of), Relative { commit: commit(other), is })
    }

    #[test]
    fn chains_answer_and_what_nobody_saw_stays_unknown() {
        // 1 < 2 < 3, built in the order 3, 1, 2; 9 is on a branch off 1.
        let history = History::new([
            fact(2, 1, Relation::Ancestor),
            fact(2, 3, Relation::Descendant),
            fact(9, 1, Relation::Ancestor),
            fact(9, 3, Relation::Apart),
        ]);
        let relation = |one, other| history.relation(&commit(one), &commit(other));
        assert_eq!(relation(1, 3), Some(Relation::Ancestor));
        assert_eq!(relation(3, 1), Some(Relation::Descendant));
        assert_eq!(relation(3, 9), Some(Relation::Apart));
        assert_eq!(relation(9, 3), Some(Relation::Apart));
        assert_eq!(relation(2, 9), None);
        assert_eq!(relation(2, 2), None);
        assert_eq!(relation(7, 2), None);
    }
}
