//! The coordinator's API as commands use it: one function per call.
//!
//! Owns paths, queries and retries. A change is sent with one `Idempotency-Key` for
//! all its tries, so a lost reply never does a thing twice.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::failure::Failure;
use crate::model::digest::to_hex;
use crate::model::id::{AppName, EnvName, JobNo, ReleaseNo};
use crate::net::auth::random_key;
use crate::net::client::{CallError, Client};
use crate::wire::v1::app::{App, Apps};
use crate::wire::v1::build::{Build, BuildLog, BuildRequest, Builds};
use crate::wire::v1::event::Events;
use crate::wire::v1::fleet::Status;
use crate::wire::v1::rollout::{Releases, Rollout, RolloutRequest};

/// Longest wait that is asked of the coordinator in one long poll.
const POLL: Duration = Duration::from_secs(25);
/// Pauses between tries of one call.
const RETRY: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(500), Duration::from_millis(1200)];

/// The API, as one command sees it.
pub struct Api {
    client: Client,
    timeout: Duration,
    trace: bool,
}

impl Api {
    /// The API of the coordinator that `ctx` is about.
    ///
    /// # Errors
    /// As [`Context::client`].
    pub fn new(ctx: &Context) -> Result<Self, Failure> {
        Ok(Self {
            client: ctx.client()?,
            timeout: ctx.flags.request_timeout,
            trace: ctx.flags.verbose > 1,
        })
    }

    /// The coordinator's URL.
    #[must_use]
    pub fn server(&self) -> &str {
        self.client.base()
    }

