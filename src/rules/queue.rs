//! The build queue: what may happen to a job, and when.
//!
//! | state | event | becomes |
//! |---|---|---|
//! | QUEUED, due | claim | RUNNING, attempt + 1, lease |
//! | QUEUED | cancel | FAILED canceled |
//! | RUNNING | beat of the attempt | RUNNING, lease anew, never past its longest time; after a cancel only told so |
//! | RUNNING | release of the attempt | QUEUED at the front, the attempt not counted; FAILED after too many |
//! | RUNNING | finish: succeeded | SUCCEEDED |
//! | RUNNING | finish: infra | QUEUED after a backoff, or FAILED after the last attempt |
//! | RUNNING | finish: any other failure | FAILED |
//! | RUNNING | lease lapses | QUEUED at the front, or FAILED lost_worker after the last attempt |
//! | RUNNING | requeue by a person | QUEUED at the front, whatever its lease says and with an attempt to spare; canceled if that was asked for |
//! | RUNNING | cancel | RUNNING, cancel requested; then finish, release or lapse end it as canceled |
//! | FAILED | retry | QUEUED with `max_attempts` more |
//!
//! Everything else changes nothing. A call of an attempt that does not hold the
//! job is [`Fenced`], but a repeated finish with the recorded outcome is
//! answered again. `attempt` only grows: it is the fencing token.

use std::time::Duration;

use crate::model::digest::ArtifactId;
use crate::model::id::WorkerId;
use crate::model::job::{BuildFailure, Job, JobState, Outcome};
use crate::model::recipe::BUILD_LIMIT_S_MAX;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

/// Backoff doubles at most this often: 5 s · 2⁶ is over five minutes.
const BACKOFF_DOUBLINGS_MAX: u32 = 6;
/// Longest that an attempt may take, however well its worker beats: the longest
/// build, and two hours to fetch, pack and publish.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(BUILD_LIMIT_S_MAX as u64 + 2 * 3600);
/// Attempts of a job from which a hand-back counts: whatever makes workers give
/// a job up again and again must not keep it for ever.
pub const FREE_ATTEMPTS_MAX: u32 = 100;
/// Longest reason that is kept, bytes.
pub const REASON_BYTES_MAX: usize = 2000;

/// The queue's clockwork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a worker beats.
    pub beat: Duration,
    /// Beats that may be missed.
    pub missed_beats: u32,
    /// Attempts that a new or retried job gets.
    pub max_attempts: u32,
}

impl Timing {
    /// How long a lease holds after a good beat: the missed beats and one beat
    /// of margin for a slow network (30 s with the defaults).
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.beat * (self.missed_beats + 1)
    }

    /// The longest wait between two tries.
    #[must_use]
    pub fn backoff_max(&self) -> Duration {
        self.beat * (1 << BACKOFF_DOUBLINGS_MAX)
    }

    /// Wait before the try after `attempt`: half a beat (5 s with the defaults),
    /// doubled for each attempt before, ± 50 %.
    fn backoff(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let doublings = attempt.saturating_sub(1).min(BACKOFF_DOUBLINGS_MAX);
        let base = u64::try_from(self.beat.as_millis()).unwrap_or(u64::MAX) / 2;
        let full = base.saturating_mul(1 << doublings);
        Duration::from_millis(full / 2 + rng.below(full.max(1)))
    }
}

/// Which attempt speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The worker, as it says.
    pub worker: &'a WorkerId,
    /// The fencing token.
    pub attempt: u32,
}

/// The attempt that speaks does not hold the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attempt {spoke} does not hold the job any more: it is {} in attempt {attempt}", state.word())]
pub struct Fenced {
    /// Who spoke.
    pub spoke: u32,
    /// Where the job stands.
    pub state: JobState,
    /// The job's own attempt.
    pub attempt: u32,
}

/// A job that can't be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job is not queued or not due")]
pub struct NotDue;

/// A job that has not failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job has not failed")]
pub struct NotFailed;

/// A job that nobody runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody runs the job")]
pub struct NotRunning;

/// What a finish did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The job is over.
    Ended,
    /// It waits for another try.
    Requeued,
    /// The same was said before; nothing changed.
    Repeated,
}

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canceled {
    /// The job is over.
    AtOnce,
    /// Its worker is told with the next beat.
    Asked,
    /// It was over before; nothing changed.
    TooLate,
}

/// What a lapsed lease did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapsed {
    /// The job is at the front of the queue again.
    Requeued,
    /// The job is over.
    Ended,
}

/// A new job.
#[must_use]
pub fn queue(now: UnixMillis, timing: &Timing) -> Job {
    Job {
        state: JobState::Queued,
        attempt: 0,
        max_attempts: timing.max_attempts,
        not_before: now,
        worker: None,
        lease_until: None,
        cancel_requested: false,
        artifact: None,
        failure: None,
    }
}

/// Whether the job may be claimed now.
#[must_use]
pub fn is_due(job: &Job, now: UnixMillis) -> bool {
    job.state == JobState::Queued && job.not_before <= now
}

