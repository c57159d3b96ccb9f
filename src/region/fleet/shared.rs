//! The host table of a region with several processes: what each tells the others, and
//! what it takes from them.
//!
//! A host is heard by one process at a time, or by two for a moment; the newest hearing
//! counts, by age and not by clock. Who hears a host says all of it, also that it fell
//! silent. When a process is gone, its hosts are nobody's for one interval of grace; then
//! they are unreachable, unless they turned to another one. So every process has the
//! whole table, with one row for a host, and any may tell the coordinator.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::compared::note_events;
use super::{Entry, Fleet, HOSTS_MAX, ROWS_BYTES_MAX, Standing, Table, about_bytes, differences};
use crate::model::id::{HostId, RegionName};
use crate::wire::v1::fleet::HostRow;
use crate::wire::v1::process::SharedHost;

/// Most hosts of one word to another process.
pub const SHARED_MAX: usize = 2_000;

/// What another process is still to be told.
#[derive(Default)]
pub(super) struct Untold {
    hosts: BTreeSet<HostId>,
    forgot: BTreeSet<HostId>,
    /// Everything is to be told, from here on.
    whole: Option<Bound<HostId>>,
}

impl Untold {
    pub(super) fn forget(&mut self, host: &HostId) {
        self.hosts.remove(host);
        self.forgot.insert(host.clone());
    }
}

/// A part of what another process is to be told.
#[derive(Debug, Default, PartialEq)]
pub struct Part {
    /// Hosts.
    pub hosts: Vec<SharedHost>,
    /// Hosts to forget.
    pub forgot: Vec<HostId>,
    /// It ends the whole table.
    pub whole: bool,
}

impl Fleet {
    /// How many other processes there are; everything is to be told to each.
    pub fn share_with(&self, others: usize) {
        self.table().others = (0..others).map(|_| Untold::default()).collect();
        (0..others).for_each(|other| self.tell_all(other));
    }

    /// Tells another process everything anew: it may have missed something.
    pub fn tell_all(&self, other: usize) {
        self.table().others[other].whole = Some(Bound::Unbounded);
    }

    /// Takes what another process is to be told next; [`Fleet::untold`] when it did not hear it.
    #[must_use]
    pub fn take_part(&self, other: usize) -> Part {
        self.table().take_part(other, &self.region)
    }

    /// Another process did not hear a part: it is told everything, and again who was
    /// forgotten, for no telling of all hosts says that.
    pub fn untold(&self, other: usize, mut forgot: Vec<HostId>) {
        let mut table = self.table();
        // One that was heard again since is not forgotten.
        forgot.retain(|host| !table.hosts.contains_key(host));
        table.others[other].forgot.extend(forgot);
        drop(table);
        self.tell_all(other);
    }

    /// Whether another process is to be told something.
    #[must_use]
    pub fn has_part(&self, other: usize) -> bool {
        let table = self.table();
        let untold = &table.others[other];
        untold.whole.is_some() || !untold.hosts.is_empty() || !untold.forgot.is_empty()
    }

    /// Takes the word of another process.
    pub fn learn(&self, other: usize, part: Part) {
        let now = Instant::now();
        let mut table = self.table();
        let mut news = false;
        for shared in part.hosts {
            news |= table.learn(other, shared, now);
        }
        let silent = |host: &&HostId| {
            let known = table.hosts.get(*host);
            known.is_some_and(|known| {
                !known.reachable || known.standing == Standing::Elsewhere(other)
            })
        };
        let mut gone: Vec<HostId> = part.forgot.iter().filter(silent).cloned().collect();
        if part.whole {
            let left = table.hosts.iter().filter(|(_, entry)| entry.standing == Standing::Disk);
            gone.extend(left.map(|(host, _)| host.clone()));
        }
        news |= !gone.is_empty();
        for host in gone {
            table.remove(&host);
            table.forgotten.push(host);
        }
        if news {
            self.news.notify_one();
        }
    }

