//! Puts a region's parts together and runs them until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::host::fs;
use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::manifest::Manifest;
use crate::net::auth::{keyed_hash, read_token};
use crate::net::client::{http_client, http_client_trusting, server_urls};
use crate::net::tls::{Security, TlsError, TlsFiles};
use crate::net::{metrics as listeners, server};
use crate::region::configs::Configs;
use crate::region::coordinators::Coordinators;
use crate::region::db::{DbError, RegionDb};
use crate::region::direct::Direct;
use crate::region::emergency;
use crate::region::feed;
use crate::region::fleet::Fleet;
use crate::region::goal_stores::{self, GoalStores};
use crate::region::goals;
use crate::region::landing::Landings;
use crate::region::library::Library;
use crate::region::metrics;
use crate::region::mirror::{Mirror, MirrorError};
use crate::region::processes::{InvalidProcesses, Processes};
use crate::region::replicate::{Places, Replicator};
use crate::region::report::{self, Reporter};
use crate::region::serve::{self, Listener};
use crate::region::tracker::{Replicas, Settings, Tracker};
use crate::store::blobs::{BlobError, Blobs, REACH_TIMEOUT};
use crate::store::goals::{GoalError, Goals};

/// Open files that a region asks for: 18,000 connections and as many reads of the store.
const OPEN_FILES: u64 = 40_000;
/// How often lapsed leases and silent members are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Longest that a signed URL for one read is valid, seconds: no read of a piece takes longer.
const DIRECT_READS_S_MAX: u64 = 900;

/// Mirror goals into one region, replicate artifacts to it, and serve its agents
#[derive(Debug, Clone, Parser)]
#[command(name = "deployctl-region", version)]
pub struct Options {
    /// The region's name, as the coordinator's configuration has it
    #[arg(long)]
    pub name: RegionName,
    /// The coordinators' URLs
    #[arg(long, value_name = "URL[,URL]", value_parser = server_urls)]
    pub coordinator: String,
    /// File with the region's token
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The main blob store, such as s3://bucket/prefix?region=eu-central-1
    #[arg(long, value_name = "URL")]
    pub main_blobs: String,
    /// The regional blob store, such as file:///srv/region/blobs
    #[arg(long, value_name = "URL")]
    pub blobs: String,
    /// The region's own etcd: goals are kept there too, and taken from there
    #[arg(long, value_name = "URL")]
    pub goals: Option<String>,
    /// The etcd that coordinators put goals into; goals are taken from there as well
    #[arg(long, value_name = "URL")]
    pub global_goals: Option<String>,
    /// Folder for the region's database and staged packs
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where agents call; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7879")]
    pub listen: SocketAddr,
    /// Where /metrics is served, without a token; nowhere unless given
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Where hosts reach all processes of this region, this one too; the same for each
    #[arg(long, value_name = "URL,URL", requires = "url")]
    pub processes: Option<String>,
    /// Which of them this process is
    #[arg(long, value_name = "URL", requires = "processes")]
    pub url: Option<String>,
    /// Let hosts read packs from the regional store themselves (s3:// only), by URLs that are
    /// valid for so long, 1 to 900 seconds (60 will do); without it they read through the region
    #[arg(long, value_name = "SECONDS", value_parser = seconds_of_a_read)]
    pub direct_reads: Option<u64>,
    /// How often hosts report in a small region, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(100..=30_000))]
    pub report_ms: u64,
    /// Certificate chain of the listener, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve plain HTTP on an address that is not loopback
    #[arg(long)]
    pub plaintext: bool,
    /// Trust only this CA for the coordinators and for other regions, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// How long a URL for one read is valid: `60` or `60s`, at most [`DIRECT_READS_S_MAX`].
fn seconds_of_a_read(text: &str) -> Result<u64, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse().ok();
    seconds
        .filter(|seconds| (1..=DIRECT_READS_S_MAX).contains(seconds))
        .ok_or_else(|| format!("it takes seconds, 1 to {DIRECT_READS_S_MAX}: --direct-reads 60"))
}

