//! An S3 server in this process that fails as it is told to. It checks no signatures;
//! the real server does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// 503 SlowDown; nothing is done.
    SlowDown,
    /// The connection is closed; nothing is done.
    Dropped,
    /// It is done, and the connection is closed before the answer.
    LostAnswer,
    /// Half of the body is sent, then the connection is closed.
    CutBody,
    /// It is done after a while.
    Slow(Duration),
    /// The upload is forgotten, and the request refused.
    Forgotten,
    /// 200 with an error in the body, as S3 answers when a copy fails late.
    LateError,
}

/// Which requests a fault meets: a method and what the path with its query contains.
type Plan = Vec<(Method, &'static str, Fault)>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: HashMap<String, BTreeMap<usize, Bytes>>,
    plan: Plan,
    requests: usize,
}

/// The server; it lives as long as the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let url = format!("s3://bucket/p?endpoint={endpoint}&region=us-east-1");
        let fake = Self { state: Arc::default(), url };
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let fake = serving.clone();
                let service = service_fn(move |request| fake.clone().answer(request));
                let served =
                    http1::Builder::new().serve_connection(TokioIo::new(connection), service);
                tokio::spawn(served);
            }
        });
        fake
    }

    /// The next request of each entry fails as it says.
    pub(crate) fn fail(&self, plan: impl IntoIterator<Item = (Method, &'static str, Fault)>) {
        self.state.lock().unwrap().plan.extend(plan);
    }

    /// Faults that met no request.
    pub(crate) fn unmet(&self) -> usize {
        self.state.lock().unwrap().plan.len()
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    async fn answer<B>(self, request: Request<B>) -> io::Result<Response<Body>>
    where
        B: axum::body::HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), 1 << 30).await.map_err(io::Error::other)?;
        let target = parts.uri.to_string();
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            let met = |(method, part, _): &(Method, &str, _)| {
                *method == parts.method && target.contains(part)
            };
            state.plan.iter().position(met).map(|at| state.plan.remove(at).2)
        };
        let closed = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        match fault {
            Some(Fault::SlowDown) => {
                return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
            }
            Some(Fault::LateError) => return Ok(error(StatusCode::OK, "InternalError")),
            Some(Fault::Dropped) => return closed(),
            Some(Fault::Forgotten) => self.state.lock().unwrap().uploads.clear(),
            Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
            _ => {}
        }
        let reply = self.act(&parts, body);
        match fault {
            Some(Fault::LostAnswer) => closed(),
            Some(Fault::CutBody) => Ok(cut(reply).await),
            _ => Ok(reply),
        }
    }

    fn act(&self, parts: &Parts, body: Bytes) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let key = parts.uri.path().trim_start_matches("/bucket").trim_start_matches('/');
        let url = reqwest::Url::parse(&format!("http://x{}", parts.uri)).unwrap();
        let query: Query = url.query_pairs().into_owned().collect();
        if query.contains_key("uploads") {
            let id = format!("u{}", state.requests);
            state.uploads.insert(id.clone(), BTreeMap::new());
            let answer = format!("<UploadId>{id}</UploadId>");
            return xml(format!(
                "<InitiateMultipartUploadResult>{answer}</InitiateMultipartUploadResult>"
            ));
        }
        match query.get("uploadId") {
            Some(id) if !state.uploads.contains_key(id) => no("NoSuchUpload"),
            Some(id) => state.part(id, key, &query, parts, body),
            None => state.object(key, &query, parts, body),
        }
    }
}

type Query = HashMap<String, String>;

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name).map(|value| value.to_str().unwrap())
}

/// An answer with an ETag in its head and its body, as copies and parts have.
fn tagged(element: &str, tag: &str) -> Response<Body> {
    let mut reply = xml(format!("<{element}><ETag>\"{tag}\"</ETag></{element}>"));
    reply.headers_mut().insert("etag", format!("\"{tag}\"").parse().unwrap());
    reply
}

