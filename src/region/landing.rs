//! What this region is pulling: which pieces have landed, so that other regions and
//! this region's hosts need not wait for the whole pack.
//!
//! A piece counts here only after its digest was checked. A landing ends when its
//! pull does, well or not; whoever holds it still reads the staged bytes through it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::model::digest::ArtifactId;
use crate::model::pieces::PieceSet;
use crate::region::library::Held;
use crate::region::staging::Staging;

/// One artifact that is being pulled.
pub struct Landing {
    /// Its manifest and signature, checked.
    pub held: Held,
    /// Where each piece starts in the pack, and the pack's end.
    pub offsets: Vec<u64>,
    /// Where its pieces are written.
    pub staging: Staging,
    landed: watch::Sender<PieceSet>,
    asked: Mutex<PieceSet>,
}

impl Landing {
    /// A landing with the pieces that are `landed` already.
    #[must_use]
    pub fn new(held: Held, offsets: Vec<u64>, staging: Staging, landed: PieceSet) -> Self {
        let landed = watch::Sender::new(landed);
        Self { held, offsets, staging, landed, asked: Mutex::default() }
    }

    /// The pieces that have landed; wakes with every new one.
    #[must_use]
    pub fn landed(&self) -> watch::Receiver<PieceSet> {
        self.landed.subscribe()
    }

    /// Notes pieces that were verified and staged.
    pub fn land(&self, pieces: impl IntoIterator<Item = u32>) {
        self.landed.send_modify(|landed| {
            pieces.into_iter().for_each(|piece| {
                landed.insert(piece);
            });
        });
    }

    /// The pieces of `range`, a part of the pack.
    #[must_use]
    pub fn pieces_of(&self, range: &Range<u64>) -> Range<u32> {
        let first = self.offsets.partition_point(|at| *at <= range.start).saturating_sub(1);
        let end = self.offsets.partition_point(|at| *at < range.end);
        first as u32..end as u32
    }

    /// Waits until every piece of `range` has landed; they are pulled before others.
    pub async fn wait_for(&self, range: &Range<u64>) {
        let pieces = self.pieces_of(range);
        let all = |landed: &PieceSet| pieces.clone().all(|piece| landed.contains(piece));
        if all(&self.landed.borrow()) {
            return;
        }
        self.asked().extend(&pieces.clone().collect());
        // The sender lives as long as `self`.
        let _ = self.landed.subscribe().wait_for(|landed| all(landed)).await;
    }

    /// The run of pieces that is best pulled next, at most `most`: what somebody waits
    /// for, else the lowest. Taken out of `todo`.
    pub fn next_run(&self, todo: &mut PieceSet, most: u32) -> Option<Range<u32>> {
        let asked = todo.and(&self.asked());
        let first = asked.iter().next().or_else(|| todo.iter().next())?;
        let run = first
            ..(first..first + most).find(|piece| !todo.contains(*piece)).unwrap_or(first + most);
        run.clone().for_each(|piece| todo.remove(piece));
        Some(run)
    }

    /// Reads staged bytes; meaningful where pieces have landed. Blocks.
    ///
    /// # Errors
    /// An I/O error.
    pub fn read(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.staging.read(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn asked(&self) -> MutexGuard<'_, PieceSet> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is being pulled; shared by puller and listeners.
pub struct Landings {
    all: Mutex<BTreeMap<ArtifactId, Arc<Landing>>>,
    changes: watch::Sender<u64>,
}

impl Default for Landings {
    fn default() -> Self {
        Self { all: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Landings {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ArtifactId, Arc<Landing>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The landing of `artifact`, while it is being pulled.
    #[must_use]
    pub fn find(&self, artifact: &ArtifactId) -> Option<Arc<Landing>> {
        self.all().get(artifact).cloned()
    }

    /// Wakes when a landing begins or ends.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Shows a landing until what is returned is dropped.
    #[must_use]
    pub fn show(self: &Arc<Self>, artifact: ArtifactId, landing: Arc<Landing>) -> Shown {
        self.all().insert(artifact, landing);
        self.changes.send_modify(|count| *count += 1);
        Shown { landings: self.clone(), artifact }
    }
}

/// Keeps a landing visible.
pub struct Shown {
    landings: Arc<Landings>,
    artifact: ArtifactId,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.landings.all().remove(&self.artifact);
        self.landings.changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::{Digest, PieceDigest};
    use crate::model::manifest::{Codec, MANIFEST_VERSION, Manifest, Piece, Provenance, Shape};

    fn landing(folder: &std::path::Path) -> Landing {
        let piece = |byte: u8| {
            let digest = PieceDigest::of(&[byte; 10]);
            Piece { raw: digest, wire: digest, wire_bytes: 10, codec: Codec::None }
        };
        let manifest = Manifest {
            v: MANIFEST_VERSION,
            app: "api".parse().unwrap(),
            shape: Shape::File,
            entries: vec![],
            size: 80,
            piece_bytes: 10,
            pieces: (0..8).map(piece).collect(),
            run: None,
            provenance: Provenance::sample(),
        };
        let staging = Staging::open(folder, &Digest::of(b"a"), &manifest).unwrap();
        let offsets = manifest.wire_offsets();
        let (bytes, packed, signature) = (Bytes::new(), Bytes::new(), String::new());
        let held = Held { bytes, packed, signature, manifest: Arc::new(manifest) };
        Landing::new(held, offsets, staging, [1].into_iter().collect())
    }

    #[tokio::test]
    async fn who_waits_for_a_piece_gets_it_before_others() {
        let folder = tempfile::tempdir().unwrap();
        let landing = landing(folder.path());
        assert_eq!(landing.pieces_of(&(10..20)), 1..2);
        assert_eq!(landing.pieces_of(&(19..41)), 1..5);
        landing.wait_for(&(10..20)).await;
        let mut todo = PieceSet::full(8).minus(&[1].into_iter().collect());
        assert_eq!(landing.next_run(&mut todo, 4), Some(0..1));
        let asked = 55..60;
        tokio::join!(landing.wait_for(&asked), async {
            assert_eq!(landing.next_run(&mut todo, 4), Some(5..8));
            landing.land([5, 6, 7]);
        });
        assert_eq!(landing.next_run(&mut todo, 2), Some(2..4));
        assert_eq!(landing.next_run(&mut todo, 2), Some(4..5));
        assert_eq!(landing.next_run(&mut todo, 2), None);
    }

    #[tokio::test]
    async fn a_landing_is_seen_while_it_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (landings, artifact) = (Arc::new(Landings::default()), Digest::of(b"a"));
        let mut changes = landings.changes();
        let shown = landings.show(artifact, Arc::new(landing(folder.path())));
        changes.changed().await.unwrap();
        assert!(landings.find(&artifact).is_some());
        drop(shown);
        changes.changed().await.unwrap();
        assert!(landings.find(&artifact).is_none());
    }
}
