//! Puts an artifact into the main blob store and reads it back before anybody
//! is told that it is there.
//!
//! Order: pack, signature, manifest; a manifest that exists means that the rest
//! is there. The pack was sent while it was made and only takes its key here. When
//! the artifact is in the store already, and reads back well, what was sent is
//! dropped.

use ed25519_dalek::SigningKey;

use crate::model::digest::{ArtifactId, Digest, PieceDigest};
use crate::model::manifest::{InvalidManifest, MANIFEST_BYTES_MAX, Manifest};
use crate::store::blobs::{BlobError, Blobs, Key, Kind, Upload};
use crate::wire::seal;

/// Most pieces that are read back: all of an artifact of 64 MiB, a spread of a
/// larger one. The regions read every piece anyway when they copy it.
const PIECES_READ_BACK: usize = 64;

/// Why an artifact is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Its manifest breaks a rule, such as the bound on its size.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// What was read back is not what was written.
    #[error("the blob store gave back something else for {0}")]
    Damaged(Key),
}

/// Publishes the artifact whose pack's bytes are in `pack`. Durable and verified on return.
///
/// # Errors
/// See [`PublishError`].
pub async fn publish(
    blobs: &Blobs,
    key: &SigningKey,
    manifest: &Manifest,
    pack: Upload,
) -> Result<ArtifactId, PublishError> {
    manifest.check()?;
    let bytes = manifest.encode();
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(InvalidManifest::TooLarge(bytes.len()).into());
    }
    let artifact = Digest::of(&bytes);
    let signature = format!("{}\n", seal::sign_manifest(key, &bytes));
    let made = Made { artifact, manifest, bytes, signature };
    if matches!(made.read_back(blobs).await, Ok(())) {
        tracing::info!(artifact = %artifact, "in the store already");
        return Ok(artifact);
    }
    pack.finish(Key::new(Kind::Pack, artifact)).await?;
    blobs.put(Key::new(Kind::Signature, artifact), made.signature.clone()).await?;
    blobs.commit(Key::new(Kind::Manifest, artifact), made.bytes.clone()).await?;
    made.read_back(blobs).await?;
    Ok(artifact)
}

struct Made<'a> {
    artifact: ArtifactId,
    manifest: &'a Manifest,
    bytes: Vec<u8>,
    signature: String,
}

impl Made<'_> {
    /// Checks lengths, the manifest's bytes, the signature and a sample of pieces.
    async fn read_back(&self, blobs: &Blobs) -> Result<(), PublishError> {
        let key = |kind| Key::new(kind, self.artifact);
        let same =
            |kind, same: bool| if same { Ok(()) } else { Err(PublishError::Damaged(key(kind))) };
        let manifest = blobs.get(key(Kind::Manifest)).await?;
        same(Kind::Manifest, Digest::of(&manifest) == self.artifact)?;
        let signature = blobs.get(key(Kind::Signature)).await?;
        same(Kind::Signature, signature == self.signature.as_bytes())?;
        let length = blobs.head(key(Kind::Pack)).await?;
        same(Kind::Pack, length == Some(self.manifest.wire_size()))?;
        let offsets = self.manifest.wire_offsets();
        for index in sample(self.manifest.pieces.len()) {
            let wire = blobs.get_range(key(Kind::Pack), offsets[index]..offsets[index + 1]).await?;
            same(Kind::Pack, PieceDigest::of(&wire) == self.manifest.pieces[index].wire)?;
        }
        Ok(())
    }
}

