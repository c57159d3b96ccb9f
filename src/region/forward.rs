//! Requests for what belongs to another process of the region: passed on to it, so that
//! a host may call any of them and needs to know of none.
//!
//! An artifact's swarm is one process's: leases, budget and turns stay one. Manifests and
//! reads of other regions are answered here once the store has the artifact, else by the
//! process that pulls it. A request is passed on once: where two processes see each other's
//! ownership differently, the second answers it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::model::digest::ArtifactId;
use crate::region::library::Library;
use crate::region::processes::{Other, Owner, Processes};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::process::{FROM_HEADER, PASSED_HEADER};
use crate::wire::v1::region::PiecesRequest;

/// Largest body that is passed on: a bitmap of an artifact's pieces and some names.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Headers between two processes, not between their two ends.
const HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::EXPECT,
];

/// What passes requests on.
pub struct Forwarder {
    /// Who lives.
    pub processes: Arc<Processes>,
    /// What the store holds.
    pub library: Arc<Library>,
    /// Connections to other processes.
    pub http: reqwest::Client,
}

/// What of the region a request is for.
#[derive(Debug, PartialEq)]
enum About {
    /// An artifact's swarm, and reads that it admits: its process only.
    Swarm(ArtifactId),
    /// What any process can answer that sees the artifact in the store.
    Stored(ArtifactId),
}

