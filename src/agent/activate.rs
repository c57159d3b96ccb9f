//! Carries an activation out: each stage journalled, then done, until it ends.
//!
//! What comes after what is `rules::activation`'s word; what a release needs to run is
//! its manifest's. Every stage may be done twice.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::agent::journal;
use crate::agent::state::{AppFolder, Known};
use crate::host::applog::{AppLog, tail};
use crate::host::probe::{ProbeError, look};
use crate::host::service::{self, CommandSpec, Plan, State};
use crate::model::config::Bits;
use crate::model::digest::ArtifactId;
use crate::model::fleet::{Failure, FailureClass};
use crate::model::goal::Target;
use crate::model::id::AppName;
use crate::model::recipe::{Probe, RunKind, RunSpec};
use crate::rules::activation::{Activation, Fallback, Next, Outcome, Stage, Verdict, steady_after};
use crate::wire::v1::fleet::HostInfo;

/// How long a one-shot `start` or `stop` may take [recipe: `RunKind::Oneshot`].
const ONESHOT_LIMIT: Duration = Duration::from_secs(60);
/// How often a release in probation is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a probe that is a command is run: it costs a process.
const EXEC_EVERY: Duration = Duration::from_secs(1);
/// Shortest time that a service must stay up: below it a shell that is about to fail
/// looks like one that works.
const UP_MIN: Duration = Duration::from_millis(500);
/// How long an old release may take to pass its probe once.
const BACK_PROBE_LIMIT: Duration = Duration::from_secs(30);
/// Names the file with the release's configuration to the app and its commands; absent
/// when there is none.
const CONFIG_VARIABLE: &str = "DEPLOYCTL_CONFIG";
/// Longest reason of a failure, bytes [fleet: `Failure::reason`].
const REASON_BYTES_MAX: usize = 300;

/// What every app on the host shares.
#[derive(Debug, Clone)]
pub struct HostSetup {
    /// The agent's root folder, absolute.
    pub root: PathBuf,
    /// The agent's own binary, which is also the supervisor.
    pub program: PathBuf,
    /// Who the host is.
    pub info: HostInfo,
    /// The host's variables.
    pub vars: BTreeMap<String, String>,
}

/// How carrying out ended.
#[derive(Debug)]
pub enum Ended {
    /// The activation came to its end; the journal stands until the caller has
    /// recorded it.
    Verdict(Verdict),
    /// Another release is wanted now; the journal stands.
    Superseded,
}

/// One app's activations.
pub struct Activator<'a> {
    /// What every app shares.
    pub setup: &'a HostSetup,
    /// The app.
    pub app: &'a AppName,
    /// Its folder.
    pub folder: &'a AppFolder,
}

/// Hears of each stage, and is asked now and then whether another release is wanted.
pub trait Watcher {
    /// The stage that begins.
    fn stage(&mut self, activation: &Activation);
    /// Whether to leave the activation for another release.
    fn superseded(&mut self) -> bool;
}

/// A failure of the host, with its cause.
#[must_use]
pub fn host_fault(what: &str, cause: &io::Error) -> Failure {
    Failure { class: FailureClass::Host, reason: cut(format!("{what}: {cause}")), log: vec![] }
}

