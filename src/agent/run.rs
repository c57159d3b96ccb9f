//! The agent's process: its commands, its start, its end.
//!
//! Crash-only: a stop is an end at any point, as every step is journalled; apps live in
//! processes of their own and are not touched.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::agent::activate::HostSetup;
use crate::agent::args::{self, Command, Options, UsageError};
use crate::agent::converge::Shared;
use crate::agent::fetch::{Caps, FetchConfig, Fetcher};
use crate::agent::follow::Follower;
use crate::agent::link::{InvalidUrls, Link, backoff};
use crate::agent::local::{self, LocalError};
use crate::agent::metrics;
use crate::agent::report::{Reporter, Sender};
use crate::agent::source::Source;
use crate::agent::trust::{Trust, TrustError};
use crate::host::fs;
use crate::net::auth::read_token;
use crate::net::metrics as listeners;
use crate::wire::v1::fleet::HostInfo;

/// Threads of the agent: it waits far more than it computes.
const THREADS: usize = 2;

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The region's addresses.
    #[error(transparent)]
    Urls(#[from] InvalidUrls),
    /// A command on this host.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The trusted keys.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Another agent has the root folder.
    #[error("another agent runs on {0}")]
    Locked(String),
    /// Something of the host's.
    #[error("{what}: {source}")]
    Io {
        /// What failed.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl RunError {
    /// The exit code [orchestration 4.8].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Urls(_) => 2,
            Self::Local(error) => error.exit_code(),
            Self::Locked(_) => 6,
            Self::Trust(_) | Self::Io { .. } => 1,
        }
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Io { what, source }
}

/// Runs a command line (the program's own name left out); answers go to `out`, errors
/// to `err`, one line each.
pub fn main(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    out: &mut (dyn Write + Send),
    err: &mut dyn Write,
) -> ExitCode {
    let command = match args::parse(args) {
        Ok(Command::Supervise(folder)) => return crate::agent::supervise::main(&folder),
        Ok(command) => command,
        Err(e) => return failed(&e.into(), err),
    };
    match execute(command, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e, err),
    }
}

fn failed(error: &RunError, err: &mut dyn Write) -> ExitCode {
    let _ = writeln!(err, "deployctl-agent: {error}");
    ExitCode::from(error.exit_code())
}

fn execute(command: Command, out: &mut (dyn Write + Send)) -> Result<(), RunError> {
    let text = match command {
        Command::Help => args::HELP.to_owned(),
        Command::Version => concat!("deployctl-agent ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        Command::Status { root, json } => {
            let status = local::status(&root)?;
            if json {
                let document = serde_json::to_string(&status).map_err(std::io::Error::from);
                document.map_err(io_error("the status can't be written"))? + "\n"
            } else {
                status.to_string()
            }
        }
        Command::Rollback { root, app } => {
            let setup = bare_setup(root)?;
            let target = runtime()?.block_on(local::rollback(setup, &app))?;
            format!(
                "{app} runs {} ({}) on this host until a newer goal comes\n",
                target.release,
                target.artifact.short()
            )
        }
        Command::Run(options) => {
            crate::telemetry::start();
            return runtime()?.block_on(run_daemon(&options, out));
        }
        Command::Supervise(_) => return Ok(()),
    };
    out.write_all(text.as_bytes()).map_err(io_error("stdout"))
}

fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(THREADS).enable_all().build();
    runtime.map_err(io_error("the runtime does not start"))
}

/// The agent's own binary, also when it was replaced on disk since it was started.
#[must_use]
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// A setup for a command without an agent: names and variables are those that the
/// last agent on this root had.
fn bare_setup(root: PathBuf) -> Result<HostSetup, RunError> {
    let saved: Option<SavedSetup> =
        fs::read_json(&root.join("host.json")).map_err(io_error("host.json"))?;
    let Some(saved) = saved else {
        return Err(LocalError::NoRoot(root.display().to_string()).into());
    };
    Ok(HostSetup { root, program: own_program(), info: saved.info, vars: saved.vars })
}

/// `host.json`: how the agent was started last.
#[derive(serde::Serialize, serde::Deserialize)]
struct SavedSetup {
    info: HostInfo,
    vars: std::collections::BTreeMap<String, String>,
}

async fn run_daemon(options: &Options, out: &mut (dyn Write + Send)) -> Result<(), RunError> {
    let stop = crate::net::server::stop_signal();
    let mut agent = Agent::prepare(options).await?;
    let trust = agent.trust(options.trust.as_deref(), stop.clone()).await?;
    let Some(trust) = trust else { return Ok(()) };
    let source = Arc::new(agent.fetcher(&trust, options.caps)?);
    let ready = |address: SocketAddr| {
        let _ = writeln!(out, "ready http://{address}");
        let _ = out.flush();
    };
    let reporter = Arc::new(Reporter::default());
    if let Some(address) = options.metrics {
        let listener = listeners::bind(address).await.map_err(io_error("metrics"))?;
        let counted = reporter.clone();
        let refresh = move || {
            metrics::refresh(&counted);
            std::future::ready(())
        };
        tokio::spawn(listeners::serve(listener, "agent", refresh, stop.clone()));
    }
    agent.run(trust, (source, reporter), stop, ready).await;
    Ok(())
}

