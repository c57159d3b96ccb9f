//! How hosts with a new release fare beside those without it: what agents tell of
//! events, as it comes in, goes into a ledger for each goal.
//!
//! Soft state of each process, which all know every host: whoever tells the coordinator
//! has counted for itself. A process that begins anew begins to count anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Fleet, Table};
use crate::model::config::Bits;
use crate::model::fleet::{AppStatus, Tally};
use crate::model::goal::Goal;
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::net::auth::random_seed;
use crate::rules::comparison::{Arm, Groups, Ledger, Strike};
use crate::rules::tally::{Seen, arm};

/// Most events that one word of a host counts for: words come every few seconds.
const WORD_MAX: u64 = 10;

/// An app in an env.
type Place = (EnvName, AppName);

/// The ledgers, and what is still to go into them.
#[derive(Default)]
pub(super) struct Compared {
    /// Goals whose numbers the coordinator wants.
    asked: BTreeSet<Place>,
    ledgers: BTreeMap<Place, Ledger>,
    /// Events since the ledgers were brought up to date.
    strikes: BTreeMap<Place, BTreeMap<HostId, Struck>>,
}

/// Events on a host, and what it ran meanwhile.
struct Struck {
    ran: Bits,
    events: u32,
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
        let Some((ran, events)) = before.and_then(|before| since(before, status)) else { continue };
        let place = (entry.info.env.clone(), status.app.clone());
        let host = entry.info.host.clone();
        let strikes = compared.strikes.entry(place).or_default();
        let struck = strikes.entry(host).or_insert(Struck { ran, events: 0 });
        if struck.ran != ran {
            *struck = Struck { ran, events: 0 };
        }
        struck.events = struck.events.saturating_add(events);
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
        let seen = |host: &HostId| {
            let entry = self.hosts.get(host)?;
            Some((entry, entry.apps.iter().find(|status| status.app == goal.app)))
        };
        let arm = |host: &HostId| -> Option<Arm> {
            let (entry, status) = seen(host)?;
            let labels = &entry.info.labels;
            arm(goal, region, &Seen { host, labels, reachable: entry.reachable, status })
        };
        // What a host went through before it got another release is of neither group.
        let runs = |host: &HostId| Some(seen(host)?.1?.running?.bits());
        let strikes: Vec<Strike<'_>> = struck
            .iter()
            .filter(|(host, struck)| runs(host) == Some(struck.ran))
            .filter_map(|(host, struck)| Some((host, struck.events, arm(host)?)))
            .collect();
        let (next, control) = tally.comparison.map_or((0, 0), |c| (c.next.hosts, c.control.hosts));
        let asked = self.compared.asked.contains(&place);
        let groups = Groups { version: goal.version, next, control, under_way: asked, arm: &arm };
        // Another process counts for itself, and a goal that comes back is counted anew.
        let anew = || Ledger::new((random_seed() >> 32) as u32 | 1);
        let ledger = self.compared.ledgers.entry(place).or_insert_with(anew);
        ledger.pass(now, &strikes, &groups);
        tally.comparison = if asked { ledger.told(now) } else { None };
        tally
    }
}

/// Events between two words of a host, and on what. Not those of another release: they may
/// be from before it, or after. A count that went back began anew with the agent.
fn since(before: &AppStatus, after: &AppStatus) -> Option<(Bits, u32)> {
    let ran = before.running?.bits();
    let same = after.running.map(|r| r.bits()) == Some(ran);
    let (from, to) = (before.events?, after.events?);
    let events = if to >= from { to - from } else { to };
    let events = u32::try_from(events.min(WORD_MAX)).unwrap_or(0);
    (same && events > 0).then_some((ran, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::model::fleet::{Phase, Sources};
    use crate::model::goal::{GoalVersion, Target};
    use crate::model::id::ReleaseNo;
    use crate::region::fleet::Word;
    use crate::region::fleet::tests::info;
    use crate::wire::v1::fleet::HostRow;

    fn target(n: u64) -> Target {
        Target { release: ReleaseNo(n), artifact: Digest::of(&n.to_be_bytes()), config: None }
    }

    fn goal() -> Arc<Goal> {
        let version = GoalVersion { epoch: 1, generation: 2, step: 1 };
        let mut goal = Goal { version, base: Some(target(1)), next: target(2), ..Goal::sample() };
        goal.admit = [("*".to_owned(), 10_000)].into();
        Arc::new(goal)
    }

    fn process(saved: Vec<HostRow>) -> Fleet {
        let news = Arc::new(tokio::sync::Notify::new());
        Fleet::new("eu".parse().unwrap(), 1000, saved, news)
    }

    fn hear(fleet: &Fleet, host: &str, runs: u64, events: Option<u64>) {
        let goal = goal();
        let status = AppStatus {
            app: goal.app.clone(),
            env: goal.env.clone(),
            version: goal.version,
            running: Some(target(runs)),
            desired: Some(goal.next),
            phase: Phase::Healthy,
            held: vec![],
            pieces: (0, 0),
            sources: Sources::default(),
            failure: None,
            restarts: 0,
            events,
        };
        let word = Word::Report { apps: vec![status], said: 7 };
        fleet.hear(info(host), "127.0.0.1:1".into(), word).unwrap();
    }

    /// Events on hosts with the release, and how many hosts those are.
    fn told(fleet: &Fleet) -> Option<(u64, u32)> {
        let goals = [goal()];
        let tally = &fleet.tallies(&goals)[0].tally;
        tally.comparison.map(|c| (c.alone.events + c.next.span.events, c.next.hosts))
    }

    #[test]
    fn events_count_once_in_every_process_and_only_what_is_new() {
        let (one, two) = (process(vec![]), process(vec![]));
        for fleet in [&one, &two] {
            fleet.share_with(1);
            fleet.compare([(goal().env.clone(), goal().app.clone())]);
        }
        let talk = || {
            for _ in 0..3 {
                two.learn(0, one.take_part(0));
                one.learn(0, two.take_part(0));
            }
            (told(&one), told(&two))
        };
        hear(&one, "a", 2, Some(5));
        hear(&two, "b", 2, Some(0));
        assert_eq!(talk(), (Some((0, 2)), Some((0, 2))), "what was before is not known to be new");
        hear(&one, "a", 2, Some(7));
        hear(&two, "b", 2, Some(1));
        assert_eq!(talk(), (Some((3, 2)), Some((3, 2))));
        // The agent began anew, and the host turned to the other process.
        hear(&two, "a", 2, Some(1));
        assert_eq!(talk(), (Some((4, 2)), Some((4, 2))));
        // On another release; an agent that does not tell.
        hear(&two, "a", 1, Some(9));
        hear(&two, "b", 2, None);
        assert_eq!(talk(), (Some((4, 0)), Some((4, 0))));
    }

    #[test]
    fn nothing_is_told_unless_it_is_asked_for() {
        let fleet = process(vec![]);
        hear(&fleet, "a", 2, Some(0));
        assert_eq!(told(&fleet), None);
        fleet.compare([(goal().env.clone(), goal().app.clone())]);
        assert_eq!(told(&fleet), Some((0, 1)));
        let (saved, _) = fleet.take_unsaved();
        let after = process(saved);
        after.compare([(goal().env.clone(), goal().app.clone())]);
        assert_eq!(told(&after), Some((0, 1)));
        hear(&after, "a", 2, Some(50));
        assert_eq!(told(&after), Some((0, 1)), "nobody knows when those were");
    }
}
