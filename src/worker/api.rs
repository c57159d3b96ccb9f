//! What a worker asks of its coordinator, with how long each call may take.
//!
//! What several attempts have to say at the same moment goes in one call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::de::IgnoredAny;
use tokio::sync::{Notify, oneshot};

use crate::model::id::{JobNo, WorkerId};
use crate::model::job::Outcome;
use crate::net::client::{CallError, Client};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::commits::{Answer, CommitLine, Named, Question, QuestionRequest};
use crate::wire::v1::patch::PatchReport;
use crate::wire::v1::worker::{
    Beat, BeatReply, Claim, Claims, ClaimsRequest, Finish, HandBack, Heard, Learnt, LogChunk,
    Order, Report, ReportReply, Said, Word,
};

/// How long a claim waits for a job at the coordinator.
const CLAIM_WAIT: Duration = Duration::from_secs(25);
/// How long any other call may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// The coordinator, as one start of a worker sees it; cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    client: Client,
    worker: WorkerId,
    machine: String,
    slots: u32,
    /// What attempts have to say in the next call.
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// Told when one beats: whoever is to beat soon does so too.
    beating: Arc<Notify>,
}

/// A word, and where its answer goes.
type Waiting = (Said, oneshot::Sender<Result<Order, CallError>>);

/// One attempt's calls: each carries the fencing token.
#[derive(Clone)]
pub struct Attempt {
    coordinator: Coordinator,
    build: JobNo,
    attempt: u32,
}

/// Whether the coordinator says that this attempt holds its job no more.
#[must_use]
pub fn is_fenced(error: &CallError) -> bool {
    matches!(error.code(), Code::Fenced | Code::NotFound)
}

impl Coordinator {
    /// The coordinator behind `client`, called as `worker` with `slots`.
    #[must_use]
    pub fn new(client: Client, worker: WorkerId, slots: u32) -> Self {
        // Where there is no /proc the machine has no name; it is only for people.
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let machine = name.trim().chars().take(32).collect();
        let (waiting, beating) = Default::default();
        Self { client, worker, machine, slots, waiting, beating }
    }

