//! What is in an app's repository. The coordinator has no git and no credentials: it
//! keeps the question, a worker that waits for one takes it, looks, and answers.
//!
//! All coordinators of one database share questions and answers. A question that nobody
//! answers is dropped after a minute; whoever asked is told so long before.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::time::Duration;

use crate::coordinator::apps;
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::{Shared, wait_of};
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::rules::log::plain;
use crate::store::db::looks::{self, Asked, Known};
use crate::store::db::{Topic, Tx};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::commits::{
    Answer, Commits, LookRequest, NEWEST_MAX, Named, Question, QuestionRequest, REV_BYTES_MAX,
    REVS_MAX, TEXT_BYTES_MAX,
};

/// A look at the newest commits is not repeated for so long.
const FRESH: Duration = Duration::from_secs(30);
/// A question that was taken and not answered is given to another worker after this.
const TAKEN_MAX: Duration = Duration::from_secs(15);
/// A question is dropped after this.
const ASKED_MAX: Duration = Duration::from_secs(60);
/// Questions that are looked through for one that nobody took.
const OPEN_MAX: u32 = 100;
/// Names whose answers are kept, for each app.
const NAMED_MAX: usize = 16;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps/{app}/commits", Class::Read, show)
            .says("Tell the trunk's newest commits, as a worker saw them last")
            .gives("Commits"),
        post("/v1/apps/{app}/commits", Class::Build, look)
            .says("Ask a worker what a branch, a tag or the first digits of a commit name")
            .takes("LookRequest")
            .gives("Commits"),
        post("/v1/worker/question", Class::Worker, question)
            .says("Wait for a question about a repository; 204 when there was none in time")
            .takes("QuestionRequest")
            .gives("Question"),
        post("/v1/worker/answer", Class::Worker, answer)
            .says("Answer a question about a repository")
            .takes("Answer"),
    ]
}

async fn show(
    State(shared): State<Shared>,
    Path(app): Path<AppName>,
) -> Result<Json<Commits>, Problem> {
    let read = move |tx: &Tx| {
        spec(tx, &app)?;
        Ok::<_, Problem>(looks::known(tx, &app)?.seen)
    };
    shared.db.read(read).await.map(Json)
}

async fn look(
    State(shared): State<Shared>,
    Path(app): Path<AppName>,
    Json(request): Json<LookRequest>,
) -> Result<Json<Commits>, Problem> {
    let rev = request.rev.trim().to_owned();
    if rev.len() > REV_BYTES_MAX || rev.chars().any(char::is_control) {
        let title = format!("a branch, tag or commit has at most {REV_BYTES_MAX} bytes");
        return Err(Problem::new(Code::Usage, title));
    }
    let now = shared.steady_now();
    let is_new = {
        let (app, rev) = (app.clone(), rev.clone());
        shared.db.read(move |tx: &Tx| needed(tx, &app, &rev, now)).await?
    };
    if is_new {
        let (app, rev) = (app.clone(), rev.clone());
        shared.db.write(move |tx: &mut Tx| ask(tx, &app, &rev, now)).await?;
    }
    let wait = wait_of(request.wait_ms);
    let since = if rev.is_empty() { now - FRESH } else { now };
    let answered = shared.wait_for(Topic::Looks, wait, || {
        let (shared, app, rev) = (shared.clone(), app.clone(), rev.clone());
        async move {
            let known = shared.db.read(move |tx: &Tx| looks::known(tx, &app)).await?;
            Ok(answer_to(known, &rev, since))
        }
    });
    if let Some(answered) = answered.await? {
        return Ok(Json(answered));
    }
    let known = shared.db.read(move |tx: &Tx| looks::known(tx, &app)).await?;
    Ok(Json(known.seen))
}

/// Whether a look has to be asked for.
fn needed(tx: &Tx, app: &AppName, rev: &str, now: UnixMillis) -> Result<bool, Problem> {
    spec(tx, app)?;
    let known = looks::known(tx, app)?;
    if rev.is_empty() && known.seen.looked_at.is_some_and(|at| now < at + FRESH) {
        return Ok(false);
    }
    let open = looks::asked(tx, app)?.filter(|asked| now < asked.at + ASKED_MAX);
    Ok(!open.is_some_and(|asked| rev.is_empty() || asked.revs.iter().any(|other| other == rev)))
}

fn ask(tx: &mut Tx, app: &AppName, rev: &str, now: UnixMillis) -> Result<(), Problem> {
    let open = looks::asked(tx, app)?.filter(|asked| now < asked.at + ASKED_MAX);
    let mut revs = open.map(|asked| asked.revs).unwrap_or_default();
    if !rev.is_empty() && !revs.iter().any(|other| other == rev) {
        if revs.len() >= REVS_MAX {
            let title = format!("{REVS_MAX} names are asked about already; ask again in a minute");
            return Err(Problem::new(Code::Unavailable, title));
        }
        revs.push(rev.to_owned());
    }
    Ok(looks::ask(tx, app, Some(&Asked { at: now, revs, taken_at: None }))?)
}

