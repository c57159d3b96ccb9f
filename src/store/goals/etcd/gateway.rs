//! Calls of etcd's JSON gateway: any member, a deadline, a token that is renewed.
//!
//! A call goes to the member that answered last; one that does not answer, has no
//! leader or is full of requests is left for the next, with growing waits once
//! all were tried, until the deadline. Calls may arrive twice: what they do must bear it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::RwLock;
use tokio::time::Instant;

use crate::net::body::{self, BodyError};
use crate::store::goals::GoalError;
use crate::store::goals::etcd::address::Address;
use crate::store::goals::etcd::messages::{Refusal, SignIn, SignedIn};

/// Time to make a connection to one member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for one member to answer: longer than an election (1 to 2 s), shorter than
/// etcd's own limit (7 s), as another member may know the leader.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a call, whoever answers: an election, and every member of three tried.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// Waits after all members were tried, first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Largest answer, bytes: a page of keys is far smaller.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// Longest token or message of etcd that is kept, bytes.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// gRPC's codes, as `google.golang.org/grpc/codes` numbers them.
mod code {
    pub(super) const CANCELED: u32 = 1;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const DEADLINE_EXCEEDED: u32 = 4;
    pub(super) const PERMISSION_DENIED: u32 = 7;
    pub(super) const ABORTED: u32 = 10;
    pub(super) const OUT_OF_RANGE: u32 = 11;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

/// Why one member did not do what was asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another member, or the same one later, may.
    Passing(String),
    /// The token is not good, or no longer.
    Token(String),
    /// The revision asked for was compacted.
    Compacted,
    /// It never will.
    Refused(String),
}

/// A client of one etcd.
pub(super) struct Gateway {
    http: reqwest::Client,
    address: Address,
    /// The member that answered last.
    favourite: AtomicUsize,
    token: RwLock<Option<String>>,
}

