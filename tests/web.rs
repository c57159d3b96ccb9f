//! The page: over HTTP as an attacker sees it, and in a real browser as people do.

#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]
#![expect(dead_code, reason = "the house and its regions serve other tests too")]

#[path = "web/browser.rs"]
mod browser;
#[path = "web/chosen.rs"]
mod chosen;
#[path = "web/door.rs"]
mod door;
#[path = "rollouts/house.rs"]
mod house;
#[path = "web/more.rs"]
mod more;
#[path = "rollouts/region.rs"]
mod region;
#[path = "web/seen.rs"]
mod seen;
#[path = "web/used.rs"]
mod used;