/// What answers the question that was asked at `since`, when it is there.
fn answer_to(mut known: Known, rev: &str, since: UnixMillis) -> Option<Commits> {
    let looked = known.seen.looked_at.is_some_and(|at| at >= since);
    if rev.is_empty() || !known.seen.trouble.is_empty() {
        return looked.then_some(known.seen);
    }
    let (at, named) = known.named.remove(rev)?;
    (at >= since).then_some(Commits { named: Some(named), ..known.seen })
}

async fn question(
    State(shared): State<Shared>,
    Json(request): Json<QuestionRequest>,
) -> Result<Response, Problem> {
    let taken = shared.wait_for(Topic::Looks, wait_of(request.wait_ms), || {
        let shared = shared.clone();
        async move {
            let now = shared.steady_now();
            let open = shared.db.read(move |tx: &Tx| looks::open(tx, OPEN_MAX)).await?;
            if !open.iter().any(|(_, asked)| is_free(asked, now)) {
                return Ok(None);
            }
            shared.db.write(move |tx: &mut Tx| take(tx, now)).await
        }
    });
    match taken.await? {
        Some(question) => Ok(Json(question).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn is_free(asked: &Asked, now: UnixMillis) -> bool {
    now < asked.at + ASKED_MAX && asked.taken_at.is_none_or(|at| at + TAKEN_MAX <= now)
}

fn take(tx: &mut Tx, now: UnixMillis) -> Result<Option<Question>, Problem> {
    for (app, mut asked) in looks::open(tx, OPEN_MAX)? {
        if now >= asked.at + ASKED_MAX {
            looks::ask(tx, &app, None)?;
            continue;
        }
        if !is_free(&asked, now) {
            continue;
        }
        asked.taken_at = Some(now);
        looks::ask(tx, &app, Some(&asked))?;
        let AppSpec { repo, trunk, .. } = spec(tx, &app)?;
        return Ok(Some(Question { app, repo, trunk, revs: asked.revs }));
    }
    Ok(None)
}

async fn answer(
    State(shared): State<Shared>,
    Json(answer): Json<Answer>,
) -> Result<Json<()>, Problem> {
    let now = shared.steady_now();
    shared.db.write(move |tx: &mut Tx| learn(tx, answer, now)).await.map(Json)
}

fn learn(tx: &mut Tx, answer: Answer, now: UnixMillis) -> Result<(), Problem> {
    let Question { app, repo, trunk, revs } = answer.question;
    let spec = spec(tx, &app)?;
    if (&spec.repo, &spec.trunk) != (&repo, &trunk) {
        // The app was changed meanwhile; whoever waits asks about what it is now.
        return Ok(());
    }
    let mut known = looks::known(tx, &app)?;
    let mut commits = answer.commits;
    commits.truncate(NEWEST_MAX);
    for line in &mut commits {
        (line.subject, line.author) = (short(&line.subject), short(&line.author));
    }
    let trouble = short(&answer.trouble);
    // What was seen once is still worth showing when a later look fails.
    if trouble.is_empty() {
        known.seen.commits = commits;
    }
    known.seen.looked_at = Some(now);
    known.seen.looked_by = short(&answer.machine);
    known.seen.trouble = trouble;
    for named in answer.named.into_iter().filter(|named| revs.contains(&named.rev)) {
        let (subject, why) = (short(&named.subject), short(&named.why));
        let rev = named.rev.clone();
        known.named.insert(rev, (now, Named { subject, why, ..named }));
    }
    while known.named.len() > NAMED_MAX {
        let oldest = known.named.iter().min_by_key(|(_, (at, _))| *at);
        let Some(oldest) = oldest.map(|(rev, _)| rev.clone()) else { break };
        known.named.remove(&oldest);
    }
    looks::learn(tx, &app, &known)?;
    let open = looks::asked(tx, &app)?;
    let left = open.and_then(|asked| {
        let rest: Vec<String> = asked.revs.into_iter().filter(|rev| !revs.contains(rev)).collect();
        (!rest.is_empty()).then_some(Asked { at: asked.at, revs: rest, taken_at: None })
    });
    Ok(looks::ask(tx, &app, left.as_ref())?)
}

/// One line of at most [`TEXT_BYTES_MAX`] bytes without anything that a terminal obeys.
fn short(text: &str) -> String {
    let line = plain("", text.lines().next().unwrap_or_default()).0;
    line[..line.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

fn spec(tx: &Tx, app: &AppName) -> Result<AppSpec, Problem> {
    let found = crate::store::db::apps::find(tx, app)?;
    found.map(|app| app.spec).ok_or_else(|| apps::unknown(app))
}
