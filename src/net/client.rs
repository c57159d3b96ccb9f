//! The HTTP client of every role: JSON out, JSON or a problem back.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::net::body::{self, BodyError};
use crate::net::tls::TlsError;
use crate::net::trace;
use crate::wire::problem::{Code, Problem};

/// Time to make a connection: a dead peer must not hold anybody up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest JSON reply, bytes.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server refused, with a reason.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// No answer: not connected, cut off, or out of time.
    #[error("{url} can't be reached: {source}")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer that this version does not understand.
    #[error("{url} answered something unexpected: {why}")]
    BadReply {
        /// The server.
        url: String,
        /// What.
        why: String,
    },
}

impl CallError {
    /// The code of a refusal; [`Code::Unavailable`] when there was no answer at all.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(problem) => problem.code,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::BadReply { .. } => Code::Internal,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.code() == Code::Unavailable
    }
}

/// A client of one server, with its token; cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// A connection pool with this project's limits and TLS provider.
///
/// # Panics
/// Never in practice: the builder's options are constants.
#[must_use]
pub fn http_client() -> reqwest::Client {
    builder().build().expect("the client's options are constants")
}

/// The same, trusting only the certificate authorities in the PEM file at `ca`.
///
/// # Errors
/// When the file can't be read or holds no certificate.
pub fn http_client_trusting(ca: &Path) -> Result<reqwest::Client, TlsError> {
    let unusable = |why: String| TlsError::Pem { path: ca.display().to_string(), why };
    let pem = std::fs::read(ca).map_err(|e| unusable(e.to_string()))?;
    let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| unusable(e.to_string()))?;
    builder().tls_certs_only(roots).build().map_err(|e| unusable(e.to_string()))
}

/// A pool for `base`: for `http://` without any certificate authority, as reading the
/// system's costs 20 ms and 2 MB at each start.
fn pool(base: &str, builder: reqwest::ClientBuilder) -> reqwest::Client {
    let plain = base.starts_with("http://");
    let builder = if plain { builder.tls_certs_only([]) } else { builder };
    builder.build().expect("the client's options are constants")
}

pub(super) fn builder() -> reqwest::ClientBuilder {
    // An error means that another part of the process installed it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("deployctl/", env!("CARGO_PKG_VERSION")))
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:7878`.
    #[must_use]
    pub fn new(base: &str, token: Option<String>) -> Self {
        Self::pooled(base, token, builder())
    }

    /// The same, closing connections that were idle for `idle`: for a server with so many
    /// clients that each may hold only one.
    #[must_use]
    pub fn sparing(base: &str, token: Option<String>, idle: Duration) -> Self {
        Self::pooled(base, token, builder().pool_idle_timeout(idle))
    }

    fn pooled(base: &str, token: Option<String>, builder: reqwest::ClientBuilder) -> Self {
        let http = pool(base, builder);
        Self { http, base: base.trim_end_matches('/').to_owned(), token }
    }

    /// The same client over another connection pool, such as one that trusts a private CA.
    #[must_use]
    pub fn over(self, http: reqwest::Client) -> Self {
        Self { http, ..self }
    }

    /// The server's URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request for anything that is not JSON both ways.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = match trace::outgoing() {
            Some(part_of) => request.header(trace::HEADER, part_of),
            None => request,
        };
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The address of a server without TLS, and the head of a request to it up to the
    /// caller's own fields, for callers that read a body themselves; `None` with TLS.
    #[must_use]
    pub fn plain_head(&self, method: &str, path: &str) -> Option<(String, String)> {
        let rest = self.base.strip_prefix("http://")?;
        let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (_, after) = host.rsplit_once(']').unwrap_or(("", host));
        let address = if after.contains(':') { host.into() } else { format!("{host}:80") };
        let mut head = format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        Some((address, head))
    }

    /// Sends a request and reads its JSON; 204 reads as `null`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<T, CallError> {
        let reply = request.timeout(timeout).send().await.map_err(|e| self.unreachable(e))?;
        let status = reply.status();
        let bytes = self.body(reply, REPLY_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(self.refusal(status.as_u16(), &bytes));
        }
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes)
            .map_err(|e| CallError::BadReply { url: self.base.clone(), why: e.to_string() })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        timeout: Duration,
    ) -> Result<T, CallError> {
        self.send(self.request(reqwest::Method::GET, path), timeout).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, CallError> {
        self.send(self.request(reqwest::Method::POST, path).json(body), timeout).await
    }

    /// The refusal in a reply that is not a success.
    #[must_use]
    pub fn refusal(&self, status: u16, body: &[u8]) -> CallError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => CallError::Refused(Box::new(problem)),
            Err(_) if status == 503 || status == 429 || status == 502 => {
                CallError::Refused(Box::new(Problem::new(
                    Code::Unavailable,
                    format!("{} answered {status}", self.base),
                )))
            }
            Err(_) => {
                CallError::BadReply { url: self.base.clone(), why: format!("status {status}") }
            }
        }
    }

    /// A transport error as a [`CallError`].
    #[must_use]
    pub fn unreachable(&self, source: reqwest::Error) -> CallError {
        CallError::Unreachable { url: self.base.clone(), source: source.without_url() }
    }

    /// A reply's whole body, of at most `most` bytes.
    ///
    /// # Errors
    /// `Unreachable` when it broke off, `BadReply` when it is longer.
    pub async fn body(&self, reply: reqwest::Response, most: usize) -> Result<Vec<u8>, CallError> {
        body::whole(reply, most).await.map_err(|error| match error {
            BodyError::Broken(source) => self.unreachable(source),
            BodyError::TooLong(_) => {
                CallError::BadReply { url: self.base.clone(), why: error.to_string() }
            }
        })
    }
}

/// A server's URL as it is typed: `http://` or `https://` and a host.
///
/// # Errors
/// What it should look like.
pub fn server_url(text: &str) -> Result<String, String> {
    let is_one = reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
    });
    let wrong = || "write http:// or https:// and a host, such as http://127.0.0.1:7878".to_owned();
    if is_one { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// The same for several, with commas between.
///
/// # Errors
/// As for one.
pub fn server_urls(text: &str) -> Result<String, String> {
    let named = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    named.map(server_url).collect::<Result<Vec<_>, _>>().map(|urls| urls.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_a_server_is_refused_when_it_is_typed() {
        for url in ["http://127.0.0.1:7878", "https://deploy.example/at", "http://[::1]:1"] {
            assert_eq!(server_url(url).as_deref(), Ok(url));
        }
        for bad in ["foo", "127.0.0.1:7888", "http://", "file:///x", "http://a:1,http://b:2"] {
            assert!(server_url(bad).is_err(), "{bad}");
        }
        assert_eq!(server_urls("http://a:1, http://b:2,").as_deref(), Ok("http://a:1,http://b:2"));
        assert_eq!(server_urls("").as_deref(), Ok(""));
        assert!(server_urls("http://a:1,b:2").is_err());
    }

    #[test]
    fn a_plain_head_names_the_server_and_the_token() {
        let head = |base: &str| Client::new(base, Some("t".into())).plain_head("GET", "/x");
        let (address, text) = head("http://a:1/p/").unwrap();
        assert_eq!(address, "a:1");
        assert_eq!(text, "GET /p/x HTTP/1.1\r\nHost: a:1\r\nAuthorization: Bearer t\r\n");
        assert_eq!(head("http://a").unwrap().0, "a:80");
        assert_eq!(head("http://[::1]").unwrap().0, "[::1]:80");
        assert_eq!(head("http://[::1]:9").unwrap().0, "[::1]:9");
        assert_eq!(head("https://a:1"), None);
    }
}
