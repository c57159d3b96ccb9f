//! After a build: patches from the last deployed releases to the new one.
//!
//! One thread for the whole worker, of the lowest priority: builds come first, and a
//! slot asks for its next job while the patch of the last one is made. Best effort:
//! a worker that stops or dies makes no patch, and the full pack is always there.
//! What became of each patch is told to the coordinator.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::delta::{self, Budget, MakeError, Side};
use crate::model::digest::ArtifactId;
use crate::model::manifest::{MANIFEST_VERSION, Manifest, Provenance};
use crate::rules::patch;
use crate::store::blobs::{BlobError, Blobs};
use crate::wire::v1::patch::{Between, PatchOutcome, PatchReport};
use crate::worker::api::Coordinator;
use crate::worker::blobs::{RawBlobs, RawError};
use crate::worker::pack::{self, PackError};
use crate::worker::publish::{self, PublishError};
use crate::worker::walk::{self, WalkError};

/// Builds that wait for their patches; those that come on top get none.
const WAITING_MAX: usize = 16;
/// Memory of one patch in the making: under the 1 GB that a worker may use for it,
/// with what packing and a piece in flight take.
const MEMORY_BYTES: u64 = 768 << 20;
/// Threads of one patch: each needs a share of the memory.
const THREADS_MAX: usize = 4;
/// The lowest priority that Linux knows: 1.5 % of a core that a build wants, too.
const NICE: i32 = 19;
/// Tries to tell the coordinator, and the wait between two.
const TELL: (u32, Duration) = (10, Duration::from_secs(3));

/// A build that is published and told.
#[derive(Debug)]
pub struct Order {
    /// What was built.
    pub to: ArtifactId,
    /// What hosts may have, newest first.
    pub bases: Vec<ArtifactId>,
}

/// What patches may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bases of one build.
    pub bases: usize,
    /// For all patches of one build.
    pub time: Duration,
}

/// What makes patches.
pub struct Patcher {
    /// Where what was made is told.
    pub coordinator: Coordinator,
    /// The main store.
    pub blobs: Blobs,
    /// Signs patches' manifests.
    pub key: SigningKey,
    /// A folder for raw blobs and the patch in the making.
    pub folder: PathBuf,
    /// What patches may cost.
    pub limits: Limits,
}

/// Why there is no patch.
#[derive(Debug, thiserror::Error)]
enum PatchError {
    #[error("it saves too little: {0} KiB move without it")]
    Little(u64),
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("the time for patches of this build is over")]
    Late,
    #[error("the worker's disk: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A patch in the store.
struct Published {
    patch: ArtifactId,
    wire_bytes: u64,
}

/// Starts the thread; orders go into the sender. `stop` ends what is being made.
pub fn start(patcher: Patcher, stop: Arc<AtomicBool>) -> io::Result<mpsc::Sender<Order>> {
    let (orders, mut coming) = mpsc::channel(WAITING_MAX);
    let runtime = Handle::current();
    let raws = RawBlobs::open(patcher.folder.join("raw"), patcher.blobs.clone(), runtime.clone())?;
    let work = Work { patcher, raws, runtime, stop };
    let name = "patches".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        // Of this thread and of those that it starts, not of the worker.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::warn!(%error, "patches are made at full priority");
        }
        while let Some(order) = coming.blocking_recv() {
            work.carry_out(&order);
            work.raws.trim();
        }
    })?;
    Ok(orders)
}