/// Passes a request on when it is another process's; else `next` answers it.
pub async fn forward(
    State(forwarder): State<Arc<Forwarder>>,
    mut request: Request,
    next: Next,
) -> Response {
    if forwarder.processes.own().is_empty() {
        return next.run(request).await;
    }
    let passed = take_passed(&forwarder.processes, request.headers_mut());
    if let Some(from) = passed {
        let port = request.extensions().get::<SocketAddr>().map_or(0, SocketAddr::port);
        request.extensions_mut().insert(SocketAddr::new(from, port));
        return next.run(request).await;
    }
    // Boxed: a host that waits for news for a minute would hold the room that this needs.
    match Box::pin(forwarder.pass(request)).await {
        Ok(Passed::Answered(reply)) => reply,
        Ok(Passed::Ours(request)) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Where a request came from, if a process passed it on. Nobody else's word counts.
fn take_passed(processes: &Processes, headers: &mut HeaderMap) -> Option<IpAddr> {
    let (ticket, from) = (headers.remove(PASSED_HEADER), headers.remove(FROM_HEADER));
    let known = ticket.is_some_and(|ticket| processes.knows_ticket(ticket.as_bytes()));
    from.filter(|_| known)?.to_str().ok()?.parse().ok()
}

enum Passed {
    Ours(Request),
    Answered(Response),
}

impl Forwarder {
    async fn pass(&self, request: Request) -> Result<Passed, Problem> {
        let (parts, body) = request.into_parts();
        let Some(path) = named(parts.uri.path()) else {
            return Ok(Passed::Ours(Request::from_parts(parts, body)));
        };
        let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
        let body = body.map_err(|_| Problem::new(Code::TooLarge, "the request is too large"))?;
        let about = match path {
            Path::Is(about) => about,
            Path::InBody => match serde_json::from_slice::<PiecesRequest>(&body) {
                Ok(request) => About::Stored(request.artifact),
                Err(_) => return Ok(ours(parts, body)),
            },
        };
        let artifact = match about {
            About::Swarm(artifact) => artifact,
            About::Stored(artifact) if self.library.manifest(artifact).await.is_ok() => {
                return Ok(ours(parts, body));
            }
            About::Stored(artifact) => artifact,
        };
        // Once more when the one that it was passed to turns out to be gone.
        for _ in 0..=self.processes.others() {
            match self.processes.owner(&artifact) {
                Owner::Me => return Ok(ours(parts, body)),
                Owner::Unknown => break,
                Owner::Other(other) => match self.ask(other, &parts, body.clone()).await {
                    Ok(reply) => return Ok(Passed::Answered(answer(reply))),
                    Err(error) if error.is_connect() => self.processes.refused(other),
                    Err(error) => {
                        let title = "another process of the region did not answer";
                        return Err(
                            Problem::new(Code::Unavailable, title).because(error.without_url())
                        );
                    }
                },
            }
        }
        Err(Problem::new(Code::Unavailable, "the region's processes are looking for each other"))
    }

    async fn ask(
        &self,
        other: &Other,
        parts: &Parts,
        body: Bytes,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", other.client.base());
        let mut headers = parts.headers.clone();
        HOP.iter().for_each(|name| drop(headers.remove(name)));
        let ticket = HeaderValue::from_str(self.processes.ticket());
        headers.insert(PASSED_HEADER, ticket.expect("hexadecimal digits are a header's value"));
        if let Some(from) = parts.extensions.get::<SocketAddr>() {
            let from = HeaderValue::from_str(&from.ip().to_string());
            headers.insert(FROM_HEADER, from.expect("an address is a header's value"));
        }
        let method = if parts.method == Method::POST { Method::POST } else { Method::GET };
        self.http.request(method, url).headers(headers).body(body).send().await
    }
}

fn ours(parts: Parts, body: Bytes) -> Passed {
    Passed::Ours(Request::from_parts(parts, Body::from(body)))
}

fn answer(reply: reqwest::Response) -> Response {
    let (status, mut headers) = (reply.status(), reply.headers().clone());
    let length = headers.remove(header::CONTENT_LENGTH);
    HOP.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    let mut answer = Response::new(Body::from_stream(reply.bytes_stream()));
    (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
    answer
}

enum Path {
    Is(About),
    /// The artifact is named in the body.
    InBody,
}

/// What a path is for, if that is one process's.
fn named(path: &str) -> Option<Path> {
    let parts: Vec<&str> = path.split('/').collect();
    let about = match parts.as_slice() {
        ["", "v1", "region", "pieces"] => return Some(Path::InBody),
        ["", "v1", "agent", "swarm", artifact, _]
        | ["", "v1", "agent", "artifacts", artifact, "pack"] => {
            About::Swarm(artifact.parse().ok()?)
        }
        ["", "v1", "agent", "artifacts", artifact, "manifest"]
        | ["", "v1", "region", "artifacts", artifact, "manifest" | "pack"] => {
            About::Stored(artifact.parse().ok()?)
        }
        _ => return None,
    };
    Some(Path::Is(about))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::net::client::http_client;

    #[test]
    fn a_swarm_is_one_processs_and_what_is_stored_is_everybodys() {
        let id = Digest::of(b"x");
        let about = |path: String| match named(&path) {
            Some(Path::Is(about)) => Some(about),
            _ => None,
        };
        assert_eq!(about(format!("/v1/agent/swarm/{id}/beat")), Some(About::Swarm(id)));
        assert_eq!(about(format!("/v1/agent/artifacts/{id}/pack")), Some(About::Swarm(id)));
        assert_eq!(about(format!("/v1/agent/artifacts/{id}/manifest")), Some(About::Stored(id)));
        assert_eq!(about(format!("/v1/region/artifacts/{id}/pack")), Some(About::Stored(id)));
        assert!(matches!(named("/v1/region/pieces"), Some(Path::InBody)));
        for other in ["/v1/agent/poll", "/v1/agent/swarm/x/beat", "/healthz", "/"] {
            assert!(named(other).is_none(), "{other}");
        }
    }

    #[test]
    fn only_a_process_says_where_a_request_came_from() {
        let list = "http://a:1,http://b:1";
        let processes = Processes::new(list, "http://a:1", "dct_x", &http_client()).unwrap();
        let headers = |ticket: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(PASSED_HEADER, ticket.parse().unwrap());
            headers.insert(FROM_HEADER, "10.0.0.7".parse().unwrap());
            headers
        };
        let mut sound = headers(processes.ticket());
        assert_eq!(take_passed(&processes, &mut sound), Some("10.0.0.7".parse().unwrap()));
        let mut forged = headers("00");
        assert_eq!(take_passed(&processes, &mut forged), None);
        assert!(forged.is_empty(), "a forged header goes no further");
    }
}