fn cut(mut reason: String) -> String {
    let end =
        (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    reason
}

impl Activator<'_> {
    /// Carries `activation` on from its stage.
    ///
    /// # Errors
    /// When the journal can't be written: nothing was begun then that it does not hold.
    pub async fn carry_out(
        &self,
        mut activation: Activation,
        watcher: &mut impl Watcher,
    ) -> io::Result<Ended> {
        loop {
            journal::write(self.folder, &activation)?;
            tracing::debug!(app = %self.app, stage = ?activation.stage, "activation stage");
            watcher.stage(&activation);
            let Some(outcome) = self.act(&activation, watcher).await else {
                return Ok(Ended::Superseded);
            };
            match activation.next(outcome) {
                Next::Go(next) => activation = next,
                Next::End(verdict) => return Ok(Ended::Verdict(verdict)),
            }
        }
    }

    /// Does the present stage; `None`: superseded.
    async fn act(&self, activation: &Activation, watcher: &mut impl Watcher) -> Option<Outcome> {
        let result = match activation.stage {
            Stage::Stop | Stage::BackStop => self.stop().await,
            Stage::Switch | Stage::BackSwitch => {
                let to = activation.subject().map(|target| target.bits());
                self.folder.switch(to).map_err(|e| host_fault("current could not be switched", &e))
            }
            Stage::Start => self.start(activation.to, activation.fallback != Fallback::Keep).await,
            Stage::BackStart => match activation.subject() {
                Some(old) => self.start(old, false).await,
                None => Ok(()),
            },
            Stage::Probe => return self.probe(activation, watcher).await,
            Stage::BackProbe => match activation.subject() {
                Some(old) => self.probe_once(old).await,
                None => Ok(()),
            },
        };
        Some(result.map_or_else(Outcome::Failed, |()| Outcome::Done))
    }

    /// Stops whatever runs: the supervised process, or the one-shot release that
    /// `current` points to by its stop command.
    async fn stop(&self) -> Result<(), Failure> {
        let stopped = service::stop(self.folder.path()).await;
        stopped.map_err(|e| host_fault("the running release could not be stopped", &e))?;
        let Some(current) = self.folder.current() else { return Ok(()) };
        let known = self.folder.known(current.artifact);
        let Some(Known { run: Some(run), .. }) = known else { return Ok(()) };
        if let (RunKind::Oneshot, Some(script)) = (run.kind, &run.stop) {
            let ran = self.run_oneshot("stop", script, self.target_of(current), &run).await;
            // What is left behind must not be able to hold up what replaces it.
            if let Err(failure) = ran {
                tracing::warn!(app = %self.app, reason = failure.reason, "stop command failed");
            }
        }
        Ok(())
    }

    async fn start(&self, target: Target, probation: bool) -> Result<(), Failure> {
        let Some(run) = self.run_spec(target.artifact)? else { return Ok(()) };
        let Some(script) = run.start.clone() else { return Ok(()) };
        if run.kind == RunKind::Oneshot {
            AppLog::open(&self.folder.log()).mark(&format!("{} start", target.release));
            return self.run_oneshot("start", &script, target, &run).await;
        }
        let plan = Plan {
            artifact: target.artifact,
            config: target.config,
            title: target.release.to_string(),
            folder: self.folder.release(target.artifact),
            start: script,
            stop: run.stop.clone(),
            env: self.environment(target, &run),
            probation,
        };
        let started = service::start(&self.setup.program, self.folder.path(), &plan).await;
        started.map_err(|e| host_fault("the app's supervisor could not be started", &e))
    }

    /// Waits until the release proved itself: up, and its probe passing, without a
    /// break for as long as its manifest asks; `None`: superseded.
    async fn probe(&self, activation: &Activation, watcher: &mut impl Watcher) -> Option<Outcome> {
        let run = match self.run_spec(activation.to.artifact) {
            Ok(run) => run,
            Err(failure) => return Some(Outcome::Failed(failure)),
        };
        let Some(run) = run else { return Some(Outcome::Done) };
        if let Err(failure) = self.start_again(activation, &run).await {
            return Some(Outcome::Failed(failure));
        }
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(u64::from(run.deadline_s));
        let needed = self.needed(activation, &run);
        let (mut passing_since, mut last_problem) = (None, String::new());
        loop {
            if let Some(failure) = self.exit(activation.to.artifact, &run) {
                return Some(Outcome::Failed(failure));
            }
            match self.look(activation.to, &run).await {
                Ok(()) => {
                    let since =
                        *passing_since.get_or_insert(begun.max(Instant::now() - LOOK_EVERY));
                    if since.elapsed() >= needed && self.release_from_probation().is_ok() {
                        return Some(Outcome::Done);
                    }
                }
                Err(failure) if failure.class == FailureClass::Host => {
                    return Some(Outcome::Failed(failure));
                }
                Err(failure) => {
                    passing_since = None;
                    last_problem = failure.reason;
                }
            }
            if Instant::now() >= deadline && !last_problem.is_empty() && passing_since.is_none() {
                let reason = format!("not healthy within {} s: {last_problem}", run.deadline_s);
                return Some(Outcome::Failed(self.release_fault(reason)));
            }
            if watcher.superseded() {
                return None;
            }
            let exec = matches!(run.probe, Some(Probe::Exec(_)));
            tokio::time::sleep(if exec { EXEC_EVERY } else { LOOK_EVERY }).await;
        }
    }

    /// After a reboot in the middle of the probe there is no process to be probed.
    async fn start_again(&self, activation: &Activation, run: &RunSpec) -> Result<(), Failure> {
        let is_service = run.kind == RunKind::Service && run.start.is_some();
        let to = activation.to;
        let gone = is_service
            && self.exit(to.artifact, run).is_none()
            && service::supervisor(self.folder.path()).is_none();
        if !gone {
            return Ok(());
        }
        self.start(to, activation.fallback != Fallback::Keep).await
    }

    fn needed(&self, activation: &Activation, run: &RunSpec) -> Duration {
        let is_service = run.kind == RunKind::Service && run.start.is_some();
        let floor = if is_service { UP_MIN } else { Duration::ZERO };
        if activation.proven || !(is_service || run.probe.is_some()) {
            return floor;
        }
        Duration::from_secs(u64::from(run.min_healthy_s)).max(floor)
    }

    async fn probe_once(&self, target: Target) -> Result<(), Failure> {
        let Some(run) = self.run_spec(target.artifact)? else { return Ok(()) };
        let deadline = Instant::now() + BACK_PROBE_LIMIT;
        loop {
            match self.look(target, &run).await {
                Ok(()) => return Ok(()),
                Err(failure) if Instant::now() > deadline => return Err(failure),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn look(&self, target: Target, run: &RunSpec) -> Result<(), Failure> {
        if run.kind == RunKind::Service && run.start.is_some() {
            let status = service::status(self.folder.path());
            let supervised = service::supervisor(self.folder.path()).is_some();
            if !supervised || status.is_none_or(|status| status.state != State::Running) {
                return Err(self.release_fault("the process is not up".into()));
            }
        }
        let Some(probe) = &run.probe else { return Ok(()) };
        let env = self.environment(target, run);
        let folder = self.folder.release(target.artifact);
        look(probe, &folder, &env).await.map_err(|e| match e {
            ProbeError::App(why) => self.release_fault(format!("probe failed: {why}")),
            ProbeError::Variable(_) => {
                Failure { class: FailureClass::Host, reason: cut(e.to_string()), log: vec![] }
            }
        })
    }

    /// Looks once beside whatever else goes on.
    pub(super) fn look_aside(
        &self,
        target: Target,
        run: &RunSpec,
        probe: Probe,
    ) -> JoinHandle<Result<(), ProbeError>> {
        let env = self.environment(target, run);
        let folder = self.folder.release(target.artifact);
        tokio::spawn(async move { look(&probe, &folder, &env).await })
    }

    /// Whether the app did not end since it was activated, or has been up since.
    pub(super) fn is_steady(&self, known: Option<&Known>) -> bool {
        let Some(known) = known else { return true };
        let min_healthy = known.run.as_ref().map_or(0, |run| run.min_healthy_s);
        let needed = |last_up| steady_after(Duration::from_secs(min_healthy.into()), last_up);
        let status = service::status(self.folder.path());
        status.is_none_or(|s| s.artifact != known.artifact || s.is_steady(needed))
    }

    /// An exit that nothing will follow.
    fn exit(&self, artifact: ArtifactId, run: &RunSpec) -> Option<Failure> {
        if run.kind != RunKind::Service || run.start.is_none() {
            return None;
        }
        let status = service::status(self.folder.path()).filter(|s| s.artifact == artifact)?;
        match status.state {
            State::Ended => {
                Some(self.release_fault(format!("process ended: {}", status.last_exit)))
            }
            State::GaveUp => Some(self.crash_loop(&status)),
            State::Running | State::Waiting | State::Stopped => None,
        }
    }

    /// The failure of a service that ends again and again.
    #[must_use]
    pub fn crash_loop(&self, status: &service::Status) -> Failure {
        let times = status.restarts + 1;
        self.release_fault(format!("crash loop: ended {times} times, last: {}", status.last_exit))
    }

    /// From now on an exit is followed by a restart.
    fn release_from_probation(&self) -> io::Result<()> {
        match service::plan(self.folder.path()) {
            Some(plan) if plan.probation => {
                service::write_plan(self.folder.path(), &Plan { probation: false, ..plan })
            }
            _ => Ok(()),
        }
    }

    async fn run_oneshot(
        &self,
        what: &str,
        script: &str,
        target: Target,
        run: &RunSpec,
    ) -> Result<(), Failure> {
        let folder = self.folder.release(target.artifact);
        let env = self.environment(target, run);
        let spec =
            CommandSpec { script, folder: &folder, env: &env, limit: ONESHOT_LIMIT, alone: false };
        let mut log = AppLog::open(&self.folder.log());
        let end = service::run_to_end(&spec, Some(&mut log)).await;
        let end = end.map_err(|e| host_fault("a command could not be run", &e))?;
        match end.wrong {
            None => Ok(()),
            Some(wrong) => Err(self.release_fault(format!("{what} command failed: {wrong}"))),
        }
    }

    /// What `current` leads to, with a number: it only names the release to a command,
    /// and `current` has no other.
    fn target_of(&self, bits: Bits) -> Target {
        let Bits { artifact, config } = bits;
        let journal = journal::read(self.folder).ok().flatten();
        let state = self.folder.state().unwrap_or_default();
        let running = self.folder.running(&state, journal.as_ref());
        running.filter(|target| target.bits() == bits).unwrap_or(Target {
            release: crate::model::id::ReleaseNo(1),
            artifact,
            config,
        })
    }

    fn run_spec(&self, artifact: ArtifactId) -> Result<Option<RunSpec>, Failure> {
        let gone = || io::Error::other(format!("release {} is not on disk", artifact.short()));
        let known = self.folder.known(artifact);
        known.map(|known| known.run).ok_or_else(|| host_fault("the release is gone", &gone()))
    }

    /// Everything that the app's commands find in their environment: a clean base, the
    /// release's own, the host's variables, and who it is; later ones win.
    fn environment(&self, target: Target, run: &RunSpec) -> BTreeMap<String, String> {
        let base = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];
        let given =
            base.iter().filter_map(|name| Some(((*name).into(), std::env::var(name).ok()?)));
        let mut env: BTreeMap<String, String> = given.collect();
        env.entry("PATH".into()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".into());
        env.extend(run.env.clone());
        env.extend(self.setup.vars.clone());
        let info = &self.setup.info;
        let own = [
            ("DEPLOYCTL_APP", self.app.to_string()),
            ("DEPLOYCTL_ENV", info.env.to_string()),
            ("DEPLOYCTL_HOST", info.host.to_string()),
            ("DEPLOYCTL_RELEASE", target.release.to_string()),
            ("DEPLOYCTL_ARTIFACT", target.artifact.to_string()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        // The release's own file, which no later release changes under it.
        let config = target.config.map(|config| self.folder.config(config));
        match config.and_then(|path| path.into_os_string().into_string().ok()) {
            Some(path) => env.insert(CONFIG_VARIABLE.to_owned(), path),
            None => env.remove(CONFIG_VARIABLE),
        };
        env
    }

    pub(super) fn release_fault(&self, reason: String) -> Failure {
        let log = tail(&self.folder.log());
        Failure { class: FailureClass::Release, reason: cut(reason), log }
    }
}