    /// Waits for at most `want` jobs; none when there were none in time.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn claim(&self, want: u32) -> Result<Vec<Claim>, CallError> {
        let request = ClaimsRequest {
            worker: self.worker.clone(),
            machine: self.machine.clone(),
            slots: self.slots,
            want,
            wait_ms: CLAIM_WAIT.as_millis() as u64,
        };
        let limit = CLAIM_WAIT + CALL_LIMIT;
        let reply: Claims = self.client.post("/v1/worker/claims", &request, limit).await?;
        Ok(reply.claims)
    }

    /// Waits for a question about a repository; `None` when there was none in time.
    ///
    /// # Errors
    /// See [`CallError`]; `not_found` from a coordinator that asks none.
    pub async fn question(&self) -> Result<Option<Question>, CallError> {
        let wait_ms = CLAIM_WAIT.as_millis() as u64;
        let request = QuestionRequest { worker: self.worker.clone(), wait_ms };
        self.client.post("/v1/worker/question", &request, CLAIM_WAIT + CALL_LIMIT).await
    }

    /// Answers a question with what was found, or with why nothing was.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn answer(
        &self,
        question: Question,
        found: Result<(Vec<CommitLine>, Vec<Named>), String>,
    ) -> Result<(), CallError> {
        let (worker, machine) = (self.worker.clone(), self.machine.clone());
        let (trouble, (commits, named)) = match found {
            Ok(found) => (String::new(), found),
            Err(trouble) => (trouble, Default::default()),
        };
        let answer = Answer { worker, machine, question, trouble, commits, named };
        let reply: Result<IgnoredAny, _> =
            self.client.post("/v1/worker/answer", &answer, CALL_LIMIT).await;
        reply.map(drop)
    }

    /// Tells what became of a patch.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn patch(&self, report: &PatchReport) -> Result<(), CallError> {
        let reply: Result<IgnoredAny, _> =
            self.client.post("/v1/worker/patches", report, CALL_LIMIT).await;
        reply.map(drop)
    }

    /// The calls of the attempt that `claim` began.
    #[must_use]
    pub fn attempt(&self, claim: &Claim) -> Attempt {
        Attempt { coordinator: self.clone(), build: claim.build, attempt: claim.attempt }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says all that waits, and hands out the answers.
    async fn report(self, waiting: Vec<Waiting>) {
        let (said, answers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let report = Report { worker: self.worker.clone(), said };
        let reply: Result<ReportReply, _> =
            self.client.post("/v1/worker/report", &report, CALL_LIMIT).await;
        let heard: Vec<_> = match reply {
            Ok(reply) => reply.heard.into_iter().map(order).collect(),
            // An older coordinator, which hears attempts one by one.
            Err(error) if error.code() == Code::NotFound => {
                let alone = report.said.into_iter().map(|Said { build, attempt, word }| {
                    let attempt = Attempt { coordinator: self.clone(), build, attempt };
                    async move { attempt.say_alone(word).await }
                });
                join_all(alone).await
            }
            Err(error) => {
                let problem = match error {
                    CallError::Refused(problem) => *problem,
                    error => Problem::new(error.code(), error.to_string()),
                };
                answers.iter().map(|_| order(Heard::Refused(problem.clone()))).collect()
            }
        };
        for (answer, heard) in answers.into_iter().zip(heard) {
            let _ = answer.send(heard);
        }
    }
}

fn order(heard: Heard) -> Result<Order, CallError> {
    match heard {
        Heard::Order(order) => Ok(order),
        Heard::Refused(problem) => Err(CallError::Refused(Box::new(problem))),
    }
}

impl Attempt {
    fn path(&self, verb: &str) -> String {
        format!("/v1/worker/jobs/{}/{verb}", self.build)
    }

    /// Says something together with whatever else this worker has to say now.
    async fn say(&self, word: Word, limit: Duration) -> Result<Order, CallError> {
        let (answer, answered) = oneshot::channel();
        let said = Said { build: self.build, attempt: self.attempt, word };
        self.coordinator.waiting().push((said, answer));
        // Lets the others speak up.
        tokio::task::yield_now().await;
        let waiting = std::mem::take(&mut *self.coordinator.waiting());
        if !waiting.is_empty() {
            // A task of its own: it speaks for others too, whatever becomes of this attempt.
            tokio::spawn(self.coordinator.clone().report(waiting));
        }
        let late = || Problem::new(Code::Unavailable, "the coordinator did not answer in time");
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            _ => Err(CallError::Refused(Box::new(late()))),
        }
    }

    async fn say_alone(&self, word: Word) -> Result<Order, CallError> {
        let (worker, attempt) = (self.coordinator.worker.clone(), self.attempt);
        match word {
            Word::Beat => {
                let (path, beat) = (self.path("beat"), Beat { worker, attempt });
                let reply = self.coordinator.client.post(&path, &beat, CALL_LIMIT).await;
                return reply.map(|reply: BeatReply| reply.order);
            }
            Word::Finish { outcome, learnt } => {
                self.post("finish", &Finish { worker, attempt, outcome, learnt }).await?;
            }
            Word::Release => self.post("release", &HandBack { worker, attempt }).await?,
        }
        Ok(Order::Continue)
    }

    /// Says that the build goes on; brings an order back.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn beat(&self, limit: Duration) -> Result<Order, CallError> {
        self.say(Word::Beat, limit).await
    }

    /// Has other attempts of this worker beat now that are to beat soon.
    pub fn call_others(&self) {
        self.coordinator.beating.notify_waiters();
    }

    /// Waits until another attempt of this worker beats. Cancel-safe.
    pub async fn called(&self) {
        self.coordinator.beating.notified().await;
    }

    /// Delivers a part of the log.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn log(&self, offset: u64, text: &str) -> Result<(), CallError> {
        let chunk = LogChunk { attempt: self.attempt, offset, text: text.to_owned() };
        self.post("log", &chunk).await
    }

    /// Says how the attempt ended.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn finish(&self, outcome: Outcome, learnt: Learnt) -> Result<(), CallError> {
        let success = matches!(outcome, Outcome::Succeeded { .. });
        let word = Word::Finish { outcome, learnt };
        // A success is first looked at in the blob store; no beat is to wait for that.
        let said =
            if success { self.say_alone(word).await } else { self.say(word, CALL_LIMIT).await };
        said.map(drop)
    }

    /// Hands the job back, the attempt not counted.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn hand_back(&self) -> Result<(), CallError> {
        self.say(Word::Release, CALL_LIMIT).await.map(drop)
    }

    async fn post(&self, verb: &str, body: &impl serde::Serialize) -> Result<(), CallError> {
        let path = self.path(verb);
        let reply: Result<IgnoredAny, _> =
            self.coordinator.client.post(&path, body, CALL_LIMIT).await;
        reply.map(drop)
    }
}
