//! Nothing is deleted for its age while the clock may be wrong.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGaugeVec;

use crate::coordinator::peers;
use crate::coordinator::state::Shared;
use crate::model::time::UnixMillis;
use crate::net::metrics::gauges;
use crate::rules::steadiness::{Bounds, Jump};
use crate::store::db::events::NewEvent;
use crate::store::db::{DbError, Tx, steadiness};
use crate::wire::problem::{Code, Problem};

/// The line that says that the clock is right.
pub(super) const TRUST: &str = "deployctl admin gc --trust-clock --confirm=main -m WHY";
/// Longest between two writes of what the clock shows: far less than any jump that counts.
const WRITTEN: Duration = Duration::from_secs(600);

static DOUBTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether the clock jumped so far ahead that nothing is collected for its age.";
    gauges("collector_clock_doubted", help, &[])
});

/// What this process saw.
#[derive(Debug, Default)]
pub(super) struct Doubt(Mutex<String>);

impl Doubt {
    /// Why the clock is not believed; empty: it is.
    pub(super) fn why(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, why: String) {
        DOUBTED.with_label_values::<&str>(&[]).set(i64::from(!why.is_empty()));
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Once, and not at each look.
        if !why.is_empty() && last.is_empty() {
            tracing::warn!(why, hint = TRUST, "nothing is collected for its age");
        }
        *last = why;
    }
}

/// The clock itself, and not [`steady_now`](Shared): that one stands still while a machine
/// sleeps, and all of its sleep would look like one jump at the next start.
fn clock(shared: &Shared) -> UnixMillis {
    peers::now(&shared.db)
}

fn kept(shared: &Shared) -> Duration {
    Duration::from_secs(u64::from(shared.config.collector.keep_days) * 86_400)
}

/// Looks at the clock and writes down what it shows; before anything else writes at a start.
///
/// # Errors
/// When the database fails.
pub(super) async fn begin(shared: &Shared) -> Result<(), DbError> {
    let (within, bounds) = (shared.clone(), Bounds::of(kept(shared)));
    let look = move |tx: &mut Tx| steadiness::look(tx, clock(&within), bounds);
    let known = shared.db.write(look).await?;
    shared.clock_doubt.note(known.jump.map(|jump| told(jump, shared)).unwrap_or_default());
    Ok(())
}

/// Whether ages by this clock may be believed.
///
/// # Errors
/// `blocked` when not, with why; or when the database fails.
pub(super) async fn check(shared: &Shared) -> Result<(), Problem> {
    let bounds = Bounds::of(kept(shared));
    let known = shared.db.read(steadiness::find).await?;
    let now = clock(shared);
    let fresh = known.filter(|known| {
        let next = known.look(now, bounds);
        next.jump == known.jump && known.seen <= now && now.since(known.seen) < WRITTEN
    });
    match fresh {
        Some(known) => {
            let why = known.jump.map(|jump| told(jump, shared)).unwrap_or_default();
            shared.clock_doubt.note(why);
        }
        None => begin(shared).await?,
    }
    let why = shared.clock_doubt.why();
    if why.is_empty() {
        return Ok(());
    }
    let title = "nothing is collected for its age: the clock may be wrong";
    Err(Problem::new(Code::Blocked, title).because(why).hint(TRUST))
}

fn told(jump: Jump, shared: &Shared) -> String {
    let Jump { from, to } = jump;
    let until = to + kept(shared);
    format!(
        "it stood at {from} and then at {to}: it was wrong, or no coordinator ran; by itself \
         it is believed again at {until}"
    )
}

/// A person says that the clock is right.
///
/// # Errors
/// When the database fails.
pub(super) async fn trust(shared: &Shared, who: &str, why: &str) -> Result<(), Problem> {
    let (now, who) = (clock(shared), who.to_owned());
    let message = format!("{who} says that the clock is right: {why}");
    let write = move |tx: &mut Tx| {
        tx.event(&NewEvent::new(now, "artifacts.clock_trusted", &who, message))?;
        steadiness::trust(tx, now)
    };
    shared.db.write(write).await?;
    check(shared).await
}
