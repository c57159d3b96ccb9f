//! One app on this host, brought to what its goal says and kept there.
//!
//! Gathers the facts, asks `rules::reconcile` for the one next step, does it, and
//! starts over: at each new goal, when a fetch ends, and twice a second to see how the
//! app does. Fetching goes on beside an activation; nothing else does.

mod upkeep;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::upkeep::Events;
use crate::agent::activate::{Activator, Ended, HostSetup, Watcher, host_fault};
use crate::agent::audit;
use crate::agent::job::{Brought, Job};
use crate::agent::journal;
use crate::agent::report::Reporter;
use crate::agent::source::{FetchFailure, Source, Want};
use crate::agent::state::{AppFolder, AppState, Known};
use crate::agent::vigil::Vigil;
use crate::host::clock;
use crate::host::service;
use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::fleet::{AppStatus, Failure, FailureClass, Phase, Sources};
use crate::model::goal::{Goal, GoalVersion, HostView, Target};
use crate::model::id::{AppName, RegionName};
use crate::model::time::UnixMillis;
use crate::rules::activation::{Activation, Fallback, Stage, Verdict};
use crate::rules::reconcile::{
    Facts, Failed, Hold, Step, Tries, count_fault, is_final, time_to_fetch,
};
use crate::rules::retention::{self, Needs};

/// How often the app and a local hold are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A goal that was checked and is on disk.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The goal.
    pub goal: Arc<Goal>,
    /// When it was accepted.
    pub at: UnixMillis,
    /// The region it came from.
    pub region: RegionName,
    /// A document that was refused since, for a person to see.
    pub refused: Option<Arc<str>>,
}

/// What every app needs.
pub struct Shared {
    /// Of the host.
    pub setup: HostSetup,
    /// Where releases come from.
    pub source: Arc<dyn Source>,
    /// Where statuses go.
    pub reporter: Arc<Reporter>,
}

/// One app.
pub struct Convergence {
    shared: Arc<Shared>,
    app: AppName,
    folder: AppFolder,
    goals: watch::Receiver<Option<Accepted>>,
    state: AppState,
    hold: Option<Hold>,
    tries: Option<Tries>,
    job: Option<Job>,
    held: Vec<Known>,
    configs: Vec<ConfigId>,
    vigil: Vigil,
    events: Events,
    /// Fetched by this process and not activated yet: every byte was verified just now.
    fresh: BTreeSet<ArtifactId>,
}

