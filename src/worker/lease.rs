//! Holds a job while it is built: beats, obeys orders, and gives up in time.
//!
//! | from | event | to |
//! |---|---|---|
//! | held | order to cancel | canceled |
//! | held | this worker stops | draining |
//! | any | another attempt holds the job (409, 404) | lost |
//! | any | no good beat for the lease less a margin | lost |
//!
//! Whoever builds watches the standing and kills the build when it changes.
//! `lost` comes before the coordinator gives the job to another worker, so two
//! builds of one job do not overlap. A good beat is counted from when it was
//! *sent*: the coordinator can't have heard it earlier.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::rng::Rng;
use crate::wire::v1::worker::{Claim, Order};
use crate::worker::api::{Attempt, is_fenced};

/// A lapse is foreseen by a quarter of the lease, at most this: time to kill a build.
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// Longest wait before a failed beat is tried again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Whether the job is still this attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Held,
    /// It is, but a person wants it ended.
    Canceled,
    /// It is, but this worker stops and hands it back.
    Draining,
    /// It is not; nothing that this attempt says counts any more.
    Lost,
}

/// A view of the standing; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hold(watch::Receiver<Standing>);

impl Hold {
    /// The standing now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *self.0.borrow()
    }

    /// Waits until the job is to be dropped; why. Cancel-safe.
    pub async fn ended(&self) -> Standing {
        let mut standing = self.0.clone();
        let ended = standing.wait_for(|standing| *standing != Standing::Held).await;
        // The beating ended without a word: nobody keeps the lease alive.
        ended.map_or(Standing::Lost, |standing| *standing)
    }

    /// Waits until nothing that this attempt says counts any more. Cancel-safe.
    pub async fn lost(&self) {
        let mut standing = self.0.clone();
        let _ = standing.wait_for(|standing| *standing == Standing::Lost).await;
    }

    /// A standing that the caller changes, for tests of what watches one.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<Standing>, Self) {
        let (sender, receiver) = watch::channel(Standing::Held);
        (sender, Self(receiver))
    }
}

/// The times of one lease.
#[derive(Debug, Clone, Copy)]
struct Times {
    beat: Duration,
    /// From the last good beat to giving up.
    patience: Duration,
}

impl Times {
    fn of(claim: &Claim) -> Self {
        let lease = Duration::from_millis(claim.lease_ms.max(100));
        let beat = Duration::from_millis(claim.beat_ms.max(10)).min(lease / 2);
        Self { beat, patience: lease - (lease / 4).min(MARGIN_MAX) }
    }

    /// Beats come up to a fifth early, so that workers do not beat in step.
    fn next(self, rng: &mut Rng) -> Duration {
        self.beat - self.beat.mul_f64(rng.below(1000) as f64 / 5000.0)
    }
}

/// Starts beating for `claim`; ends when the returned guard is dropped. `drain`
/// turns true when this worker hands its jobs back.
#[must_use]
pub fn hold(calls: Attempt, claim: &Claim, drain: watch::Receiver<bool>) -> (Hold, Guard) {
    let (sender, receiver) = watch::channel(Standing::Held);
    let keeper = Keeper { calls, times: Times::of(claim), standing: sender, good: Instant::now() };
    let rng = Rng::new(crate::net::auth::random_seed());
    (Hold(receiver), Guard(tokio::spawn(keeper.keep(rng, drain))))
}

/// Ends the beating when dropped.
pub struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Keeper {
    calls: Attempt,
    times: Times,
    standing: watch::Sender<Standing>,
    /// When the last good beat was sent.
    good: Instant,
}

impl Keeper {
    async fn keep(mut self, mut rng: Rng, mut drain: watch::Receiver<bool>) {
        let mut next = Instant::now() + self.times.next(&mut rng);
        let mut draining = false;
        loop {
            let lapse = self.good + self.times.patience;
            tokio::select! {
                () = self.turn(next) => {
                    let Some(wait) = self.beat().await else { return };
                    next = Instant::now() + wait.unwrap_or_else(|| self.times.next(&mut rng));
                }
                () = tokio::time::sleep_until(lapse), if !self.is_lost() => {
                    tracing::warn!("no good beat in time, the job is given up");
                    self.change(Standing::Lost);
                }
                () = async { let _ = drain.wait_for(|drain| *drain).await; }, if !draining => {
                    draining = true;
                    self.change(Standing::Draining);
                }
            }
        }
    }

    /// Waits for the next beat: at its time, or when another attempt of this worker beats
    /// not long before, so that one call carries both.
    async fn turn(&self, next: Instant) {
        let soon = next - self.times.beat / 2;
        let called = async {
            tokio::time::sleep_until(soon).await;
            self.calls.called().await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => self.calls.call_others(),
            () = called => {}
        }
    }

    fn is_lost(&self) -> bool {
        *self.standing.borrow() == Standing::Lost
    }

    fn change(&self, to: Standing) {
        self.standing.send_if_modified(|standing| {
            let changes = *standing == Standing::Held || to == Standing::Lost;
            let changes = changes && *standing != to;
            if changes {
                *standing = to;
            }
            changes
        });
    }

    /// One beat: `None` when the job is another's; else how long to wait when not
    /// as usual. Never takes longer than the lapse is away.
    async fn beat(&mut self) -> Option<Option<Duration>> {
        let sent = Instant::now();
        let left = (self.good + self.times.patience).saturating_duration_since(sent);
        let limit = if self.is_lost() { self.times.patience } else { left };
        let limit = limit.min(self.times.patience / 2).max(Duration::from_millis(10));
        match self.calls.beat(limit).await {
            Ok(order) => {
                self.good = sent;
                if order == Order::Cancel {
                    self.change(Standing::Canceled);
                }
                Some(None)
            }
            Err(error) if is_fenced(&error) => {
                tracing::warn!(%error, "the job is another's now");
                self.change(Standing::Lost);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "beat failed");
                Some(Some((self.times.beat / 4).min(RETRY_MAX)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_come_early_never_late_and_patience_ends_before_the_lease() {
        let times = |beat_ms, lease_ms| {
            let text = format!(
                r#"{{"build":"b1","attempt":1,"app":"a","repo":"r","trunk":"main","commit":"{}",
                "allow_unmerged":false,"recipe":{{}},"beat_ms":{beat_ms},"lease_ms":{lease_ms}}}"#,
                "a".repeat(40)
            );
            Times::of(&serde_json::from_str::<Claim>(&text).unwrap())
        };
        let usual = times(10_000, 30_000);
        assert_eq!(usual.patience, Duration::from_secs(25));
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            let next = usual.next(&mut rng);
            assert!(next > Duration::from_secs(8) - Duration::from_millis(1));
            assert!(next <= Duration::from_secs(10));
        }
        let short = times(500, 1000);
        assert_eq!((short.beat.as_millis(), short.patience.as_millis()), (500, 750));
        let strange = times(0, 0);
        assert!(strange.beat > Duration::ZERO && strange.patience > strange.beat);
    }
}
