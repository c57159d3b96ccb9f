//! Starts a worker: its options, its folders, its slots, and its end.
//!
//! The work folder belongs to one worker process at a time. What a killed one
//! left in it (processes, scratch folders, half-fetched packs) is swept before
//! the first claim.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, watch};

use crate::host::git::Git;
use crate::host::sandbox::{self, Sandbox};
use crate::model::digest::from_hex;
use crate::net::auth::{random_seed, read_token};
use crate::net::client::{Client, server_url};
use crate::net::metrics as listeners;
use crate::rules::patch::BASES_MAX;
use crate::store::blobs::{BlobError, Blobs};
use crate::worker::api::Coordinator;
use crate::worker::build::{Scratch, passed_environment};
use crate::worker::checkout::{Mirrors, remove};
use crate::worker::patch::{self, Order, Patcher};
use crate::worker::{claim, log, look, metrics};

/// How long a fresh start waits for the worker before it to leave the work folder.
const HANDOVER: Duration = Duration::from_secs(10);

/// Build commits and publish what they make
#[derive(Debug, clap::Parser)]
#[command(name = "deployctl-worker", version)]
pub struct Args {
    /// The coordinator, such as http://127.0.0.1:7878
    #[arg(long, value_name = "URL", env = "DEPLOYCTL_SERVER", value_parser = server_url)]
    pub coordinator: String,
    /// File that holds this worker's token
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The main blob store, such as file:///srv/blobs or s3://bucket/prefix?region=eu-central-1
    #[arg(long, value_name = "URL")]
    pub blobs: String,
    /// File that holds the key that signs manifests, 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Folder for mirrors and builds; for this worker alone
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// Builds at a time
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub slots: u32,
    /// A variable of this environment that builds get too; repeat for more
    #[arg(long, value_name = "NAME")]
    pub pass_env: Vec<String>,
    /// Seconds between SIGTERM and SIGKILL for a build that is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=600))]
    pub grace_s: u32,
    /// Where /metrics is served, without a token; nowhere unless given
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Seconds that running builds get to end when this worker is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(0..=21600))]
    pub drain_s: u32,
    /// Seconds that one call of git may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1200,
        value_parser = clap::value_parser!(u32).range(1..=21600))]
    pub git_limit_s: u32,
    /// Bytes of one build's log that are kept
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20,
        value_parser = clap::value_parser!(u32).range(4096..=1 << 26))]
    pub log_bytes: u32,
    /// Deployed releases that each build gets a patch from, beside the next builds; 0: none
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(0..=BASES_MAX as i64))]
    pub delta_bases: u32,
    /// Seconds that the patches of one build may take; 0: no patches
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
        value_parser = clap::value_parser!(u32).range(0..=21600))]
    pub delta_seconds: u32,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or folder is not as it must be.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The blob store does not open.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// What all slots of a worker share.