impl Gateway {
    /// A client of the etcd at `address`; calls nobody yet.
    ///
    /// # Errors
    /// When a file of the address can't be used.
    pub(super) fn new(address: Address) -> Result<Self, GoalError> {
        // An error means that another part of the process installed it first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let unusable =
            |file: &std::path::Path, why: String| GoalError::File { file: file.to_owned(), why };
        let read = |file: &std::path::Path| {
            std::fs::read(file).map_err(|error| unusable(file, error.to_string()))
        };
        if let Some(ca) = &address.ca {
            let roots = reqwest::Certificate::from_pem_bundle(&read(ca)?)
                .map_err(|error| unusable(ca, error.to_string()))?;
            builder = builder.tls_certs_only(roots);
        } else if address.members.iter().all(|member| member.starts_with("http://")) {
            // Reading the system's authorities costs 20 ms and 2 MB.
            builder = builder.tls_certs_only([]);
        }
        if let Some((cert, key)) = &address.identity {
            let pem = [read(key)?, read(cert)?].concat();
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| unusable(cert, error.to_string()))?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|error| GoalError::Refused {
            store: address.members.join(","),
            why: error.to_string(),
        })?;
        Ok(Self { http, address, favourite: AtomicUsize::new(0), token: RwLock::new(None) })
    }

    /// The first part of every key.
    pub(super) fn prefix(&self) -> &str {
        &self.address.prefix
    }

    /// Calls `path`, on whichever member answers.
    ///
    /// # Errors
    /// [`GoalError`] when none did before the deadline, or etcd refused.
    /// `Ok(None)`: the revision asked for was compacted.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<T>, GoalError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        let (mut tried, mut renewed, mut pause) = (0_usize, false, PAUSE.0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let member = self.favourite.load(Ordering::Relaxed) % self.address.members.len();
            let why = match self.ask(member, path, body, left.min(TRY_TIMEOUT)).await {
                Ok(reply) => return Ok(Some(reply)),
                Err(Fault::Compacted) => return Ok(None),
                Err(Fault::Refused(why)) => return Err(self.refused(why)),
                Err(Fault::Token(why)) if renewed || self.address.user.is_none() => {
                    return Err(self.refused(why));
                }
                Err(Fault::Token(_)) => {
                    renewed = true;
                    *self.token.write().await = None;
                    continue;
                }
                Err(Fault::Passing(why)) => why,
            };
            tried += 1;
            self.leave(member);
            let mut now = Instant::now();
            if tried.is_multiple_of(self.address.members.len()) {
                tokio::time::sleep(pause.min(deadline.saturating_duration_since(now))).await;
                pause = (pause * 2).min(PAUSE.1);
                now = Instant::now();
            }
            if now >= deadline {
                return Err(GoalError::Unreachable { store: self.name(), why });
            }
        }
    }

    /// Begins a stream from whichever member takes it, with that member's place.
    ///
    /// # Errors
    /// When the member at hand does not; the next call asks another.
    pub(super) async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(usize, reqwest::Response), Fault> {
        let member = self.favourite.load(Ordering::Relaxed) % self.address.members.len();
        // A member that was cut off from its cluster must end the stream.
        let opened = async {
            let request = self.request(member, path, body).await?;
            let reply = request.header("Grpc-Metadata-hasleader", "true").send().await;
            let reply = reply.map_err(|error| passing(&error))?;
            if reply.status().is_success() { Ok(reply) } else { Err(refusal(reply).await) }
        };
        let opened = tokio::time::timeout(TRY_TIMEOUT, opened).await;
        match opened.unwrap_or_else(|_| Err(Fault::Passing("no answer in time".into()))) {
            Ok(reply) => Ok((member, reply)),
            Err(fault) => {
                if matches!(fault, Fault::Token(_)) {
                    *self.token.write().await = None;
                }
                self.leave(member);
                Err(fault)
            }
        }
    }

    /// The next call goes to another member than `member`.
    pub(super) fn leave(&self, member: usize) {
        let next = (member + 1) % self.address.members.len();
        // Whoever left it first has chosen already.
        let _ = self.favourite.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// `http://host:port` or `https://host:port` of each member.
    pub(super) fn members(&self) -> &[String] {
        &self.address.members
    }

    /// Calls one member, and no other.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        member: usize,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, Fault> {
        let asked = async {
            let reply = self.request(member, path, body).await?.send().await;
            let reply = reply.map_err(|error| passing(&error))?;
            if !reply.status().is_success() {
                return Err(refusal(reply).await);
            }
            let bytes = read(reply, REPLY_BYTES_MAX).await?;
            serde_json::from_slice(&bytes)
                .map_err(|error| Fault::Refused(format!("an answer that is not etcd's: {error}")))
        };
        let asked = tokio::time::timeout(within, asked).await;
        asked.unwrap_or_else(|_| Err(Fault::Passing("no answer in time".into())))
    }

    async fn request(
        &self,
        member: usize,
        path: &str,
        body: &impl Serialize,
    ) -> Result<reqwest::RequestBuilder, Fault> {
        let request = self.http.post(format!("{}{path}", self.address.members[member])).json(body);
        Ok(match self.token(member).await? {
            Some(token) => request.header("Authorization", token),
            None => request,
        })
    }

    /// The token at hand, or a new one; `None` where nobody signs in.
    async fn token(&self, member: usize) -> Result<Option<String>, Fault> {
        let Some(user) = &self.address.user else { return Ok(None) };
        if let Some(token) = self.token.read().await.clone() {
            return Ok(Some(token));
        }
        let mut token = self.token.write().await;
        if token.is_none() {
            *token = Some(self.sign_in(member, user).await?);
        }
        Ok(token.clone())
    }

    async fn sign_in(&self, member: usize, user: &str) -> Result<String, Fault> {
        let file = self.address.password_file.as_deref().unwrap_or(std::path::Path::new(""));
        // Read each time: a password may change while this runs.
        let password = std::fs::read_to_string(file)
            .map_err(|error| Fault::Refused(format!("{}: {error}", file.display())))?;
        let url = format!("{}/v3/auth/authenticate", self.address.members[member]);
        let body = SignIn { name: user, password: password.trim_end_matches(['\r', '\n']) };
        let reply = self.http.post(url).json(&body).send().await;
        let reply = reply.map_err(|error| passing(&error))?;
        if !reply.status().is_success() {
            return Err(match refusal(reply).await {
                Fault::Token(why) | Fault::Refused(why) => {
                    Fault::Refused(format!("user {user:?}: {why}"))
                }
                other => other,
            });
        }
        let bytes = read(reply, WORDS_BYTES_MAX).await?;
        let signed: Result<SignedIn, _> = serde_json::from_slice(&bytes);
        signed.map(|signed| signed.token).map_err(|error| Fault::Refused(error.to_string()))
    }

    fn name(&self) -> String {
        self.address.members.join(",")
    }

    fn refused(&self, why: String) -> GoalError {
        GoalError::Refused { store: self.name(), why }
    }
}

