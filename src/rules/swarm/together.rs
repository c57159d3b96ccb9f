//! Many downloads and one tracker in a small deterministic network: the rules'
//! promises as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::{Action, Event, PeerNo, Source, Start, Swarm};
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;
use crate::rules::tracker::graph::Place;
use crate::rules::tracker::{Asking, Beat, Joining, Settings, Tracker};

const WIRE: u32 = 1 << 20;
const SLOTS: usize = 4;
/// Virtual milliseconds in which everybody must be done.
const DEADLINE: i64 = 600_000;

enum Due {
    To(u32, Event),
    Arrives { to: u32, from: PeerNo, piece: u32 },
    StorePiece { to: u32, lease: u64, piece: u32, end: u32 },
    Lease(u32),
    Beat(u32),
    Tick(u32),
    Die(u32),
    TrackerTick,
}

struct Host {
    core: Swarm,
    have: PieceSet,
    alive: bool,
    done_at: Option<i64>,
    uploads: usize,
    known: u64,
    moved_at: i64,
    holding: BTreeSet<u64>,
}

struct Net {
    tracker: Tracker,
    hosts: Vec<Host>,
    due: BTreeMap<(i64, u64), Due>,
    count: u64,
    rng: Rng,
    pieces: u32,
    asked: BTreeSet<(u32, PeerNo, u32)>,
}

impl Net {
    fn new(hosts: u32, pieces: u32, seed: u64) -> Self {
        let offsets = (0..=u64::from(pieces)).map(|i| i * u64::from(WIRE)).collect();
        let core = |host: u32| {
            let start = Start {
                wire: vec![WIRE; pieces as usize],
                done: PieceSet::new(),
                window_max: 40 << 20,
                urgent: false,
                seed: seed ^ u64::from(host) << 32,
            };
            Host {
                core: Swarm::new(UnixMillis(0), start),
                have: PieceSet::new(),
                alive: true,
                done_at: None,
                uploads: 0,
                known: 0,
                moved_at: 0,
                holding: BTreeSet::new(),
            }
        };
        let mut net = Self {
            tracker: Tracker::new(Settings::default(), offsets, UnixMillis(0), seed),
            hosts: (0..hosts).map(core).collect(),
            due: BTreeMap::new(),
            count: 0,
            rng: Rng::new(!seed),
            pieces,
            asked: BTreeSet::new(),
        };
        for host in 0..hosts {
            let place = Place { rack: 1 + host / 20, zone: 1 + host / 60 };
            let joining = Joining { host, place, have: PieceSet::new(), returning: false };
            let (version, neighbours) = net.tracker.join(UnixMillis(0), joining);
            net.hosts[host as usize].known = version;
            net.later(0, 1, Due::To(host, Event::Neighbours(neighbours)));
            net.later(0, 2 + i64::from(host % 100), Due::Beat(host));
            net.later(0, 100, Due::Tick(host));
        }
        net.later(0, 1000, Due::TrackerTick);
        net
    }

    fn later(&mut self, now: i64, after: i64, due: Due) {
        self.count += 1;
        self.due.insert((now + after, self.count), due);
    }

    /// Runs until every live host is done; the time of the last.
    fn run(&mut self) -> i64 {
        while let Some(((now, _), due)) = self.due.pop_first() {
            self.happen(now, due);
            if self.hosts.iter().all(|host| !host.alive || host.done_at.is_some()) {
                return now;
            }
            assert!(now < DEADLINE, "not all hosts finished");
        }
        panic!("nothing more will happen");
    }

    fn happen(&mut self, now: i64, due: Due) {
        match due {
            Due::To(host, event) => self.tell(now, host, event),
            Due::Arrives { to, from, piece } => self.arrives(now, to, from, piece),
            Due::StorePiece { to, lease, piece, end } => self.store(now, to, lease, piece, end),
            Due::Lease(host) => self.lease(now, host),
            Due::Beat(host) if self.hosts[host as usize].alive => {
                self.beat(now, host);
                self.later(now, 1000, Due::Beat(host));
            }
            Due::Tick(host) if self.hosts[host as usize].alive => {
                self.tell(now, host, Event::Tick);
                self.later(now, 100, Due::Tick(host));
            }
            Due::Beat(_) | Due::Tick(_) => {}
            Due::Die(host) => self.hosts[host as usize].alive = false,
            Due::TrackerTick => {
                self.tracker.tick(UnixMillis(now));
                self.later(now, 1000, Due::TrackerTick);
            }
        }
    }

    fn tell(&mut self, now: i64, host: u32, event: Event) {
        if !self.hosts[host as usize].alive {
            return;
        }
        if let Event::PieceOk(piece, _) = event {
            let me = &mut self.hosts[host as usize];
            me.moved_at = now;
            me.have.insert(piece);
            for (neighbour, _) in self.neighbours(host) {
                let have = self.hosts[host as usize].have.clone();
                self.later(now, 50, Due::To(neighbour, Event::Have(host, have)));
            }
        }
        for action in self.hosts[host as usize].core.handle(UnixMillis(now), event) {
            self.act(now, host, action);
        }
    }

    fn neighbours(&self, host: u32) -> Vec<(u32, u8)> {
        self.tracker.neighbours(host).1
    }