/// Why a region did not start.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// A file or folder can't be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process of a region works in the same folder.
    #[error("another region runs on {0}; each process needs a --data folder of its own")]
    Locked(PathBuf),
    /// No coordinator was named.
    #[error("--coordinator names no URL")]
    NoCoordinator,
    /// A blob store can't be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// A goal store's URL can't be used.
    #[error(transparent)]
    Goals(#[from] GoalError),
    /// The region's database can't be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The regional store can't be read by signed URLs.
    #[error(
        "--direct-reads needs a regional store at s3://, as only that signs URLs for one range"
    )]
    Direct,
    /// The processes of the region are not named right.
    #[error(transparent)]
    Processes(#[from] InvalidProcesses),
    /// What it mirrors can't be used.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The listener's TLS can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Runs a region until `stop` turns true. `ready` is told the listener's URL.
///
/// # Errors
/// [`RegionError`], before `ready` was called.
pub async fn run(
    options: Options,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(&str),
) -> Result<(), RegionError> {
    allow_open_files();
    let named = |source| RegionError::Io { path: options.token_file.clone(), source };
    let token = read_token(&options.token_file).map_err(named)?;
    let feeding = Arc::new(coordinators(&options, &token)?);
    let reporting = Arc::new(coordinators(&options, &token)?);
    let giving = coordinators(&options, &token)?;
    let stores = etcds(&options)?;
    let (main, local) = (&options.main_blobs, &options.blobs);
    Blobs::apart(main, local, options.name.as_str())?;
    let blobs = tokio::try_join!(Blobs::open_at_start(main), Blobs::open_at_start(local))?;
    apart(&blobs, &options.name).await?;
    let direct = direct(&options, &blobs.1)?;
    let parts = Parts::open(&options, &token, blobs)?;
    let named = |source| RegionError::Io { path: options.listen.to_string().into(), source };
    let listener = TcpListener::bind(options.listen).await.map_err(named)?;
    let address = listener.local_addr().map_err(named)?;
    let (cert, key) = (options.tls_cert.clone(), options.tls_key.clone());
    let tls = TlsFiles { cert, key, plaintext: options.plaintext };
    let security = tls.security(address)?;
    let scheme = if matches!(security, Security::Plain) { "http" } else { "https" };

    let Parts {
        db, mirror, fleet, replicator, library, tracker, landings, processes, news, ..
    } = &parts;
    let (mirror, fleet) = (mirror.clone(), fleet.clone());
    tracing::info!(region = %options.name, %address, revision = mirror.revision(), "region serves");
    let seen = Arc::new(GoalStores::default());
    let reporter = Reporter {
        coordinators: reporting,
        mirror: mirror.clone(),
        fleet: fleet.clone(),
        replicator: replicator.clone(),
        processes: processes.clone(),
        goal_stores: seen.clone(),
        news: news.clone(),
    };
    let metrics = meter(&options, &parts, &stop).await?;
    let configs = Arc::new(Configs::new(db.clone(), mirror.clone(), giving));
    let listens = Arc::new(Listener {
        mirror: mirror.clone(),
        fleet: fleet.clone(),
        library: library.clone(),
        replicator: replicator.clone(),
        tracker: tracker.clone(),
        landings: landings.clone(),
        processes: processes.clone(),
        configs: configs.clone(),
        direct,
    });
    let router = serve::router(listens, http(&options)?);
    let router = router.merge(emergency::routes(mirror.clone(), token));
    let etcds = follow(stores, &mirror, &seen, &stop);
    let tasks = [
        tokio::spawn(feed::follow(feeding, mirror.clone(), stop.clone())),
        tokio::spawn(configs.keep(stop.clone())),
        tokio::spawn(replicator.clone().run(stop.clone())),
        tokio::spawn(reporter.run(stop.clone())),
        tokio::spawn(processes.clone().run(fleet.clone(), mirror, stop.clone())),
        tokio::spawn(report::keep(fleet, db.clone(), stop.clone())),
        tokio::spawn(tick(tracker.clone(), stop.clone())),
    ];
    ready(&format!("{scheme}://{address}"));
    server::serve_on(listener, security, router, stop).await;
    for task in tasks.into_iter().chain(etcds).chain(metrics) {
        if let Err(error) = task.await {
            tracing::error!(%error, "a part of the region ended unexpectedly");
        }
    }
    Ok(())
}

/// Refuses a regional store that is the main one by another name. Stores that can't be asked now
/// are asked before anything is deleted.
async fn apart((main, local): &(Blobs, Blobs), region: &RegionName) -> Result<(), BlobError> {
    let asked = local.check_apart(main, region.as_str());
    match tokio::time::timeout(REACH_TIMEOUT, asked).await {
        Ok(Err(same @ BlobError::Same { .. })) => Err(same),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not known yet whether the store is the main one");
            Ok(())
        }
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// What hosts may read at the store themselves.
fn direct(options: &Options, local: &Blobs) -> Result<Direct, RegionError> {
    if options.direct_reads.is_some() && !local.signs() {
        return Err(RegionError::Direct);
    }
    Ok(Direct::new(local.clone(), options.direct_reads.map(Duration::from_secs)))
}

struct Parts {
    db: Arc<RegionDb>,
    mirror: Arc<Mirror>,
    fleet: Arc<Fleet>,
    replicator: Arc<Replicator>,
    library: Arc<Library>,
    tracker: Arc<Tracker>,
    landings: Arc<Landings>,
    processes: Arc<Processes>,
    news: Arc<Notify>,
    /// Nobody else stages packs or writes the database here.
    _lock: std::fs::File,
}

impl Parts {
    fn open(
        options: &Options,
        token: &str,
        (main, local): (Blobs, Blobs),
    ) -> Result<Self, RegionError> {
        let named = |source| RegionError::Io { path: options.data.clone(), source };
        std::fs::create_dir_all(&options.data).map_err(named)?;
        let lock = fs::lock(&options.data.join("region.lock")).map_err(named)?;
        let _lock = lock.ok_or_else(|| RegionError::Locked(options.data.clone()))?;
        let (http, staging) = (http(options)?, options.data.join("staging"));
        let list = [&options.processes, &options.url].map(|text| text.as_deref().unwrap_or(""));
        let processes = Arc::new(Processes::new(list[0], list[1], token, &http)?);
        let (db, saved) = RegionDb::open_or_renew(&options.data.join("region.db"))?;
        let db = Arc::new(db);
        let mirror = Arc::new(Mirror::new(options.name.clone(), db.clone(), saved.mirror)?);
        let news = Arc::new(Notify::new());
        let fleet = Fleet::new(options.name.clone(), options.report_ms, saved.hosts, news.clone());
        let library = Arc::new(Library::new(local.clone()));
        let landings = Arc::new(Landings::default());
        fleet.share_with(processes.others());
        let (landing, over) = (landings.clone(), processes.clone());
        let places = Places { main, local, staging, http, landings: landing, processes: over };
        let replicator = Arc::new(Replicator::new(places, mirror.clone(), news.clone()));
        let shelf = Shelf {
            landings: landings.clone(),
            library: library.clone(),
            replicator: replicator.clone(),
            runtime: Handle::current(),
        };
        // Every process of a region has its token, and nobody else.
        let key = keyed_hash(&[0; 32], format!("deployctl peer ticket key v1:{token}").as_bytes());
        let tracker = Arc::new(Tracker::new(key, Box::new(shelf), Settings::default()));
        let fleet = Arc::new(fleet);
        let shared = Self {
            db,
            mirror,
            fleet,
            replicator,
            library,
            tracker,
            landings,
            processes,
            news,
            _lock,
        };
        Ok(shared)
    }
}

/// Every agent holds a connection; the usual soft limit of 1,024 files is too low for that.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    let raised = Rlimit { current: Some(most.max(limit.current.unwrap_or(0))), ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "limit of open files not raised");
    }
}

