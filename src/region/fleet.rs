//! The region's host table: who reported what, who is silent, and the counts that
//! go upward.
//!
//! In memory; a coarse copy on disk only keeps hosts from vanishing with the
//! process. After a restart a host that was heard before is not unreachable until its agent,
//! which waits between tries, had the time to come back. Counts
//! are made anew only for goals that a report, a silence or a new goal touched.
//!
//! Where several processes serve the region each knows every host (`shared`): from its
//! own hearing, or by the word of the process that hears it.

mod compared;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::compared::note_events;
use crate::host::clock;
use crate::model::fleet::{AppStatus, Tally};
use crate::model::goal::{Goal, GoalVersion};
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::time::UnixMillis;
use crate::rules::tally::{Seen, tally};
use crate::wire::v1::fleet::{HostInfo, HostRow};
use crate::wire::v1::region::EnvTally;

pub use shared::{Part, SHARED_MAX};

/// Most hosts of one region process.
pub const HOSTS_MAX: usize = 200_000;
/// Longest report interval handed out; with [`HOSTS_MAX`] it means 6,700 reports/s.
const REPORT_MS_MAX: u64 = 30_000;
/// Intervals without a word after which a host is unreachable, and after a restart.
const MISSED: (u32, u32) = (3, 4);
/// The least time after a restart until a host that was heard before is unreachable: the 30 s
/// that an agent waits at most between tries (`agent::link`), and the 10 s that the try before
/// may have taken (`agent::report`).
const RETURN_MIN: Duration = Duration::from_secs(40);
/// A host that is silent for this long is decommissioned [orchestration 6.10].
const FORGET_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// Most host rows of one report upward.
const ROWS_MAX: usize = 2_000;
/// About the most bytes of those rows, well under the largest body.
const ROWS_BYTES_MAX: usize = 6 << 20;
/// Rows without news that a periodic report brings up to date.
const REFRESHED: usize = 200;
/// Groups of failures that keep their log lines in a report upward.
const LOGS_KEPT: usize = 3;

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the region knows {HOSTS_MAX} hosts already")]
pub struct Full;

/// A word from a host.
pub enum Word {
    /// It lives, and would report what `said` stands for.
    Alive {
        /// [`crate::wire::v1::fleet::PollRequest::said`].
        said: u64,
    },
    /// What its apps do.
    Report {
        /// Every app.
        apps: Vec<AppStatus>,
        /// [`crate::wire::v1::fleet::Report::said`].
        said: u64,
    },
}

/// What a host that was heard is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The interval that it is to be heard in, milliseconds.
    pub report_ms: u64,
    /// It is to report: what it would say is not what it said last.
    pub report: bool,
}

struct Entry {
    info: HostInfo,
    address: String,
    /// Boxed, as there are many: a vector that was read from JSON has room for four.
    apps: Box<[AppStatus]>,
    /// What `apps` were said to be; 0: not since this process began.
    said: u64,
    seen: Instant,
    seen_at: UnixMillis,
    /// The interval that it was told last.
    told: Duration,
    standing: Standing,
    reachable: bool,
}

/// Who vouches for what is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// This process hears it.
    Here,
    /// Another one does, by its number.
    Elsewhere(usize),
    /// Nobody: the process that heard it is gone. One interval of grace.
    Left,
    /// Nobody: known from disk only. At least [`RETURN_MIN`] of grace.
    Disk,
}

impl Standing {
    /// The silence after which a host that was told an interval is unreachable.
    fn patience(self, told: Duration) -> Duration {
        match self {
            Self::Here => told * MISSED.0,
            Self::Elsewhere(_) | Self::Left => told * MISSED.1,
            Self::Disk => RETURN_MIN.max(told * MISSED.1),
        }
    }
}

#[derive(Default)]
struct Table {
    hosts: BTreeMap<HostId, Entry>,
    unreachable: u64,
    /// Goals whose counts are stale.
    stale: BTreeSet<(EnvName, AppName)>,
    /// Envs whose every goal's counts are stale.
    stale_envs: BTreeSet<EnvName>,
    tallies: BTreeMap<(EnvName, AppName), (GoalVersion, Tally)>,
    /// Rows to send: a change that matters, and mere progress.
    urgent: BTreeSet<HostId>,
    progress: BTreeSet<HostId>,
    unsaved: BTreeSet<HostId>,
    forgotten: Vec<HostId>,
    refreshed: Option<HostId>,
    /// What the region's other processes are still to be told, by their numbers.
    others: Vec<shared::Untold>,
    /// Hosts that other processes hear.
    elsewhere: u64,
    compared: compared::Compared,
}

