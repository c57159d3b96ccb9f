//! The HTTP server of every role: limits, problems, graceful stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::net::tls::Security;

use crate::wire::problem::{Code, Problem};

/// Time for a client to send its request head; without a timer hyper's own
/// limit is silently inert [reliability-security 1.3].
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a client to send its request body: the largest over a line of 4 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request that is under way may still take once a stop was asked for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long connections have to end after that.
const DRAIN: Duration = Duration::from_secs(3);
/// Largest JSON request body, bytes. Regions' reports are the largest.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes of a reply that wait in memory for one connection's link. Much less than a
/// piece: what paces itself by what was sent must see that it was.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// And that wait in the kernel: it would take a whole piece at once, and what was sent
/// would be what it took.
const UNSENT_BYTES: u32 = 64 << 10;
/// Connections of one listener: a process may open 20,000 files.
const CONNECTIONS_MAX: usize = 18_000;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut reply = (status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.code == Code::Unavailable {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        reply
    }
}

/// A JSON body in, bounded, with problems for errors; JSON out.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read(request.into_body(), BODY_TIMEOUT).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            Problem::new(Code::Usage, "request body is not what this path takes").because(e)
        })
    }
}

/// A whole body, bounded in length and in time.
async fn read(body: Body, within: Duration) -> Result<Bytes, Problem> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX);
    let Ok(bytes) = tokio::time::timeout(within, bytes).await else {
        return Err(Problem::new(Code::Usage, "the request body did not come in time")
            .because(format!("it may take {} s", within.as_secs())));
    };
    bytes.map_err(|_| {
        Problem::new(Code::TooLarge, format!("request body is over {BODY_BYTES_MAX} bytes"))
    })
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(e) => Problem::new(Code::Internal, "a reply could not be written")
                .because(e)
                .into_response(),
        }
    }
}

/// A query string in, with problems for errors.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|e| {
            Problem::new(Code::Usage, "the query is not what this path takes")
                .because(e.body_text())
        })
    }
}

/// A path's parameters in, with problems for errors.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|e| {
            Problem::new(Code::Usage, "the path is not well formed").because(e.body_text())
        })
    }
}

/// Serves `router` on plain HTTP until `stop` turns true; see [`serve_on`].
pub async fn serve(listener: TcpListener, router: Router, stop: watch::Receiver<bool>) {
    serve_on(listener, Security::Plain, router, stop).await;
}

/// Serves `router` until `stop` turns true, then gives open requests a second to end.
/// The peer's address is in each request's extensions as a [`SocketAddr`].
pub async fn serve_on(
    listener: TcpListener,
    security: Security,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let router =
        router.layer(axum::middleware::from_fn_with_state(stop.clone(), end_when_stopping));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, address)) = accepted else {
            // Out of files: wait for some connection to end rather than spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        // Without it turns at the store end early; nothing else depends on it.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
        let (router, watcher) = (router.clone(), graceful.watcher());
        let connection = Connection { address, router, watcher, slot };
        // Two kinds of tasks: one that waits in plain HTTP has no room for TLS in it.
        match &security {
            Security::Plain => drop(tokio::spawn(connection.talk(stream))),
            Security::Tls(acceptor) => {
                drop(tokio::spawn(connection.shake_hands(stream, acceptor.clone())));
            }
        }
    }
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

/// Long polls would hold a stop up for a minute: they are told to try elsewhere.
async fn end_when_stopping(
    State(mut stop): State<watch::Receiver<bool>>,
    request: Request,
    next: Next,
) -> Response {
    let stopped = async {
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        reply = next.run(request) => reply,
        () = stopped => Problem::new(Code::Unavailable, "this process is stopping").into_response(),
    }
}

/// A connection that was accepted, and what serves it.
struct Connection {
    address: SocketAddr,
    router: Router,
    watcher: Watcher,
    slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn shake_hands(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let shaken = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await;
        if let Ok(Ok(stream)) = shaken {
            // A client that goes away is no news.
            let _ = self.talk(stream).await;
        }
    }

    /// From the first request to the last. No `async fn`: its future would hold the
    /// connection twice, and a region has 15,000 of them that wait.
    fn talk<S>(self, stream: S) -> impl Future<Output = Result<(), hyper::Error>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { address, router, watcher, slot } = self;
        let slot = Arc::new(slot);
        // Not a layer of the router: it would copy every route for every connection.
        let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
            let _held_as_long_as_this = &slot;
            request.extensions_mut().insert(address);
            request
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(64);
        http.max_buf_size(SEND_BUFFER_BYTES);
        let service = TowerToHyperService::new(service);
        watcher.watch(http.serve_connection(TokioIo::new(stream), service))
    }
}

/// Turns true on SIGTERM or SIGINT.
#[must_use]
pub fn stop_signal() -> watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        sender.send_replace(true);
        // A second signal means now.
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(130);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_never_ends_holds_nobody_up() {
        let drip = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let refused = read(Body::from_stream(drip), Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(refused.code, Code::Usage);
        let whole = read(Body::from("{}"), BODY_TIMEOUT).await.unwrap();
        assert_eq!(&whole[..], b"{}");
    }
}