/// Serves `/metrics`, where it is asked for.
async fn meter(
    options: &Options,
    parts: &Parts,
    stop: &watch::Receiver<bool>,
) -> Result<Option<JoinHandle<()>>, RegionError> {
    let Some(address) = options.metrics else { return Ok(None) };
    let named = |source| RegionError::Io { path: address.to_string().into(), source };
    let listener = listeners::bind(address).await.map_err(named)?;
    let Parts { mirror, fleet, processes, .. } = parts;
    let (mirror, fleet, processes) = (mirror.clone(), fleet.clone(), processes.clone());
    let refresh = move || {
        metrics::refresh(&mirror, &fleet, &processes);
        std::future::ready(())
    };
    Ok(Some(tokio::spawn(listeners::serve(listener, "region", refresh, stop.clone()))))
}

/// Follows etcds, and asks how they are.
fn follow(
    stores: Vec<(goals::Store, Goals)>,
    mirror: &Arc<Mirror>,
    seen: &Arc<GoalStores>,
    stop: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let tasks = stores.into_iter().flat_map(|(which, store)| {
        let look = goal_stores::look(which, store.clone(), seen.clone(), stop.clone());
        let follow = goals::follow((which, store), mirror.clone(), seen.clone(), stop.clone());
        [tokio::spawn(look), tokio::spawn(follow)]
    });
    tasks.collect()
}

