//! `GET /live`: the one event stream of an open tab. It brings the parts of its page
//! that changed, and what a log grew by.
//!
//! The stream's id is a digest of what the tab shows and the log's next byte, so a tab
//! goes on where it was after any break, also with another coordinator process.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::coordinator::web::Pages;
use crate::coordinator::web::call::Calls;
use crate::coordinator::web::hub::{self, Seen, Shot};
use crate::coordinator::web::page::{Page, is_local};
use crate::coordinator::web::session::{self, Session};
use crate::model::digest::Digest;
use crate::model::id::JobNo;
use crate::net::server::Params;
use crate::store::db::Topic;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::build::BuildLog;

/// How often a quiet stream shows that it lives, and is checked for its session's end.
const BEAT: Duration = Duration::from_secs(15);
/// After this a browser whose stream broke comes again.
const AGAIN: Duration = Duration::from_secs(2);
/// Least time between two stretches of a log.
const LOG_PAUSE: Duration = Duration::from_millis(400);

#[derive(Deserialize)]
pub(super) struct Query {
    /// The page's path and query.
    page: String,
    /// The digest of what the tab shows.
    #[serde(default)]
    seen: String,
    build: Option<JobNo>,
    /// The log's next byte.
    log: Option<u64>,
}

/// One tab.
struct Tab {
    web: Pages,
    calls: Calls,
    session: Session,
    page: watch::Receiver<Seen>,
    /// Digest of the whole, and of each part, as the tab shows them.
    shows: String,
    parts: HashMap<&'static str, Digest>,
    trouble: String,
    log: Option<(JobNo, u64)>,
    waiting: VecDeque<Event>,
    /// When to see whether the session lasts.
    checks: tokio::time::Interval,
}

/// The stream.
pub(super) async fn stream(
    State(web): State<Pages>,
    Extension(session): Extension<Session>,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Response {
    let page = match page_of(&query.page) {
        Ok(page) => page,
        Err(problem) => return problem.into_response(),
    };
    let calls = Calls::new(&web, session.who.clone());
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (shows, byte) = match last.split_once('.') {
        Some((seen, byte)) => (seen.to_owned(), byte.parse().ok()),
        None => (query.seen, query.log),
    };
    let tab = Tab {
        page: hub::follow(&web, query.page, page, session.who.clone()),
        calls,
        session,
        shows,
        parts: HashMap::new(),
        trouble: String::new(),
        log: query.build.zip(byte.or(query.log)),
        waiting: VecDeque::from([Event::default().retry(AGAIN).comment("hello")]),
        checks: tokio::time::interval(BEAT),
        web,
    };
    let events = futures_util::stream::unfold(tab, |mut tab| async move {
        let event = tab.next().await?;
        Some((Ok::<_, Infallible>(event), tab))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(BEAT)).into_response()
}

fn page_of(path: &str) -> Result<Page, Problem> {
    let bad = || Problem::new(Code::Usage, "page: the path of a page");
    let uri: Uri =
        Some(path).filter(|path| is_local(path)).ok_or_else(bad)?.parse().map_err(|_| bad())?;
    match Page::of(&uri)? {
        Page::App(_) => Err(bad()),
        page => Ok(page),
    }
}

impl Tab {
    /// The next event; `None`: the stream ends, and the browser may come again.
    async fn next(&mut self) -> Option<Event> {
        let mut stop = self.web.shared.stop.clone();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            tokio::select! {
                changed = self.page.changed() => {
                    changed.ok()?;
                    let shot = self.page.borrow_and_update().clone();
                    if let Some(shot) = shot {
                        self.show(&shot);
                    }
                }
                log = more(&self.calls, self.log) => self.grow(log),
                _ = self.checks.tick() => {
                    // A session that is over brings nothing more.
                    session::holder(&self.web.shared, &self.session.mac).await.ok().flatten()?;
                }
                () = asked_to(&mut stop) => return None,
            }
        }
    }

    /// Queues the parts that the tab does not show yet.
    fn show(&mut self, shot: &Shot) {
        if shot.trouble != self.trouble {
            self.trouble.clone_from(&shot.trouble);
            let event = Event::default().event("trouble");
            self.waiting.extend(event.json_data(json!({ "why": shot.trouble })).ok());
        }
        if !shot.trouble.is_empty() {
            return;
        }
        let up_to_date = self.shows == shot.digest;
        self.shows.clone_from(&shot.digest);
        for (id, html) in &shot.parts {
            let digest = Digest::of(html.as_bytes());
            let known = self.parts.insert(id, digest) == Some(digest);
            if known || up_to_date {
                continue;
            }
            let event = Event::default().event("part").id(self.id());
            self.waiting.extend(event.json_data(json!({ "part": id, "html": html })).ok());
        }
    }

    /// Queues what a log grew by.
    fn grow(&mut self, log: Option<BuildLog>) {
        let Some((build, _)) = self.log.take() else { return };
        let Some(log) = log else { return };
        self.log = (!log.ended).then_some((build, log.next));
        if !log.text.is_empty() {
            let id = format!("{}.{}", self.shows, log.next);
            let event = Event::default().event("log").id(id);
            self.waiting.extend(event.json_data(json!({ "text": log.text })).ok());
        }
    }

    fn id(&self) -> String {
        let byte = self.log.map_or_else(String::new, |(_, byte)| byte.to_string());
        format!("{}.{byte}", self.shows)
    }
}

async fn asked_to(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until the log goes on; for ever when there is none to follow.
async fn more(calls: &Calls, log: Option<(JobNo, u64)>) -> Option<BuildLog> {
    let Some((build, from)) = log else { return std::future::pending().await };
    tokio::time::sleep(LOG_PAUSE).await;
    let mut changes = calls.shared().db.watch(Topic::Logs);
    loop {
        changes.borrow_and_update();
        let path = format!("/v1/builds/{build}/log?from={from}");
        let log: BuildLog = calls.get(&path).await.ok()?;
        if !log.text.is_empty() || log.ended {
            return Some(log);
        }
        changes.changed().await.ok()?;
    }
}
