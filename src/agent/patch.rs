//! A release out of one that is here: asks for a patch, fetches it through its own
//! swarm, applies it piece by piece.
//!
//! Whatever goes wrong here costs bytes, never a deploy: what a patch did not make
//! is fetched from the full pack's swarm. A piece counts only when its digest is
//! that of the manifest that is wanted, so nothing a patch says is believed.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::agent::assemble::Layout;
use crate::agent::download::Shared;
use crate::agent::fetch::{Fetcher, Shelved, blocking};
use crate::agent::linger;
use crate::agent::membership::Membership;
use crate::agent::paths::Paths;
use crate::agent::pieces::Assembly;
use crate::agent::source::{FetchFailure, Progress, Want};
use crate::delta::{self, Blob};
use crate::model::digest::ArtifactId;
use crate::model::fleet::Sources;
use crate::model::id::AppName;
use crate::model::manifest::Manifest;
use crate::net::client::CallError;
use crate::rules::patch::{self, FROM_MAX};
use crate::wire::v1::patch::{PatchOffer, Patches};

/// How long the region may take to say which patches there are.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// A patch of which nothing comes for this long is given up for the full pack: long
/// enough for a store that stands still a moment, short beside a deploy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a patch did not bring a release.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Fetch(#[from] FetchFailure),
    #[error("its manifest did not come in time")]
    Late,
    #[error("{0}")]
    Unfit(&'static str),
    #[error(transparent)]
    Apply(#[from] delta::ApplyError),
}

/// What a patch brought.
#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    /// Raw bytes of the pieces that it made.
    bytes: u64,
    /// Pieces that came out wrong.
    wrong: u32,
}

impl Fetcher {
    /// Makes what it can of the missing pieces of `assembly` out of a release that is
    /// here. Tells `progress`; fails never.
    pub(super) async fn patch(
        &self,
        want: &Want,
        assembly: &Arc<Assembly>,
        progress: &watch::Sender<Progress>,
    ) {
        let missing = assembly.missing_wire_bytes();
        let held = complete(&self.inner.paths, &want.app, want.artifact);
        if missing == 0 || held.is_empty() {
            return;
        }
        let offers = match self.ask_patches(want.artifact, &held).await {
            Ok(offers) => offers.patches,
            Err(error) => return tracing::debug!(%error, "no patches heard of"),
        };
        let ours = offers.into_iter().filter(|offer| held.contains(&offer.from));
        let Some(offer) = patch::choose(ours, |offer| offer.wire_bytes, missing) else { return };
        let begun = Instant::now();
        let (app, to, from) = (&want.app, want.artifact.short(), offer.from.short());
        match self.fetch_and_apply(want, offer, assembly, progress).await {
            Ok(Applied { bytes, wrong: 0 }) => tracing::info!(%app, to, from, bytes,
                wire_bytes = offer.wire_bytes, ms = begun.elapsed().as_millis() as u64, "patched"),
            Ok(Applied { bytes, wrong }) => tracing::warn!(%app, to, from, bytes, wrong,
                "a patch made wrong pieces, they are fetched"),
            Err(error) => tracing::warn!(%app, to, from, %error,
                "patch of no use, the full pack is fetched"),
        }
    }

    async fn ask_patches(&self, to: ArtifactId, held: &[ArtifactId]) -> Result<Patches, CallError> {
        let from: Vec<String> = held.iter().map(ToString::to_string).collect();
        let path = format!("/v1/agent/artifacts/{to}/patches?from={}", from.join(","));
        self.inner.link.client().get(&path, ASK_TIMEOUT).await
    }

