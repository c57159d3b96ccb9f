//! The coordinator's life: open everything, serve, stop gracefully.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::daemon::{Config, Tls};
use crate::coordinator::first_start::FirstStartError;
use crate::coordinator::state::{Coordinator, Keys, Shared};
use crate::coordinator::{
    attempts, claims, collector, first_start, gates, metrics, monitor, notify, outbox, patience,
    peers, pruner, publisher, router, steadiness, synchronizer, tick,
};
use crate::net::tls::{Security, TlsError, TlsFiles};
use crate::net::{metrics as listeners, server};
use crate::store::blobs::{BlobError, Blobs};
use crate::store::db::{BadPlace, Db, DbError, Place};
use crate::store::goals::GoalError;

/// How long the background loops have to end after a stop.
const LOOPS_END: Duration = Duration::from_secs(5);

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The setting `database`.
    #[error(transparent)]
    Place(#[from] BadPlace),
    /// The main blob store.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The global goal store's URL.
    #[error(transparent)]
    Goals(#[from] GoalError),
    /// The first files.
    #[error(transparent)]
    FirstStart(#[from] FirstStartError),
    /// What the listener speaks.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs a coordinator until `stop` turns true, then lets open requests end and
/// closes the database. One that is busy is waited for. Calls `ready` with its URL once it serves.
///
/// # Errors
/// When something can't be opened. After `ready`, none.
pub async fn run(
    config: Config,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(&str),
) -> Result<(), StartError> {
    let data = config.data.clone();
    let security = security(&config)?;
    let place = place(&config)?;
    let open = || open(place.clone(), config.clone());
    let Some((db, keys)) = patience::until_done(&place, &stop, open).await? else {
        return Ok(());
    };
    let blobs = open_stores(&config).await?;
    let listen = |source| StartError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let scheme = if matches!(security, Security::Plain) { "http" } else { "https" };
    let url = format!("{scheme}://{address}");
    let metered = config.metrics;
    let ((claims, line), (words, said)) = (claims::line(), attempts::mouth());
    let ends = (claims, words);
    let shared = Coordinator::new(db, config, blobs, keys, stop.clone(), ends).await?;
    first_start::client_file(&data, scheme, address)?;
    let grant = || grant_grace(shared.clone());
    if patience::until_done(&place, &stop, grant).await?.is_none() {
        return Ok(());
    }
    let mut loops = start_loops(&shared, line);
    // Until the last open request was answered; ends with this function.
    let mut hearing = JoinSet::new();
    hearing.spawn(attempts::hear(shared.clone(), said));
    if shared.db.is_shared() {
        loops.spawn(peers::beat(shared.clone(), peers::own(shared.steady_now(), &url)));
        loops.spawn(peers::follow_tokens(shared.clone()));
    }
    if let Some(address) = metered {
        let failed = |source| StartError::Listen { address, source };
        let listener = listeners::bind(address).await.map_err(failed)?;
        let within = shared.clone();
        let refresh = move || metrics::refresh(within.clone());
        loops.spawn(listeners::serve(listener, "coordinator", refresh, stop.clone()));
    }
    tracing::info!(%address, data = %data.display(), database = %place, "coordinator serves");
    ready(&url);
    server::serve_on(listener, security, router::router(&shared), stop).await;
    let ended = async { while loops.join_next().await.is_some() {} };
    if tokio::time::timeout(LOOPS_END, ended).await.is_err() {
        tracing::warn!("a background loop did not end in time");
    }
    shared.db.close().await;
    tracing::info!("coordinator stopped");
    Ok(())
}

/// The database with what the first start writes.
async fn open(place: Place, config: Config) -> Result<(Db, Keys), FirstStartError> {
    let (db, keys) = first_start::open(&place, &config.data).await?;
    first_start::first_tokens(&db, &keys, &config).await?;
    Ok((db, keys))
}

async fn grant_grace(shared: Shared) -> Result<(), FirstStartError> {
    // Before any loop notes when it ran.
    steadiness::begin(&shared).await?;
    Ok(monitor::grant_grace(&shared).await?)
}

/// The main store. A regional one is opened when it is looked into; that its URL says
/// nothing is told now.
async fn open_stores(config: &Config) -> Result<Blobs, BlobError> {
    for (name, region) in &config.regions {
        Blobs::apart(&config.blobs, &region.blobs, name.as_str())?;
        if let Err(error @ BlobError::Url { .. }) = Blobs::open(&region.blobs) {
            return Err(error);
        }
    }
    Blobs::open_at_start(&config.blobs).await
}

/// Where the database is: a file in the data folder unless configured otherwise.
///
/// # Errors
/// When the setting `database` is no URL that can be used.
pub fn place(config: &Config) -> Result<Place, BadPlace> {
    match &config.database {
        None => Ok(Place::File(config.data.join(first_start::DATABASE))),
        Some(url) => Place::parse(url),
    }
}

fn security(config: &Config) -> Result<Security, TlsError> {
    let Tls { cert, key, plaintext } = config.tls.clone();
    TlsFiles { cert, key, plaintext }.security(config.listen)
}

/// The background loops; each ends by itself when `shared.stop` turns true.
/// Add yours here.
fn start_loops(shared: &Shared, line: mpsc::Receiver<claims::Waiter>) -> JoinSet<()> {
    let mut loops = JoinSet::new();
    loops.spawn(claims::give_out(shared.clone(), line));
    loops.spawn(monitor::run(shared.clone()));
    loops.spawn(outbox::run(shared.clone()));
    loops.spawn(publisher::run(shared.clone()));
    loops.spawn(notify::run(shared.clone()));
    loops.spawn(gates::run(shared.clone()));
    loops.spawn(tick::run(shared.clone()));
    loops.spawn(synchronizer::run(shared.clone()));
    loops.spawn(collector::run(shared.clone()));
    loops.spawn(pruner::run(shared.clone()));
    loops
}