/// The etcds that are followed.
fn etcds(options: &Options) -> Result<Vec<(goals::Store, Goals)>, GoalError> {
    let named = [
        (goals::Store::Own, options.goals.as_deref()),
        (goals::Store::Global, options.global_goals.as_deref()),
    ];
    let named = named.into_iter().filter_map(|(which, url)| Some((which, url?)));
    named.map(|(which, url)| Ok((which, Goals::etcd(url)?))).collect()
}

fn http(options: &Options) -> Result<reqwest::Client, RegionError> {
    match &options.ca {
        Some(ca) => Ok(http_client_trusting(ca)?),
        None => Ok(http_client()),
    }
}

fn coordinators(options: &Options, token: &str) -> Result<Coordinators, RegionError> {
    let http = http(options)?;
    let coordinators = Coordinators::new(&options.coordinator, token, &http);
    if coordinators.is_empty() { Err(RegionError::NoCoordinator) } else { Ok(coordinators) }
}

async fn tick(tracker: Arc<Tracker>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(TICK) => tracker.tick(),
        }
    }
}

/// What the tracker knows of the regional store.
struct Shelf {
    landings: Arc<Landings>,
    library: Arc<Library>,
    replicator: Arc<Replicator>,
    runtime: Handle,
}

impl Replicas for Shelf {
    /// Blocks; the tracker calls it on a thread for that.
    fn manifest(&self, artifact: ArtifactId) -> Option<Arc<Manifest>> {
        if let Some(landing) = self.landings.find(&artifact) {
            return Some(landing.held.manifest.clone());
        }
        let held = self.runtime.block_on(self.library.manifest(artifact));
        held.ok().map(|held| held.manifest)
    }

    /// Believes only its own eyes: healing costs a read of the whole pack.
    fn damaged(&self, artifact: ArtifactId, piece: u32) {
        let (library, replicator) = (self.library.clone(), self.replicator.clone());
        self.runtime.spawn(async move {
            if !matches!(library.is_sound(artifact, piece).await, Ok(true)) {
                replicator.heal(artifact);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_a_read_are_said_with_their_unit_or_without() {
        assert_eq!(seconds_of_a_read("60"), Ok(60));
        assert_eq!(seconds_of_a_read("60s"), Ok(60));
        for bad in ["0", "901", "1m", "", "s", "-1"] {
            let said = seconds_of_a_read(bad).unwrap_err();
            assert!(said.contains("--direct-reads 60"), "{bad}: {said}");
        }
    }
}