/// The host table; shared by the listener and the reporter.
pub struct Fleet {
    region: RegionName,
    report_ms_min: u64,
    began: Instant,
    table: Mutex<Table>,
    news: Arc<Notify>,
}

impl Fleet {
    /// A table of the hosts that were saved; tells `news` when a count or row changed.
    /// `report_ms_min` is the report interval of a small region.
    #[must_use]
    pub fn new(
        region: RegionName,
        report_ms_min: u64,
        saved: Vec<HostRow>,
        news: Arc<Notify>,
    ) -> Self {
        let (began, table) = (Instant::now(), Mutex::default());
        let fleet = Self { region, report_ms_min, began, table, news };
        let interval = Duration::from_millis(fleet.report_ms(saved.len()));
        let mut table = fleet.table();
        for row in saved.into_iter().take(HOSTS_MAX) {
            let HostRow { info, address, seen_at, apps, reachable, .. } = row;
            table.stale_envs.insert(info.env.clone());
            table.unreachable += u64::from(!reachable);
            let host = info.host.clone();
            let (seen, told, standing) = (Instant::now(), interval, Standing::Disk);
            let (said, apps) = (0, apps.into());
            let entry =
                Entry { info, address, apps, said, seen, seen_at, told, standing, reachable };
            table.hosts.insert(host, entry);
        }
        drop(table);
        fleet
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_ms(&self, hosts: usize) -> u64 {
        (hosts as u64).clamp(self.report_ms_min, self.report_ms_min.max(REPORT_MS_MAX))
    }

    /// How often a host should report now, milliseconds.
    #[must_use]
    pub fn interval_ms(&self) -> u64 {
        self.report_ms(self.table().own())
    }

    /// Takes a word from a host: a report with its apps, or a mere sign of life.
    ///
    /// # Errors
    /// [`Full`] for a host that is new when there is no room.
    pub fn hear(&self, info: HostInfo, address: String, word: Word) -> Result<Heard, Full> {
        let mut table = self.table();
        let known = table.hosts.contains_key(&info.host);
        if !known && table.hosts.len() >= HOSTS_MAX {
            return Err(Full);
        }
        let report_ms = self.report_ms(table.own());
        let host = info.host.clone();
        let (apps, now) = match word {
            Word::Alive { said } => (None, said),
            Word::Report { apps, said } => (Some(apps), said),
        };
        let reported = apps.is_some();
        if table.hear(info, address, apps, Duration::from_millis(report_ms)) {
            self.news.notify_one();
        }
        let Some(entry) = table.hosts.get_mut(&host) else {
            return Ok(Heard { report_ms, report: false });
        };
        if reported {
            entry.said = now;
        }
        // A host that gives no number reports by itself.
        Ok(Heard { report_ms, report: now != 0 && entry.said != now })
    }

    /// Finds hosts that fell silent, at `now`; forgets those silent for a month.
    pub fn sweep(&self, now: Instant) {
        if self.table().sweep(now) {
            self.news.notify_one();
        }
    }

    /// Forgets those of `hosts` that can't be reached: a person says they are gone.
    pub fn forget(&self, hosts: &[HostId]) {
        if self.table().forget(hosts) {
            self.news.notify_one();
        }
    }

    /// Counts anew what is stale and returns every goal's counts. Blocks for as long as
    /// counting takes, but holds the table for one goal at a time.
    #[must_use]
    pub fn tallies(&self, goals: &[Arc<Goal>]) -> Vec<EnvTally> {
        let (stale, envs) = {
            let mut table = self.table();
            table.compared.retain(goals);
            (std::mem::take(&mut table.stale), std::mem::take(&mut table.stale_envs))
        };
        let count = |goal: &Arc<Goal>| {
            let place = (goal.env.clone(), goal.app.clone());
            let mut table = self.table();
            let known = table.tallies.get(&place).filter(|(version, _)| *version == goal.version);
            let fresh = !stale.contains(&place) && !envs.contains(&goal.env);
            let tally = match known {
                Some((_, tally)) if fresh => tally.clone(),
                _ => {
                    let counted = table.count(goal, &self.region);
                    table.tallies.insert(place, (goal.version, counted.clone()));
                    counted
                }
            };
            let tally = table.compared(goal, &self.region, tally, self.began.elapsed());
            EnvTally { app: goal.app.clone(), env: goal.env.clone(), tally }
        };
        goals.iter().map(count).collect()
    }

    /// Hosts of the region that are known, and of those unreachable.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let table = self.table();
        (table.hosts.len() as u64, table.unreachable)
    }