    /// Another process is gone, or began anew: nobody vouches for its hosts.
    pub fn lose(&self, other: usize) {
        let now = Instant::now();
        let mut table = self.table();
        let mut left = 0;
        for entry in table.hosts.values_mut() {
            if entry.standing == Standing::Elsewhere(other) {
                entry.standing = Standing::Left;
                entry.seen = if entry.reachable { now } else { entry.seen };
                left += 1;
            }
        }
        table.elsewhere -= left;
    }

    /// Forgets what the coordinator is still to be told: another process tells it.
    pub fn leave_telling(&self) {
        let mut table = self.table();
        table.urgent.clear();
        table.progress.clear();
    }

    /// Tells the coordinator of every host: another process did until now.
    pub fn tell_anew(&self) {
        let mut table = self.table();
        table.progress = table.hosts.keys().cloned().collect();
    }

    /// Hosts that other processes hear; all others are this one's to judge.
    #[must_use]
    pub fn elsewhere(&self) -> u64 {
        self.table().elsewhere
    }
}

impl Table {
    pub(super) fn tell_others(&mut self, host: &HostId) {
        for other in &mut self.others {
            other.forgot.remove(host);
            other.hosts.insert(host.clone());
        }
    }

    fn take_part(&mut self, other: usize, region: &RegionName) -> Part {
        let Untold { mut hosts, mut forgot, mut whole } = std::mem::take(&mut self.others[other]);
        let mut part = Part::default();
        let mut bytes = 0;
        while part.hosts.len() < SHARED_MAX && bytes < ROWS_BYTES_MAX {
            let next = match &whole {
                Some(from) => self.hosts.range((from.clone(), Bound::Unbounded)).next(),
                None => match hosts.pop_first() {
                    Some(host) => self.hosts.get_key_value(&host),
                    None => break,
                },
            };
            let Some((host, entry)) = next else {
                if whole.take().is_some() {
                    // Only one that has been here for a while knows what is gone.
                    let from_disk = |entry: &Entry| entry.standing == Standing::Disk;
                    part.whole = !self.hosts.values().any(from_disk);
                }
                continue;
            };
            if let Some(from) = &mut whole {
                *from = Bound::Excluded(host.clone());
                hosts.remove(host);
            }
            if let Some(shared) = share(entry, region) {
                bytes += shared.row.apps.iter().map(about_bytes).sum::<usize>() + 1024;
                part.hosts.push(shared);
            }
        }
        while part.forgot.len() < SHARED_MAX
            && let Some(host) = forgot.pop_first()
        {
            part.forgot.push(host);
        }
        self.others[other] = Untold { hosts, forgot, whole };
        part
    }

    /// Takes what another process says of a host; says whether anything is new.
    fn learn(&mut self, other: usize, shared: SharedHost, now: Instant) -> bool {
        let SharedHost { row, age_ms, report_ms, heard } = shared;
        let HostRow { info, address, reachable, seen_at, apps, .. } = row;
        let (host, said, told) = (info.host.clone(), 0, Duration::from_millis(report_ms));
        let seen = now.checked_sub(Duration::from_millis(age_ms)).filter(|_| heard).unwrap_or(now);
        let standing = if heard { Standing::Elsewhere(other) } else { Standing::Left };
        let apps = apps.into();
        let fresh = Entry { info, address, apps, said, seen, seen_at, told, standing, reachable };
        let Some(known) = self.hosts.get_mut(&host) else {
            if self.hosts.len() >= HOSTS_MAX {
                return false;
            }
            self.elsewhere += u64::from(heard);
            self.unreachable += u64::from(!reachable);
            let env = fresh.info.env.clone();
            self.hosts.insert(host.clone(), fresh);
            self.insert_news(host, env);
            return true;
        };
        if !heard {
            if known.standing == Standing::Disk {
                known.standing = Standing::Left;
            }
            return false;
        }
        let newer = match known.standing {
            Standing::Left | Standing::Disk => true,
            Standing::Elsewhere(by) => by == other || seen > known.seen,
            Standing::Here => seen > known.seen,
        };
        if newer { self.replace(host, fresh) } else { false }
    }

