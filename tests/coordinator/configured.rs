//! Whether a test program's coordinators are to run on a server.

use crate::server::fresh_database;

/// A fresh database when the tests are told to run on a server:
/// `DEPLOYCTL_TEST_DATABASE=postgres`. `None`: on the embedded engine.
pub(crate) fn configured() -> Option<String> {
    match std::env::var("DEPLOYCTL_TEST_DATABASE").as_deref() {
        Ok("postgres") => Some(fresh_database()),
        Ok("" | "sqlite") | Err(_) => None,
        Ok(other) => panic!("DEPLOYCTL_TEST_DATABASE={other}: postgres or sqlite"),
    }
}
