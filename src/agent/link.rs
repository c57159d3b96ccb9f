//! The agent's way to its region: one of a few addresses, one token.
//!
//! A call that fails turns to the next address; [`backoff`] says how long to
//! wait before the next try. Never decides what a failure means. A region with several
//! processes tells which of them live: then each host has one of its own.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::model::id::HostId;
use crate::net::backoff::Backoff;
use crate::net::client::Client;
use crate::rules::rendezvous;

/// Most addresses of one region.
pub const REGION_URLS_MAX: usize = 16;
/// Shortest wait after a failure: below it a restarting region is only hammered.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait after failures: an agent of a large region notices its return within it, one
/// of a small region within two report intervals [`crate::agent::report::Reporter::wait_max`].
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A connection beside the poll's is closed after it: a region holds one for each of
/// 15,000 hosts, not two.
const IDLE: Duration = Duration::from_secs(2);

/// How long an address that failed is left alone while another one answers.
const SHUNNED: Duration = Duration::from_secs(15);

/// The waits between calls to a region that fail.
#[must_use]
pub fn backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
}

/// Addresses that are of no use.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a region's address; use http://host:port[,http://host:port]")]
pub struct InvalidUrls(String);

/// One address.
struct Place {
    client: Client,
    /// It failed; others are better until then.
    shunned: Option<Instant>,
}

/// The addresses in the order in which they are to be called.
struct Places {
    /// As configured.
    given: Vec<String>,
    /// The region's processes, as it told.
    told: Vec<String>,
    order: Vec<Place>,
    at: usize,
}

/// A region's addresses and the token for them; cheap to clone, shared by clones.
#[derive(Clone)]
pub struct Link {
    token: Arc<str>,
    places: Arc<RwLock<Places>>,
}

impl Link {
    /// A link over `urls` (comma-separated, 1 to [`REGION_URLS_MAX`]) with a whole token text.
    ///
    /// # Errors
    /// When there is no URL, too many, or one without `http://` or `https://`.
    pub fn new(urls: &str, token: &str) -> Result<Self, InvalidUrls> {
        let parts = urls.split(',').map(|url| url.trim().trim_end_matches('/'));
        let given: Vec<String> = parts.filter(|url| !url.is_empty()).map(str::to_owned).collect();
        if given.is_empty()
            || given.len() > REGION_URLS_MAX
            || !given.iter().all(|url| is_sound(url))
        {
            return Err(InvalidUrls(urls.chars().take(200).collect()));
        }
        let token: Arc<str> = token.trim().into();
        let place = |url: &String| Place { client: client(url, &token), shunned: None };
        let order = given.iter().map(place).collect();
        let places = Arc::new(RwLock::new(Places { given, told: vec![], order, at: 0 }));
        Ok(Self { token, places })
    }

    /// A client of the address in use.
    #[must_use]
    pub fn client(&self) -> Client {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.order[places.at].client.clone()
    }

    /// Says that `client` did not answer: another address is used from now on, unless
    /// another caller turned to it already.
    pub fn failed(&self, client: &Client) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let at = places.at;
        if places.order[at].client.base() != client.base() {
            return;
        }
        let now = Instant::now();
        places.order[at].shunned = Some(now + SHUNNED);
        places.at = places.best(now).unwrap_or((at + 1) % places.order.len());
    }

    /// Takes the region's word on its processes: `host` calls the one that is first for it,
    /// and what was configured when none of them answers. Nothing is taken when they are not
    /// as well protected as the configured ones.
    pub fn told(&self, processes: &[String], host: &HostId) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let safe = places.given.iter().all(|url| url.starts_with("https://"));
        let bad = |url: &String| !is_sound(url) || (safe && !url.starts_with("https://"));
        if processes.is_empty() || processes.len() > REGION_URLS_MAX || processes.iter().any(bad) {
            return;
        }
        let now = Instant::now();
        if places.told != processes {
            places.told = processes.to_vec();
            let names = processes.iter().map(String::as_str);
            let order = rendezvous::order(host.as_str().as_bytes(), names);
            let given = places.given.clone();
            let rest = given.iter().map(String::as_str).filter(|url| !order.contains(url));
            let mut known = std::mem::take(&mut places.order);
            let mut place = |url: &str| {
                let at = known.iter().position(|place| place.client.base() == url);
                at.map_or_else(
                    || Place { client: client(url, &self.token), shunned: None },
                    |at| known.swap_remove(at),
                )
            };
            let ordered: Vec<Place> = order.iter().copied().chain(rest).map(&mut place).collect();
            places.order = ordered;
        }
        places.at = places.best(now).unwrap_or(0);
    }
}

impl Places {
    /// The first that did not fail lately.
    fn best(&self, now: Instant) -> Option<usize> {
        // Configured addresses have no first: whoever answers is kept.
        let from = if self.told.is_empty() { self.at } else { 0 };
        let count = self.order.len();
        let free = |at: &usize| self.order[*at].shunned.is_none_or(|until| until <= now);
        (from..from + count).map(|at| at % count).find(free)
    }
}

fn client(url: &str, token: &str) -> Client {
    Client::sparing(url, Some(token.to_owned()), IDLE)
}

fn is_sound(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
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
        assert_eq!(Link::new("http://a/", "t").unwrap().client().base(), "http://a");
        for bad in ["", "a:1", "http://", "ftp://a", "http://a b"] {
            assert!(Link::new(bad, "t").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_calls_its_own_process_and_comes_back_to_it() {
        let link = Link::new("http://a:1", "t").unwrap();
        let (host, all) = ("h1".parse().unwrap(), ["http://a:1", "http://b:1", "http://c:1"]);
        let told = |names: &[&str]| {
            link.told(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &host);
            link.client().base().to_owned()
        };
        let order = rendezvous::order(b"h1", all);
        assert_eq!(told(&all), order[0]);
        link.failed(&link.client());
        assert_eq!(link.client().base(), order[1]);
        assert_eq!(told(&all), order[1], "one that failed lately is left alone");
        link.failed(&link.client());
        link.failed(&link.client());
        assert!(all.contains(&link.client().base()), "when all fail they are tried in turn");
        let other = Link::new("http://a:1", "t").unwrap();
        other.told(&[order[2].to_owned()], &host);
        assert_eq!(other.client().base(), order[2]);
        other.failed(&other.client());
        let next = other.client();
        assert!(order[2] == "http://a:1" || next.base() == "http://a:1", "the configured one");
    }

    #[test]
    fn a_region_with_tls_does_not_lead_away_from_it() {
        let link = Link::new("https://a:1", "t").unwrap();
        let host = "h1".parse().unwrap();
        for bad in [vec!["http://b:1".to_owned()], vec![], vec!["b".to_owned()]] {
            link.told(&bad, &host);
            assert_eq!(link.client().base(), "https://a:1");
        }
        link.told(&["https://b:1".to_owned()], &host);
        assert_eq!(link.client().base(), "https://b:1");
    }
}