    /// Takes another process's word over what is known; says whether anything is new.
    fn replace(&mut self, host: HostId, fresh: Entry) -> bool {
        let Some(known) = self.hosts.get_mut(&host) else { return false };
        self.elsewhere += u64::from(!matches!(known.standing, Standing::Elsewhere(_)));
        self.unreachable += u64::from(!fresh.reachable);
        self.unreachable -= u64::from(!known.reachable);
        let env = fresh.info.env.clone();
        let other = (known.reachable, &known.info, &known.address)
            != (fresh.reachable, &fresh.info, &fresh.address);
        if other {
            self.stale_envs.extend([known.info.env.clone(), env.clone()]);
        }
        if known.reachable && known.standing != Standing::Disk {
            note_events(&mut self.compared, known, &fresh.apps);
        }
        let moved = differences(&known.apps, &fresh.apps);
        let changed = other || moved.iter().any(|(_, matters)| *matters);
        let news = changed || !moved.is_empty();
        self.stale.extend(moved.into_iter().map(|(app, _)| (env.clone(), app)));
        *known = fresh;
        if changed {
            self.urgent.insert(host.clone());
            self.unsaved.insert(host);
        } else if news {
            self.progress.insert(host);
        }
        news
    }
}

/// What others are told of a host; nothing when it is another one's, or from disk only.
fn share(entry: &Entry, region: &RegionName) -> Option<SharedHost> {
    let heard = match entry.standing {
        Standing::Here => true,
        Standing::Left => false,
        Standing::Elsewhere(_) | Standing::Disk => return None,
    };
    let row = HostRow {
        info: entry.info.clone(),
        region: region.clone(),
        address: entry.address.clone(),
        reachable: entry.reachable,
        seen_at: entry.seen_at,
        apps: entry.apps.to_vec(),
    };
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Some(SharedHost { row, age_ms: ms(entry.seen.elapsed()), report_ms: ms(entry.told), heard })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::region::fleet::tests::info;
    use crate::region::fleet::{ROWS_MAX, Word};

    fn process(saved: Vec<HostRow>) -> Fleet {
        let fleet = Fleet::new("eu".parse().unwrap(), 1000, saved, Arc::new(Notify::new()));
        fleet.share_with(1);
        fleet
    }

    fn hear(fleet: &Fleet, host: &str) {
        let word = Word::Report { apps: vec![], said: 7 };
        fleet.hear(info(host), "127.0.0.1:1".into(), word).unwrap();
    }

    /// Tells each what the other one has to say, until neither has anything.
    fn talk(one: &Fleet, two: &Fleet) {
        for _ in 0..3 {
            two.learn(0, one.take_part(0));
            one.learn(0, two.take_part(0));
        }
        assert!(!one.has_part(0) && !two.has_part(0));
    }

    #[test]
    fn every_process_counts_every_host_once_wherever_it_is_heard() {
        let (one, two) = (process(vec![]), process(vec![]));
        hear(&one, "a");
        hear(&two, "b");
        talk(&one, &two);
        assert_eq!((one.counts(), two.counts()), ((2, 0), (2, 0)));
        // A host moves, and comes back.
        for _ in 0..2 {
            hear(&two, "a");
            talk(&one, &two);
            assert_eq!((one.elsewhere(), two.elsewhere()), (2, 0));
            hear(&one, "a");
            talk(&one, &two);
            assert_eq!((one.elsewhere(), two.elsewhere()), (1, 1));
        }
        assert_eq!((one.counts(), two.counts()), ((2, 0), (2, 0)));
        let asked = two.hear(info("a"), "127.0.0.1:1".into(), Word::Alive { said: 7 }).unwrap();
        assert!(asked.report, "whoever hears a host anew asks what it has to say");
    }

    #[test]
    fn who_hears_a_host_says_that_it_fell_silent() {
        let (one, two) = (process(vec![]), process(vec![]));
        hear(&one, "a");
        talk(&one, &two);
        let later = Instant::now() + Duration::from_secs(60);
        two.sweep(later);
        assert_eq!(two.counts(), (1, 0), "it is not for this process to say");
        one.sweep(later);
        talk(&one, &two);
        assert_eq!(two.counts(), (1, 1));
        hear(&two, "a");
        talk(&one, &two);
        assert_eq!((one.counts(), two.counts()), ((1, 0), (1, 0)));
    }

    #[test]
    fn hosts_of_a_process_that_is_gone_are_unreachable_unless_they_turn_to_another() {
        let (one, two) = (process(vec![]), process(vec![]));
        for host in ["a", "b"] {
            hear(&one, host);
        }
        talk(&one, &two);
        two.lose(0);
        hear(&two, "a");
        let start = Instant::now();
        two.sweep(start + Duration::from_millis(2900));
        assert_eq!(two.counts(), (2, 0));
        hear(&two, "a");
        two.sweep(start + Duration::from_millis(5000));
        assert_eq!(two.counts(), (2, 2), "its interval passed for both");
        hear(&two, "a");
        assert_eq!(two.counts(), (2, 1));
        // The other one was only cut off: what it hears is so.
        hear(&one, "b");
        one.tell_all(0);
        talk(&one, &two);
        assert_eq!((one.counts(), two.counts()), ((2, 0), (2, 0)));
    }

    #[test]
    fn a_process_that_was_away_takes_the_others_word_over_its_disk() {
        let one = process(vec![]);
        for host in ["a", "b", "c"] {
            hear(&one, host);
        }
        let (saved, _) = one.take_unsaved();
        one.sweep(Instant::now() + Duration::from_secs(60));
        one.forget(&["c".parse().unwrap()]);
        hear(&one, "a");
        let two = process(saved);
        assert_eq!(two.counts(), (3, 0));
        talk(&one, &two);
        assert_eq!((one.counts(), two.counts()), ((2, 1), (2, 1)));
        assert_eq!((one.elsewhere(), two.elsewhere()), (0, 2));
    }

    #[test]
    fn a_host_that_is_forgotten_is_forgotten_everywhere_and_all_are_told_anew() {
        let (one, two) = (process(vec![]), process(vec![]));
        for n in 0..SHARED_MAX + 10 {
            hear(&one, &format!("h{n}"));
        }
        talk(&one, &two);
        assert_eq!(two.counts().0 as usize, SHARED_MAX + 10);
        one.sweep(Instant::now() + Duration::from_secs(60));
        one.forget(&["h1".parse().unwrap()]);
        let lost = one.take_part(0);
        one.untold(0, lost.forgot);
        talk(&one, &two);
        assert_eq!(two.counts(), one.counts());
        assert_eq!(two.counts().0 as usize, SHARED_MAX + 9);
        two.leave_telling();
        assert!(two.take_changed(false).is_empty());
        two.tell_anew();
        assert_eq!(two.take_changed(false).len(), ROWS_MAX);
    }

    #[test]
    fn a_host_that_is_heard_again_after_it_was_forgotten_stays_everywhere() {
        for other_was_told in [true, false] {
            let (one, two) = (process(vec![]), process(vec![]));
            hear(&one, "a");
            talk(&one, &two);
            one.sweep(Instant::now() + Duration::from_secs(60));
            one.forget(&["a".parse().unwrap()]);
            let lost = if other_was_told { Part::default() } else { one.take_part(0) };
            hear(&one, "a");
            if !other_was_told {
                one.untold(0, lost.forgot);
            }
            talk(&one, &two);
            assert_eq!((one.counts(), two.counts()), ((1, 0), (1, 0)), "{other_was_told}");
        }
    }
}
