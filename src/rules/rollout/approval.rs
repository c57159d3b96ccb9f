//! Before a rollout begins: the people who must want it too, and the end of the wait.

use crate::model::rollout::{Approval, RolloutState};
use crate::rules::rollout::command::Refusal;
use crate::rules::rollout::{Action, Facts, Rollout};

impl Rollout {
    /// It waited too long to begin: says what for.
    pub(super) fn expire(&mut self, facts: &Facts) -> Vec<Action> {
        let bar = facts.barred.as_ref().filter(|_| !self.through_freeze);
        self.blocked = bar.is_some() || self.lacks_approvals() > 0 || facts.unmet.is_some();
        let why = match (bar, self.lacks_approvals()) {
            (_, lacks @ 1..) => {
                format!(
                    "not approved in time: {} of {} approvals",
                    self.approvals - lacks,
                    self.approvals
                )
            }
            (Some(bar), 0) => format!("{bar}; that did not end in time"),
            (None, 0) => match &facts.unmet {
                Some(unmet) => format!("{unmet}; that did not change in time"),
                None => "its build was not replicated in time".to_owned(),
            },
        };
        self.finish(RolloutState::Expired, why)
    }

    /// How many more people must approve it before it begins.
    #[must_use]
    pub fn lacks_approvals(&self) -> u32 {
        Approval::lacking(self.approvals, &self.approved)
    }

    /// Once by each: a second time changes nothing.
    pub(super) fn approve(&mut self, author: &str, by: Approval) -> Result<Vec<Action>, Refusal> {
        if self.state != RolloutState::Pending || self.approvals == 0 {
            return Err(Refusal::NotAwaited);
        }
        if by.by == author {
            return Err(Refusal::OwnWork);
        }
        if self.approved.iter().any(|given| given.by == by.by) {
            return Ok(vec![]);
        }
        let said = if by.message.is_empty() { String::new() } else { format!(": {}", by.message) };
        let who = by.by.clone();
        self.approved.push(by);
        let message = match self.lacks_approvals() {
            0 => format!("approved by {who}{said}"),
            lacks => format!("approved by {who}{said}; {lacks} more to come"),
        };
        Ok(vec![self.tell("rollout.approved", message)])
    }

    /// Somebody does not want it to begin.
    pub(super) fn reject(&mut self, why: String) -> Result<Vec<Action>, Refusal> {
        if self.state != RolloutState::Pending || self.approvals == 0 {
            return Err(Refusal::NotAwaited);
        }
        Ok(self.finish(RolloutState::Canceled, why))
    }
}
