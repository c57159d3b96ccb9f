//! The region's tracker and the hosts' calls to it.

use std::time::Duration;

use super::Setting;
use super::agenda::Nanos;
use super::region::{Due, Region, nanos};
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;
use crate::rules::swarm::{Event, Haves, Leave, Word};
use crate::rules::tracker::graph::Place;
use crate::rules::tracker::{self as rules, Beat, Joining, Settings, Tracker};

/// What a host's calls say beside what it has.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// The tracker's epoch that it joined under.
    epoch: Option<u64>,
    version: u64,
    /// When a piece came last, and how many were missing then.
    moved: Nanos,
    left: u32,
    /// A lease that goes back unread with the next call.
    returned: Option<u64>,
}

/// The tracker and who knows it.
pub(super) struct Tracking {
    pub(super) tracker: Tracker,
    pub(super) settings: Settings,
    offsets: Vec<u64>,
    epoch: u64,
    standing: Vec<Standing>,
    /// It answers one call after the other.
    free_at: Nanos,
}

impl Tracking {
    pub(super) fn new(setting: &Setting, seed: u64) -> Self {
        let settings = Settings::default();
        let mut offsets = vec![0];
        for bytes in setting.wire.iter() {
            offsets.push(offsets[offsets.len() - 1] + u64::from(*bytes));
        }
        Self {
            tracker: Tracker::new(settings, offsets.clone(), UnixMillis(0), seed),
            settings,
            offsets,
            epoch: 1,
            standing: vec![Standing::default(); setting.hosts as usize],
            free_at: 0,
        }
    }

    pub(super) fn restart(&mut self, now: UnixMillis, seed: u64) {
        self.epoch += 1;
        self.tracker = Tracker::new(self.settings, self.offsets.clone(), now, seed);
    }
}

impl Region<'_> {
    pub(super) fn millis(&self) -> UnixMillis {
        UnixMillis((self.now / 1_000_000) as i64)
    }

    /// A host calls the tracker, which answers calls in turn.
    pub(super) fn place_call(&mut self, host: u32, _lease: bool) {
        let reached = self.now + nanos(self.setting.round_trip);
        let at = reached.max(self.tracking.free_at);
        self.tracking.free_at = at + nanos(self.setting.call_cost);
        self.agenda.push(at, Due::Call(host));
    }

    /// A call is answered.
    pub(super) fn call(&mut self, host: u32) {
        if !self.hosts[host as usize].alive {
            return;
        }
        let now = Duration::from_nanos(self.now);
        if self.setting.faults.tracker_gone.is_some_and(|gone| gone.contains(now)) {
            if self.hosts[host as usize].done.is_some() {
                return self.later(Duration::from_secs(2), Due::Call(host));
            }
            return self.tell_later(Duration::from_secs(1), host, Event::TrackerLost);
        }
        let word = self.answer(host);
        if self.hosts[host as usize].done.is_some() {
            // It serves on, and says so now and then.
            return self.later(word.beat_in, Due::Call(host));
        }
        let neighbours = word.neighbours.map(|(version, list)| {
            self.tracking.standing[host as usize].version = version;
            self.follow(host, &list);
            list
        });
        let leave = |lease: rules::leases::Lease| {
            let rules::leases::Lease { id, first, count, .. } = lease;
            Leave { id, first, count }
        };
        let word = Word {
            neighbours,
            lease: word.lease.map(leave),
            ask_in: word.ask_in,
            beat_in: word.beat_in,
            members: word.members as u32,
        };
        self.tell(host, Event::Tracker(word));
    }

    fn answer(&mut self, host: u32) -> rules::Word {
        let have = PieceSet::from_words(self.have.words(host));
        let (now, epoch) = (self.millis(), self.tracking.epoch);
        let standing = self.tracking.standing[host as usize];
        if standing.epoch == Some(epoch) {
            let beat = Beat {
                have: have.clone(),
                known: standing.version,
                starved: self.starved(host),
                wants: true,
                returned: standing.returned.into_iter().collect(),
                ..Beat::default()
            };
            self.count_call(host);
            if let Ok(word) = self.tracking.tracker.beat(now, host, beat) {
                return word;
            }
        }
        self.count_call(host);
        let returning = standing.epoch.is_some_and(|known| known != epoch);
        let place = self.place(host);
        self.tracking.standing[host as usize].epoch = Some(epoch);
        self.tracking.tracker.join(now, Joining { host, place, have, returning, wants: true })
    }

    pub(super) fn give_back(&mut self, host: u32, lease: Option<u64>) {
        self.tracking.standing[host as usize].returned = lease;
    }

    fn count_call(&mut self, host: u32) {
        self.outcome.calls.0 += 1;
        self.hosts[host as usize].calls += 1;
    }

    /// How long no piece came to a host that still misses some.
    fn starved(&mut self, host: u32) -> Duration {
        let left = self.hosts[host as usize].core.left();
        let standing = &mut self.tracking.standing[host as usize];
        if standing.moved == 0 || standing.left != left {
            (standing.moved, standing.left) = (self.now, left);
        }
        Duration::from_nanos(self.now - standing.moved)
    }

    pub(super) fn place(&self, host: u32) -> Place {
        match host.checked_div(self.setting.rack) {
            None => Place::default(),
            Some(rack) => Place { rack: 1 + rack, zone: 1 + rack % self.setting.zones.max(1) },
        }
    }

    /// A host follows its new neighbours, and no others.
    fn follow(&mut self, host: u32, list: &[(u32, u8)]) {
        let new: Vec<u32> = list.iter().map(|(peer, _)| *peer).collect();
        let old = std::mem::replace(&mut self.hosts[host as usize].neighbours, new);
        for peer in old {
            self.hosts[peer as usize].followers.retain(|follower| *follower != host);
        }
        for (peer, _) in list {
            self.hosts[*peer as usize].followers.push(host);
        }
    }

    pub(super) fn report_bad(&mut self, host: u32, peer: u32) {
        self.outcome.calls.0 += 1;
        self.hosts[host as usize].calls += 1;
        let now = self.millis();
        self.tracking.tracker.bad_peer(now, host, peer);
    }

    pub(super) fn tracker_tick(&mut self) {
        let now = self.millis();
        self.tracking.tracker.tick(now);
        let at = Duration::from_nanos(self.now);
        if let Some(restart) = self.setting.faults.tracker_restart
            && self.tracking.epoch == 1
            && at >= restart
        {
            let seed = Rng::new(self.setting.seed ^ 0x5EED).next_u64();
            self.tracking.restart(now, seed);
        }
        self.later(Duration::from_secs(1), Due::TrackerTick);
    }
}
