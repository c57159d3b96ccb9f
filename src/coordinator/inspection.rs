//! A look at one copy of an artifact in a region's store: is it what was signed?
//!
//! Reads the manifest back, checks its digest and signature, the pack's length,
//! and hashes a sample of pieces. Believes nothing that a region says. A store
//! that does not answer is no finding.

use std::sync::Arc;

use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::manifest::Manifest;
use crate::model::rng::Rng;
use crate::rules::replication::Finding;
use crate::store::blobs::{BlobError, Blobs, Key, Kind};
use crate::wire::seal::{PublicKey, verify_manifest};

/// What to look at.
#[derive(Clone)]
pub(super) struct Inspection {
    /// The artifact.
    pub(super) artifact: ArtifactId,
    /// Pieces to hash, drawn at random; all when there are fewer.
    pub(super) samples: usize,
    /// A piece that was damaged before: hashed first.
    pub(super) suspect: Option<u32>,
    /// Keys that may have signed the manifest.
    pub(super) trusted: Arc<[PublicKey]>,
    /// Draws the sample.
    pub(super) seed: u64,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    /// In one word.
    pub(super) finding: Finding,
    /// What is wrong; empty: nothing.
    pub(super) reason: String,
    /// A piece that is damaged.
    pub(super) bad_piece: Option<u32>,
}

impl Look {
    fn new(finding: Finding, reason: impl Into<String>) -> Self {
        Self { finding, reason: reason.into(), bad_piece: None }
    }

    fn damaged(reason: &str) -> Self {
        Self::new(Finding::Damaged, reason)
    }
}

/// Looks at a copy.
///
/// # Errors
/// When the store does not answer.
pub(super) async fn inspect(store: &Blobs, ask: Inspection) -> Result<Look, BlobError> {
    let key = |kind| Key::new(kind, ask.artifact);
    let Some(bytes) = optional(store.get(key(Kind::Manifest)).await)? else {
        return Ok(match store.head(key(Kind::Pack)).await? {
            Some(_) => Look::new(Finding::Unpublished, ""),
            None => Look::new(Finding::Absent, ""),
        });
    };
    let Some(signature) = optional(store.get(key(Kind::Signature)).await)? else {
        return Ok(Look::damaged("the signature is missing"));
    };
    let (artifact, trusted) = (ask.artifact, ask.trusted.clone());
    let decoded = tokio::task::spawn_blocking(move || {
        let signature = String::from_utf8_lossy(&signature);
        if Digest::of(&bytes) != artifact {
            return Err("the manifest is damaged");
        }
        verify_manifest(&trusted, &artifact, &signature).map_err(|_| "the signature is damaged")?;
        Manifest::decode(&bytes).map_err(|_| "the manifest breaks a rule")
    });
    let manifest = match decoded.await.unwrap_or(Err("the manifest can't be read")) {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(Look::damaged(reason)),
    };
    match store.head(key(Kind::Pack)).await? {
        None => return Ok(Look::damaged("the pack is missing")),
        Some(bytes) if bytes != manifest.wire_size() => {
            return Ok(Look::damaged("the pack has the wrong length"));
        }
        Some(_) => {}
    }
    sample(store, &ask, &manifest).await
}

async fn sample(store: &Blobs, ask: &Inspection, manifest: &Manifest) -> Result<Look, BlobError> {
    let offsets = manifest.wire_offsets();
    for index in drawn(ask, manifest.pieces.len()) {
        let range = offsets[index]..offsets[index + 1];
        let read = store.get_range(Key::new(Kind::Pack, ask.artifact), range).await;
        let sound = match optional(read)? {
            Some(bytes) => {
                let wire = manifest.pieces[index].wire;
                let same = tokio::task::spawn_blocking(move || PieceDigest::of(&bytes) == wire);
                same.await.unwrap_or(false)
            }
            None => false,
        };
        if !sound {
            let reason = format!("piece {index} of {} is damaged", manifest.pieces.len());
            let bad_piece = u32::try_from(index).ok();
            return Ok(Look { bad_piece, ..Look::damaged(&reason) });
        }
    }
    Ok(Look::new(Finding::Whole, ""))
}

/// The suspect first, then a sample without repetition.
fn drawn(ask: &Inspection, pieces: usize) -> Vec<usize> {
    let mut rng = Rng::new(ask.seed);
    let mut drawn: Vec<usize> = ask.suspect.map(|piece| piece as usize).into_iter().collect();
    drawn.retain(|index| *index < pieces);
    let wanted = pieces.min(ask.samples + drawn.len());
    while drawn.len() < wanted {
        let index = rng.below(pieces as u64) as usize;
        if !drawn.contains(&index) {
            drawn.push(index);
        }
    }
    drawn
}

/// An object that is missing is an answer, not a failure.
fn optional<T>(read: Result<T, BlobError>) -> Result<Option<T>, BlobError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(BlobError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_suspect_first_and_no_piece_twice() {
        let ask = |samples, suspect| Inspection {
            artifact: Digest([0; 32]),
            samples,
            suspect,
            trusted: Arc::new([]),
            seed: 7,
        };
        for (samples, suspect, pieces, expected) in [
            (4, None, 0, 0),
            (4, None, 3, 3),
            (4, None, 100, 4),
            (4, Some(9), 100, 5),
            (1, Some(9), 5, 1),
        ] {
            let mut drawn = drawn(&ask(samples, suspect), pieces);
            assert_eq!(drawn.len(), expected);
            if suspect.is_some_and(|suspect| (suspect as usize) < pieces) {
                assert_eq!(drawn[0], suspect.unwrap() as usize);
            }
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), expected);
        }
    }
}