struct Work {
    patcher: Patcher,
    raws: RawBlobs,
    runtime: Handle,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn carry_out(&self, order: &Order) {
        let deadline = Instant::now() + self.patcher.limits.time;
        let to = match self.raws.manifest(order.to) {
            Ok(manifest) => manifest,
            Err(error) => {
                return tracing::warn!(artifact = %order.to.short(), %error, "no patches made");
            }
        };
        let bases = order.bases.iter().filter(|base| **base != order.to);
        for from in bases.take(self.patcher.limits.bases) {
            if self.stopped() {
                return;
            }
            let between = Between { from: *from, to: order.to };
            let begun = Instant::now();
            let outcome = match self.one(between, &to, deadline) {
                Ok(Published { patch, wire_bytes }) => {
                    tracing::info!(app = %to.app, from = from.short(), to = order.to.short(),
                        %patch, wire_bytes, pack_bytes = to.wire_size(),
                        ms = begun.elapsed().as_millis() as u64, "patch made");
                    PatchOutcome::Made { patch, wire_bytes }
                }
                Err(_) if self.stopped() => return,
                Err(error) => {
                    tracing::info!(app = %to.app, from = from.short(), to = order.to.short(),
                        ms = begun.elapsed().as_millis() as u64, %error, "no patch made");
                    PatchOutcome::None { reason: error.to_string() }
                }
            };
            self.tell(between, outcome);
        }
    }

    fn one(
        &self,
        between: Between,
        to: &Manifest,
        deadline: Instant,
    ) -> Result<Published, PatchError> {
        let from = self.raws.manifest(between.from)?;
        let remaining = patch::remaining(&from, to);
        let too_little = || PatchError::Little(remaining.div_ceil(1024));
        let most = patch::bytes_max(remaining).ok_or_else(too_little)?;
        if Instant::now() >= deadline {
            return Err(PatchError::Late);
        }
        self.tell(between, PatchOutcome::Making);
        let scratch = self.patcher.folder.join("scratch");
        renew(&scratch)?;
        let old = self.raws.get(between.from, &from, &self.stop)?;
        let new = self.raws.get(between.to, to, &self.stop)?;
        let file = File::create(scratch.join(patch::FILE))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let budget = Budget {
            memory_bytes: MEMORY_BYTES,
            threads: cores.min(THREADS_MAX),
            deadline: Some(deadline),
            give_up_at_bytes: most,
        };
        let mut out = BufWriter::new(file);
        let [old, new] = [&old, &new].map(|raw| Side { blob: &raw.file, files: &raw.spans });
        delta::make(old, new, &mut out, &budget, &self.stop)?;
        out.flush()?;
        let published = self.publish(between, to, &scratch)?;
        fs::remove_dir_all(&scratch)?;
        Ok(published)
    }

    /// Packs the patch in `scratch` and publishes it as an artifact.
    fn publish(
        &self,
        between: Between,
        to: &Manifest,
        scratch: &Path,
    ) -> Result<Published, PatchError> {
        let Patcher { blobs, key, .. } = &self.patcher;
        let tree = walk::walk(scratch, patch::FILE)?;
        let mut upload = self.runtime.block_on(blobs.upload())?;
        let packed = pack::pack(&tree, &self.stop, &mut |bytes| upload.write(bytes))?;
        let manifest = Manifest {
            v: MANIFEST_VERSION,
            app: to.app.clone(),
            shape: tree.shape,
            entries: tree.entries,
            size: tree.size,
            piece_bytes: packed.piece_bytes,
            pieces: packed.pieces,
            run: None,
            provenance: Provenance {
                command: patch::command(between.from, between.to),
                ..to.provenance.clone()
            },
        };
        let publishing = publish::publish(blobs, key, &manifest, upload);
        let patch = self.runtime.block_on(publishing)?;
        Ok(Published { patch, wire_bytes: manifest.wire_size() })
    }

    fn tell(&self, between: Between, outcome: PatchOutcome) {
        let report = PatchReport { between, outcome };
        for _ in 0..TELL.0 {
            match self.runtime.block_on(self.patcher.coordinator.patch(&report)) {
                Err(error) if error.is_transient() && !self.stopped() => {
                    std::thread::sleep(TELL.1);
                }
                Err(error) => return tracing::warn!(%error, "the coordinator took no patch"),
                Ok(()) => return,
            }
        }
        tracing::warn!("the coordinator could not be told of a patch");
    }
}

fn renew(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)
}