    async fn fetch_and_apply(
        &self,
        want: &Want,
        offer: PatchOffer,
        target: &Arc<Assembly>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Applied, Trouble> {
        let inner = &self.inner;
        let wanted = Want { artifact: offer.patch, ..want.clone() };
        let claim = self.claim(offer.patch).await;
        let manifest = tokio::time::timeout(PATIENCE, self.manifest(&wanted)).await;
        let manifest = Arc::new(manifest.map_err(|_| Trouble::Late)??);
        patch::check(&manifest, &want.app, (offer.from, want.artifact)).map_err(Trouble::Unfit)?;
        let source = Arc::new(self.prepare(&wanted, manifest, claim).await?);
        let pack = source.pack.clone();
        inner.shelf.insert(pack.clone());
        let mut shelved = Shelved { shelf: inner.shelf.clone(), pack: pack.clone(), keep: false };
        let membership =
            Arc::new(Membership::new(inner.link.clone(), inner.info.clone(), offer.patch));
        self.fetch_patch(&source, &membership, progress).await?;

        let files = Files::new(&inner.paths, &wanted.app, &offer);
        let applied = apply(files.clone(), target.clone(), progress.clone()).await;
        // A patch that is of no use to us is of none to others.
        let sound = matches!(applied, Ok(Applied { wrong: 0, .. }));
        shelved.keep = sound;
        let left = files.clone();
        blocking(move || {
            left.end(sound);
            Ok(())
        })
        .await?;
        if sound {
            let stay = (inner.keep, inner.stop.subscribe());
            let serving = linger::serve_on(inner.shelf.clone(), pack, membership, stay);
            tokio::spawn(async move {
                serving.await;
                let _ = tokio::task::spawn_blocking(move || files.tidy()).await;
            });
        } else {
            membership.leave().await;
        }
        applied
    }

    /// Fetches the patch's pieces; what they cost counts for the release.
    async fn fetch_patch(
        &self,
        source: &Arc<Assembly>,
        membership: &Arc<Membership>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), FetchFailure> {
        let total = source.pack.manifest.pieces.len() as u32;
        if source.pack.have.borrow().done.count() == total {
            return Ok(());
        }
        let shared = Shared::clone(&self.inner.shared);
        let patience = shared.patience.min(PATIENCE);
        let shared = Arc::new(Shared { patience, ..shared });
        let own = watch::Sender::new(Progress::default());
        let fetched = self.download(source, membership, (shared, own.clone(), None)).await;
        let cost = own.borrow().sources;
        progress.send_modify(|progress| progress.sources += cost);
        fetched
    }
}

/// The releases of `app` that are complete here, but for `wanted`; at most 16.
fn complete(paths: &Paths, app: &AppName, wanted: ArtifactId) -> Vec<ArtifactId> {
    let folders = fs::read_dir(paths.releases(app)).into_iter().flatten().flatten();
    let named = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut held: Vec<(std::time::SystemTime, ArtifactId)> = named
        .filter(|artifact| *artifact != wanted)
        .filter_map(|artifact: ArtifactId| {
            // Written once, when it was fetched.
            let meta = fs::metadata(paths.manifests(app).join(artifact.to_string())).ok()?;
            Some((meta.modified().ok()?, artifact))
        })
        .collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    held.into_iter().take(FROM_MAX).map(|(_, artifact)| artifact).collect()
}

/// Where the parts of a patch lie.
#[derive(Debug, Clone)]
struct Files {
    paths: Paths,
    app: AppName,
    offer: PatchOffer,
}

impl Files {
    fn new(paths: &Paths, app: &AppName, offer: &PatchOffer) -> Self {
        Self { paths: paths.clone(), app: app.clone(), offer: *offer }
    }

    fn staging(&self) -> PathBuf {
        self.paths.staging().join(self.offer.patch.to_string())
    }

    fn pack(&self) -> PathBuf {
        self.paths.packs().join(self.offer.patch.to_string())
    }

    /// The base as a blob.
    fn base(&self) -> Result<Base, Trouble> {
        let gone = || Trouble::Unfit("the release that it starts from is gone");
        let manifest = self.paths.manifest(&self.app, self.offer.from).ok_or_else(gone)?;
        let folder = self.paths.releases(&self.app).join(self.offer.from.to_string());
        Ok(Base::new(folder, &manifest))
    }

