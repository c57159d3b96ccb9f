//! Ports for processes that come back to the same one.
//!
//! Below those that the kernel gives to outgoing connections: while a process is away nobody
//! takes its port by chance.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The first, and one past the last; Linux gives away 32768 and up (`ip_local_port_range`).
const RANGE: (u16, u16) = (12_000, 32_000);

static TAKEN: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on, and that no other test of this program is told.
pub(crate) fn free_port() -> u16 {
    let ports = RANGE.1 - RANGE.0;
    // Another program of tests that runs beside this one begins elsewhere.
    let from = u16::try_from(std::process::id() * 97 % u32::from(ports)).unwrap();
    loop {
        let nth = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.0 + (from + nth % ports) % ports;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
