//! One small object beside the artifacts that says whose the store is.
//!
//! It is created if it is not there, and replaced by whoever holds it; what is there when it
//! is read back decides, so nothing rests on a server's conditional writes.

use std::time::SystemTime;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::{BlobError, Blobs};
use crate::store::random;

/// Its key: no artifact's object has such a one.
const KEY: &str = "owner";
/// Longest that is read, bytes; a good one has some 300.
const BYTES_MAX: u64 = 16 << 10;

/// What the store says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// As it was written; empty when it is longer than any that was.
    pub bytes: Bytes,
    /// When, by the store's own clock.
    pub written: SystemTime,
}

impl Blobs {
    /// How errors name it: its URL without options.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The note; `None`: there is none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn owner(&self) -> Result<Option<Note>, BlobError> {
        let got = match self.store.get(&ObjectPath::from(KEY)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            got => got.map_err(|source| self.failed(source))?,
        };
        let written = SystemTime::from(got.meta.last_modified);
        if got.meta.size > BYTES_MAX {
            return Ok(Some(Note { bytes: Bytes::new(), written }));
        }
        let bytes = got.bytes().await.map_err(|source| self.failed(source))?;
        Ok(Some(Note { bytes, written }))
    }

    /// Whether this store, a region's, is `main` by another name. Only the main store has a note;
    /// but a bucket that another is copied into has one, too. So where there is one something
    /// else is written here, looked for there, and removed.
    ///
    /// # Errors
    /// When a store fails, or can't be written to.
    pub async fn is(&self, main: &Self) -> Result<bool, BlobError> {
        if self.owner().await?.is_none() {
            return Ok(false);
        }
        let at = ObjectPath::from(format!("probe/{}", random::name()));
        let failed = |source| self.failed(source);
        self.store.put(&at, Bytes::from_static(b"probe").into()).await.map_err(failed)?;
        let there = match main.store.head(&at).await {
            Err(Error::NotFound { .. }) => Ok(false),
            head => head.map(|_| true).map_err(|source| main.failed(source)),
        };
        match (there, self.store.delete(&at).await) {
            (Ok(true), _) => Ok(true),
            (there, Ok(()) | Err(Error::NotFound { .. })) => there,
            (_, Err(source)) => Err(self.failed(source)),
        }
    }

    /// Refuses a regional store that [is](Self::is) the main one.
    ///
    /// # Errors
    /// [`BlobError::Same`]; and as [`Self::is`].
    pub async fn check_apart(&self, main: &Self, region: &str) -> Result<(), BlobError> {
        if !self.is(main).await? {
            return Ok(());
        }
        let [main, there] = [main, self].map(|store| store.name().to_owned());
        Err(BlobError::Same { main, region: there, name: region.into() })
    }

    /// Writes the note unless there is one. Whose it is then is to be read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn claim(&self, bytes: impl Into<Bytes>) -> Result<(), BlobError> {
        let (at, payload) = (ObjectPath::from(KEY), bytes.into().into());
        match self.store.put_opts(&at, payload, PutMode::Create.into()).await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes the note in the place of whatever is there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn own(&self, bytes: impl Into<Bytes>) -> Result<(), BlobError> {
        let put = self.store.put(&ObjectPath::from(KEY), bytes.into().into()).await;
        put.map(drop).map_err(|source| self.failed(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::store::blobs::{Key, Kind};

    #[tokio::test]
    async fn the_first_claim_stays_until_the_note_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
        assert_eq!(blobs.owner().await.unwrap(), None);
        blobs.claim(&b"one"[..]).await.unwrap();
        blobs.claim(&b"two"[..]).await.unwrap();
        assert_eq!(blobs.owner().await.unwrap().unwrap().bytes, "one");
        blobs.own(&b"three"[..]).await.unwrap();
        assert_eq!(blobs.owner().await.unwrap().unwrap().bytes, "three");
        // It is no artifact's, and what is not a note is one of nobody.
        blobs.put(Key::new(Kind::Manifest, Digest::of(b"x")), &b"x"[..]).await.unwrap();
        assert_eq!(blobs.list(Kind::Manifest).await.unwrap(), [Digest::of(b"x")]);
        blobs.own(vec![b' '; 20_000]).await.unwrap();
        assert!(blobs.owner().await.unwrap().unwrap().bytes.is_empty());
    }

    #[tokio::test]
    async fn one_store_by_two_names_is_told_from_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            Blobs::open(&format!("file://{}", folder.path().join(name).display())).unwrap()
        };
        let (main, other) = (open("main"), open("other"));
        std::os::unix::fs::symlink(folder.path().join("main"), folder.path().join("alias"))
            .unwrap();
        let alias = open("alias");
        // Nobody collects from a store without an owner.
        assert!(!alias.is(&main).await.unwrap());
        main.own(&b"one"[..]).await.unwrap();
        assert!(alias.is(&main).await.unwrap() && !other.is(&main).await.unwrap());
        // A bucket that copies itself into another, its owner with it.
        other.own(&b"one"[..]).await.unwrap();
        assert!(!other.is(&main).await.unwrap());
        let refused = alias.check_apart(&main, "eu").await.unwrap_err();
        assert!(matches!(refused, BlobError::Same { .. }), "{refused}");
        let left = std::fs::read_dir(folder.path().join("main/probe")).map(Iterator::count);
        assert_eq!(left.unwrap_or(0), 0, "nothing is left of it");
    }
}