/// The pieces that are read back: at most [`PIECES_READ_BACK`], evenly spread, the
/// first and the last among them.
fn sample(pieces: usize) -> impl Iterator<Item = usize> {
    let count = pieces.min(PIECES_READ_BACK);
    (0..count).map(move |i| if count < 2 { 0 } else { i * (pieces - 1) / (count - 1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{MANIFEST_VERSION, Provenance};
    use crate::worker::{pack, walk};
    use std::sync::atomic::AtomicBool;

    struct Place {
        folder: tempfile::TempDir,
        blobs: Blobs,
        key: SigningKey,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(&format!("file://{}/blobs", folder.path().display())).unwrap();
            Self { folder, blobs, key: SigningKey::from_bytes(&[7; 32]) }
        }

        async fn publish(&self, bytes: &[u8]) -> Result<(Manifest, ArtifactId), PublishError> {
            std::fs::write(self.folder.path().join("file"), bytes).unwrap();
            let tree = walk::walk(self.folder.path(), "file").unwrap();
            let mut upload = self.blobs.upload().await?;
            let mut sink = |bytes: &[u8]| upload.write(bytes);
            let packed = pack::pack(&tree, &AtomicBool::new(false), &mut sink).unwrap();
            let manifest = Manifest {
                v: MANIFEST_VERSION,
                app: "api".parse().unwrap(),
                shape: tree.shape,
                entries: tree.entries,
                size: tree.size,
                piece_bytes: packed.piece_bytes,
                pieces: packed.pieces,
                run: None,
                provenance: Provenance::sample(),
            };
            let id = publish(&self.blobs, &self.key, &manifest, upload).await?;
            Ok((manifest, id))
        }

        fn path(&self, kind: Kind, id: ArtifactId) -> std::path::PathBuf {
            self.folder.path().join("blobs").join(Key::new(kind, id).to_string())
        }
    }

    #[tokio::test]
    async fn what_is_published_can_be_read_and_trusted() {
        let place = Place::new();
        for bytes in [&b""[..], b"x", &[7u8; 5 << 20]] {
            let (manifest, id) = place.publish(bytes).await.unwrap();
            let stored = place.blobs.get(Key::new(Kind::Manifest, id)).await.unwrap();
            assert_eq!(Manifest::decode(&stored).unwrap(), manifest);
            let signature = place.blobs.get(Key::new(Kind::Signature, id)).await.unwrap();
            let signature = std::str::from_utf8(&signature).unwrap();
            seal::verify_manifest(&[seal::public_key(&place.key)], &id, signature).unwrap();
            let length = place.blobs.head(Key::new(Kind::Pack, id)).await.unwrap();
            assert_eq!(length, Some(manifest.wire_size()));
        }
    }

    #[tokio::test]
    async fn what_is_there_is_not_sent_again_unless_it_is_damaged() {
        let place = Place::new();
        let bytes = vec![7u8; 3 << 20];
        let (manifest, id) = place.publish(&bytes).await.unwrap();
        let pack = place.path(Kind::Pack, id);
        let written = std::fs::metadata(&pack).unwrap().modified().unwrap();
        assert_eq!(place.publish(&bytes).await.unwrap().1, id);
        assert_eq!(std::fs::metadata(&pack).unwrap().modified().unwrap(), written);
        let length = usize::try_from(manifest.wire_size()).unwrap();
        for damage in [vec![0; length], vec![0; length - 1], vec![]] {
            std::fs::write(&pack, damage).unwrap();
            assert_eq!(place.publish(&bytes).await.unwrap().1, id);
            assert_eq!(std::fs::metadata(&pack).unwrap().len(), manifest.wire_size());
        }
        std::fs::remove_file(place.path(Kind::Signature, id)).unwrap();
        place.publish(&bytes).await.unwrap();
        assert!(place.path(Kind::Signature, id).exists());
    }

    #[test]
    fn the_sample_is_all_of_a_few_and_a_spread_of_many() {
        assert_eq!(sample(0).count(), 0);
        assert_eq!(sample(1).collect::<Vec<_>>(), [0]);
        assert_eq!(sample(64).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
        let spread: Vec<usize> = sample(1280).collect();
        assert_eq!((spread.len(), spread[0], spread[63]), (64, 0, 1279));
        assert!(spread.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