/// An agent that holds its root and its listener, and has not begun.
struct Agent {
    setup: HostSetup,
    link: Link,
    listener: Option<TcpListener>,
    address: SocketAddr,
    _lock: std::fs::File,
}

impl Agent {
    /// Takes the root folder and binds the listener.
    ///
    /// # Errors
    /// When another agent has the root, or the token, the addresses, the folder or the
    /// listener are of no use.
    async fn prepare(options: &Options) -> Result<Self, RunError> {
        let root = options.root.clone();
        // Others may pass through to the apps, but not look around.
        fs::make_folder(&root, 0o711).map_err(io_error("the root folder can't be made"))?;
        fs::make_folder(&root.join("apps"), 0o755)
            .map_err(io_error("the apps folder can't be made"))?;
        let lock = fs::lock(&root.join("agent.lock")).map_err(io_error("agent.lock"))?;
        let lock = lock.ok_or_else(|| RunError::Locked(root.display().to_string()))?;
        let shown = options.token_file.display();
        let token = read_token(&options.token_file)
            .map_err(io_error(format!("the token file {shown} can't be read")))?;
        let link = Link::new(&options.region, &token)?;
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.map_err(io_error(format!("{} can't be bound", options.listen)))?;
        let address = listener.local_addr().map_err(io_error("the listener"))?;
        let info = HostInfo {
            host: options.host.clone(),
            env: options.env.clone(),
            labels: options.labels.clone(),
            rack: options.rack.clone(),
            zone: options.zone.clone(),
            peer_port: address.port(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let saved = SavedSetup { info, vars: options.vars.clone() };
        fs::write_json(&root.join("host.json"), &saved).map_err(io_error("host.json"))?;
        let SavedSetup { info, vars } = saved;
        let setup = HostSetup { root, program: own_program(), info, vars };
        Ok(Self { setup, link, listener: Some(listener), address, _lock: lock })
    }

    /// Whom to believe; waits for the region when only it can tell. `None`: stopped.
    ///
    /// # Errors
    /// When the keys on disk are of no use.
    async fn trust(
        &self,
        file: Option<&Path>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Option<Trust>, RunError> {
        let mut backoff = backoff();
        loop {
            match Trust::load(file, &self.setup.root, &self.link).await {
                Ok(trust) => return Ok(Some(trust)),
                Err(error @ TrustError::Region(_)) => {
                    let wait = backoff.failed();
                    tracing::warn!(error = %error, wait_ms = wait.as_millis() as u64, "no keys yet");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.wait_for(|stop| *stop) => return Ok(None),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts the swarm's fetcher, which serves peers on the listener from now on.
    ///
    /// # Errors
    /// When the root folder can't be used.
    fn fetcher(&mut self, trust: &Trust, caps: Caps) -> Result<Fetcher, RunError> {
        let listener = self.listener.take().expect("the listener is taken once");
        // Keys are pinned: they change only with a restart.
        let (_, trust) = watch::channel(trust.clone());
        let (root, info) = (self.setup.root.clone(), self.setup.info.clone());
        let config = FetchConfig::new(root, self.link.clone(), info, trust, listener);
        let config = FetchConfig { caps, ..config };
        Fetcher::start(config).map_err(io_error("the fetcher does not start"))
    }

    /// Follows goals until `stop` turns true; `ready` hears once where pieces are served.
    /// What fails from now on is reported to the region.
    async fn run(
        self,
        trust: Trust,
        (source, reporter): (Arc<dyn Source>, Arc<Reporter>),
        mut stop: watch::Receiver<bool>,
        ready: impl FnOnce(SocketAddr),
    ) {
        let sender = Sender {
            link: self.link.clone(),
            info: self.setup.info.clone(),
            root: self.setup.root.clone(),
        };
        let shared =
            Arc::new(Shared { setup: self.setup.clone(), source, reporter: reporter.clone() });
        let follower = Follower::resume(shared, trust);
        ready(self.address);
        tracing::info!(host = %self.setup.info.host, env = %self.setup.info.env,
            address = %self.address, "agent follows its region");
        tokio::select! {
            () = follower.run(self.link.clone()) => {}
            () = sender.run(&reporter) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tracing::info!("agent stops; apps go on");
    }
}