pub struct Worker {
    pub(crate) coordinator: Coordinator,
    pub(crate) blobs: Blobs,
    pub(crate) key: SigningKey,
    pub(crate) mirrors: Mirrors,
    pub(crate) sandbox: Sandbox,
    /// The part of this environment that builds get.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) grace: Duration,
    pub(crate) log: log::Bounds,
    /// Turns true when no more jobs are claimed.
    pub(crate) stop: watch::Receiver<bool>,
    /// Turns true when running jobs are handed back.
    pub(crate) drain: watch::Receiver<bool>,
    /// Slots that run a job.
    pub(crate) busy: AtomicU32,
    /// Where builds that ended well go for their patches; `None`: there are none.
    pub(crate) patches: Option<mpsc::Sender<Order>>,
    /// Spreads this process' waits.
    pub(crate) seed: u64,
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> StartError {
    move |e| StartError::File { path: path.display().to_string(), why: e.to_string() }
}

/// Runs a worker until SIGTERM or SIGINT. Prints `ready <worker id>` once it can claim.
///
/// # Errors
/// [`StartError`]; a worker that started does not fail, it tries again.
pub async fn run(args: Args) -> Result<(), StartError> {
    let stop = crate::net::server::stop_signal();
    let work = &args.work;
    std::fs::create_dir_all(work).map_err(at(work))?;
    let work = work.canonicalize().map_err(at(work))?;
    let _lock = lock(&work.join("lock")).await?;
    let slots = sweep(&work).await?;

    let (drainer, drain) = watch::channel(false);
    let no_patches = Arc::new(AtomicBool::new(false));
    let blobs = Blobs::open_at_start(&args.blobs).await?;
    let (id, worker) = open(&args, blobs, &work, (stop.clone(), drain), no_patches.clone())?;
    let worker = Arc::new(worker);
    meter(&args, &worker, &stop).await?;
    println!("ready {id}");
    tracing::info!(worker = id, slots = args.slots, sandbox = ?worker.sandbox.level(), "ready");

    let worker = &*worker;
    let scratch = |slot: u32| Scratch { root: slots.join(slot.to_string()) };
    let work = claim::work(worker, (0..args.slots).map(scratch).collect());
    let grace = Duration::from_secs(args.drain_s.into());
    let draining = async {
        let _ = stop.clone().wait_for(|stop| *stop).await;
        tracing::info!("stopping: no more claims");
        no_patches.store(true, Ordering::Relaxed);
        tokio::time::sleep(grace).await;
        drainer.send_replace(true);
        // The slots end by themselves now.
        std::future::pending().await
    };
    tokio::select! { _ = work => {}, () = draining => {}, () = look::answer(worker) => {} }
    tracing::info!("stopped");
    Ok(())
}

/// Serves `/metrics`, where it is asked for.
async fn meter(
    args: &Args,
    worker: &Arc<Worker>,
    stop: &watch::Receiver<bool>,
) -> Result<(), StartError> {
    let Some(address) = args.metrics else { return Ok(()) };
    let listener = listeners::bind(address).await;
    let path = || address.to_string();
    let listener = listener.map_err(|e| StartError::File { path: path(), why: e.to_string() })?;
    let (worker, slots) = (worker.clone(), args.slots);
    let refresh = move || {
        metrics::refresh(slots, worker.busy.load(Ordering::Relaxed));
        std::future::ready(())
    };
    tokio::spawn(listeners::serve(listener, "worker", refresh, stop.clone()));
    Ok(())
}

fn open(
    args: &Args,
    blobs: Blobs,
    work: &Path,
    (stop, drain): (watch::Receiver<bool>, watch::Receiver<bool>),
    no_patches: Arc<AtomicBool>,
) -> Result<(String, Worker), StartError> {
    let token = read_token(&args.token_file).map_err(at(&args.token_file))?;
    let id = format!("w-{:016x}", random_seed());
    let git = Git::open(&work.join("home"), Duration::from_secs(args.git_limit_s.into()));
    let git = git.map_err(at(work))?;
    let lock_wait = Duration::from_secs(args.git_limit_s.into());
    let mirrors = Mirrors::open(git, &work.join("mirrors"), lock_wait).map_err(at(work))?;
    mirrors.sweep();
    let client = Client::new(&args.coordinator, Some(token));
    let worker = id.parse().expect("letters, digits and a dash are a worker id");
    let coordinator = Coordinator::new(client, worker, args.slots);
    let key = signing_key(&args.key)?;
    let time = Duration::from_secs(args.delta_seconds.into());
    let limits = patch::Limits { bases: args.delta_bases as usize, time };
    let patches = if limits.bases == 0 || time.is_zero() {
        None
    } else {
        let folder = work.join("patches");
        let (coordinator, blobs, key) = (coordinator.clone(), blobs.clone(), key.clone());
        let patcher = Patcher { coordinator, blobs, key, folder, limits };
        Some(patch::start(patcher, no_patches).map_err(at(work))?)
    };
    let worker = Worker {
        coordinator,
        blobs,
        key,
        patches,
        mirrors,
        sandbox: Sandbox::detect(),
        env: passed_environment(|name| std::env::var(name).ok(), &args.pass_env),
        grace: Duration::from_secs(args.grace_s.into()),
        log: log::Bounds::of(args.log_bytes as usize),
        stop,
        drain,
        busy: AtomicU32::new(0),
        seed: random_seed(),
    };
    Ok((id, worker))
}

fn signing_key(path: &Path) -> Result<SigningKey, StartError> {
    let text = std::fs::read_to_string(path).map_err(at(path))?;
    let seed = from_hex(text.trim()).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let why = || "a key is 64 lower-case hexadecimal digits".to_owned();
    let wrong = || StartError::File { path: path.display().to_string(), why: why() };
    seed.map(|seed| SigningKey::from_bytes(&seed)).ok_or_else(wrong)
}

/// Takes the work folder for this process alone.
async fn lock(path: &Path) -> Result<File, StartError> {
    let file = File::options().create(true).append(true).open(path).map_err(at(path))?;
    let until = tokio::time::Instant::now() + HANDOVER;
    while file.try_lock().is_err() {
        if tokio::time::Instant::now() > until {
            let why = "another worker works in this folder; give each its own --work".to_owned();
            return Err(StartError::File { path: path.display().to_string(), why });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(file)
}

/// Ends what a killed worker left running, and empties the slots' folder.
async fn sweep(work: &Path) -> Result<PathBuf, StartError> {
    let slots = work.join("slots");
    sandbox::sweep(&slots.display().to_string()).await;
    remove(&slots).map_err(at(&slots))?;
    std::fs::create_dir_all(&slots).map_err(at(&slots))?;
    Ok(slots)
}