impl State {
    /// A request about the upload `id`.
    fn part(
        &mut self,
        id: &str,
        key: &str,
        query: &Query,
        parts: &Parts,
        body: Bytes,
    ) -> Response<Body> {
        match parts.method {
            Method::PUT => {
                let bytes = match header(parts, "x-amz-copy-source-range") {
                    Some(range) => {
                        let (first, last) = ends(range);
                        self.source(parts).unwrap().slice(first..=last)
                    }
                    None => body,
                };
                let number = query["partNumber"].parse().unwrap();
                self.uploads.get_mut(id).unwrap().insert(number, bytes);
                tagged("CopyPartResult", "p")
            }
            Method::POST => {
                let parts: Vec<Bytes> = self.uploads.remove(id).unwrap().into_values().collect();
                self.objects.insert(key.to_owned(), parts.concat().into());
                tagged("CompleteMultipartUploadResult", "w")
            }
            _ => {
                self.uploads.remove(id);
                empty(StatusCode::NO_CONTENT)
            }
        }
    }

    /// The object that a request copies from.
    fn source(&self, parts: &Parts) -> Option<Bytes> {
        let source = header(parts, "x-amz-copy-source")?.trim_start_matches('/');
        Some(self.objects[source.strip_prefix("bucket/").unwrap()].clone())
    }

    /// A request about the object `key`, or the bucket.
    fn object(&mut self, key: &str, query: &Query, parts: &Parts, body: Bytes) -> Response<Body> {
        match parts.method {
            Method::POST => {
                // One key at a time is all that is asked here.
                let text = String::from_utf8_lossy(&body).into_owned();
                let key = text.split("<Key>").nth(1).unwrap().split("</Key>").next().unwrap();
                self.objects.remove(key);
                xml(format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>"))
            }
            Method::DELETE => {
                self.objects.remove(key);
                empty(StatusCode::NO_CONTENT)
            }
            Method::PUT => {
                let bytes = self.source(parts).unwrap_or(body);
                self.objects.insert(key.to_owned(), bytes);
                tagged("CopyObjectResult", "e")
            }
            _ if key.is_empty() => list(&self.objects, query),
            _ => match self.objects.get(key) {
                Some(bytes) => ranged(bytes, header(parts, "range"), &parts.method),
                None => no("NoSuchKey"),
            },
        }
    }
}

/// First and last byte of `bytes=a-b`.
fn ends(range: &str) -> (usize, usize) {
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

fn list(objects: &BTreeMap<String, Bytes>, query: &Query) -> Response<Body> {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let contents: String = objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, bytes)| {
            let size = bytes.len();
            format!("<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"e\"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>")
        })
        .collect();
    xml(format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"))
}

fn ranged(bytes: &Bytes, range: Option<&str>, method: &Method) -> Response<Body> {
    let length = bytes.len();
    let mut reply = Response::builder()
        .header("etag", format!("\"{:x}\"", bytes.iter().map(|b| u64::from(*b)).sum::<u64>()))
        .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    if *method == Method::HEAD {
        return reply.header("content-length", length).body(Body::empty()).unwrap();
    }
    let bytes = match range {
        Some(range) => {
            let (first, last) = ends(range);
            let last = last.min(length - 1);
            reply = reply
                .status(StatusCode::PARTIAL_CONTENT)
                .header("content-range", format!("bytes {first}-{last}/{length}"));
            bytes.slice(first..=last)
        }
        None => bytes.clone(),
    };
    reply.header("content-length", bytes.len()).body(Body::from(bytes)).unwrap()
}

/// The same reply with half of its body.
async fn cut(reply: Response<Body>) -> Response<Body> {
    let (parts, body) = reply.into_parts();
    let whole = to_bytes(body, 1 << 30).await.unwrap();
    let half = whole.slice(..whole.len() / 2);
    let parts_of_body = [Ok(half), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
    Response::from_parts(parts, Body::from_stream(futures_util::stream::iter(parts_of_body)))
}

fn xml(text: String) -> Response<Body> {
    Response::new(Body::from(text))
}

fn empty(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>as planned</Message></Error>");
    Response::builder().status(status).body(Body::from(text)).unwrap()
}

fn no(code: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, code)
}
