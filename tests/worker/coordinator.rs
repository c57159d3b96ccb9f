//! A coordinator of a few lines: hands out what a test queued and writes down what it hears.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use deployctl::model::job::Outcome;
use deployctl::net::server::Json;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::worker::{
    Beat, BeatReply, Claim, Claims, ClaimsRequest, Finish, HandBack, Heard as Answer, LogChunk,
    Order, Report, ReportReply, Said, Word,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What was heard about one job.
#[derive(Default, Clone)]
pub(crate) struct Job {
    pub(crate) log: String,
    pub(crate) beats: u32,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) handed_back: bool,
    pub(crate) attempt: u32,
    pub(crate) cancel: bool,
    pub(crate) fenced: bool,
}

#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) queue: VecDeque<Claim>,
    pub(crate) jobs: BTreeMap<String, Job>,
    /// Answers 503 to everything.
    pub(crate) away: bool,
    /// Knows no reports.
    pub(crate) older: bool,
    /// How much each report said.
    pub(crate) reports: Vec<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct Coordinator(pub(crate) Arc<Mutex<Heard>>);

impl Coordinator {
    /// Starts listening; its URL.
    pub(crate) async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/v1/worker/claims", post(claim))
            .route("/v1/worker/report", post(report))
            .route("/v1/worker/jobs/{build}/{verb}", post(job))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    pub(crate) fn heard<T>(&self, read: impl FnOnce(&mut Heard) -> T) -> T {
        read(&mut self.0.lock().unwrap())
    }

    pub(crate) fn job(&self, build: &str) -> Job {
        self.heard(|heard| heard.jobs.get(build).cloned().unwrap_or_default())
    }

    pub(crate) fn change(&self, build: &str, change: impl FnOnce(&mut Job)) {
        self.heard(|heard| change(heard.jobs.get_mut(build).unwrap()));
    }
}

fn away() -> Response {
    Problem::new(Code::Unavailable, "starting").into_response()
}

async fn claim(State(all): State<Coordinator>, Json(ask): Json<ClaimsRequest>) -> Response {
    let until = tokio::time::Instant::now() + Duration::from_millis(ask.wait_ms.min(2000));
    loop {
        let next = all.heard(|heard| {
            if heard.away {
                return Some(away());
            }
            let claim = heard.queue.pop_front()?;
            heard.jobs.entry(claim.build.to_string()).or_default().attempt = claim.attempt;
            Some(Json(Claims { claims: vec![claim] }).into_response())
        });
        if let Some(reply) = next {
            return reply;
        }
        if tokio::time::Instant::now() > until {
            return Json(Claims { claims: vec![] }).into_response();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn read<T: DeserializeOwned>(body: Value) -> T {
    serde_json::from_value(body).expect("the worker speaks the wire's shapes")
}

/// One after the other; an older coordinator does not know the call.
async fn report(State(all): State<Coordinator>, Json(report): Json<Report>) -> Response {
    if let Some(problem) = all.heard(|heard| {
        heard.reports.push(report.said.len());
        let older = || Problem::new(Code::NotFound, "there is no POST /v1/worker/report");
        let away = heard.away.then(|| Problem::new(Code::Unavailable, "starting"));
        away.or_else(|| heard.older.then(older))
    }) {
        return problem.into_response();
    }
    let answer = |Said { build, attempt, word }| {
        all.heard(|heard| {
            let job = heard.jobs.get_mut(&build.to_string()).expect("a job that was handed out");
            if job.fenced || attempt != job.attempt {
                return Answer::Refused(fenced());
            }
            match word {
                Word::Beat => job.beats += 1,
                Word::Finish { outcome, .. } => job.outcome = Some(outcome),
                Word::Release => job.handed_back = true,
            }
            Answer::Order(job.order())
        })
    };
    Json(ReportReply { heard: report.said.into_iter().map(answer).collect() }).into_response()
}

fn fenced() -> Problem {
    Problem::new(Code::Fenced, "another attempt holds the job")
}

impl Job {
    fn order(&self) -> Order {
        if self.cancel { Order::Cancel } else { Order::Continue }
    }
}

async fn job(
    State(all): State<Coordinator>,
    Path((build, verb)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let attempt = body["attempt"].as_u64();
    all.heard(|heard| {
        if heard.away {
            return away();
        }
        let job = heard.jobs.get_mut(&build).expect("a job that was handed out");
        if job.fenced || attempt != Some(job.attempt.into()) {
            return fenced().into_response();
        }
        match verb.as_str() {
            "beat" => {
                read::<Beat>(body);
                job.beats += 1;
                return Json(BeatReply { order: job.order() }).into_response();
            }
            "log" => {
                let chunk: LogChunk = read(body);
                assert_eq!(chunk.offset, job.log.len() as u64, "{build}");
                assert!(chunk.text.len() <= 64 << 10 && job.outcome.is_none());
                job.log.push_str(&chunk.text);
            }
            "finish" => job.outcome = Some(read::<Finish>(body).outcome),
            "release" => {
                read::<HandBack>(body);
                job.handed_back = true;
            }
            other => panic!("{other}"),
        }
        StatusCode::NO_CONTENT.into_response()
    })
}