    /// Takes the rows to send next; give them back with [`Fleet::unsent`] when the report
    /// was not answered. With `refresh`, rows without news are added in turn.
    #[must_use]
    pub fn take_changed(&self, refresh: bool) -> Vec<HostRow> {
        self.table().take_changed(&self.region, refresh)
    }

    /// Takes rows back whose report was not answered.
    pub fn unsent(&self, rows: Vec<HostRow>) {
        let mut table = self.table();
        table.urgent.extend(rows.into_iter().map(|row| row.info.host));
    }

    /// Takes what the copy on disk lacks: rows to write, and hosts to remove.
    #[must_use]
    pub fn take_unsaved(&self) -> (Vec<HostRow>, Vec<HostId>) {
        let mut table = self.table();
        let hosts = std::mem::take(&mut table.unsaved);
        let rows = hosts.iter().filter_map(|host| table.row(host, &self.region)).collect();
        (rows, std::mem::take(&mut table.forgotten))
    }
}

impl Table {
    /// Says whether anything is new.
    fn hear(
        &mut self,
        info: HostInfo,
        address: String,
        apps: Option<Vec<AppStatus>>,
        told: Duration,
    ) -> bool {
        let (host, env) = (info.host.clone(), info.env.clone());
        let Some(entry) = self.hosts.get_mut(&host) else {
            let (seen, seen_at) = (Instant::now(), clock::now());
            let (standing, reachable) = (Standing::Here, true);
            let (said, apps) = (0, apps.unwrap_or_default().into());
            let entry =
                Entry { info, address, apps, said, seen, seen_at, told, standing, reachable };
            self.tell_others(&host);
            self.hosts.insert(host.clone(), entry);
            self.insert_news(host, env);
            return true;
        };
        (entry.seen, entry.seen_at, entry.told) = (Instant::now(), clock::now(), told);
        let mut changed = entry.info != info || entry.address != address;
        // What it told before is too old to say when an event was.
        let was_known = entry.standing != Standing::Disk && entry.reachable;
        if entry.standing != Standing::Here {
            self.elsewhere -= u64::from(matches!(entry.standing, Standing::Elsewhere(_)));
            (entry.standing, entry.said, changed) = (Standing::Here, 0, true);
        }
        if !entry.reachable {
            (entry.reachable, changed) = (true, true);
            self.unreachable -= 1;
        }
        if changed {
            self.stale_envs.insert(std::mem::replace(&mut entry.info, info).env);
            self.stale_envs.insert(env.clone());
            entry.address = address;
        }
        let mut moved = false;
        if let Some(apps) = apps {
            if was_known {
                note_events(&mut self.compared, entry, &apps);
            }
            for (place, matters) in differences(&entry.apps, &apps) {
                changed |= matters;
                moved = true;
                self.stale.insert((env.clone(), place));
            }
            entry.apps = apps.into();
        }
        if changed || moved {
            self.tell_others(&host);
        }
        if changed {
            self.urgent.insert(host.clone());
            self.unsaved.insert(host);
        } else if moved {
            self.progress.insert(host);
        }
        changed || moved
    }

    /// A host that was not known is.
    fn insert_news(&mut self, host: HostId, env: EnvName) {
        self.stale_envs.insert(env);
        self.unsaved.insert(host.clone());
        self.urgent.insert(host);
    }

    /// Hosts that no other process hears.
    fn own(&self) -> usize {
        self.hosts.len() - self.elsewhere as usize
    }

