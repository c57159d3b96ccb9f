//! Brings an artifact to its release folder: manifest, disk, patch, swarm, publish.
//!
//! `<root>/apps/<app>/releases/<artifact>/` appears whole, verified and durable,
//! or not at all. Manifests are believed only with a build key's signature, for
//! the artifact and the app that the goal names. Packs stay for peers for ten
//! minutes. Decides nothing about goals or activation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, header};
use tokio::net::TcpListener;
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};

use crate::agent::buffers::Buffers;
use crate::agent::cap::Cap;
use crate::agent::download::{BUFFER_BYTES, Download, Shared, WRITERS};
use crate::agent::failure::{disk_reason, failure};
use crate::agent::linger;
use crate::agent::link::{Link, backoff};
use crate::agent::membership::Membership;
use crate::agent::pack::Pack;
use crate::agent::paths::Paths;
use crate::agent::pieces::Assembly;
use crate::agent::quota::{self, Incoming};
use crate::agent::serve::{self, Shelf};
use crate::agent::source::{Configuring, FetchFailure, Fetched, Fetching, Progress, Source, Want};
use crate::agent::trust::Trust;
use crate::model::digest::{ArtifactId, ConfigId, Digest};
use crate::model::fleet::{FailureClass, Sources};
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::net::client::{CallError, Client};
use crate::net::coding::{self, ZSTD};
use crate::rules::swarm::{ALONE, Pace, micros};
use crate::wire::problem::{Code, Problem};
use crate::wire::seal;
use crate::wire::v1::fleet::HostInfo;
use crate::wire::v1::swarm::SIGNATURE_HEADER;

/// Time to fetch a manifest: the largest has 64 MiB.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Manifests that do not hold before the region is given up.
const MANIFEST_TRIES: u32 = 3;
/// A download without a new piece for this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a pack is kept for peers after the release is complete [distribution 6.3].
const KEEP: Duration = Duration::from_secs(600);

/// What an agent may use, bytes and bytes per second; `None`: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Sent to peers, per second.
    pub upload: Option<u64>,
    /// Fetched from peers and the store, per second.
    pub download: Option<u64>,
    /// Taken on disk by releases, packs and fetches.
    pub quota: Option<u64>,
}

/// How a fetcher is set up.
pub struct FetchConfig {
    /// The agent's root folder.
    pub root: PathBuf,
    /// The region.
    pub link: Link,
    /// Who we are; the peer port is set from `listener`.
    pub info: HostInfo,
    /// Whom to believe.
    pub trust: watch::Receiver<Trust>,
    /// Where peers are served.
    pub listener: TcpListener,
    /// A download without a new piece for this long has failed.
    pub patience: Duration,
    /// Time without tracker and without a piece before a download may read the store
    /// unasked, as one of few.
    pub alone: Duration,
    /// How long packs stay for peers.
    pub keep: Duration,
    /// What it may use.
    pub caps: Caps,
}

impl FetchConfig {
    /// A set-up with the usual patience of 2 minutes, and packs kept for 10.
    #[must_use]
    pub fn new(
        root: PathBuf,
        link: Link,
        info: HostInfo,
        trust: watch::Receiver<Trust>,
        listener: TcpListener,
    ) -> Self {
        let (patience, alone, keep, caps) = (PATIENCE, ALONE, KEEP, Caps::default());
        Self { root, link, info, trust, listener, patience, alone, keep, caps }
    }
}

