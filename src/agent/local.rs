//! The agent's commands on its own host, which need no network: what runs here, and
//! back to the release before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::activate::HostSetup;
use crate::agent::audit;
use crate::agent::converge::{Accepted, Convergence, Shared};
use crate::agent::report::Reporter;
use crate::agent::source::{Configuring, FetchFailure, Fetching, Progress, Source, Want};
use crate::agent::state::AppFolder;
use crate::host::{fs, service};
use crate::model::digest::ConfigId;
use crate::model::fleet::{AppStatus, FailureClass};
use crate::model::goal::Target;
use crate::model::id::AppName;
use crate::rules::reconcile::{Failed, Hold};
use crate::rules::retention;
use crate::wire::v1::fleet::Report;

/// How long a rollback is waited for: stop, start and a probe's longest default.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(420);
/// How often its outcome is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a command on the host did nothing, or failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No agent ever worked here.
    #[error("{0} is not an agent's root folder")]
    NoRoot(String),
    /// The app was never on this host.
    #[error("app {0} is not on this host")]
    NoApp(AppName),
    /// There is nothing to go back to.
    #[error("app {0} has no earlier release on this host that worked")]
    NoPrevious(AppName),
    /// The release that it went back to failed.
    #[error("release {release} does not work: {reason}")]
    Failed {
        /// Which.
        release: crate::model::id::ReleaseNo,
        /// Why.
        reason: String,
    },
    /// No end in sight.
    #[error("no outcome within {} s; deployctl-agent status tells how it goes", ROLLBACK_LIMIT.as_secs())]
    Slow,
    /// The root folder can't be read or written.
    #[error("the agent's root folder failed: {0}")]
    Io(#[from] std::io::Error),
}

impl LocalError {
    /// The exit code [orchestration 4.8].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoRoot(_) | Self::NoApp(_) => 3,
            Self::NoPrevious(_) => 8,
            Self::Failed { .. } | Self::Slow | Self::Io(_) => 1,
        }
    }
}

/// What runs on this host.
#[derive(Debug, Serialize)]
pub struct LocalStatus {
    /// Whether an agent runs.
    pub agent: bool,
    /// By name.
    pub apps: Vec<LocalApp>,
}

/// One app.
#[derive(Debug, Serialize)]
pub struct LocalApp {
    /// Its name.
    pub app: AppName,
    /// What `current` points to.
    pub running: Option<Target>,
    /// Its process, when it is a service that is up.
    pub pid: Option<i32>,
    /// Releases that a rollback here may go to, nearest first.
    pub previous: Vec<Target>,
    /// A rollback on this host that still counts.
    pub hold: Option<Hold>,
    /// What the agent reported last.
    pub reported: Option<AppStatus>,
}

/// Reads what runs under `root`.
///
/// # Errors
/// When it is no agent's root, or can't be read.
pub fn status(root: &Path) -> Result<LocalStatus, LocalError> {
    if !root.join("apps").is_dir() {
        return Err(LocalError::NoRoot(root.display().to_string()));
    }
    let report: Option<Report> = fs::read_json(&root.join("report.json")).ok().flatten();
    let reported = report.map(|report| report.apps).unwrap_or_default();
    let mut apps = vec![];
    for app in AppFolder::all(root) {
        let folder = AppFolder::open(root, &app)?;
        let state = folder.state()?;
        let running = folder.running(&state, crate::agent::journal::read(&folder)?.as_ref());
        let up = service::supervisor(folder.path()).and(service::status(folder.path()));
        let at = state.good.iter().position(|good| Some(*good) == running).map_or(0, |i| i + 1);
        apps.push(LocalApp {
            running,
            pid: up.and_then(|status| status.process).map(|process| process.pid),
            previous: state.good[at..].to_vec(),
            hold: folder.hold(),
            reported: reported.iter().find(|status| status.app == app).cloned(),
            app,
        });
    }
    Ok(LocalStatus { agent: fs::is_locked(&root.join("agent.lock")), apps })
}

