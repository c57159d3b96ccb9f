//! Calls of the page to the API, inside the process: the same routes, the same
//! permission by role, the same refusals as for any other client.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use crate::coordinator::state::Shared;
use crate::coordinator::web::{Pages, Web};
use crate::net::auth::Identity;
use crate::rules::authorize::{Class, may};
use crate::wire::problem::{Code, Problem};

/// Largest reply that is read, bytes; the largest is a page of 500 builds.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// The API, as one person may use it.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) web: Pages,
    who: Identity,
}

impl Calls {
    /// The API as `who` may use it.
    pub(super) fn new(web: &Pages, who: Identity) -> Self {
        Self { web: web.clone(), who }
    }

    /// Whether the person may call routes of `class`.
    pub(super) fn may(&self, class: Class) -> bool {
        may(self.who.role, class)
    }

    /// Why the person may not press a button; `None`: nothing speaks against it.
    pub(super) fn barred(&self, class: Class) -> Option<String> {
        let role = self.who.role.word();
        (!self.may(class)).then(|| format!("a token of role {role} may only look"))
    }

    /// The coordinator.
    pub(super) fn shared(&self) -> &Shared {
        let web: &Web = &self.web;
        &web.shared
    }

    /// `GET path`.
    ///
    /// # Errors
    /// As the API refuses it.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.send(Request::get(path), Body::empty()).await
    }

    /// `POST path` under an idempotency key, when there is one.
    ///
    /// # Errors
    /// As the API refuses it.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, Problem> {
        let mut request = Request::builder().method(Method::POST).uri(path);
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.send(request, Body::from(body)).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: axum::http::request::Builder,
        body: Body,
    ) -> Result<T, Problem> {
        let malformed = |_| Problem::new(Code::Usage, "the form is not well formed");
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .extension(self.who.clone())
            .body(body)
            .map_err(malformed)?;
        let reply = match self.web.api.clone().oneshot(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        };
        let good = reply.status().is_success();
        let broken = |_| Problem::new(Code::Internal, "a reply inside the coordinator is broken");
        let bytes = axum::body::to_bytes(reply.into_body(), REPLY_BYTES_MAX)
            .await
            .map_err(|_| Problem::new(Code::Internal, "a reply inside the coordinator is long"))?;
        if good {
            return serde_json::from_slice(&bytes).map_err(broken);
        }
        Err(serde_json::from_slice(&bytes).map_err(broken)?)
    }
}
