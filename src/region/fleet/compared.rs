//! How hosts with a new release fare beside those without it: what agents tell of
//! events, as it comes in, goes into a ledger for each goal.
//!
//! Soft state of each process, which all know every host: whoever tells the coordinator
//! has counted for itself. A process that begins anew begins to count anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Fleet, Table};
use crate::model::fleet::{AppStatus, Tally};
use crate::model::goal::Goal;
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::rules::comparison::{Arm, Ledger};
use crate::rules::tally::{Seen, arm};

/// An app in an env.
type Place = (EnvName, AppName);

/// The ledgers, and what is still to go into them.
#[derive(Default)]
pub(super) struct Compared {
    /// Goals whose numbers the coordinator wants.
    asked: BTreeSet<Place>,
    ledgers: BTreeMap<Place, Ledger>,
    /// Events since the ledgers were brought up to date.
    strikes: BTreeMap<Place, BTreeMap<HostId, u32>>,
}

impl Fleet {
    /// The coordinator wants the numbers of these from now on, and of no others.
    pub fn compare(&self, asked: impl IntoIterator<Item = Place>) {
        self.table().compared.asked = asked.into_iter().collect();
    }

    /// Brings the ledgers up to date where nobody asks for counts.
    pub fn keep_ledgers(&self, goals: &[Arc<Goal>]) {
        drop(self.tallies(goals));
    }
}

impl Compared {
    /// Forgets goals that are gone.
    pub(super) fn retain(&mut self, goals: &[Arc<Goal>]) {
        let there: BTreeSet<Place> =
            goals.iter().map(|goal| (goal.env.clone(), goal.app.clone())).collect();
        self.ledgers.retain(|place, _| there.contains(place));
        self.strikes.retain(|place, _| there.contains(place));
    }
}

/// Takes down what `entry`'s host tells anew.
pub(super) fn note_events(compared: &mut Compared, entry: &Entry, after: &[AppStatus]) {
    for status in after {
        let before = entry.apps.iter().find(|before| before.app == status.app);
        let events = before.map_or(0, |before| since(before, status));
        if events > 0 {
            let place = (entry.info.env.clone(), status.app.clone());
            let host = entry.info.host.clone();
            *compared.strikes.entry(place).or_default().entry(host).or_default() += events;
        }
    }
}

impl Table {
    /// `tally`, made under `goal`, with the comparison if the coordinator wants it.
    pub(super) fn compared(
        &mut self,
        goal: &Goal,
        region: &RegionName,
        mut tally: Tally,
        now: Duration,
    ) -> Tally {
        let place = (goal.env.clone(), goal.app.clone());
        let struck = self.compared.strikes.remove(&place).unwrap_or_default();
        let of = |host: &HostId| -> Option<Arm> {
            let entry = self.hosts.get(host)?;
            let status = entry.apps.iter().find(|status| status.app == goal.app);
            let labels = &entry.info.labels;
            arm(goal, region, &Seen { host, labels, reachable: entry.reachable, status })
        };
        let strikes: Vec<_> =
            struck.iter().filter_map(|(host, times)| Some((host, *times, of(host)?))).collect();
        let hosts = tally.comparison.map_or((0, 0), |seen| (seen.next.hosts, seen.control.hosts));
        let asked = self.compared.asked.contains(&place);
        let ledger = self.compared.ledgers.entry(place).or_default();
        ledger.pass(now, &strikes, goal.version, hosts);
        tally.comparison = if asked { ledger.told(now) } else { None };
        tally
    }
}

/// Events between two words of a host. Not those of another release: they may be from
/// before it, or after. A count that went back began anew with the agent.
fn since(before: &AppStatus, after: &AppStatus) -> u32 {
    let same = before.running.map(|r| r.bits()) == after.running.map(|r| r.bits());
    let (Some(from), Some(to), true) = (before.events, after.events, same) else { return 0 };
    let events = if to >= from { to - from } else { to };
    u32::try_from(events).unwrap_or(u32::MAX)
}
