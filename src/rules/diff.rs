//! What a deploy would move, told from manifests before it is made: which files
//! are others, and the cheapest way of each host.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::digest::ArtifactId;
use crate::model::manifest::{Manifest, Node};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only in the new artifact.
    Added,
    /// Only in the old one.
    Removed,
    /// In both, and another.
    Changed,
    /// In both with the same size; the manifests do not tell whether its bytes are the
    /// same, because it shares its pieces with other files.
    Unclear,
}

/// A path that is not surely the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// Which.
    pub path: String,
    /// What became of it.
    pub change: Change,
    /// Bytes before; 0: it was not there, or is no file.
    pub old_bytes: u64,
    /// Bytes after.
    pub new_bytes: u64,
}

/// A path's node and where its bytes begin in the blob.
type Placed<'a> = (&'a Node, u64);

fn placed(manifest: &Manifest) -> BTreeMap<&str, Placed<'_>> {
    let mut at = 0;
    let entries = manifest.entries.iter().map(|entry| {
        let start = at;
        at += entry.size();
        (entry.path.as_str(), (&entry.node, start))
    });
    entries.collect()
}

/// Paths of `from` and `to` that are not surely the same, largest first.
#[must_use]
pub fn changes(from: &Manifest, to: &Manifest) -> Vec<PathChange> {
    let (old, new) = (placed(from), placed(to));
    let size = |placed: Option<&Placed<'_>>| match placed {
        Some((Node::File { size, .. }, _)) => *size,
        _ => 0,
    };
    let paths: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let mut changes: Vec<PathChange> = paths
        .into_iter()
        .filter_map(|path| {
            let (was, is) = (old.get(path), new.get(path));
            let change = match (was, is) {
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
                (Some(was), Some(is)) => compare((from, was), (to, is))?,
            };
            let (old_bytes, new_bytes) = (size(was), size(is));
            Some(PathChange { path: path.into(), change, old_bytes, new_bytes })
        })
        .collect();
    changes.sort_by_key(|c| (std::cmp::Reverse(c.new_bytes.max(c.old_bytes)), c.path.clone()));
    changes
}

/// What became of a path that both have; `None`: it is the same.
fn compare(
    (from, (was, old_start)): (&Manifest, &Placed<'_>),
    (to, (is, new_start)): (&Manifest, &Placed<'_>),
) -> Option<Change> {
    let (Node::File { size, .. }, Node::File { .. }) = (was, is) else {
        return (was != is).then_some(Change::Changed);
    };
    if was != is {
        return Some(Change::Changed);
    }
    let piece = u64::from(to.piece_bytes);
    if *size == 0 {
        return None;
    }
    if from.piece_bytes != to.piece_bytes || old_start % piece != new_start % piece {
        return Some(Change::Unclear);
    }
    let mut same = true;
    for at in new_start / piece..=(new_start + size - 1) / piece {
        let other = (at + old_start / piece).checked_sub(new_start / piece)?;
        let raw = |manifest: &Manifest, at: u64| manifest.pieces.get(at as usize).map(|p| p.raw);
        if raw(to, at) != raw(from, other) {
            let inside = at * piece >= *new_start && (at + 1) * piece <= new_start + size;
            if inside {
                return Some(Change::Changed);
            }
            same = false;
        }
    }
    (!same).then_some(Change::Unclear)
}

/// How a host comes to have an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It has it.
    Here,
    /// By a patch.
    Patch,
    /// By the full pack, less the pieces that it has.
    Full,
}

/// A release that hosts may have, as a base of the artifact that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Wire bytes that move without a patch.
    pub remaining: u64,
    /// Wire bytes of the patch from it that the host's region holds.
    pub patch: Option<u64>,
}

