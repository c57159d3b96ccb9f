//! Whether what runs goes on working: its process, its probe, how often it ended.

use std::io;
use std::time::Duration;

use super::Convergence;
use crate::agent::journal;
use crate::agent::state::Known;
use crate::host::clock;
use crate::host::service::{self, State};
use crate::model::goal::{GoalKind, Target};
use crate::model::time::UnixMillis;
use crate::rules::activation::Activation;
use crate::rules::reconcile::Up;

/// Restarts this soon after an activation that are reported as the release's fault,
/// although the supervisor goes on.
const FLAPPING: (u32, Duration) = (3, Duration::from_secs(600));

/// What an app got over by itself, counted since the agent began.
#[derive(Debug, Default)]
pub(super) struct Events {
    count: u64,
    /// The supervisor whose restarts were counted last, by its start, and how many.
    seen: Option<(UnixMillis, u32)>,
}

impl Events {
    /// In all.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn falls(&mut self, times: u64) {
        self.count += times;
    }

    /// Takes what a supervisor says. What the first one restarted before this agent began is
    /// not known to be new; a later one begins without restarts.
    fn restarts(&mut self, status: Option<&service::Status>) {
        let Some(status) = status else { return };
        let before = match self.seen {
            Some((began, restarts)) if began == status.started_at => restarts,
            Some(_) => 0,
            None => status.restarts,
        };
        self.count += u64::from(status.restarts.saturating_sub(before));
        self.seen = Some((status.started_at, status.restarts));
    }
}

impl Convergence {
    /// How `running` is, with `journal` of an activation that is not over.
    pub(super) fn up(&self, running: Option<Target>, journal: Option<&Activation>) -> Up {
        let Some(running) = running else { return Up::Fine };
        if journal.is_some() {
            return Up::Unproven;
        }
        if self.state.failed.as_ref().is_some_and(|f| f.bits() == running.bits()) {
            return Up::Broken;
        }
        let known = self.held.iter().find(|known| known.artifact == running.artifact);
        let should_run = known.is_some_and(Known::is_service);
        if should_run && service::supervisor(self.folder.path()).is_none() {
            return Up::Down;
        }
        if !self.is_tried(running) {
            return Up::Fine;
        }
        if self.vigil.is_asked_again(self.retry()) {
            return Up::Unproven;
        }
        let shaky =
            self.vigil.fault().is_some() || should_run && !self.activator().is_steady(known);
        if shaky { Up::Shaky } else { Up::Fine }
    }

    /// How often hosts were asked to try again.
    fn retry(&self) -> u32 {
        self.accepted().map_or(0, |accepted| accepted.goal.retry)
    }

    /// Whether it is what a deploy brings. Of what was there before, or comes back, nothing is
    /// found out: a way back must not wait for it.
    fn is_tried(&self, running: Target) -> bool {
        self.accepted().is_some_and(|accepted| {
            accepted.goal.kind == GoalKind::Deploy && accepted.goal.next.bits() == running.bits()
        })
    }

    /// Asks the probe of what runs again and again; not while it is started again, which
    /// takes it its time.
    pub(super) fn watch_over(&mut self, journal: Option<&Activation>) {
        let mut vigil = std::mem::take(&mut self.vigil);
        self.events.falls(vigil.take_falls());
        let running = self.state.running.filter(|_| journal.is_none());
        let known = running.and_then(|r| self.held.iter().find(|k| k.artifact == r.artifact));
        if let (Some(running), Some(run)) = (running, known.and_then(|known| known.run.as_ref()))
            && let Some(probe) = &run.probe
        {
            let activator = self.activator();
            if !activator.is_steady(known) {
                return;
            }
            let look = || activator.look_aside(running, run, probe.clone());
            vigil.keep((running.bits(), self.retry()), look, |why| activator.release_fault(why));
            self.vigil = vigil;
        }
    }

    /// A process that ends again and again is the release's fault, also after its
    /// probe had passed.
    pub(super) fn look_after(&mut self) -> io::Result<()> {
        let Some(running) = self.state.running else { return Ok(()) };
        self.events.restarts(service::status(self.folder.path()).as_ref());
        let known_bad = self.state.failed.as_ref().is_some_and(|f| f.bits() == running.bits());
        let status = service::status(self.folder.path());
        let Some(status) = status.filter(|s| s.artifact == running.artifact && !known_bad) else {
            return Ok(());
        };
        let young = clock::now().since(status.started_at) < FLAPPING.1;
        let flapping = young && status.restarts >= FLAPPING.0 && status.state == State::Waiting;
        if status.state != State::GaveUp && !flapping || journal::read(&self.folder)?.is_some() {
            return Ok(());
        }
        let failure = self.activator().crash_loop(&status);
        tracing::warn!(app = %self.app, reason = failure.reason, "the app fails after its probe");
        self.fails(self.failed(running.bits(), false, failure));
        self.folder.save_state(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    #[test]
    fn restarts_count_once_whoever_supervises() {
        let mut events = Events::default();
        let mut counted = |began: i64, restarts: u32| {
            let status = service::Status {
                artifact: Digest::of(b"a"),
                state: State::Running,
                process: None,
                restarts,
                last_exit: String::new(),
                last_up_ms: 0,
                started_at: UnixMillis(began),
            };
            events.restarts(Some(&status));
            events.count()
        };
        let told = [(1, 4), (1, 4), (1, 6), (2, 0), (2, 1), (3, 1)];
        assert_eq!(told.map(|(began, restarts)| counted(began, restarts)), [0, 0, 2, 2, 3, 4]);
    }
}
