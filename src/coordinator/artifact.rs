//! Checks that what a worker says it made is whole in the main store, before the
//! job may succeed: a build is never shown as done on a worker's word alone.

use crate::coordinator::state::Shared;
use crate::model::digest::{ArtifactId, Digest};
use crate::model::id::JobNo;
use crate::model::manifest::Manifest;
use crate::model::replication::ReplicationStatus;
use crate::store::blobs::{BlobError, Key, Kind};
use crate::store::db::artifacts::ArtifactRow;
use crate::store::db::jobs::JobRow;
use crate::wire::problem::{Code, Problem};
use crate::wire::seal::verify_manifest;

/// An artifact that is whole in the main store.
pub(super) struct Seen {
    /// Its manifest.
    pub(super) manifest: Manifest,
    manifest_bytes: u64,
    wire_size: u64,
}

impl Seen {
    /// Its row, as of `job`.
    pub(super) fn row(self, artifact: ArtifactId, job: JobNo) -> ArtifactRow {
        let Self { manifest, manifest_bytes, wire_size } = self;
        ArtifactRow {
            artifact,
            app: manifest.app,
            commit: manifest.provenance.commit,
            job,
            size: manifest.size,
            wire_size,
            pieces: u32::try_from(manifest.pieces.len()).unwrap_or(u32::MAX),
            entries: u32::try_from(manifest.entries.len()).unwrap_or(u32::MAX),
            manifest_bytes,
            replication: ReplicationStatus::Pending,
        }
    }
}

/// Checks what the worker of `row` says that it made.
///
/// # Errors
/// `not_deployable` with what is wrong; `unavailable` when the store fails.
pub(super) async fn check(
    shared: &Shared,
    row: &JobRow,
    artifact: ArtifactId,
) -> Result<ArtifactRow, Problem> {
    let seen = look(shared, artifact).await?;
    let (asked, manifest) = (&row.asked, &seen.manifest);
    if manifest.app != asked.app || manifest.provenance.commit != asked.commit {
        let (app, commit) = (&manifest.app, manifest.provenance.commit.short());
        return Err(refuse(format!("its manifest is of {app} at {commit}")));
    }
    Ok(seen.row(artifact, row.no))
}

/// The manifest of an artifact in the main store, checked against its name and a
/// trusted signature.
///
/// # Errors
/// As [`check`].
pub(super) async fn manifest(
    shared: &Shared,
    artifact: ArtifactId,
) -> Result<(Manifest, u64), Problem> {
    let get = |kind| shared.blobs.get(Key::new(kind, artifact));
    let signature = get(Kind::Signature).await.map_err(store)?;
    let signature = String::from_utf8_lossy(&signature);
    verify_manifest(&shared.keys.trusted_build, &artifact, &signature).map_err(refuse)?;
    let bytes = get(Kind::Manifest).await.map_err(store)?;
    // Up to 64 MiB of JSON: not on a thread that others wait for.
    tokio::task::spawn_blocking(move || decode(artifact, &bytes)).await.map_err(refuse)?
}

/// Reads the manifest and its signature back, and asks for the pack's length.
///
/// # Errors
/// As [`check`].
pub(super) async fn look(shared: &Shared, artifact: ArtifactId) -> Result<Seen, Problem> {
    let (manifest, manifest_bytes) = manifest(shared, artifact).await?;
    let wire_size = manifest.wire_size();
    let pack = shared.blobs.head(Key::new(Kind::Pack, artifact)).await.map_err(store)?;
    if pack.unwrap_or(0) != wire_size {
        return Err(refuse(match pack {
            None => "its pack is not there".to_owned(),
            Some(bytes) => format!("its pack has {bytes} bytes in place of {wire_size}"),
        }));
    }
    Ok(Seen { manifest, manifest_bytes, wire_size })
}

fn decode(artifact: ArtifactId, bytes: &[u8]) -> Result<(Manifest, u64), Problem> {
    if Digest::of(bytes) != artifact {
        return Err(refuse("its manifest has another digest"));
    }
    Ok((Manifest::decode(bytes).map_err(refuse)?, bytes.len() as u64))
}

/// The refusal of an artifact that is not as it must be.
pub(super) fn refuse(why: impl ToString) -> Problem {
    Problem::new(Code::NotDeployable, "the artifact is not whole in the main store").because(why)
}

fn store(error: BlobError) -> Problem {
    match error {
        BlobError::NotFound(_) | BlobError::TooLarge { .. } => refuse(error),
        other => {
            Problem::new(Code::Unavailable, "the main blob store can't be read").because(other)
        }
    }
}
