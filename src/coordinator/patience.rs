//! A start that waits for a database which is there and can't be had right now.
//!
//! To end would have the supervisor start it again, which waits no less and says
//! nothing. What can't be helped by waiting (a wrong address, a password) ends it at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::coordinator::first_start::FirstStartError;
use crate::net::backoff::Backoff;
use crate::store::db::Place;

/// Pause between two tries; a try itself waits for its turn.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Does `step` until it is done or fails for good, with a line in the log for each time
/// that the database was busy; `None`: the stop came before. A database that was busy once
/// may also be away for a while: its server starts.
///
/// # Errors
/// What `step` fails with and waiting does not help.
pub(super) async fn until_done<T, F>(
    place: &Place,
    stop: &watch::Receiver<bool>,
    step: impl Fn() -> F,
) -> Result<Option<T>, FirstStartError>
where
    F: Future<Output = Result<T, FirstStartError>>,
{
    let (mut stop, began) = (stop.clone(), Instant::now());
    let (mut backoff, mut tries) = (Backoff::new(PAUSE, PAUSE_MAX), 0_u32);
    loop {
        let done = tokio::select! {
            done = step() => done,
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        };
        let error = match done {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        match &error {
            FirstStartError::Db(why) if why.is_busy() || tries > 0 && why.is_passing() => {}
            _ => return Err(error),
        }
        tries += 1;
        let waited_s = began.elapsed().as_secs();
        tracing::warn!(database = %place, %error, tries, waited_s, "not started yet, asks the database again");
        tokio::select! {
            () = tokio::time::sleep(backoff.failed()) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}