    fn act(&mut self, now: i64, host: u32, action: Action) {
        match action {
            Action::Request(peer, piece) => {
                let from = &mut self.hosts[peer as usize];
                let event = if !from.alive {
                    self.later(now, 200, Due::To(host, Event::PeerGone(peer)));
                    Some(Event::Timeout(peer, piece))
                } else if !from.have.contains(piece) {
                    Some(Event::Missing(peer, piece))
                } else if from.uploads >= SLOTS {
                    Some(Event::Busy(peer, piece, Duration::from_millis(30)))
                } else {
                    from.uploads += 1;
                    None
                };
                let takes = 20 + self.rng.below(60) as i64;
                match event {
                    Some(event) => self.later(now, 5, Due::To(host, event)),
                    None => {
                        self.asked.insert((host, peer, piece));
                        self.later(now, takes, Due::Arrives { to: host, from: peer, piece });
                    }
                }
            }
            Action::Cancel(peer, piece) => {
                self.asked.remove(&(host, peer, piece));
            }
            Action::ReadStore(lease, first, count) => {
                self.hosts[host as usize].holding.insert(lease);
                let bytes =
                    u64::from(first) * u64::from(WIRE)..u64::from(first + count) * u64::from(WIRE);
                match self.tracker.read(UnixMillis(now), lease, Some(host), &bytes) {
                    Ok(()) => {
                        let end = first + count;
                        self.later(now, 40, Due::StorePiece { to: host, lease, piece: first, end });
                    }
                    Err(_) => self.later(now, 500, Due::To(host, Event::LeaseEnded(lease))),
                }
            }
            Action::AskLease => self.later(now, 5, Due::Lease(host)),
            Action::Beat => self.beat(now, host),
            Action::Ban(..) => {}
            Action::Done => self.hosts[host as usize].done_at = Some(now),
        }
    }

    fn arrives(&mut self, now: i64, to: u32, from: PeerNo, piece: u32) {
        self.hosts[from as usize].uploads -= 1;
        if self.asked.remove(&(to, from, piece)) {
            let alive = self.hosts[from as usize].alive;
            let event = if alive {
                Event::PieceOk(piece, Source::Peer(from))
            } else {
                Event::Timeout(from, piece)
            };
            self.tell(now, to, event);
        }
    }

    fn store(&mut self, now: i64, to: u32, lease: u64, piece: u32, end: u32) {
        self.tell(now, to, Event::PieceOk(piece, Source::Store(lease)));
        if piece + 1 < end {
            self.later(now, 40, Due::StorePiece { to, lease, piece: piece + 1, end });
        } else {
            self.hosts[to as usize].holding.remove(&lease);
            self.tell(now, to, Event::LeaseEnded(lease));
        }
    }

    fn lease(&mut self, now: i64, host: u32) {
        if !self.hosts[host as usize].alive {
            return;
        }
        self.beat(now, host);
        let starved = Duration::from_millis((now - self.hosts[host as usize].moved_at) as u64);
        let asking = Asking { starved, ..Asking::default() };
        let event = match self.tracker.lease(UnixMillis(now), host, &asking) {
            Ok(lease) => Event::LeaseGranted(lease.id, lease.first, lease.count),
            Err(retry) => Event::LeaseRefused(retry),
        };
        self.tell(now, host, event);
    }

    fn beat(&mut self, now: i64, host: u32) {
        let me = &self.hosts[host as usize];
        let holding = me.holding.iter().copied().collect();
        let beat = Beat { have: me.have.clone(), known: me.known, holding };
        let word = self.tracker.beat(UnixMillis(now), host, beat);
        if let Some((version, list)) = word.expect("a live host is a member") {
            self.hosts[host as usize].known = version;
            let bits: Vec<(u32, PieceSet)> = list
                .iter()
                .filter(|(peer, _)| self.hosts[*peer as usize].alive)
                .map(|(peer, _)| (*peer, self.hosts[*peer as usize].have.clone()))
                .collect();
            self.tell(now, host, Event::Neighbours(list));
            for (peer, have) in bits {
                self.later(now, 20, Due::To(host, Event::Have(peer, have)));
            }
        }
    }

    fn copies(&self) -> f64 {
        self.tracker.egress() as f64 / f64::from(WIRE) / f64::from(self.pieces)
    }
}

#[test]
fn a_clean_swarm_reads_the_store_once_and_is_quick() {
    let mut net = Net::new(80, 60, 11);
    let last = net.run();
    assert!(net.copies() <= 1.05, "{} copies", net.copies());
    assert!(last < 20_000, "{last} ms");
}

#[test]
fn the_same_seed_gives_the_same_swarm() {
    let run = |seed| {
        let mut net = Net::new(30, 20, seed);
        (net.run(), net.tracker.egress(), net.count)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn everybody_alive_finishes_within_the_budget(
        seed: u64, hosts in 1u32..40, pieces in 1u32..60,
        deaths in proptest::collection::vec((0u32..40, 1i64..4000), 0..12),
    ) {
        let mut net = Net::new(hosts, pieces, seed);
        let none = deaths.is_empty();
        for (host, at) in deaths {
            if host + 1 < hosts {
                net.later(0, at, Due::Die(host));
            }
        }
        let last = net.run();
        // The budget refills by a mebibyte a second.
        let refilled = last as f64 / 1000.0 / f64::from(pieces);
        prop_assert!(net.copies() <= 2.0 + refilled, "{} copies in {last} ms", net.copies());
        if none {
            prop_assert_eq!(net.tracker.egress(), u64::from(pieces) * u64::from(WIRE));
        }
    }
}