pub(super) struct Inner {
    pub(super) paths: Paths,
    pub(super) link: Link,
    pub(super) info: HostInfo,
    trust: watch::Receiver<Trust>,
    pub(super) shelf: Shelf,
    pub(super) shared: Arc<Shared>,
    pub(super) keep: Duration,
    /// The root folder, and how much of the disk it may take.
    quota: (PathBuf, Option<u64>),
    claims: Mutex<BTreeMap<ArtifactId, Arc<tokio::sync::Mutex<()>>>>,
    /// Held from a look at what the disk has free until that is taken: two fetches that
    /// both see the last of it would stop each other half-way.
    room: Arc<tokio::sync::Mutex<()>>,
    /// Turns true when the last handle is gone: the peer listener stops.
    pub(super) stop: watch::Sender<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Fetches artifacts and serves them to peers; cheap to clone. The peer listener
/// stops with the last clone.
#[derive(Clone)]
pub struct Fetcher {
    pub(super) inner: Arc<Inner>,
}

/// A pack on the shelf; off it when the fetch ends without a release.
pub(super) struct Shelved {
    pub(super) shelf: Shelf,
    pub(super) pack: Arc<Pack>,
    pub(super) keep: bool,
}

impl Drop for Shelved {
    fn drop(&mut self) {
        if !self.keep {
            self.shelf.remove(&self.pack);
        }
    }
}

impl Fetcher {
    /// Sweeps leftovers of earlier runs, serves peers on the listener, and takes
    /// up kept packs again in the background.
    ///
    /// # Errors
    /// When the root can't be used or the listener has no address.
    pub fn start(config: FetchConfig) -> io::Result<Self> {
        let paths = Paths::new(&config.root);
        crate::host::fs::make_folder(&paths.packs(), 0o755)?;
        crate::host::fs::make_folder(&paths.staging(), 0o755)?;
        let shelf = Shelf::new(Cap::new(config.caps.upload));
        let mut info = config.info;
        info.peer_port = config.listener.local_addr()?.port();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve::serve(config.listener, shelf.clone(), stopped));
        let shared = Shared {
            direct: Arc::default(),
            connections: Arc::default(),
            buffers: Buffers::new(BUFFER_BYTES),
            cap: Cap::new(config.caps.download),
            writers: Arc::new(Semaphore::new(WRITERS)),
            patience: config.patience,
            alone: config.alone,
        };
        let inner = Inner {
            paths,
            link: config.link,
            info,
            trust: config.trust,
            shelf,
            shared: Arc::new(shared),
            keep: config.keep,
            quota: (config.root, config.caps.quota),
            claims: Mutex::default(),
            room: Arc::default(),
            stop,
        };
        let fetcher = Self { inner: Arc::new(inner) };
        fetcher.take_up_kept();
        Ok(fetcher)
    }

    /// The port where peers are served.
    #[must_use]
    pub fn peer_port(&self) -> u16 {
        self.inner.info.peer_port
    }

    /// Sweeps, at once; packs of complete releases are served for the rest of their time.
    fn take_up_kept(&self) {
        let inner = &self.inner;
        let kept = linger::sweep(&inner.paths, inner.keep);
        let (shelf, link, info) = (inner.shelf.clone(), inner.link.clone(), inner.info.clone());
        let stop = inner.stop.subscribe();
        tokio::spawn(async move {
            for (pack, left) in kept {
                let hashed = pack.clone();
                let verified = tokio::task::spawn_blocking(move || hashed.recall()).await;
                if verified.is_err() || shelf.get(pack.artifact).is_some() {
                    continue;
                }
                shelf.insert(pack.clone());
                let membership = Membership::new(link.clone(), info.clone(), pack.artifact);
                let stay = (left, stop.clone());
                tokio::spawn(linger::serve_on(shelf.clone(), pack, Arc::new(membership), stay));
            }
        });
    }

    /// Fetches `want`; see [`Source::fetch`]. Cancel safe: verified pieces are kept.
    ///
    /// # Errors
    /// See [`FetchFailure`]: class `transport` when pieces or manifest can't be had
    /// or trusted, `host` when the disk fails or has no room.
    pub async fn fetch(
        &self,
        want: Want,
        progress: &watch::Sender<Progress>,
    ) -> Result<Fetched, FetchFailure> {
        let inner = &self.inner;
        let claim = self.claim(want.artifact).await;
        let manifest = Arc::new(self.manifest(&want).await?);
        let release = inner.paths.releases(&want.app).join(want.artifact.to_string());
        let total = manifest.pieces.len() as u32;
        if release.is_dir() {
            let done = Progress { done: total, total, sources: Sources::default() };
            progress.send_replace(done);
            return Ok(Fetched { manifest: Manifest::clone(&manifest), sources: done.sources });
        }
        let assembly = Arc::new(self.prepare(&want, manifest.clone(), claim).await?);
        let pack = assembly.pack.clone();
        inner.shelf.insert(pack.clone());
        let mut shelved = Shelved { shelf: inner.shelf.clone(), pack: pack.clone(), keep: false };
        let local = self.reuse(assembly.clone()).await?;
        let done = pack.have.borrow().done.count();
        let sources = Sources { local, ..Sources::default() };
        progress.send_replace(Progress { done, total, sources });
        if done < total {
            self.patch(&want, &assembly, progress).await;
        }
        let done = pack.have.borrow().done.count();

        let membership =
            Arc::new(Membership::new(inner.link.clone(), inner.info.clone(), want.artifact));
        if done < total {
            let how = (inner.shared.clone(), progress.clone(), want.within);
            self.download(&assembly, &membership, how).await?;
        }
        let paths = inner.paths.clone();
        blocking(move || assembly.publish(&paths)).await?;
        shelved.keep = true;
        let sources = progress.borrow().sources;
        tracing::info!(app = %want.app, artifact = %want.artifact.short(), peer = sources.peer, store = sources.store, local = sources.local, "release complete");
        let stay = (inner.keep, inner.stop.subscribe());
        tokio::spawn(linger::serve_on(inner.shelf.clone(), pack, membership, stay));
        Ok(Fetched { manifest: Manifest::clone(&manifest), sources })
    }

