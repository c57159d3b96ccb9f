//! The coordinators that a region dials: any will do, one at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::net::client::Client;

/// Clients of every coordinator; the next one is taken when a call fails.
pub struct Coordinators {
    clients: Vec<Client>,
    current: AtomicUsize,
}

impl Coordinators {
    /// Clients of the servers at `urls`, comma-separated, all with `token`, over `http`.
    #[must_use]
    pub fn new(urls: &str, token: &str, http: &reqwest::Client) -> Self {
        let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
        let clients =
            urls.map(|url| Client::new(url, Some(token.to_owned())).over(http.clone())).collect();
        Self { clients, current: AtomicUsize::new(0) }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The one to call now.
    ///
    /// # Panics
    /// When there is none; a region does not start so.
    #[must_use]
    pub fn current(&self) -> &Client {
        &self.clients[self.current.load(Ordering::Relaxed) % self.clients.len()]
    }

    /// Turns to the next one.
    pub fn rotate(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}