/// Gives the job to `worker`.
///
/// # Errors
/// [`NotDue`].
pub fn claim(
    job: &mut Job,
    worker: &WorkerId,
    now: UnixMillis,
    timing: &Timing,
) -> Result<(), NotDue> {
    if !is_due(job, now) {
        return Err(NotDue);
    }
    job.state = JobState::Running;
    job.attempt += 1;
    job.worker = Some(worker.clone());
    job.lease_until = Some(now + timing.lease());
    Ok(())
}

/// Checks that `attempt` runs the job.
///
/// # Errors
/// [`Fenced`].
pub fn check_attempt(job: &Job, attempt: u32) -> Result<(), Fenced> {
    if job.state == JobState::Running && job.attempt == attempt {
        return Ok(());
    }
    Err(Fenced { spoke: attempt, state: job.state, attempt: job.attempt })
}

fn check_holder(job: &Job, holder: Holder) -> Result<(), Fenced> {
    check_attempt(job, holder.attempt)?;
    if job.worker.as_ref() == Some(holder.worker) {
        return Ok(());
    }
    Err(Fenced { spoke: holder.attempt, state: job.state, attempt: job.attempt })
}

/// Renews the lease of the attempt that `began` then; true when the worker must
/// stop because of a cancel. From then on, and past [`ATTEMPT_MAX`], the lease is
/// not renewed: a worker that beats on and never stops loses the job.
///
/// # Errors
/// [`Fenced`].
pub fn beat(
    job: &mut Job,
    holder: Holder,
    began: UnixMillis,
    now: UnixMillis,
    timing: &Timing,
) -> Result<bool, Fenced> {
    check_holder(job, holder)?;
    if !job.cancel_requested {
        job.lease_until = Some((now + timing.lease()).min(began + ATTEMPT_MAX));
    }
    Ok(job.cancel_requested)
}

/// Hands the job back; the attempt is not counted while there were less than
/// [`FREE_ATTEMPTS_MAX`]. Its token is spent.
///
/// # Errors
/// [`Fenced`].
pub fn release(job: &mut Job, holder: Holder, now: UnixMillis) -> Result<(), Fenced> {
    check_holder(job, holder)?;
    if job.cancel_requested {
        fail(job, BuildFailure::Canceled, "canceled".into());
        return Ok(());
    }
    if job.attempt < FREE_ATTEMPTS_MAX {
        job.max_attempts = job.max_attempts.saturating_add(1);
    }
    if job.attempt >= job.max_attempts {
        let reason = format!("its workers handed it back, after {}", attempts(job.attempt));
        fail(job, BuildFailure::Infra, reason);
    } else {
        requeue(job, now);
    }
    Ok(())
}

/// Ends the attempt. `recorded` is how this attempt ended, if it did before.
///
/// # Errors
/// [`Fenced`].
pub fn finish(
    job: &mut Job,
    holder: Holder,
    recorded: Option<&Outcome>,
    outcome: &Outcome,
    clock: (UnixMillis, &Timing, &mut Rng),
) -> Result<Finished, Fenced> {
    if recorded == Some(outcome) {
        return Ok(Finished::Repeated);
    }
    check_holder(job, holder)?;
    let (now, timing, rng) = clock;
    match outcome {
        Outcome::Succeeded { artifact } => succeed(job, *artifact),
        Outcome::Failed { class: BuildFailure::Infra | BuildFailure::LostWorker, reason } => {
            if job.cancel_requested {
                fail(job, BuildFailure::Canceled, "canceled".into());
            } else if job.attempt >= job.max_attempts {
                let attempts = attempts(job.attempt);
                fail(job, BuildFailure::Infra, format!("{reason} (after {attempts})"));
            } else {
                let wait = timing.backoff(job.attempt, rng);
                requeue(job, now + wait);
            }
        }
        Outcome::Failed { class, reason } => fail(job, *class, reason.clone()),
    }
    Ok(if job.state.is_final() { Finished::Ended } else { Finished::Requeued })
}

/// Takes the job from a worker that was not heard of; `None`: its lease holds.
pub fn lapse(job: &mut Job, now: UnixMillis) -> Option<Lapsed> {
    let lapsed = job.state == JobState::Running && job.lease_until.is_none_or(|until| until <= now);
    if !lapsed {
        return None;
    }
    if job.cancel_requested {
        fail(job, BuildFailure::Canceled, "canceled; its worker was lost".into());
    } else if job.attempt >= job.max_attempts {
        let reason = format!("its worker was lost, after {}", attempts(job.attempt));
        fail(job, BuildFailure::LostWorker, reason);
    } else {
        requeue(job, now);
        return Some(Lapsed::Requeued);
    }
    Some(Lapsed::Ended)
}