    /// One fetch of an artifact at a time.
    pub(super) async fn claim(&self, artifact: ArtifactId) -> OwnedMutexGuard<()> {
        let claim = {
            let mut claims = self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
            claims.retain(|_, claim| Arc::strong_count(claim) > 1);
            claims.entry(artifact).or_default().clone()
        };
        claim.lock_owned().await
    }

    /// What is being fetched or served.
    fn busy(&self) -> BTreeSet<ArtifactId> {
        let claims = self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let held = claims.iter().filter(|(_, claim)| Arc::strong_count(claim) > 1);
        held.map(|(artifact, _)| *artifact).chain(self.inner.shelf.artifacts()).collect()
    }

    pub(super) async fn prepare(
        &self,
        want: &Want,
        manifest: Arc<Manifest>,
        claim: OwnedMutexGuard<()>,
    ) -> Result<Assembly, FetchFailure> {
        let (paths, artifact) = (self.inner.paths.clone(), want.artifact);
        let (root, quota) = self.inner.quota.clone();
        let busy = self.busy();
        blocking(move || {
            if let Some(quota) = quota {
                let bytes = manifest.size;
                quota::make_room(&root, quota, &Incoming { artifact, bytes, busy })?;
            }
            Assembly::prepare(&paths, artifact, manifest, claim)
        })
        .await
    }

    /// Fetches what `assembly` misses, while the disk sets aside its room: a file system
    /// may take its time for that, and the first pieces take theirs.
    pub(super) async fn download(
        &self,
        assembly: &Arc<Assembly>,
        membership: &Arc<Membership>,
        (shared, progress, within): (Arc<Shared>, watch::Sender<Progress>, Option<Duration>),
    ) -> Result<(), FetchFailure> {
        let turn = self.inner.room.clone().lock_owned().await;
        self.check_room(assembly).await?;
        let room = assembly.clone();
        let room = blocking(move || {
            let _turn = turn;
            room.take_room()
        });
        // What limits the rate of all downloads is elsewhere.
        let pace = within.map(|within| Pace { deadline: micros(within), cap: u64::MAX });
        let (link, how) = (self.inner.link.clone(), (progress, pace));
        let pieces = Download::run(shared, assembly.clone(), membership.clone(), link, how);
        tokio::try_join!(room, pieces).map(drop)
    }

    /// Sees that there is room on disk for what is to be fetched.
    async fn check_room(&self, assembly: &Arc<Assembly>) -> Result<(), FetchFailure> {
        let (assembly, (root, quota)) = (assembly.clone(), self.inner.quota.clone());
        let busy = self.busy();
        blocking(move || {
            let artifact = assembly.pack.artifact;
            assembly.check_room(|bytes| match quota {
                Some(quota) => quota::make_room(&root, quota, &Incoming { artifact, bytes, busy }),
                None => Ok(()),
            })
        })
        .await
    }

    async fn reuse(&self, assembly: Arc<Assembly>) -> Result<u64, FetchFailure> {
        let paths = self.inner.paths.clone();
        let turn = self.inner.room.clone().lock_owned().await;
        blocking(move || {
            if paths.has_releases(&assembly.pack.manifest.app) {
                assembly.take_tree_room()?;
            }
            drop(turn);
            assembly.reuse(&paths)
        })
        .await
    }