    /// Nothing is made of the patch any more: it stays for peers, or not at all. Without
    /// its journal it is swept when the agent starts anew.
    fn end(&self, stays: bool) {
        let manifest = self.paths.manifests(&self.app).join(self.offer.patch.to_string());
        let _ = fs::remove_file(manifest.with_extension("sig"));
        let _ = fs::remove_file(manifest);
        let _ = fs::remove_file(self.pack().join("journal"));
        if !stays {
            let _ = fs::remove_dir_all(self.pack());
            self.tidy();
        }
    }

    /// Removes the patch's file once its pack is gone.
    fn tidy(&self) {
        if !self.pack().exists() {
            let _ = fs::remove_dir_all(self.staging());
        }
    }
}

/// Applies on a thread that may block; it stops when nobody waits any more.
async fn apply(
    files: Files,
    target: Arc<Assembly>,
    progress: watch::Sender<Progress>,
) -> Result<Applied, Trouble> {
    let stop = StopOnDrop(Arc::default());
    let stopped = stop.0.clone();
    let applied = blocking(move || {
        let patch = match File::open(files.staging().join(patch::FILE)) {
            Ok(file) => file,
            Err(error) => return Ok(Err(delta::ApplyError::Patch(error).into())),
        };
        let applied = files.base().and_then(|base| {
            let mut maker = Maker::new(&target, &progress, &stopped);
            delta::apply(&base, &mut BufReader::new(patch), &mut |bytes| maker.take(bytes))?;
            Ok(maker.applied)
        });
        // Peers without a base may have what was made, also if it is not all.
        target.pack.offer_unmade();
        Ok(applied)
    });
    applied.await?
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A complete release, read as one blob.
struct Base {
    folder: PathBuf,
    layout: Layout,
    size: u64,
    /// The file that was read last: reads come in runs.
    open: Mutex<Option<(String, Arc<File>)>>,
}

impl Base {
    fn new(folder: PathBuf, manifest: &Manifest) -> Self {
        let (layout, size) = (Layout::new(manifest), manifest.size);
        Self { folder, layout, size, open: Mutex::default() }
    }

    fn file(&self, path: &str) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, file)) = open.as_ref()
            && name == path
        {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.folder.join(Path::new(path)))?);
        *open = Some((path.to_owned(), file.clone()));
        Ok(file)
    }
}

impl Blob for Base {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.layout.visit(at..end, |path, from, part| {
            self.file(path)?.read_exact_at(&mut buffer[part], from)
        })
    }
}

/// Cuts what a patch makes into pieces, and keeps those that are right.
struct Maker<'a> {
    target: &'a Assembly,
    progress: &'a watch::Sender<Progress>,
    stop: &'a AtomicBool,
    piece: u32,
    buffer: Vec<u8>,
    applied: Applied,
}

impl<'a> Maker<'a> {
    fn new(
        target: &'a Assembly,
        progress: &'a watch::Sender<Progress>,
        stop: &'a AtomicBool,
    ) -> Self {
        Self { target, progress, stop, piece: 0, buffer: vec![], applied: Applied::default() }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let manifest = &self.target.pack.manifest;
        while !bytes.is_empty() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("stopped"));
            }
            if self.piece as usize >= manifest.pieces.len() {
                return Err(io::Error::other("the patch makes more bytes than the release has"));
            }
            let length = manifest.raw_len(self.piece as usize) as usize;
            let part = bytes.len().min(length - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.buffer.len() == length {
                self.end_piece()?;
            }
        }
        Ok(())
    }

    fn end_piece(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u64;
        let done = self.target.pack.have.borrow().done.contains(self.piece);
        if !done && self.target.put_raw(self.piece, &self.buffer)? {
            self.applied.bytes += length;
            let local = Sources { local: length, ..Sources::default() };
            self.progress.send_modify(|progress| {
                progress.done += 1;
                progress.sources += local;
            });
        } else if !done {
            self.applied.wrong += 1;
        }
        self.piece += 1;
        self.buffer.clear();
        Ok(())
    }
}
