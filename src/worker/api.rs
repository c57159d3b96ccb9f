//! What a worker asks of its coordinator, with how long each call may take.

use std::time::Duration;

use serde::de::IgnoredAny;

use crate::model::id::{JobNo, WorkerId};
use crate::model::job::Outcome;
use crate::net::client::{CallError, Client};
use crate::wire::problem::Code;
use crate::wire::v1::commits::{Answer, CommitLine, Named, Question, QuestionRequest};
use crate::wire::v1::patch::PatchReport;
use crate::wire::v1::worker::{
    Beat, BeatReply, Claim, Claims, ClaimsRequest, Finish, HandBack, Learnt, LogChunk, Order,
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
}

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
        Self { client, worker, machine, slots }
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
}

impl Attempt {
    fn path(&self, verb: &str) -> String {
        format!("/v1/worker/jobs/{}/{verb}", self.build)
    }

    /// Says that the build goes on; brings an order back.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn beat(&self, limit: Duration) -> Result<Order, CallError> {
        let beat = Beat { worker: self.coordinator.worker.clone(), attempt: self.attempt };
        let path = self.path("beat");
        let reply: BeatReply = self.coordinator.client.post(&path, &beat, limit).await?;
        Ok(reply.order)
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
        let worker = self.coordinator.worker.clone();
        self.post("finish", &Finish { worker, attempt: self.attempt, outcome, learnt }).await
    }

    /// Hands the job back, the attempt not counted.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn hand_back(&self) -> Result<(), CallError> {
        let worker = self.coordinator.worker.clone();
        self.post("release", &HandBack { worker, attempt: self.attempt }).await
    }

    async fn post(&self, verb: &str, body: &impl serde::Serialize) -> Result<(), CallError> {
        let path = self.path(verb);
        let reply: Result<IgnoredAny, _> =
            self.coordinator.client.post(&path, body, CALL_LIMIT).await;
        reply.map(drop)
    }
}
