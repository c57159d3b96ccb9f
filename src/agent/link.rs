//! The agent's way to its region: one of a few addresses, one token.
//!
//! A call that fails turns to the next address; [`backoff`] says how long to
//! wait before the next try. Never decides what a failure means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::net::backoff::Backoff;
use crate::net::client::Client;

/// Most addresses of one region.
pub const REGION_URLS_MAX: usize = 16;
/// Shortest wait after a failure: below it a restarting region is only hammered.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait after failures: an agent notices a region's return within it.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A connection beside the poll's is closed after it: a region holds one for each of
/// 15,000 hosts, not two.
const IDLE: Duration = Duration::from_secs(2);

/// The waits between calls to a region that fail.
#[must_use]
pub fn backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
}

/// Addresses that are of no use.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a region's address; use http://host:port[,http://host:port]")]
pub struct InvalidUrls(String);

/// A region's addresses and the token for them; cheap to clone, shared by clones.
#[derive(Clone)]
pub struct Link {
    clients: Arc<[Client]>,
    at: Arc<AtomicUsize>,
}

impl Link {
    /// A link over `urls` (comma-separated, 1 to [`REGION_URLS_MAX`]) with a whole token text.
    ///
    /// # Errors
    /// When there is no URL, too many, or one without `http://` or `https://`.
    pub fn new(urls: &str, token: &str) -> Result<Self, InvalidUrls> {
        let parts: Vec<&str> =
            urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
        let sound = |url: &&str| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
        };
        if parts.is_empty() || parts.len() > REGION_URLS_MAX || !parts.iter().all(sound) {
            return Err(InvalidUrls(urls.chars().take(200).collect()));
        }
        let client = |url: &&str| Client::sparing(url, Some(token.trim().to_owned()), IDLE);
        Ok(Self { clients: parts.iter().map(client).collect(), at: Arc::default() })
    }

    /// A client of the address in use.
    #[must_use]
    pub fn client(&self) -> Client {
        self.clients[self.at.load(Ordering::Relaxed) % self.clients.len()].clone()
    }

    /// Says that `client` did not answer: the next address is used from now on, unless
    /// another caller turned to it already.
    pub fn failed(&self, client: &Client) {
        let at = self.at.load(Ordering::Relaxed);
        if self.clients[at % self.clients.len()].base() == client.base() {
            let next = (at + 1) % self.clients.len();
            let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_turns_to_the_next_address_once() {
        let link = Link::new("http://a:1, http://b:2", "dct_x").unwrap();
        let first = link.client();
        assert_eq!(first.base(), "http://a:1");
        link.failed(&first);
        link.failed(&first);
        assert_eq!(link.client().base(), "http://b:2");
        link.failed(&link.client());
        assert_eq!(link.client().base(), "http://a:1");
        for bad in ["", "a:1", "http://", "ftp://a", "http://a b"] {
            assert!(Link::new(bad, "t").is_err(), "{bad}");
        }
    }
}