impl Convergence {
    /// The app as its folder tells it.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn open(
        shared: Arc<Shared>,
        app: AppName,
        goals: watch::Receiver<Option<Accepted>>,
    ) -> io::Result<Self> {
        let folder = AppFolder::open(&shared.setup.root, &app)?;
        folder.sweep();
        let (state, held, hold) = (folder.state()?, folder.all_known(), folder.hold());
        let (tries, job, fresh, vigil) = (None, None, BTreeSet::new(), Vigil::default());
        let events = Events::default();
        let configs = folder.configs();
        Ok(Self {
            shared,
            app,
            folder,
            goals,
            state,
            hold,
            tries,
            job,
            held,
            configs,
            vigil,
            events,
            fresh,
        })
    }

    /// Converges for ever.
    pub async fn run(mut self) {
        loop {
            let wait = match self.advance().await {
                Ok(Some(wait)) => wait,
                Ok(None) => continue,
                Err(e) => {
                    tracing::error!(app = %self.app, error = %e, "the app's folder failed");
                    let bits = self.subject();
                    self.count(bits, host_fault("the app's folder failed", &e));
                    LOOK_EVERY
                }
            };
            self.publish(None);
            self.sleep(wait).await;
        }
    }

    /// Takes one step until it is done; how long to wait when there is nothing to do.
    /// For a rollback without an agent, too.
    ///
    /// # Errors
    /// When the folder can't be read or written.
    pub async fn advance(&mut self) -> io::Result<Option<Duration>> {
        self.hold = self.folder.hold();
        self.drop_old_hold()?;
        self.collect()?;
        self.look_after()?;
        let journal = journal::read(&self.folder)?;
        self.watch_over(journal.as_ref());
        let step = self.step(journal.as_ref());
        if let Some(journal) = journal.filter(|journal| !leaves(journal, step)) {
            let waits = self.tries.as_ref().filter(|tries| tries.bits == journal.to.bits());
            let wait = waits.map_or(Duration::ZERO, |tries| tries.next_at.since(clock::now()));
            if !wait.is_zero() {
                return Ok(Some(wait.min(LOOK_EVERY)));
            }
            self.activate(journal).await?;
            return Ok(None);
        }
        match step {
            Step::Nothing => {
                self.job = None;
                Ok(Some(LOOK_EVERY))
            }
            Step::Wait(until) => Ok(Some(until.since(clock::now()).min(LOOK_EVERY))),
            Step::Stage { bits, urgent } => {
                self.fetch(bits, urgent);
                Ok(self.job.is_some().then_some(LOOK_EVERY))
            }
            Step::Adopt(target) => {
                self.adopt(target)?;
                Ok(None)
            }
            Step::Activate { to, fallback } => {
                if !self.is_sound(to).await? {
                    return Ok(None);
                }
                let activation = self.begun(to, fallback);
                tracing::info!(app = %self.app, release = %to.release,
                    artifact = to.artifact.short(), "activation begins");
                self.activate(activation).await?;
                Ok(None)
            }
        }
    }

    /// Reads a kept release before it is activated again; false: it was damaged, and is
    /// forgotten, so that it is fetched anew. Not what `current` leads to: that runs
    /// already, and its app may write to it.
    async fn is_sound(&mut self, target: Target) -> io::Result<bool> {
        if let Some(config) = target.config.filter(|id| !self.folder.is_config_sound(*id)) {
            tracing::warn!(app = %self.app, config = config.short(),
                "kept config is damaged, it is fetched again");
            self.folder.forget_config(config)?;
            self.configs = self.folder.configs();
            return Ok(false);
        }
        let artifact = target.artifact;
        let current = self.folder.current().map(|bits| bits.artifact);
        if self.fresh.remove(&artifact) || current == Some(artifact) {
            return Ok(true);
        }
        let (root, app) = (self.shared.setup.root.clone(), self.app.clone());
        let read = tokio::task::spawn_blocking(move || audit::damage(&root, &app, artifact));
        let Some(what) = read.await.map_err(io::Error::other)? else { return Ok(true) };
        tracing::warn!(app = %self.app, artifact = artifact.short(), what,
            "kept release is damaged, it is fetched again");
        self.folder.forget(artifact)?;
        self.held = self.folder.all_known();
        Ok(false)
    }

    async fn sleep(&mut self, wait: Duration) {
        let done = async {
            match self.job.as_mut() {
                Some(job) if job.result.is_none() => {
                    job.result = Some((&mut job.handle).await);
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.goals.changed() => if changed.is_err() {
                tokio::time::sleep(wait).await;
            },
            () = done => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    fn accepted(&self) -> Option<Accepted> {
        self.goals.borrow().clone()
    }

    fn running(&self, journal: Option<&Activation>) -> Option<Target> {
        self.folder.running(&self.state, journal)
    }

    fn subject(&self) -> Bits {
        let journal = journal::read(&self.folder).ok().flatten();
        let next = self.accepted().map(|accepted| accepted.goal.next);
        let subject = journal.map(|journal| journal.to).or(next).or(self.state.running);
        let nothing = || crate::model::digest::Digest::of(b"").into();
        subject.map_or_else(nothing, |target| target.bits())
    }

    fn with_facts<T>(&self, journal: Option<&Activation>, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
        let accepted = self.accepted();
        let unknown: RegionName = "unknown".parse().expect("a plain name");
        let info = &self.shared.setup.info;
        let held: Vec<ArtifactId> = self.held.iter().map(|known| known.artifact).collect();
        let running = self.running(journal);
        let facts = Facts {
            view: HostView {
                host: &info.host,
                region: accepted.as_ref().map_or(&unknown, |accepted| &accepted.region),
                labels: &info.labels,
                running: None,
            },
            goal: accepted.as_ref().map(|accepted| &*accepted.goal),
            accepted_at: accepted.as_ref().map_or(UnixMillis(0), |accepted| accepted.at),
            hold: self.hold.as_ref(),
            running,
            up: self.up(running, journal),
            good: &self.state.good,
            held: &held,
            configs: &self.configs,
            failed: self.state.failed.as_ref(),
            tries: self.tries.as_ref(),
        };
        ask(&facts)
    }

    fn step(&self, journal: Option<&Activation>) -> Step {
        self.with_facts(journal, |facts| facts.next_step(clock::now()))
    }

    /// A newer goal ends a local hold.
    fn drop_old_hold(&mut self) -> io::Result<()> {
        let Some((hold, accepted)) = self.hold.zip(self.accepted()) else { return Ok(()) };
        if accepted.goal.version > hold.over {
            tracing::info!(app = %self.app, "a newer goal ends the local hold");
            self.folder.save_hold(None)?;
            self.hold = None;
        }
        Ok(())
    }

    /// Remembers a release that failed; it is no way to go back to any more.
    fn fails(&mut self, failed: Failed) {
        self.state.good.retain(|known| known.bits() != failed.bits());
        self.state.failed = Some(failed);
    }

    fn failed(&self, bits: Bits, reverted: bool, failure: Failure) -> Failed {
        let goal = self.accepted().map(|accepted| accepted.goal);
        Failed {
            version: goal.as_ref().map_or(GoalVersion::default(), |goal| goal.version),
            retry: goal.as_ref().map_or(0, |goal| goal.retry),
            artifact: bits.artifact,
            config: bits.config,
            reverted,
            failure,
        }
    }

    fn activator(&self) -> Activator<'_> {
        Activator { setup: &self.shared.setup, app: &self.app, folder: &self.folder }
    }

    fn begun(&self, to: Target, fallback: Fallback) -> Activation {
        let goal = self.accepted().map(|accepted| accepted.goal);
        let worked = self.state.good.iter().any(|known| known.bits() == to.bits());
        Activation {
            version: goal.as_ref().map_or(GoalVersion::default(), |goal| goal.version),
            retry: goal.as_ref().map_or(0, |goal| goal.retry),
            to,
            fallback,
            proven: worked && fallback == Fallback::Keep,
            stage: Stage::Stop,
            failure: None,
        }
    }

    async fn activate(&mut self, activation: Activation) -> io::Result<()> {
        // What was found of the process before is not of this one.
        self.vigil = Vigil::default();
        let (shared, app, folder) = (self.shared.clone(), self.app.clone(), self.folder.clone());
        let activator = Activator { setup: &shared.setup, app: &app, folder: &folder };
        let mut watch = Watch { convergence: self, activation: activation.clone() };
        let ended = activator.carry_out(activation, &mut watch).await;
        let activation = watch.activation;
        match ended? {
            Ended::Superseded => Ok(()),
            Ended::Verdict(verdict) => self.record(&activation, verdict),
        }
    }

    /// Records how an activation ended, then ends its journal.
    fn record(&mut self, activation: &Activation, verdict: Verdict) -> io::Result<()> {
        let to = activation.to;
        let wanted = self.with_facts(None, |facts| facts.desired());
        let mut done = false;
        match verdict {
            Verdict::Healthy => {
                let back = activation.fallback == Fallback::Keep;
                self.state.good = retention::good_after(&self.state.good, to, back);
                if wanted.is_none_or(|want| want.bits() == to.bits()) {
                    self.state.failed = None;
                    self.tries = None;
                }
                done = true;
                tracing::info!(app = %self.app, release = %to.release, "activated");
            }
            Verdict::Reverted(failure) => self.note(activation, true, failure),
            Verdict::Failed(failure) => self.note(activation, false, failure),
        }
        self.state.running = self.folder.running(&self.state, Some(activation));
        self.folder.save_state(&self.state)?;
        journal::clear(&self.folder)?;
        if done { self.prune() } else { Ok(()) }
    }

    fn note(&mut self, activation: &Activation, reverted: bool, failure: Failure) {
        let bits = activation.to.bits();
        tracing::warn!(app = %self.app, release = %activation.to.release, reverted,
            reason = failure.reason, "activation failed");
        if is_final(&failure) {
            let (version, retry) = (activation.version, activation.retry);
            let Bits { artifact, config } = bits;
            self.fails(Failed { version, retry, artifact, config, reverted, failure });
        } else {
            self.count(bits, failure);
        }
    }

    fn count(&mut self, bits: Bits, failure: Failure) {
        self.tries = Some(count_fault(self.tries.take(), bits, failure, clock::now()));
    }

    fn adopt(&mut self, target: Target) -> io::Result<()> {
        self.state.running = Some(target);
        self.state.good = retention::good_after(&self.state.good, target, false);
        self.folder.save_state(&self.state)
    }

    fn prune(&mut self) -> io::Result<()> {
        let accepted = self.accepted();
        let held: Vec<ArtifactId> = self.held.iter().map(|known| known.artifact).collect();
        let needs = Needs {
            running: self.running(None),
            good: &self.state.good,
            goal: accepted.as_ref().map(|accepted| &*accepted.goal),
            hold: self.hold.map(|hold| hold.target),
            failed: self.state.failed.as_ref().map(Failed::bits),
        };
        for artifact in retention::prunable(&held, &needs) {
            tracing::info!(app = %self.app, artifact = artifact.short(), "release pruned");
            self.folder.forget(artifact)?;
            self.held.retain(|known| known.artifact != artifact);
        }
        for config in retention::prunable_configs(&self.configs, &needs) {
            self.folder.forget_config(config)?;
        }
        self.configs = self.folder.configs();
        Ok(())
    }

    /// Has fetched what of `bits` is not here, unless that is under way.
    fn fetch(&mut self, bits: Bits, urgent: bool) {
        let within = self.within(bits);
        // One that took its time is begun again when there is none; what came stays.
        let goes_on = |job: &Job| job.bits == bits && (within.is_some() || !job.paced);
        if self.job.as_ref().is_some_and(goes_on) {
            return;
        }
        let artifact = bits.artifact;
        let release = self.folder.known(artifact).is_none();
        self.configs = self.folder.configs();
        let config = bits.config.filter(|config| !self.configs.contains(config));
        if !release && config.is_none() {
            self.held = self.folder.all_known();
            return;
        }
        tracing::info!(app = %self.app, artifact = artifact.short(), urgent,
            config = config.map(|config| config.short()), "fetch begins");
        let want = Want { app: self.app.clone(), artifact, within };
        let missing = (release.then_some(want), config);
        self.job = Some(Job::start(&*self.shared.source, bits, missing));
    }

    fn within(&self, bits: Bits) -> Option<Duration> {
        let accepted = self.accepted()?;
        time_to_fetch(&accepted.goal, bits, clock::now().since(accepted.at))
    }

    /// Takes the result of a fetch that ended.
    fn collect(&mut self) -> io::Result<()> {
        let Some(mut job) = self.job.take_if(|job| job.is_over()) else { return Ok(()) };
        let Some(result) = job.result.take() else { return Ok(()) };
        match result {
            Ok(Ok(brought)) => self.keep(job.bits, brought)?,
            Ok(Err(failure)) => {
                tracing::warn!(app = %self.app, artifact = job.bits.artifact.short(),
                    reason = failure.reason, "fetch failed");
                let FetchFailure { class, reason } = failure;
                self.fetch_failed(job.bits, Failure { class, reason, log: vec![] })?;
            }
            Err(e) => {
                let reason = format!("the fetch broke off: {e}");
                let class = FailureClass::Transport;
                self.fetch_failed(job.bits, Failure { class, reason, log: vec![] })?;
            }
        }
        Ok(())
    }

    /// Notes what a fetch brought, durably.
    fn keep(&mut self, bits: Bits, brought: Brought) -> io::Result<()> {
        tracing::info!(app = %self.app, artifact = bits.artifact.short(), "fetch complete");
        if let (Some(config), Some(bytes)) = (bits.config, &brought.config) {
            self.folder.save_config(config, bytes)?;
        }
        if let Some(fetched) = brought.release {
            let known = Known {
                artifact: bits.artifact,
                pieces: u32::try_from(fetched.manifest.pieces.len()).unwrap_or(u32::MAX),
                run: fetched.manifest.run,
                sources: fetched.sources,
                since: clock::now(),
            };
            self.folder.save_known(&known)?;
            self.fresh.insert(bits.artifact);
        }
        (self.held, self.configs) = (self.folder.all_known(), self.folder.configs());
        self.tries = None;
        Ok(())
    }

    fn fetch_failed(&mut self, bits: Bits, failure: Failure) -> io::Result<()> {
        if !is_final(&failure) {
            self.count(bits, failure);
            return Ok(());
        }
        self.fails(self.failed(bits, self.state.running.is_some(), failure));
        self.folder.save_state(&self.state)
    }

    /// Says how the app is; `phase` is what is being done, if something is.
    fn publish(&self, phase: Option<&Activation>) {
        let Some(accepted) = self.accepted() else { return };
        let (standing, desired, mut failure) = self.with_facts(phase, |facts| {
            (facts.standing(), facts.desired(), facts.failure().cloned())
        });
        if phase.is_none() && standing == Phase::Probing {
            failure = failure.or_else(|| self.vigil.fault().cloned());
        }
        let running = self.running(phase);
        let fetching = self.job.as_ref().filter(|_| !matches!(standing, Phase::Failed));
        let phase = match (phase, fetching) {
            (Some(activation), _) => activation.phase(),
            (None, Some(_)) => Phase::Fetching,
            (None, None) => standing,
        };
        if let (None, Some(reason)) = (&failure, &accepted.refused) {
            let reason = reason.to_string();
            failure = Some(Failure { class: FailureClass::Host, reason, log: vec![] });
        }
        let about = desired.or(running).map(|target| target.artifact);
        let known = self.held.iter().find(|known| Some(known.artifact) == about);
        let (pieces, sources) = match (&self.job, known) {
            (Some(job), _) => {
                let progress = *job.progress.borrow();
                ((progress.done, progress.total), progress.sources)
            }
            (None, Some(known)) => ((known.pieces, known.pieces), known.sources),
            (None, None) => ((0, 0), Sources::default()),
        };
        let status = service::status(self.folder.path());
        let restarts = status
            .filter(|status| running.is_some_and(|r| r.artifact == status.artifact))
            .map_or(0, |status| status.restarts);
        self.shared.reporter.set(AppStatus {
            app: self.app.clone(),
            env: accepted.goal.env.clone(),
            version: accepted.goal.version,
            running,
            desired,
            phase,
            held: self.held.iter().map(|known| known.artifact).take(16).collect(),
            pieces,
            sources,
            failure,
            restarts,
            events: Some(self.events.count()),
        });
    }
}

/// Whether `step` leads away from the activation in the journal. On the way back
/// nothing else is begun.
fn leaves(journal: &Activation, step: Step) -> bool {
    let back = matches!(
        journal.stage,
        Stage::BackStop | Stage::BackSwitch | Stage::BackStart | Stage::BackProbe
    );
    match step {
        Step::Activate { to, .. } => !back && to.bits() != journal.to.bits(),
        _ => false,
    }
}

/// Looks after the rest while an activation is under way.
struct Watch<'a> {
    convergence: &'a mut Convergence,
    activation: Activation,
}

impl Watcher for Watch<'_> {
    fn stage(&mut self, activation: &Activation) {
        self.activation = activation.clone();
        self.convergence.publish(Some(activation));
    }

    fn superseded(&mut self) -> bool {
        let convergence = &mut *self.convergence;
        convergence.hold = convergence.folder.hold();
        if let Err(e) = convergence.collect() {
            tracing::warn!(app = %convergence.app, error = %e, "a fetched release was not noted");
        }
        let step = convergence.step(Some(&self.activation));
        if let Step::Stage { bits, urgent } = step {
            convergence.fetch(bits, urgent);
        }
        leaves(&self.activation, step)
    }
}
