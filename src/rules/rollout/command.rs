//! What a person or another rollout may do to an open rollout.

use crate::model::id::{RegionName, ReleaseNo};
use crate::model::rollout::{Approval, RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::{Action, Facts, RETRY_GRACE, REVERT_CAP, RegionFacts, Rollout};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The next step at once; `full`: all of them, without bakes.
    Promote {
        /// Skip every remaining step and bake.
        full: bool,
    },
    /// Stop it.
    Cancel {
        /// Leave hosts as they are instead of going back.
        keep: bool,
        /// Who and why, as one sentence.
        why: String,
    },
    /// Failed hosts try again, and it runs on.
    Retry,
    /// Hold it where it is.
    Pause {
        /// Who and why, as one sentence.
        why: String,
    },
    /// Somebody else wants it too.
    Approve {
        /// Who asked for the rollout: nobody approves what they asked for.
        author: String,
        /// Who approves, and what they say.
        by: Approval,
    },
    /// Somebody does not want it to begin.
    Reject {
        /// Who and why, as one sentence.
        why: String,
    },
    /// Go on.
    Resume,
    /// A newer rollout takes its place.
    Supersede {
        /// The newer one.
        by: ReleaseNo,
    },
}

/// Why a command can't be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over.
    #[error("it is over: {}", .0.word())]
    Over(RolloutState),
    /// It has not begun.
    #[error("it has not begun")]
    NotBegun,
    /// It is on its way back.
    #[error("it is going back already")]
    GoingBack,
    /// A rollback has no steps and can't be reverted.
    #[error("a rollback can't be reverted; it can be left as it is, or superseded")]
    Rollback,
    /// Nothing ran before.
    #[error("there is no release to go back to")]
    NoBase,
    /// It is not paused.
    #[error("it is not paused")]
    NotPaused,
    /// The canary that a person named is done.
    #[error("its canary is done, and the rest waits to be promoted")]
    Held,
    /// It is held, and no host failed in it.
    #[error("no host has failed, and it waits for a person to go on")]
    NoneFailed,
    /// Nobody has to approve it, or it has begun.
    #[error("it waits for no approval")]
    NotAwaited,
    /// Who asked for it approves it.
    #[error("it must be approved by somebody else than who asked for it")]
    OwnWork,
}

impl Rollout {
    /// Follows a command.
    ///
    /// # Errors
    /// [`Refusal`] when its state does not allow it; nothing has changed then.
    pub fn command(
        &mut self,
        now: UnixMillis,
        command: Command,
        facts: &Facts,
    ) -> Result<Vec<Action>, Refusal> {
        match command {
            Command::Retry => return self.retry(now, facts),
            _ if self.state.is_final() => return Err(Refusal::Over(self.state)),
            _ => {}
        }
        match command {
            Command::Promote { full } => self.promote(now, full, facts),
            Command::Cancel { keep, why } => self.cancel(now, keep, &why, facts),
            Command::Pause { why } => match self.state {
                RolloutState::Pending => Err(Refusal::NotBegun),
                RolloutState::Reverting => Err(Refusal::GoingBack),
                _ if self.kind == RolloutKind::Rollback => Err(Refusal::Rollback),
                _ => Ok(self.pause(why)),
            },
            Command::Approve { author, by } => self.approve(&author, by),
            Command::Reject { why } => self.reject(why),
            Command::Resume if self.held && self.is_at_canary() => Err(Refusal::Held),
            Command::Resume if self.state == RolloutState::Paused => {
                if self.held {
                    self.let_go();
                }
                self.enter(now);
                Ok(vec![self.tell("rollout.resumed", "resumed".into())])
            }
            Command::Resume => Err(Refusal::NotPaused),
            Command::Supersede { by } => {
                Ok(self.finish(RolloutState::Superseded, format!("superseded by {by}")))
            }
            Command::Retry => self.retry(now, facts),
        }
    }

    fn promote(
        &mut self,
        now: UnixMillis,
        full: bool,
        facts: &Facts,
    ) -> Result<Vec<Action>, Refusal> {
        match self.state {
            RolloutState::Pending => return Err(Refusal::NotBegun),
            RolloutState::Reverting => return Err(Refusal::GoingBack),
            _ if self.kind == RolloutKind::Rollback => return Err(Refusal::Rollback),
            _ => {}
        }
        // Whoever promotes has seen the failures of today.
        for (name, region) in &facts.regions {
            if self.version.is_some_and(|version| region.speaks_of(version)) {
                self.excused.insert(name.clone(), region.tally.failed);
            }
        }
        let last = self.step as usize + 1 >= self.steps.len();
        if full {
            self.hurried = true;
            self.step = self.step.max(self.steps.len().saturating_sub(2) as u32);
        }
        if last && (self.stage == Stage::Baking || self.state == RolloutState::Paused) {
            return Ok(self.succeed(facts));
        }
        if last {
            self.hurried = true;
            return Ok(vec![]);
        }
        self.let_go();
        let mut actions = self.next_step(now, facts);
        actions.push(self.tell("rollout.promoted", "promoted".into()));
        Ok(actions)
    }

    /// The step's hold is over: a person decided. Hosts that try again do not end it.
    fn let_go(&mut self) {
        if let Some(step) = self.steps.get_mut(self.step as usize) {
            step.hold = false;
        }
    }

    fn cancel(
        &mut self,
        now: UnixMillis,
        keep: bool,
        why: &str,
        facts: &Facts,
    ) -> Result<Vec<Action>, Refusal> {
        if self.state == RolloutState::Pending {
            return Ok(self.finish(RolloutState::Canceled, why.to_owned()));
        }
        if keep {
            let why = format!("{why}; hosts stay as they are");
            return Ok(self.finish(RolloutState::Canceled, why));
        }
        match self.state {
            RolloutState::Reverting => Err(Refusal::GoingBack),
            _ if self.kind == RolloutKind::Rollback => Err(Refusal::Rollback),
            _ if !self.can_revert() => Err(Refusal::NoBase),
            _ => Ok(self.revert(now, facts.fresh, RolloutState::Canceled, why)),
        }
    }

    /// Whether a host failed in what it has let in so far.
    fn has_failed(&self, facts: &Facts) -> bool {
        let failed = |(name, region): (&RegionName, &RegionFacts)| {
            let tally = &region.tally;
            self.covers(name)
                && self.version.is_some_and(|version| region.speaks_of(version))
                && tally.faults() > 0
        };
        !self.failures.is_empty() || facts.regions.iter().any(failed)
    }

    fn retry(&mut self, now: UnixMillis, facts: &Facts) -> Result<Vec<Action>, Refusal> {
        match self.state {
            // To begin the step anew would only put off what a person has to say.
            RolloutState::Paused if self.held && !self.has_failed(facts) => {
                return Err(Refusal::NoneFailed);
            }
            RolloutState::Pending => return Err(Refusal::NotBegun),
            RolloutState::Failed if self.version.is_none() => return Err(Refusal::NotBegun),
            RolloutState::Running
            | RolloutState::Paused
            | RolloutState::Reverting
            | RolloutState::Failed
            | RolloutState::Succeeded => {}
            over => return Err(Refusal::Over(over)),
        }
        self.retry += 1;
        self.bump();
        let message = "failed hosts try again".to_owned();
        let told = vec![Action::Publish, self.tell("rollout.retried", message)];
        if self.state == RolloutState::Succeeded {
            return Ok(told);
        }
        self.enter(now);
        self.judge_from = now + RETRY_GRACE;
        if self.went_back {
            self.state = RolloutState::Reverting;
            self.due_at = Some(now + REVERT_CAP);
        }
        Ok(told)
    }
}