/// Takes the job from its worker because a person knows that it is lost. Its token is spent:
/// should the worker live, it hears so with its next beat and stops.
///
/// # Errors
/// [`NotRunning`].
pub fn take_back(job: &mut Job, now: UnixMillis) -> Result<(), NotRunning> {
    if job.state != JobState::Running {
        return Err(NotRunning);
    }
    if job.cancel_requested {
        fail(job, BuildFailure::Canceled, "canceled; its worker was lost".into());
        return Ok(());
    }
    job.max_attempts = job.max_attempts.max(job.attempt.saturating_add(1));
    requeue(job, now);
    Ok(())
}

/// Asks for the job's end.
pub fn cancel(job: &mut Job, by: &str) -> Canceled {
    match job.state {
        JobState::Queued => {
            fail(job, BuildFailure::Canceled, format!("canceled by {by}"));
            Canceled::AtOnce
        }
        JobState::Running => {
            job.cancel_requested = true;
            Canceled::Asked
        }
        JobState::Succeeded | JobState::Failed => Canceled::TooLate,
    }
}

/// Queues a failed job again, under its old number.
///
/// # Errors
/// [`NotFailed`].
pub fn retry(job: &mut Job, now: UnixMillis, timing: &Timing) -> Result<(), NotFailed> {
    if job.state != JobState::Failed {
        return Err(NotFailed);
    }
    job.failure = None;
    job.cancel_requested = false;
    job.max_attempts = job.attempt.saturating_add(timing.max_attempts);
    requeue(job, now);
    Ok(())
}

fn attempts(n: u32) -> String {
    if n == 1 { "1 attempt".into() } else { format!("{n} attempts") }
}

fn requeue(job: &mut Job, not_before: UnixMillis) {
    job.state = JobState::Queued;
    job.not_before = not_before;
    job.worker = None;
    job.lease_until = None;
}

fn succeed(job: &mut Job, artifact: ArtifactId) {
    job.state = JobState::Succeeded;
    job.artifact = Some(artifact);
    job.worker = None;
    job.lease_until = None;
}

fn fail(job: &mut Job, class: BuildFailure, mut reason: String) {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    job.state = JobState::Failed;
    job.failure = Some((class, reason));
    job.worker = None;
    job.lease_until = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing =
        Timing { beat: Duration::from_secs(10), missed_beats: 2, max_attempts: 3 };

    fn claimed(now: UnixMillis) -> (Job, WorkerId) {
        let worker: WorkerId = "w-1".parse().unwrap();
        let mut job = queue(now, &TIMING);
        claim(&mut job, &worker, now, &TIMING).unwrap();
        (job, worker)
    }

    #[test]
    fn a_worker_that_beats_for_ever_loses_the_job() {
        let began = UnixMillis(1000);
        let (mut job, worker) = claimed(began);
        let (holder, mut now) = (Holder { worker: &worker, attempt: 1 }, began);
        while lapse(&mut job, now).is_none() {
            assert!(now <= began + ATTEMPT_MAX, "the attempt never ended");
            beat(&mut job, holder, began, now, &TIMING).unwrap();
            now = now + TIMING.beat;
        }
        assert!(now >= began + ATTEMPT_MAX);
        assert_eq!((job.state, job.attempt), (JobState::Queued, 1));
        assert!(beat(&mut job, holder, began, now, &TIMING).is_err());
    }

    #[test]
    fn a_job_that_a_person_takes_back_is_fenced_and_has_an_attempt_to_spare() {
        let now = UnixMillis(0);
        let (mut job, worker) = claimed(now);
        job.max_attempts = 1;
        take_back(&mut job, now).unwrap();
        assert_eq!((job.state, job.attempt, job.not_before), (JobState::Queued, 1, now));
        let zombie = Holder { worker: &worker, attempt: 1 };
        assert!(beat(&mut job, zombie, now, now, &TIMING).is_err());
        assert_eq!(take_back(&mut job, now), Err(NotRunning));
        claim(&mut job, &worker, now, &TIMING).unwrap();
        assert!(release(&mut job, zombie, now).is_err(), "the same worker, an older attempt");
        assert!(lapse(&mut job, now + TIMING.lease()).is_some());
        let (mut job, _) = claimed(now);
        assert_eq!(cancel(&mut job, "ann"), Canceled::Asked);
        take_back(&mut job, now).unwrap();
        assert_eq!(job.failure.unwrap().0, BuildFailure::Canceled);
    }

    #[test]
    fn a_job_that_is_handed_back_again_and_again_ends() {
        let now = UnixMillis(0);
        let worker: WorkerId = "w-1".parse().unwrap();
        let mut job = queue(now, &TIMING);
        while job.state == JobState::Queued {
            claim(&mut job, &worker, now, &TIMING).unwrap();
            let attempt = job.attempt;
            release(&mut job, Holder { worker: &worker, attempt }, now).unwrap();
            assert!(attempt <= FREE_ATTEMPTS_MAX + TIMING.max_attempts);
        }
        assert_eq!(job.failure.as_ref().map(|(class, _)| *class), Some(BuildFailure::Infra));
        retry(&mut job, now, &TIMING).unwrap();
        assert_eq!(job.max_attempts, job.attempt + TIMING.max_attempts);
    }
}