    fn sweep(&mut self, now: Instant) -> bool {
        let mut news = false;
        let mut forgotten = vec![];
        let wall = clock::now();
        let mut told = vec![];
        for (host, entry) in &mut self.hosts {
            let silence = now.saturating_duration_since(entry.seen);
            let silent = silence > entry.standing.patience(entry.told);
            // Who hears it says when it does not any more.
            let mine = !matches!(entry.standing, Standing::Elsewhere(_));
            if mine && entry.reachable && silent {
                entry.reachable = false;
                self.unreachable += 1;
                self.stale_envs.insert(entry.info.env.clone());
                self.urgent.insert(host.clone());
                // Also on disk: or it is taken for reachable again after a restart.
                self.unsaved.insert(host.clone());
                told.push(host.clone());
                news = true;
            }
            if entry.standing == Standing::Disk && silent {
                entry.standing = Standing::Left;
            }
            if !entry.reachable && wall.since(entry.seen_at) > FORGET_AFTER {
                forgotten.push(host.clone());
            }
        }
        told.iter().for_each(|host| self.tell_others(host));
        for host in forgotten {
            self.remove(&host);
            self.forgotten.push(host);
        }
        news
    }

    /// Says whether anything is new.
    fn forget(&mut self, hosts: &[HostId]) -> bool {
        let mut news = false;
        for host in hosts {
            if self.hosts.get(host).is_some_and(|entry| !entry.reachable) {
                self.remove(host);
                self.forgotten.push(host.clone());
                self.others.iter_mut().for_each(|other| other.forget(host));
                news = true;
            }
        }
        news
    }

    fn remove(&mut self, host: &HostId) {
        let Some(entry) = self.hosts.remove(host) else { return };
        self.unreachable -= u64::from(!entry.reachable);
        self.elsewhere -= u64::from(matches!(entry.standing, Standing::Elsewhere(_)));
        self.stale_envs.insert(entry.info.env);
        self.urgent.remove(host);
        self.progress.remove(host);
        self.unsaved.remove(host);
    }

    fn count(&self, goal: &Goal, region: &RegionName) -> Tally {
        let hosts = self.hosts.iter().filter(|(_, entry)| entry.info.env == goal.env);
        let seen = hosts.map(|(host, entry)| Seen {
            host,
            labels: &entry.info.labels,
            reachable: entry.reachable,
            status: entry.apps.iter().find(|status| status.app == goal.app),
        });
        let mut tally = tally(goal, region, seen);
        tally.failures.iter_mut().skip(LOGS_KEPT).for_each(|group| group.log.clear());
        tally
    }

    fn row(&self, host: &HostId, region: &RegionName) -> Option<HostRow> {
        let entry = self.hosts.get(host)?;
        Some(HostRow {
            info: entry.info.clone(),
            region: region.clone(),
            address: entry.address.clone(),
            reachable: entry.reachable,
            seen_at: entry.seen_at,
            apps: entry.apps.to_vec(),
        })
    }

    fn take_changed(&mut self, region: &RegionName, refresh: bool) -> Vec<HostRow> {
        let mut rows = vec![];
        let mut bytes = 0;
        while rows.len() < ROWS_MAX && bytes < ROWS_BYTES_MAX {
            let next = self.urgent.pop_first();
            let Some(host) = next.or_else(|| self.progress.pop_first()) else { break };
            self.progress.remove(&host);
            if let Some(row) = self.row(&host, region) {
                bytes += row.apps.iter().map(about_bytes).sum::<usize>() + 1024;
                rows.push(row);
            }
        }
        if refresh && rows.is_empty() {
            let from = self.refreshed.take().map_or(Bound::Unbounded, Bound::Excluded);
            let hosts = self.hosts.range((from, Bound::Unbounded)).take(REFRESHED);
            let hosts: Vec<HostId> = hosts.map(|(host, _)| host.clone()).collect();
            rows.extend(hosts.iter().filter_map(|host| self.row(host, region)));
            self.refreshed = hosts.into_iter().nth(REFRESHED - 1);
        }
        rows
    }
}

/// About how long a status is as JSON.
fn about_bytes(status: &AppStatus) -> usize {
    let log = |lines: &Vec<String>| lines.iter().map(|line| line.len() + 8).sum::<usize>();
    let failure = status.failure.as_ref().map_or(0, |f| f.reason.len() + log(&f.log));
    600 + 70 * status.held.len() + failure
}