/// The whole of a body that is at most `most` bytes.
async fn read(reply: reqwest::Response, most: usize) -> Result<Vec<u8>, Fault> {
    body::whole(reply, most).await.map_err(|error| match error {
        BodyError::Broken(error) => passing(&error),
        BodyError::TooLong(_) => Fault::Refused(error.to_string()),
    })
}

fn passing(error: &reqwest::Error) -> Fault {
    let mut why = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    // The last one says what the matter is; those before it wrap it.
    while let Some(error) = cause {
        why = error.to_string();
        cause = error.source();
    }
    Fault::Passing(why)
}

async fn refusal(reply: reqwest::Response) -> Fault {
    let status = reply.status().as_u16();
    let bytes = read(reply, WORDS_BYTES_MAX).await.unwrap_or_default();
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&bytes) else {
        let why = format!("status {status}, and not from etcd");
        return if status >= 500 { Fault::Passing(why) } else { Fault::Refused(why) };
    };
    let why = if refusal.message.is_empty() { refusal.error } else { refusal.message };
    fault(refusal.code, why)
}

/// What a refusal of etcd means, by its code and its words (its `rpctypes`).
fn fault(code: u32, why: String) -> Fault {
    let stale = ["invalid auth token", "revision of auth store is old", "user name is empty"];
    match code {
        code::OUT_OF_RANGE if why.contains("compacted") => Fault::Compacted,
        code::UNAUTHENTICATED => Fault::Token(why),
        code::INVALID_ARGUMENT if stale.iter().any(|words| why.contains(words)) => {
            Fault::Token(why)
        }
        code::CANCELED
        | code::UNKNOWN
        | code::DEADLINE_EXCEEDED
        | code::ABORTED
        | code::UNAVAILABLE => Fault::Passing(why),
        code::PERMISSION_DENIED => {
            Fault::Refused(format!("{why}; grant the user readwrite on the prefix"))
        }
        _ => Fault::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let of = |code, why: &str| fault(code, why.to_owned());
        assert!(matches!(
            of(11, "etcdserver: mvcc: required revision has been compacted"),
            Fault::Compacted
        ));
        assert!(matches!(of(16, "etcdserver: invalid auth token"), Fault::Token(_)));
        assert!(matches!(of(3, "etcdserver: user name is empty"), Fault::Token(_)));
        assert!(matches!(of(3, "etcdserver: key is not provided"), Fault::Refused(_)));
        assert!(matches!(of(14, "etcdserver: no leader"), Fault::Passing(_)));
        assert!(matches!(of(8, "etcdserver: mvcc: database space exceeded"), Fault::Refused(_)));
        let Fault::Refused(denied) = of(7, "etcdserver: permission denied") else { panic!() };
        assert!(denied.contains("grant the user readwrite"), "{denied}");
    }
}
