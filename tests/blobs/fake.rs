//! An S3 server in this process that fails as it is told to. It checks no signatures;
//! the real server does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
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

    fn act(&self, parts: &axum::http::request::Parts, body: Bytes) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let key = parts.uri.path().trim_start_matches("/bucket").trim_start_matches('/').to_owned();
        let query: HashMap<String, String> = reqwest::Url::parse(&format!("http://x{}", parts.uri))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap());
        match (&parts.method, query.get("uploadId"), query.contains_key("uploads")) {
            (&Method::POST, _, true) => {
                let id = format!("u{}", state.requests);
                state.uploads.insert(id.clone(), BTreeMap::new());
                xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            (&Method::PUT, Some(id), _) => {
                let Some(upload) = state.uploads.get_mut(id) else { return no("NoSuchUpload") };
                let part = match header("x-amz-copy-source") {
                    Some(source) => {
                        let (first, last) = header("x-amz-copy-source-range")
                            .unwrap()
                            .strip_prefix("bytes=")
                            .unwrap()
                            .split_once('-')
                            .unwrap();
                        let source = source.strip_prefix("/bucket/").unwrap();
                        state.objects[source]
                            .slice(first.parse().unwrap()..last.parse::<usize>().unwrap() + 1)
                    }
                    None => body,
                };
                upload.insert(query["partNumber"].parse().unwrap(), part);
                let mut reply = xml("<CopyPartResult><ETag>\"p\"</ETag></CopyPartResult>".into());
                reply.headers_mut().insert("etag", "\"p\"".parse().unwrap());
                reply
            }
            (&Method::POST, Some(id), _) => {
                let Some(upload) = state.uploads.remove(id) else { return no("NoSuchUpload") };
                let whole: Vec<Bytes> = upload.into_values().collect();
                state.objects.insert(key, whole.concat().into());
                xml("<CompleteMultipartUploadResult><ETag>\"w\"</ETag></CompleteMultipartUploadResult>".into())
            }
            (&Method::DELETE, Some(id), _) => match state.uploads.remove(id) {
                Some(_) => empty(StatusCode::NO_CONTENT),
                None => no("NoSuchUpload"),
            },
            (&Method::POST, ..) if query.contains_key("delete") => {
                // One key at a time is all that is asked here.
                let text = String::from_utf8_lossy(&body).into_owned();
                let key = text.split("<Key>").nth(1).unwrap().split("</Key>").next().unwrap();
                state.objects.remove(key);
                xml(format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>"))
            }
            (&Method::DELETE, ..) => {
                state.objects.remove(&key);
                empty(StatusCode::NO_CONTENT)
            }
            (&Method::PUT, ..) => {
                let bytes = match header("x-amz-copy-source") {
                    Some(source) => state.objects
                        [source.trim_start_matches('/').strip_prefix("bucket/").unwrap()]
                    .clone(),
                    None => body,
                };
                state.objects.insert(key, bytes);
                let mut reply =
                    xml("<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>".into());
                reply.headers_mut().insert("etag", "\"e\"".parse().unwrap());
                reply
            }
            (&Method::GET, ..) if key.is_empty() => list(&state.objects, &query),
            _ => match state.objects.get(&key) {
                Some(bytes) => ranged(bytes, header("range"), &parts.method),
                None => no("NoSuchKey"),
            },
        }
    }
}

fn list(objects: &BTreeMap<String, Bytes>, query: &HashMap<String, String>) -> Response<Body> {
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
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
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
