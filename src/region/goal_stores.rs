//! How the etcds of this region are, for the reports upward: asked now and then, beside
//! the loops that follow them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::region::goals::Store;
use crate::store::goals::Goals;
use crate::wire::v1::goal_store::{GoalStore, ReportedStores};

/// How often every member is asked.
const EVERY: Duration = Duration::from_secs(10);

/// What is known of them.
#[derive(Default)]
pub struct GoalStores(Mutex<ReportedStores>);

impl GoalStores {
    /// As it is reported.
    #[must_use]
    pub fn told(&self) -> ReportedStores {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, which: Store, change: impl FnOnce(&mut GoalStore)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match which {
            Store::Own => &mut all.own,
            Store::Global => &mut all.global,
        };
        change(store.get_or_insert_default());
    }

    /// Notes how a round ended.
    pub(super) fn note(&self, which: Store, round: Result<u64, String>) {
        self.change(which, |store| match round {
            Ok(behind) => (store.behind, store.trouble) = (behind, String::new()),
            Err(trouble) => store.trouble = trouble,
        });
    }
}

/// Asks all members of a store until `stop` turns true. By itself: one that does not
/// answer must not hold goals up.
pub async fn look(
    which: Store,
    goals: Goals,
    stores: Arc<GoalStores>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let seen = tokio::select! {
            seen = goals.health() => seen,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let GoalStore { members, alarms, .. } = seen;
        stores.change(which, |store| (store.members, store.alarms) = (members, alarms));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