/// Apps that differ between two reports, and whether by more than progress.
fn differences(before: &[AppStatus], after: &[AppStatus]) -> Vec<(AppName, bool)> {
    let of = |all: &[AppStatus], app: &AppName| all.iter().find(|s| s.app == *app).cloned();
    if before == after {
        return vec![];
    }
    let mut apps: Vec<AppName> = before.iter().chain(after).map(|s| s.app.clone()).collect();
    apps.sort();
    apps.dedup();
    let differ = |app: AppName| {
        let (before, after) = (of(before, &app), of(after, &app));
        let matters = before.as_ref().map(AppStatus::without_progress)
            != after.as_ref().map(AppStatus::without_progress);
        (before != after).then_some((app, matters))
    };
    apps.into_iter().filter_map(differ).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn info(host: &str) -> HostInfo {
        HostInfo {
            host: host.parse().unwrap(),
            env: "prod".parse().unwrap(),
            labels: BTreeMap::new(),
            rack: String::new(),
            zone: String::new(),
            peer_port: 1,
            agent_version: "0".into(),
        }
    }

    fn report() -> Word {
        Word::Report { apps: vec![], said: 7 }
    }

    fn fleet(saved: Vec<HostRow>) -> Fleet {
        Fleet::new("eu".parse().unwrap(), 1000, saved, Arc::new(Notify::new()))
    }

    #[test]
    fn a_silent_host_is_unreachable_after_three_intervals_and_back_at_a_word() {
        let fleet = fleet(vec![]);
        fleet.hear(info("a"), "127.0.0.1:1".into(), report()).unwrap();
        let start = Instant::now();
        fleet.sweep(start + Duration::from_millis(2900));
        assert_eq!(fleet.counts(), (1, 0));
        fleet.sweep(start + Duration::from_millis(3100));
        assert_eq!(fleet.counts(), (1, 1));
        assert!(!fleet.take_changed(false).iter().all(|row| row.reachable));
        fleet.hear(info("a"), "127.0.0.1:1".into(), Word::Alive { said: 7 }).unwrap();
        assert_eq!(fleet.counts(), (1, 0));
    }

    #[test]
    fn a_restart_forgets_nobody_and_waits_for_agents_that_wait() {
        let first = fleet(vec![]);
        first.hear(info("dead"), "127.0.0.1:1".into(), report()).unwrap();
        assert!(first.take_unsaved().0[0].reachable);
        first.sweep(Instant::now() + Duration::from_secs(4));
        first.hear(info("a"), "127.0.0.1:1".into(), report()).unwrap();
        let (rows, _) = first.take_unsaved();
        assert_eq!(rows.len(), 2, "what fell silent is written down, too");
        let second = fleet(rows);
        let start = Instant::now();
        assert_eq!(second.counts(), (2, 1), "who was unreachable is until it is heard");
        second.sweep(start + RETURN_MIN - Duration::from_secs(1));
        assert_eq!(second.counts(), (2, 1));
        second.sweep(start + RETURN_MIN + Duration::from_secs(1));
        assert_eq!(second.counts(), (2, 2));
        second.hear(info("dead"), "127.0.0.1:1".into(), report()).unwrap();
        assert_eq!(second.counts(), (2, 1));
    }

    #[test]
    fn rows_are_sent_once_unless_they_changed_or_were_not_answered() {
        let fleet = fleet(vec![]);
        for host in ["a", "b"] {
            fleet.hear(info(host), "127.0.0.1:1".into(), report()).unwrap();
        }
        let rows = fleet.take_changed(false);
        assert_eq!(rows.len(), 2);
        assert!(fleet.take_changed(false).is_empty());
        fleet.unsent(rows);
        assert_eq!(fleet.take_changed(false).len(), 2);
        fleet.hear(info("b"), "127.0.0.1:2".into(), report()).unwrap();
        assert_eq!(fleet.take_changed(false)[0].address, "127.0.0.1:2");
        assert_eq!(fleet.take_changed(true).len(), 2, "a periodic report refreshes");
    }

    #[test]
    fn a_host_is_asked_for_a_report_until_what_it_says_is_known() {
        let fleet = fleet(vec![]);
        let hear = |word| fleet.hear(info("a"), "127.0.0.1:1".into(), word).unwrap().report;
        assert!(hear(Word::Alive { said: 7 }), "nothing was reported yet");
        assert!(!hear(report()));
        assert!(!hear(Word::Alive { said: 7 }));
        assert!(hear(Word::Alive { said: 8 }), "the report of 8 was lost");
        assert!(!hear(Word::Alive { said: 0 }), "an older agent reports by itself");
    }

    #[test]
    fn the_interval_grows_with_the_fleet() {
        let fleet = fleet(vec![]);
        for (hosts, expected) in [(0, 1000), (1000, 1000), (15_000, 15_000), (200_000, 30_000)] {
            assert_eq!(fleet.report_ms(hosts), expected);
        }
    }
}