impl std::fmt::Display for LocalStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let agent = if self.agent { "runs" } else { "does not run" };
        writeln!(f, "agent {agent}, {} apps", self.apps.len())?;
        for app in &self.apps {
            let running = app.running.map_or("nothing".to_owned(), |target| {
                format!("{} ({})", target.release, target.artifact.short())
            });
            write!(f, "{}  {running}", app.app)?;
            if let Some(config) = app.running.and_then(|target| target.config) {
                write!(f, "  config {}", config.short())?;
            }
            if let Some(pid) = app.pid {
                write!(f, "  pid {pid}")?;
            }
            if let Some(status) = &app.reported {
                let phase = serde_json::to_value(status.phase).unwrap_or_default();
                write!(f, "  {}", phase.as_str().unwrap_or(""))?;
                if let Some(failure) = &status.failure {
                    write!(f, "  {}", failure.reason)?;
                }
            }
            if let Some(hold) = app.hold {
                let generation = hold.over.generation;
                write!(f, "  held here over generation {generation}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Goes back to the newest earlier release that worked here, and holds it there: goals
/// up to the present one count for nothing. The agent does it if one runs; else it is
/// done here.
///
/// # Errors
/// See [`LocalError`].
pub async fn rollback(setup: HostSetup, app: &AppName) -> Result<Target, LocalError> {
    let root = setup.root.clone();
    if !root.join("apps").join(app.as_str()).is_dir() {
        return Err(LocalError::NoApp(app.clone()));
    }
    let folder = AppFolder::open(&root, app)?;
    let state = folder.state()?;
    let running = folder.running(&state, crate::agent::journal::read(&folder)?.as_ref());
    let target = retention::previous(&state.good, running)
        .filter(|target| folder.known(target.artifact).is_some())
        .ok_or_else(|| LocalError::NoPrevious(app.clone()))?;
    if !fs::is_locked(&root.join("agent.lock"))
        && let Some(what) = audit::damage(&root, app, target.artifact)
    {
        let reason =
            format!("its files here are damaged ({what}); a running agent fetches it anew");
        return Err(LocalError::Failed { release: target.release, reason });
    }
    let goal = folder.goal()?;
    let over = goal.as_ref().map(|(goal, _)| goal.version).unwrap_or_default();
    folder.save_hold(Some(&Hold { target, over }))?;
    let before = state.failed;
    let outcome = match fs::lock(&root.join("agent.lock"))? {
        None => wait(&folder, target, before.as_ref()).await,
        Some(lock) => {
            let accepted = goal.map(|(goal, saved)| Accepted {
                goal: Arc::new(goal),
                at: saved.accepted_at,
                region: saved.region,
                refused: None,
            });
            let (_keep, goals) = watch::channel(accepted);
            let reporter = Arc::new(Reporter::default());
            let shared = Arc::new(Shared { setup, source: Arc::new(NoSource), reporter });
            let alone = Convergence::open(shared, app.clone(), goals)?;
            let outcome = tokio::select! {
                outcome = wait(&folder, target, before.as_ref()) => outcome,
                () = alone.run() => Err(LocalError::Slow),
            };
            drop(lock);
            outcome
        }
    };
    outcome.map(|()| target)
}

/// Waits until the app settled on `target`, by what its folder says.
async fn wait(
    folder: &AppFolder,
    target: Target,
    before: Option<&Failed>,
) -> Result<(), LocalError> {
    let deadline = Instant::now() + ROLLBACK_LIMIT;
    while Instant::now() < deadline {
        let state = folder.state()?;
        let settled = crate::agent::journal::read(folder)?.is_none();
        let failed = state.failed.as_ref().filter(|failed| failed.artifact == target.artifact);
        if let Some(failed) = failed.filter(|failed| settled && Some(*failed) != before) {
            let reason = failed.failure.reason.clone();
            return Err(LocalError::Failed { release: target.release, reason });
        }
        let there = state.running == Some(target) && folder.current() == Some(target.bits());
        if settled && there && failed.is_none() && is_up(folder, target) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(LocalError::Slow)
}

fn is_up(folder: &AppFolder, target: Target) -> bool {
    let service = folder.known(target.artifact).is_some_and(|known| known.is_service());
    !service || service::supervisor(folder.path()).is_some()
}

/// Without an agent nothing is fetched.
struct NoSource;

impl Source for NoSource {
    fn fetch(&self, _: Want, _: watch::Sender<Progress>) -> Fetching {
        Box::pin(std::future::ready(Err(no_agent())))
    }

    fn config(&self, _: ConfigId) -> Configuring {
        Box::pin(std::future::ready(Err(no_agent())))
    }
}

fn no_agent() -> FetchFailure {
    let reason = "nothing is fetched while no agent runs".into();
    FetchFailure { class: FailureClass::Transport, reason }
}
