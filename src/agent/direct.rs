//! Reads of the regional store itself, where the region sends a host there with a signed URL.
//!
//! Such a URL is for one range and a short time. What it brings is verified like all else;
//! when it fails, the region is asked for the bytes, and for some time no URL is.

use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, header};
use tokio::time::timeout;

use crate::agent::transfer::{Broken, GIVE_UP};
use crate::net::client::http_client;
use crate::wire::v1::swarm::{DIRECT_FAILED, DIRECT_WANTED};

/// How long the region is not asked for a URL after one failed.
const OFF_FOR: Duration = Duration::from_secs(300);

/// Connections to stores: made with the system's authorities, at the first use.
static STORES: LazyLock<reqwest::Client> = LazyLock::new(http_client);

/// Whether the store may be read directly; one for all downloads.
#[derive(Debug, Default)]
pub(super) struct Direct(Mutex<Option<Instant>>);

impl Direct {
    /// What the region is told with a read under a lease.
    pub(super) fn wish(&self) -> Option<&'static str> {
        let off_until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        off_until.is_none_or(|until| until <= Instant::now()).then_some(DIRECT_WANTED)
    }

    /// Takes note that the store could not be read; what the region is told with the next read.
    pub(super) fn failed(&self, error: &Broken) -> Option<&'static str> {
        tracing::warn!(%error, "the store can't be read directly, reading through the region");
        let mut off_until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *off_until = Some(Instant::now() + OFF_FOR);
        Some(DIRECT_FAILED)
    }
}

/// Begins to read `range` at `url`. A region with TLS (`safe`) leads to no store without.
pub(super) async fn open(
    url: &str,
    safe: bool,
    range: &Range<u64>,
) -> Result<reqwest::Response, Broken> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if scheme != "https" && (safe || scheme != "http") {
        return Err(Broken::Cut("the region named a store without TLS".into()));
    }
    let bytes = format!("bytes={}-{}", range.start, range.end - 1);
    let asked = timeout(GIVE_UP, STORES.get(url).header(header::RANGE, bytes).send()).await;
    let reply = asked.map_err(|_| Broken::Cut("the store did not answer in time".into()))?;
    // The URL is a secret while it is valid.
    let reply = reply.map_err(|e| Broken::Cut(e.without_url().to_string()))?;
    let (status, length) = (reply.status(), reply.content_length());
    if status == StatusCode::PARTIAL_CONTENT && length == Some(range.end - range.start) {
        return Ok(reply);
    }
    Err(Broken::Cut(format!("the store answered {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_region_with_tls_leads_to_no_store_without() {
        for (url, safe) in [("http://127.0.0.1:1/x", true), ("ftp://x", false), ("x", false)] {
            let refused = open(url, safe, &(0..1)).await.unwrap_err().to_string();
            assert!(refused.contains("without TLS"), "{url}: {refused}");
        }
        let gone = open("http://127.0.0.1:1/?secret", false, &(0..1)).await.unwrap_err();
        assert!(!gone.to_string().contains("secret"), "{gone}");
    }

    #[test]
    fn a_failure_is_told_once_and_ends_it_for_a_while() {
        let direct = Direct::default();
        assert_eq!(direct.wish(), Some(DIRECT_WANTED));
        assert_eq!(direct.failed(&Broken::Missing), Some(DIRECT_FAILED));
        assert_eq!(direct.wish(), None);
    }
}