    /// `GET path`, tried again while the coordinator is busy or starting.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.get_within(path, self.timeout).await
    }

    /// `GET path` that the coordinator may hold for `wait_ms` before it answers.
    async fn poll<T: DeserializeOwned>(&self, path: &str, left: Duration) -> Result<T, CallError> {
        let wait = POLL.min(left);
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}wait_ms={}", wait.as_millis());
        self.trace("GET", &path);
        self.client.get(&path, wait + self.timeout).await
    }

    async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        timeout: Duration,
    ) -> Result<T, CallError> {
        self.trace("GET", path);
        let end = Instant::now() + timeout;
        for pause in RETRY {
            match self.client.get(path, end.saturating_duration_since(Instant::now())).await {
                // Nobody listens there: a person wants to know now.
                Err(error) if error.is_transient() && !is_refused_connection(&error) => {
                    if Instant::now() + pause >= end {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
                reply => return reply,
            }
        }
        self.client.get(path, end.saturating_duration_since(Instant::now())).await
    }

    /// Sends a change, all tries under one key.
    ///
    /// # Errors
    /// As the coordinator refuses it; exit code 5 with a warning when it may have
    /// happened but no reply came.
    pub async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.trace(method.as_str(), path);
        let key = to_hex(&random_key()[..16]);
        let mut uncertain = false;
        for pause in RETRY.into_iter().map(Some).chain([None]) {
            let request = self.client.request(method.clone(), path).json(body);
            let request = request.header("idempotency-key", &key);
            let error = match self.client.send(request, self.timeout).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let refused = is_refused_connection(&error);
            let lost = matches!(error, CallError::Unreachable { .. }) && !refused;
            uncertain |= lost;
            let again = lost || (error.is_transient() && (uncertain || !refused));
            match pause {
                Some(pause) if again => tokio::time::sleep(pause).await,
                _ => return Err(may_have_started(error, uncertain)),
            }
        }
        unreachable!("the last try returns")
    }

    /// Every app.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn apps(&self) -> Result<Apps, CallError> {
        self.get("/v1/apps").await
    }

    /// One app.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn app(&self, app: &AppName) -> Result<App, CallError> {
        self.get(&format!("/v1/apps/{app}")).await
    }

    /// What runs where.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(
        &self,
        app: Option<&AppName>,
        env: Option<&EnvName>,
    ) -> Result<Status, CallError> {
        let query = [("app", app.map(AppName::as_str)), ("env", env.map(EnvName::as_str))];
        self.get(&with_query("/v1/status", query)).await
    }

    /// Queues a build, or finds the one of the same app and commit.
    ///
    /// # Errors
    /// As the coordinator refuses it.
    pub async fn queue_build(
        &self,
        app: &AppName,
        request: &BuildRequest,
    ) -> Result<Build, Failure> {
        self.change(Method::POST, &format!("/v1/apps/{app}/builds"), request).await
    }

    /// One build.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn build(&self, build: JobNo) -> Result<Build, CallError> {
        self.get(&format!("/v1/builds/{build}")).await
    }

    /// Builds, newest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn builds(&self, query: &[(&str, String)]) -> Result<Builds, CallError> {
        let query = query.iter().map(|(key, value)| (*key, Some(value.as_str())));
        self.get(&with_query("/v1/builds", query)).await
    }

    /// A build's log from byte `from`; held back up to `wait` for more.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn build_log(
        &self,
        build: JobNo,
        from: u64,
        wait: Duration,
    ) -> Result<BuildLog, CallError> {
        self.poll(&format!("/v1/builds/{build}/log?from={from}"), wait).await
    }

    /// Events after `since`; held back up to `wait` for more.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn events(
        &self,
        app: Option<&AppName>,
        since: u64,
        wait: Duration,
    ) -> Result<Events, CallError> {
        let since = since.to_string();
        let query = [("since", Some(since.as_str())), ("app", app.map(AppName::as_str))];
        self.poll(&with_query("/v1/events", query), wait).await
    }

    /// Events before `before`, newest first, at most 500.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn events_before(
        &self,
        app: Option<&AppName>,
        before: u64,
    ) -> Result<Events, CallError> {
        let before = before.to_string();
        let query = [("before", Some(before.as_str())), ("app", app.map(AppName::as_str))];
        self.get(&with_query("/v1/events", query)).await
    }

    /// No event, and the cursor after the newest.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn newest_event(&self) -> Result<Events, CallError> {
        self.get("/v1/events").await
    }

    /// Starts a rollout, or joins an equal one.
    ///
    /// # Errors
    /// As the coordinator refuses it.
    pub async fn start_rollout(
        &self,
        app: &AppName,
        env: &EnvName,
        request: &RolloutRequest,
    ) -> Result<Rollout, Failure> {
        let path = format!("/v1/apps/{app}/envs/{env}/rollouts");
        self.change(Method::POST, &path, request).await
    }

    /// A rollout; held back up to `wait` until its stamp is above `since`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn rollout(
        &self,
        of: &RolloutId,
        since: u64,
        wait: Duration,
    ) -> Result<Rollout, CallError> {
        let path = of.path();
        if wait.is_zero() {
            return self.get(&path).await;
        }
        self.poll(&format!("{path}?since={since}"), wait).await
    }

    /// Promotes, cancels or retries a rollout.
    ///
    /// # Errors
    /// As the coordinator refuses it.
    pub async fn steer_rollout(
        &self,
        of: &RolloutId,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<Rollout, Failure> {
        self.change(Method::POST, &format!("{}/{verb}", of.path()), body).await
    }

    /// History, newest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn releases(
        &self,
        app: &AppName,
        env: &EnvName,
        limit: u32,
    ) -> Result<Releases, CallError> {
        self.get(&format!("/v1/apps/{app}/envs/{env}/releases?limit={limit}")).await
    }

    /// History of all apps and envs, or of these, newest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn releases_of_all(
        &self,
        (app, env): (Option<&AppName>, Option<&EnvName>),
        within: Option<Duration>,
        limit: u32,
    ) -> Result<Releases, CallError> {
        let mut path = format!("/v1/releases?limit={limit}");
        let within = within.map(|within| within.as_secs().to_string());
        let app = app.map(|app| ("app", app.to_string()));
        let env = env.map(|env| ("env", env.to_string()));
        for (name, value) in [app, env, within.map(|it| ("within_s", it))].into_iter().flatten() {
            path.push_str(&format!("&{name}={value}"));
        }
        self.get(&path).await
    }

    fn trace(&self, method: &str, path: &str) {
        if self.trace {
            tracing::debug!(method, path, server = self.client.base(), "request");
        }
    }
}

/// Which rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutId {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The release that it tries.
    pub release: ReleaseNo,
}

impl RolloutId {
    /// The id of a rollout that the coordinator sent.
    #[must_use]
    pub fn of(rollout: &Rollout) -> Self {
        let release = &rollout.release;
        Self { app: release.app.clone(), env: release.env.clone(), release: release.release }
    }

    fn path(&self) -> String {
        format!("/v1/apps/{}/envs/{}/rollouts/{}", self.app, self.env, self.release)
    }
}

/// `path` with the parts of a query that are there.
pub fn with_query<'a>(
    path: &str,
    query: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> String {
    let mut text = path.to_owned();
    for (key, value) in query.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

/// Whether nothing can have arrived: the connection was never made.
#[must_use]
fn is_refused_connection(error: &CallError) -> bool {
    matches!(error, CallError::Unreachable { source, .. } if source.is_connect())
}

fn may_have_started(error: CallError, uncertain: bool) -> Failure {
    let failure = Failure::from(error);
    if uncertain && failure.code == super::failure::ExitCode::Unreachable {
        return failure
            .because("the request was sent, and no reply came: it may have started")
            .hint("look: deployctl status");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_leave_out_what_is_not_there_and_escape_the_rest() {
        let query = [("app", Some("a b&c")), ("env", None), ("since", Some("4"))];
        assert_eq!(with_query("/v1/x", query), "/v1/x?app=a%20b%26c&since=4");
    }
}
