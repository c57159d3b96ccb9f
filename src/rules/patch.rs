//! Patches: what one must save to be made, what its manifest must say, and which
//! one a host takes.
//!
//! A patch is an ordinary artifact of one file; its manifest names the two
//! releases between which it leads, so that the relation is signed with it.
//! Nobody has to believe it all the same: what a patch makes is checked piece by
//! piece against the manifest of the release that is wanted.

use std::collections::BTreeSet;

use crate::model::digest::{ArtifactId, PieceDigest};
use crate::model::id::AppName;
use crate::model::manifest::{Manifest, Node, Shape};

/// Most bases that a claim names, and most that a host asks for: a host keeps few
/// releases, and one that is older than the last eight deployed is better off with
/// the pack.
pub const BASES_MAX: usize = 8;
/// Most releases that one request of a host names: twice what retention keeps.
pub const FROM_MAX: usize = 16;
/// A patch that saves less than this is not made: its manifest, its swarm and its
/// copy in every region cost about as much.
const SAVING_BYTES_MIN: u64 = 256 << 10;
/// The name of the file in a patch's artifact.
pub const FILE: &str = "patch";

/// Wire bytes of `to` that a host with `from` must move without a patch: pieces
/// that both have are copied on the host.
#[must_use]
pub fn remaining(from: &Manifest, to: &Manifest) -> u64 {
    let there: BTreeSet<PieceDigest> = from.pieces.iter().map(|piece| piece.raw).collect();
    let missing = to.pieces.iter().filter(|piece| !there.contains(&piece.raw));
    missing.map(|piece| u64::from(piece.wire_bytes)).sum()
}

/// The most wire bytes that a patch may have where `remaining` bytes move without
/// it: half of them, as [distribution 6.2] has it, because a second artifact in every
/// region has a price. `None`: no patch can pay.
#[must_use]
pub fn bytes_max(remaining: u64) -> Option<u64> {
    (remaining >= 2 * SAVING_BYTES_MIN).then_some(remaining / 2)
}

/// The command in the provenance of the patch that makes `to` out of `from`: no two
/// pairs share a patch, and whoever has it knows what it is for.
#[must_use]
pub fn command(from: ArtifactId, to: ArtifactId) -> String {
    format!("patch {from} {to}")
}

/// Whether `manifest` is that of a patch of `app` that makes `to` out of `from`.
///
/// # Errors
/// The rule that it breaks.
pub fn check(
    manifest: &Manifest,
    app: &AppName,
    (from, to): (ArtifactId, ArtifactId),
) -> Result<(), &'static str> {
    let single = manifest.shape == Shape::File && manifest.run.is_none();
    let file = manifest.entries.first();
    let named = file.is_some_and(|e| e.path == FILE && matches!(e.node, Node::File { .. }));
    if manifest.app != *app {
        Err("the patch is of another app")
    } else if !single || !named {
        Err("the patch is not one file")
    } else if manifest.provenance.command != command(from, to) {
        Err("the patch is for other releases")
    } else {
        Ok(())
    }
}

/// The offer with the fewest wire bytes, if it moves less than the `missing` wire
/// bytes that are left without one.
pub fn choose<T>(
    offers: impl IntoIterator<Item = T>,
    bytes: impl Fn(&T) -> u64,
    missing: u64,
) -> Option<T> {
    offers.into_iter().filter(|offer| bytes(offer) < missing).min_by_key(|offer| bytes(offer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::model::manifest::{Codec, Entry, Piece, Provenance, piece_bytes};

    fn manifest(path: &str, pieces: &[u8]) -> Manifest {
        let size = pieces.len() as u64 * (256 << 10);
        let piece = |seed: &u8| {
            let raw = PieceDigest::of(&[*seed]);
            let wire = PieceDigest::of(&[*seed, 0]);
            Piece { raw, wire, wire_bytes: 1000 + u32::from(*seed), codec: Codec::Zstd }
        };
        Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::File,
            entries: vec![Entry { path: path.into(), node: Node::File { size, exec: false } }],
            size,
            piece_bytes: piece_bytes(size),
            pieces: pieces.iter().map(piece).collect(),
            run: None,
            provenance: Provenance::sample(),
        }
    }

    #[test]
    fn only_pieces_that_the_base_has_nowhere_must_move() {
        let (from, to) = (manifest("a", &[1, 2, 3]), manifest("a", &[3, 4, 1, 5]));
        assert_eq!(remaining(&from, &to), 1004 + 1005);
        assert_eq!(remaining(&to, &to), 0);
        assert_eq!(remaining(&manifest("a", &[]), &to), to.wire_size());
    }

    #[test]
    fn a_patch_must_save_half_and_more_than_it_costs() {
        assert_eq!(bytes_max(0), None);
        assert_eq!(bytes_max((512 << 10) - 1), None);
        assert_eq!(bytes_max(512 << 10), Some(256 << 10));
        assert_eq!(bytes_max(10 << 30), Some(5 << 30));
    }

    #[test]
    fn a_patch_says_what_it_is_for() {
        let [from, to] = [b"a", b"b"].map(|name| Digest::of(name));
        let app: AppName = "api".parse().unwrap();
        let mut patch = manifest(FILE, &[1]);
        patch.provenance.command = command(from, to);
        assert_eq!(check(&patch, &app, (from, to)), Ok(()));
        assert!(check(&patch, &app, (to, from)).unwrap_err().contains("other releases"));
        assert!(check(&patch, &"web".parse().unwrap(), (from, to)).is_err());
        let other = Manifest { entries: manifest("app", &[1]).entries, ..patch.clone() };
        assert!(check(&other, &app, (from, to)).unwrap_err().contains("one file"));
        let folder = Manifest { shape: Shape::Folder, ..patch };
        assert!(check(&folder, &app, (from, to)).unwrap_err().contains("one file"));
    }

    #[test]
    fn the_smallest_is_taken_and_none_that_moves_more() {
        let choose = |offers: &[u64], missing| super::choose(offers.to_vec(), |b| *b, missing);
        assert_eq!(choose(&[30, 10, 20], 100), Some(10));
        assert_eq!(choose(&[30, 10, 20], 10), None);
        assert_eq!(choose(&[], 100), None);
    }
}
