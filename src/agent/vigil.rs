//! Whether an app whose activation is over goes on working: its probe is asked again.
//!
//! Only to tell: of what a deploy brings, the rollout's gates judge it, and of what ran before
//! they take it for comparison. The host does nothing about it by itself, as the cause may be
//! one that all hosts share, and a way back waits for nothing that is found here. Only when a
//! person has hosts try again is an app whose probe fails activated anew.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use crate::host::probe::ProbeError;
use crate::model::config::Bits;
use crate::model::fleet::Failure;

/// Time between two looks: half of what Kubernetes leaves, as bakes may be short.
const EVERY: Duration = Duration::from_secs(5);
/// Looks that fail in a row until it is told; one alone may be chance. Kubernetes'
/// `failureThreshold`.
const FAILS: u32 = 3;

/// What was found of one release.
#[derive(Default)]
pub(super) struct Vigil {
    of: Option<Bits>,
    /// The goal's retry count that it was begun under.
    retry: u32,
    look: Option<JoinHandle<Result<(), ProbeError>>>,
    due: Option<Instant>,
    fails: u32,
    fault: Option<Failure>,
    /// Times that it failed after it had been well, since that was asked last.
    fell: u64,
}

impl Vigil {
    /// Watches `of` from now on, if it is not watched already; looks when it is time.
    /// `blame` makes a failure of what a probe said.
    pub(super) fn keep(
        &mut self,
        (of, retry): (Bits, u32),
        look: impl FnOnce() -> JoinHandle<Result<(), ProbeError>>,
        blame: impl FnOnce(String) -> Failure,
    ) {
        let now = Instant::now();
        if self.of != Some(of) {
            *self = Self::default();
            (self.of, self.due) = (Some(of), Some(now + EVERY));
        }
        // What fails was found before it was asked to try again: see `is_asked_again`. Another
        // rollout of the same bits counts from the start.
        if self.fault.is_none() || retry < self.retry {
            self.retry = retry;
        }
        if let Some(said) = self.look.as_mut().and_then(FutureExt::now_or_never) {
            self.look = None;
            self.hear(said.unwrap_or(Ok(())), blame);
        }
        if self.look.is_none() && self.due.is_none_or(|due| now >= due) {
            (self.look, self.due) = (Some(look()), Some(now + EVERY));
        }
    }

    fn hear(&mut self, said: Result<(), ProbeError>, blame: impl FnOnce(String) -> Failure) {
        match said {
            Err(ProbeError::App(why)) => {
                self.fell += u64::from(self.fails == 0);
                self.fails = self.fails.saturating_add(1);
                // Told once: what it says may change with each look.
                if self.fails == FAILS {
                    self.fault = Some(blame(format!("probe failed {FAILS} times: {why}")));
                }
            }
            Ok(()) | Err(ProbeError::Variable(_)) => (self.fails, self.fault) = (0, None),
        }
    }

    /// Whether it does not work, and a person has had hosts try again since that was found.
    pub(super) fn is_asked_again(&self, retry: u32) -> bool {
        self.fault.is_some() && retry > self.retry
    }

    /// How often a look failed after one that was well, since this was asked last.
    pub(super) fn take_falls(&mut self) -> u64 {
        std::mem::take(&mut self.fell)
    }

    /// Why it does not work; `None`: it does, as far as is known.
    pub(super) fn fault(&self) -> Option<&Failure> {
        self.fault.as_ref()
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if let Some(look) = &self.look {
            look.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fleet::FailureClass;

    #[test]
    fn three_looks_in_a_row_are_told_and_one_that_is_well_ends_it() {
        let mut vigil = Vigil::default();
        let mut hear = |well: bool| {
            let said = if well { Ok(()) } else { Err(ProbeError::App("exit 1".into())) };
            let class = FailureClass::Release;
            vigil.hear(said, |reason| Failure { class, reason, log: vec![] });
            vigil.fault().map(|failure| failure.reason.clone())
        };
        assert_eq!([false, false, true, false, false].map(&mut hear), [const { None }; 5]);
        let told = Some("probe failed 3 times: exit 1".to_owned());
        assert_eq!([false, false].map(&mut hear), [told.clone(), told]);
        assert_eq!(hear(true), None);
        assert_eq!((vigil.take_falls(), vigil.take_falls()), (2, 0));
    }

    #[tokio::test]
    async fn a_retry_is_for_what_was_found_before_it() {
        let of = Bits { artifact: crate::model::digest::Digest([1; 32]), config: None };
        let class = FailureClass::Release;
        let blame = |reason: String| Failure { class, reason, log: vec![] };
        let mut vigil = Vigil::default();
        let mut keep = |retry: u32, fails: bool| {
            for _ in 0..if fails { FAILS } else { 0 } {
                vigil.hear(Err(ProbeError::App("exit 1".into())), blame);
            }
            vigil.keep((of, retry), || tokio::spawn(async { Ok(()) }), blame);
            vigil.is_asked_again(retry)
        };
        assert!(!keep(0, false) && !keep(1, false), "nothing was wrong");
        assert!(!keep(1, true), "found after it was asked");
        assert!(keep(2, false) && keep(2, false), "asked after it was found");
        assert!(!keep(0, false) && keep(1, false), "a rollout of the same again");
    }
}