    /// The manifest kept on disk, else the region's; verified either way.
    pub(super) async fn manifest(&self, want: &Want) -> Result<Manifest, FetchFailure> {
        let (paths, wanted) = (self.inner.paths.clone(), want.clone());
        let kept = blocking(move || {
            let manifest = paths.manifest(&wanted.app, wanted.artifact);
            Ok(manifest.zip(paths.signature(&wanted.app, wanted.artifact)))
        })
        .await?;
        if let Some((manifest, signature)) = kept
            && self.check(want, &manifest, &signature).is_ok()
        {
            return Ok(manifest);
        }
        let begun = Instant::now();
        let mut backoff = backoff();
        let mut bad = 0;
        loop {
            let client = self.inner.link.client();
            let reason = match self.ask_manifest(&client, want).await {
                Ok((bytes, signature)) => match self.believe(want, &bytes, &signature) {
                    Ok(manifest) => {
                        self.keep(want, bytes, signature).await?;
                        return Ok(manifest);
                    }
                    Err(reason) => {
                        bad += 1;
                        reason
                    }
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!(artifact = %want.artifact.short(), reason, "manifest not had");
            self.inner.link.failed(&client);
            if bad >= MANIFEST_TRIES || begun.elapsed() >= self.inner.shared.patience {
                return Err(failure(FailureClass::Transport, reason));
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn keep(
        &self,
        want: &Want,
        bytes: Vec<u8>,
        signature: String,
    ) -> Result<(), FetchFailure> {
        let (paths, want) = (self.inner.paths.clone(), want.clone());
        blocking(move || paths.keep_manifest(&want.app, want.artifact, &bytes, &signature)).await
    }

    fn believe(&self, want: &Want, bytes: &[u8], signature: &str) -> Result<Manifest, String> {
        if Digest::of(bytes) != want.artifact {
            return Err("the manifest is not the one that the goal names".into());
        }
        let manifest = Manifest::decode(bytes).map_err(|e| e.to_string())?;
        self.check(want, &manifest, signature)?;
        Ok(manifest)
    }

    fn check(&self, want: &Want, manifest: &Manifest, signature: &str) -> Result<(), String> {
        let trusted = self.inner.trust.borrow().build_keys.clone();
        seal::verify_manifest(&trusted, &want.artifact, signature).map_err(|e| e.to_string())?;
        if manifest.app != want.app {
            return Err(format!("the artifact is of app {}, not of {}", manifest.app, want.app));
        }
        Ok(())
    }

    async fn ask_manifest(
        &self,
        client: &Client,
        want: &Want,
    ) -> Result<(Vec<u8>, String), CallError> {
        let path = format!("/v1/agent/artifacts/{}/manifest", want.artifact);
        let request = client
            .request(Method::GET, &path)
            .header(header::ACCEPT_ENCODING, ZSTD)
            .timeout(MANIFEST_TIMEOUT);
        let reply = request.send().await.map_err(|e| client.unreachable(e))?;
        let status = reply.status();
        let signature = reply.headers().get(SIGNATURE_HEADER).and_then(|v| v.to_str().ok());
        let signature = signature.unwrap_or_default().to_owned();
        let packed = reply.headers().get(header::CONTENT_ENCODING).is_some_and(|v| v == ZSTD);
        let bytes = client.body(reply, MANIFEST_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(client.refusal(status.as_u16(), &bytes));
        }
        let bytes = match packed {
            true => coding::unpack(&bytes, MANIFEST_BYTES_MAX)
                .map_err(|_| unfit("the region's manifest does not unpack within its limit"))?,
            false => bytes,
        };
        Ok((bytes, signature))
    }
}

impl Source for Fetcher {
    fn fetch(&self, want: Want, progress: watch::Sender<Progress>) -> Fetching {
        let fetcher = self.clone();
        Box::pin(async move { Self::fetch(&fetcher, want, &progress).await })
    }

    fn config(&self, config: ConfigId) -> Configuring {
        let (link, patience) = (self.inner.link.clone(), self.inner.shared.patience);
        Box::pin(crate::agent::configs::fetch(link, config, patience))
    }
}

/// The refusal of a reply that must not be read.
fn unfit(title: &str) -> CallError {
    CallError::Refused(Box::new(Problem::new(Code::TooLarge, title)))
}

/// Runs disk work on the blocking pool; its errors are the host's.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FetchFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failure(FailureClass::Host, disk_reason(&error))),
        Err(error) => Err(failure(FailureClass::Host, error.to_string())),
    }
}
