//! When objects were written, by the store's own clock.

use std::time::SystemTime;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::{BlobError, Blobs, Kind, folder_of};
use crate::model::digest::ArtifactId;

/// An object as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Of which artifact.
    pub artifact: ArtifactId,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub written: SystemTime,
}

impl Blobs {
    /// Every artifact's object of `kind`, with its age, in no order, as the store lists them: a
    /// page of the listing is in memory, and not all of it.
    pub fn ages(&self, kind: Kind) -> BoxStream<'_, Result<Stored, BlobError>> {
        let listed = self.store.list(Some(&folder_of(kind)));
        let named = listed.try_filter_map(|meta| async move {
            let artifact = meta.location.filename().and_then(|name| name.parse().ok());
            let written = SystemTime::from(meta.last_modified);
            Ok(artifact.map(|artifact| Stored { artifact, bytes: meta.size, written }))
        });
        named.map_err(|source| self.failed(source)).boxed()
    }
}