/// The cheapest way for a host that has `held`: the base it uses (`None`: none), the
/// way, and the wire bytes that come to it. A host without a base moves `full` bytes.
#[must_use]
pub fn cheapest(
    held: &[ArtifactId],
    to: ArtifactId,
    full: u64,
    base: impl Fn(&ArtifactId) -> Option<Base>,
) -> (Option<ArtifactId>, Way, u64) {
    if held.contains(&to) {
        return (Some(to), Way::Here, 0);
    }
    let ways = held.iter().filter_map(|artifact| {
        let base = base(artifact)?;
        let patch = base.patch.filter(|bytes| *bytes < base.remaining);
        let (way, bytes) = patch.map_or((Way::Full, base.remaining), |bytes| (Way::Patch, bytes));
        Some((Some(*artifact), way, bytes))
    });
    let best = ways.min_by_key(|(_, _, bytes)| *bytes);
    best.filter(|(_, _, bytes)| *bytes < full).unwrap_or((None, Way::Full, full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::{Digest, PieceDigest};
    use crate::model::manifest::{Codec, Entry, Piece, Provenance, Shape, piece_bytes};

    const PIECE: u64 = 256 << 10;

    fn manifest(files: &[(&str, u64)], pieces: &[u8]) -> Manifest {
        let entry = |(path, size): &(&str, u64)| Entry {
            path: (*path).into(),
            node: Node::File { size: *size, exec: false },
        };
        let piece = |seed: &u8| {
            let raw = PieceDigest::of(&[*seed]);
            Piece { raw, wire: raw, wire_bytes: PIECE as u32, codec: Codec::None }
        };
        let size = files.iter().map(|file| file.1).sum();
        Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::Folder,
            entries: files.iter().map(entry).collect(),
            size,
            piece_bytes: piece_bytes(size),
            pieces: pieces.iter().map(piece).collect(),
            run: None,
            provenance: Provenance::sample(),
        }
    }

    fn words(from: &Manifest, to: &Manifest) -> Vec<(String, Change)> {
        changes(from, to).into_iter().map(|change| (change.path, change.change)).collect()
    }

    #[test]
    fn what_the_manifests_tell_is_told_and_nothing_more() {
        // `a` fills two pieces and a half, `b` the other half and one more.
        let sizes = [("a", PIECE * 5 / 2), ("b", PIECE * 3 / 2)];
        let old = manifest(&sizes, &[1, 2, 3, 4]);
        assert_eq!(words(&old, &old), []);
        let inside = manifest(&sizes, &[1, 9, 3, 4]);
        assert_eq!(words(&old, &inside), [("a".into(), Change::Changed)]);
        let shared = manifest(&sizes, &[1, 2, 9, 4]);
        let both = [("a".into(), Change::Unclear), ("b".into(), Change::Unclear)];
        assert_eq!(words(&old, &shared), both);
        let grown = manifest(&[("a", PIECE * 5 / 2), ("b", PIECE * 2)], &[1, 2, 3, 9, 8]);
        assert_eq!(words(&old, &grown), [("b".into(), Change::Changed)]);
        let moved = manifest(&[("0", 7), sizes[0], sizes[1]], &[5, 6, 7, 8, 9]);
        let unclear = [("a", Change::Unclear), ("b", Change::Unclear), ("0", Change::Added)];
        assert_eq!(words(&old, &moved), unclear.map(|(path, change)| (path.into(), change)));
        assert_eq!(words(&moved, &old).last(), Some(&("0".into(), Change::Removed)));
    }

    #[test]
    fn a_host_takes_the_cheapest_of_what_it_has() {
        let [a, b, c, to] = [b"a", b"b", b"c", b"t"].map(|name| Digest::of(name));
        let bases = BTreeMap::from([
            (a, Base { remaining: 70, patch: Some(9) }),
            (b, Base { remaining: 60, patch: Some(80) }),
            (c, Base { remaining: 100, patch: None }),
        ]);
        let way = |held: &[ArtifactId]| cheapest(held, to, 100, |id| bases.get(id).copied());
        assert_eq!(way(&[b, a]), (Some(a), Way::Patch, 9));
        assert_eq!(way(&[b]), (Some(b), Way::Full, 60));
        assert_eq!(way(&[c]), (None, Way::Full, 100));
        assert_eq!(way(&[]), (None, Way::Full, 100));
        assert_eq!(way(&[a, to]), (Some(to), Way::Here, 0));
    }
}
